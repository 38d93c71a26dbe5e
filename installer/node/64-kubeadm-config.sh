# shellcheck shell=bash
# kubeadm's configuration files. Another version of its API is another pair of functions here.

# kubeadm_config init|join TOKEN: prints the file for $KUBEADM_API.
kubeadm_config() {
  case $KUBEADM_API in
    kubeadm.k8s.io/v1beta2) "$1_v1beta2" "$2" ;;
    *) die $E_INTEGRITY "deploy.sh cannot write a $KUBEADM_API configuration" 'use the installer of the bundle, or a newer one' ;;
  esac
}

# registration: nodeRegistration, the same for both.
registration() {
  printf 'nodeRegistration:\n  name: "%s"\n  criSocket: %s\n  kubeletExtraArgs:\n    node-ip: "%s"\n' "$NODE_NAME" "$CONTAINERD_SOCKET" "$NODE_ADDRESS"
  [ ! -e "$STATE/resolv.conf" ] || printf '    resolv-conf: "%s"\n' "$STATE/resolv.conf"
  # The cluster-wide KubeletConfiguration is the master's; whether this host keeps its swap is its own matter.
  [ "$OPT_SWAP" != keep ] || printf '    fail-swap-on: "false"\n'
}

init_v1beta2() {
  cat <<END
apiVersion: kubeadm.k8s.io/v1beta2
kind: InitConfiguration
bootstrapTokens:
- token: "$1"
  ttl: 24h0m0s
localAPIEndpoint:
  advertiseAddress: "$NODE_ADDRESS"
  bindPort: 6443
$(registration)
---
apiVersion: kubeadm.k8s.io/v1beta2
kind: ClusterConfiguration
kubernetesVersion: "$KUBERNETES_VERSION"
imageRepository: "$IMAGE_REPOSITORY"
controlPlaneEndpoint: "$NODE_ADDRESS:6443"
networking:
  podSubnet: "$POD_SUBNET"
  serviceSubnet: "$SERVICE_SUBNET"
---
$(component_configs)
END
}

join_v1beta2() {
  cat <<END
apiVersion: kubeadm.k8s.io/v1beta2
kind: JoinConfiguration
discovery:
  timeout: 1m0s
  bootstrapToken:
    token: "$1"
    apiServerEndpoint: "$MASTER_HOST:$MASTER_PORT"
END
  if [ -n "$OPT_CA_HASH" ]; then
    printf '    caCertHashes: ["%s"]\n' "$OPT_CA_HASH"
  else
    printf '    unsafeSkipCAVerification: true\n'
  fi
  registration
}

# component_configs: the kubelet's and kube-proxy's. Image collection is off: once the bundle's server has gone, a
# collected image could not be pulled again.
component_configs() {
  cat <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: systemd
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
