# shellcheck shell=bash
# kubeadm's configuration files, v1alpha1 apart (next part). v1beta2 is what kubeadm 1.20 was run with; v1beta3 (1.22 to 1.30) and v1beta4 (from
# 1.31) were written after its reference and only rendered: no kubeadm that reads them was at hand.

# kubeadm_config init|join TOKEN [CERTIFICATE-KEY]: prints the file for $KUBEADM_API.
kubeadm_config() {
  local verb=$1
  shift
  case $KUBEADM_API in
    kubeadm.k8s.io/v1beta[234]) "${verb}_documents" "$@" ;;
    kubeadm.k8s.io/v1alpha1) "${verb}_v1alpha1" "$1" ;;
    *) die $E_INTEGRITY "deploy.sh cannot write a $KUBEADM_API configuration" 'use the installer of the bundle, or a newer one' ;;
  esac
}

# init_documents TOKEN [CERTIFICATE-KEY]: the cluster's first master; also what uploads certificates.
init_documents() {
  init_document "$@"
  printf -- '---\n'
  cluster_document
  printf -- '---\n'
  component_configs
}

# join_documents TOKEN [CERTIFICATE-KEY]: a node, with a key another master.
join_documents() {
  kubeadm_kind JoinConfiguration
  discovery "$1"
  registration
  [ -z "${2:-}" ] || join_control_plane "$2"
}

# kubeadm_kind KIND
kubeadm_kind() { printf 'apiVersion: %s\nkind: %s\n' "$KUBEADM_API" "$1"; }

# kubeadm_api_from N: whether $KUBEADM_API is v1betaN or newer; down may be another bundle's, which has none.
kubeadm_api_from() {
  local api=${KUBEADM_API:-v1beta2}
  ! kubeadm_alpha && [ "${api##*v1beta}" -ge "$1" ]
}

init_document() {
  kubeadm_kind InitConfiguration
  printf 'bootstrapTokens:\n- token: "%s"\n  ttl: 24h0m0s\n' "$1"
  [ -z "${2:-}" ] || printf 'certificateKey: "%s"\n' "$2"
  local_endpoint ''
  registration
}

# local_endpoint INDENT
local_endpoint() {
  printf '%slocalAPIEndpoint:\n%s  advertiseAddress: "%s"\n%s  bindPort: 6443\n' "$1" "$1" "$NODE_ADDRESS" "$1"
}

# cluster_document: a restored cluster's is the one that it had.
cluster_document() {
  if [ -n "$RESTORING" ] && [ -s "$RESTORING/kubeadm-config.yaml" ]; then
    printf '%s\n' "$(cat "$RESTORING/kubeadm-config.yaml")"
    return 0
  fi
  kubeadm_kind ClusterConfiguration
  cat <<END
kubernetesVersion: "$KUBERNETES_VERSION"
imageRepository: "$IMAGE_REPOSITORY"
controlPlaneEndpoint: "${OPT_VIP:-$NODE_ADDRESS}:6443"
networking:
  podSubnet: "$POD_SUBNET"
  serviceSubnet: "$SERVICE_SUBNET"
END
  api_server_document
  [ -z "$ETCD_ENDPOINTS" ] || printf 'etcd:\n  external:\n%s\n' "$(etcd_document '    ')"
}

# api_server_document: what differs from its defaults.
api_server_document() {
  [ "$NODE_PORTS" != 30000-32767 ] || return 0
  printf 'apiServer:\n'
  extra_args '  ' extraArgs service-node-port-range "$NODE_PORTS"
}

# discovery TOKEN: how a node finds the cluster and knows it for the right one.
discovery() {
  kubeadm_api_from 4 || printf 'discovery:\n  timeout: 1m0s\n'
  ! kubeadm_api_from 4 || printf 'timeouts:\n  discovery: 1m0s\ndiscovery:\n'
  printf '  bootstrapToken:\n    token: "%s"\n    apiServerEndpoint: "%s"\n' "$1" "$MASTER_HOST:$MASTER_PORT"
  if [ -n "$OPT_CA_HASH" ]; then
    printf '    caCertHashes: ["%s"]\n' "$OPT_CA_HASH"
  else
    printf '    unsafeSkipCAVerification: true\n'
  fi
}

# join_control_plane CERTIFICATE-KEY
join_control_plane() {
  printf 'controlPlane:\n  certificateKey: "%s"\n' "$1"
  local_endpoint '  '
}

# kubelet_arguments: this node's own, NAME VALUE a line.
kubelet_arguments() {
  # The cluster's KubeletConfiguration has the master's driver; this node's is its runtime's.
  printf 'node-ip %s\ncgroup-driver %s\n' "$NODE_ADDRESS" "$CGROUP_DRIVER"
  [ ! -e "$STATE/resolv.conf" ] || printf 'resolv-conf %s\n' "$STATE/resolv.conf"
  # The cluster-wide KubeletConfiguration is the master's; whether this host keeps its swap is its own matter.
  [ "$OPT_SWAP" != keep ] || printf 'fail-swap-on false\n'
}

# registration: nodeRegistration, the same for all.
registration() {
  local arguments
  read -r -d '' -a arguments <<<"$(kubelet_arguments)" || true
  printf 'nodeRegistration:\n  name: "%s"\n  criSocket: %s\n' "$NODE_NAME" "$(runtime endpoint)"
  extra_args '  ' kubeletExtraArgs "${arguments[@]}"
}

# extra_args INDENT KEY {NAME VALUE}…: a component's arguments: a map, from v1beta4 on a list.
extra_args() {
  local indent=$1
  printf '%s%s:\n' "$1" "$2"
  shift 2
  while [ $# -gt 0 ]; do
    if kubeadm_api_from 4; then
      printf '%s- name: %s\n%s  value: "%s"\n' "$indent" "$1" "$indent" "$2"
    else
      printf '%s  %s: "%s"\n' "$indent" "$1" "$2"
    fi
    shift 2
  done
}

# component_configs: the kubelet's and kube-proxy's. Image collection is off: once the bundle's server has gone, a
# collected image could not be pulled again.
component_configs() {
  cat <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: $CGROUP_DRIVER
imageGCHighThresholdPercent: 100
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
END
  conntrack_writable || printf 'conntrack:\n  maxPerCore: 0\n  min: 0\n  tcpEstablishedTimeout: 0s\n  tcpCloseWaitTimeout: 0s\n'
}

# conntrack_writable: in a container's network namespace kube-proxy may not set the limit, and would not start.
conntrack_writable() {
  local key=/proc/sys/net/netfilter/nf_conntrack_max
  [ ! -e $key ] || rewritable $key
}
