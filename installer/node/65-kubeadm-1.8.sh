# shellcheck shell=bash
# kubeadm 1.8, whose API is v1alpha1: a document for each verb, none for the kubelet, and flags of its own. Written after
# the types and commands of its source, and only rendered: no binary of 1.8 was at hand.

# kubeadm_alpha: whether the bundle's kubeadm is that old.
kubeadm_alpha() { [ "${KUBEADM_API:-}" = kubeadm.k8s.io/v1alpha1 ]; }

# init_v1alpha1 TOKEN: tokens last 24 hours by default there too.
init_v1alpha1() {
  kubeadm_kind MasterConfiguration
  cat <<END
api:
  advertiseAddress: "$NODE_ADDRESS"
  bindPort: 6443
nodeName: "$NODE_NAME"
kubernetesVersion: "$KUBERNETES_VERSION"
imageRepository: "$IMAGE_REPOSITORY"
networking:
  podSubnet: "$POD_SUBNET"
  serviceSubnet: "$SERVICE_SUBNET"
token: "$1"
END
  [ -z "$ETCD_ENDPOINTS" ] || printf 'etcd:\n%s\n' "$(etcd_document '  ')"
}

# join_v1alpha1 TOKEN
join_v1alpha1() {
  kubeadm_kind NodeConfiguration
  printf 'nodeName: "%s"\ntoken: "%s"\ndiscoveryTokenAPIServers: ["%s"]\n' "$NODE_NAME" "$1" "$MASTER_HOST:$MASTER_PORT"
  if [ -n "$OPT_CA_HASH" ]; then
    printf 'discoveryTokenCACertHashes: ["%s"]\n' "$OPT_CA_HASH"
  else
    printf 'discoveryTokenUnsafeSkipCAVerification: true\n'
  fi
}

# kubeadm_waiver CHECKS: the flag that makes kubeadm go on in spite of these checks of its own; 1.8 knows only all.
kubeadm_waiver() {
  if [ -z "$1" ]; then return 0; fi
  if kubeadm_alpha; then printf -- --skip-preflight-checks; else printf -- '--ignore-preflight-errors=%s' "$1"; fi
}

# reset_kubeadm SECONDS: takes back what kubeadm made; it may fail, what it leaves is removed afterwards. 1.8 does not
# ask, and stops Docker's containers of pods by itself.
reset_kubeadm() {
  local options=(-f "--cri-socket=$(runtime endpoint)")
  ! kubeadm_alpha || options=(--skip-preflight-checks)
  logged timeout "$1" kubeadm reset "${options[@]}" || note 'kubeadm reset failed'
}

# configure_kubelet_unit: where no file of kubeadm's tells the kubelet, its unit does. The package's own drop-in is
# 10-kubeadm.conf; KUBELET_EXTRA_ARGS come last there, and the last of equal arguments counts.
configure_kubelet_unit() {
  local name value arguments=''
  kubeadm_alpha || return 0
  while read -r name value; do arguments="$arguments --$name=$value"; done < <(kubelet_arguments_alpha)
  printf '[Service]\nEnvironment="KUBELET_EXTRA_ARGS=%s"\n' "${arguments# }" |
    put_file 0644 /etc/systemd/system/kubelet.service.d/20-kubecarry.conf
  systemctl daemon-reload </dev/null
}

kubelet_arguments_alpha() {
  kubelet_arguments
  printf 'pod-infra-container-image %s\nimage-gc-high-threshold 100\n' "$PAUSE_IMAGE"
}
