#!/usr/bin/env bash
# A cluster by kubeadm and by hand: what the node scripts' time is compared with.
# bare.sh prepare SERVER ROLE | init ADDRESS SERVER | join ADDRESS MASTER
# prepare is everything that comes before kubeadm (packages, runtime, images); only init and join are timed.
set -euo pipefail
token=abcdef.0123456789abcdef

prepare() {
  local server=$1 role=$2 registry digest ref roles
  sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
  ip route replace 10.96.0.0/12 dev eth0   # no default route here: the node itself would not find the API's Service
  dnf -y -q --setopt=install_weak_deps=False --repofrompath="bundle,$server/packages/el7" --setopt=bundle.gpgcheck=0 \
    install kubelet kubeadm kubectl containerd.io
  mkdir -p /etc/containerd /etc/containerd/certs.d
  cat > /etc/containerd/config.toml <<'T'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "k8s.gcr.io/pause:3.2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
T
  for registry in k8s.gcr.io quay.io docker.io; do
    mkdir -p "/etc/containerd/certs.d/$registry"
    printf 'server = "%s"\n[host."%s"]\n  capabilities = ["pull", "resolve"]\n' "$server" "$server" \
      > "/etc/containerd/certs.d/$registry/hosts.toml"
  done
  systemctl enable -q --now containerd
  systemctl enable -q kubelet
  until ctr version > /dev/null 2>&1; do sleep 0.1; done
  while read -r digest ref roles; do
    case ,$roles, in *",$role,"*)
      ctr -n k8s.io images pull --hosts-dir /etc/containerd/certs.d "${ref%:*}@$digest" > /dev/null < /dev/null
      ctr -n k8s.io images tag "${ref%:*}@$digest" "$ref" > /dev/null ;;
    esac
  done < <(curl -fsS "$server/lists/images")
}

network() {
  curl -fsS "$1/manifests/flannel/kube-flannel.yml" | sed 's/"Type": "vxlan"/"Type": "host-gw"/; s/- --kube-subnet-mgr/&\n        - --iface=eth0/'
}

init() {
  local address=$1 server=$2
  cat > /run/kubeadm.yaml <<Y
apiVersion: kubeadm.k8s.io/v1beta2
kind: InitConfiguration
bootstrapTokens: [{token: $token}]
localAPIEndpoint: {advertiseAddress: $address}
nodeRegistration:
  criSocket: /run/containerd/containerd.sock
  kubeletExtraArgs: {node-ip: $address}
---
apiVersion: kubeadm.k8s.io/v1beta2
kind: ClusterConfiguration
kubernetesVersion: v1.20.2
imageRepository: k8s.gcr.io
networking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/12}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: systemd
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
Y
  kubeadm init --config /run/kubeadm.yaml
  network "$server" | kubectl --kubeconfig=/etc/kubernetes/admin.conf apply -f -
}

join() {
  cat > /run/kubeadm.yaml <<Y
apiVersion: kubeadm.k8s.io/v1beta2
kind: JoinConfiguration
discovery:
  bootstrapToken: {apiServerEndpoint: "$2:6443", token: $token, unsafeSkipCAVerification: true}
nodeRegistration:
  criSocket: /run/containerd/containerd.sock
  kubeletExtraArgs: {node-ip: $1}
Y
  kubeadm join --config /run/kubeadm.yaml
}

"$@"
