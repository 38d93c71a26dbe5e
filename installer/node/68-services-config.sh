# shellcheck shell=bash
# Where the components are services of the host (METHOD=packages): the files that EL's units read. Each unit puts
# several variables together; all that we say is in the one that comes last, and the others are emptied.

SERVICES=/etc/kubernetes

# minor: 8 of v1.8.14.
minor() {
  local rest=${KUBERNETES_VERSION#v*.}
  printf '%d' "${rest%%.*}"
}

# since N WORD…: the words, if the release is 1.N or newer; until N WORD…: if it is older.
since() { [ "$(minor)" -lt "$1" ] || printf '%s\n' "${@:2}"; }
until_minor() { [ "$(minor)" -ge "$1" ] || printf '%s\n' "${@:2}"; }

# arguments_of COMPONENT: its arguments, a line each.
arguments_of() { "arguments_of_${1//-/_}"; }

arguments_of_kube_apiserver() {
  printf -- '--%s\n' advertise-address="$NODE_ADDRESS" bind-address=0.0.0.0 secure-port=6443 insecure-port=0 \
    service-cluster-ip-range="$SERVICE_SUBNET" allow-privileged=true authorization-mode=Node,RBAC \
    etcd-servers=https://127.0.0.1:2379 etcd-cafile=$PKI/ca.crt etcd-certfile=$PKI/apiserver-etcd-client.crt \
    etcd-keyfile=$PKI/apiserver-etcd-client.key client-ca-file=$PKI/ca.crt tls-cert-file=$PKI/apiserver.crt \
    tls-private-key-file=$PKI/apiserver.key kubelet-client-certificate=$PKI/apiserver-kubelet-client.crt \
    kubelet-client-key=$PKI/apiserver-kubelet-client.key kubelet-preferred-address-types=InternalIP,Hostname \
    service-account-key-file=$PKI/sa.pub enable-bootstrap-token-auth=true service-node-port-range="$NODE_PORTS"
  # From 1.10 on the right ones are the default.
  until_minor 10 --admission-control=NamespaceLifecycle,LimitRanger,ServiceAccount,DefaultStorageClass,DefaultTolerationSeconds,NodeRestriction,ResourceQuota
  since 10 --enable-admission-plugins=NodeRestriction
  since 20 --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-signing-key-file=$PKI/sa.key
}

arguments_of_kube_controller_manager() {
  printf -- '--%s\n' kubeconfig=$SERVICES/controller-manager.conf use-service-account-credentials=true \
    controllers='*,bootstrapsigner,tokencleaner' root-ca-file=$PKI/ca.crt service-account-private-key-file=$PKI/sa.key \
    cluster-signing-cert-file=$PKI/ca.crt cluster-signing-key-file=$PKI/ca.key
}

arguments_of_kube_scheduler() { printf -- '--kubeconfig=%s\n' $SERVICES/scheduler.conf; }

arguments_of_kubelet() {
  printf -- '--%s\n' kubeconfig=$KUBELET_CONF hostname-override="$NODE_NAME" node-ip="$NODE_ADDRESS" address=0.0.0.0 \
    client-ca-file=$PKI/ca.crt anonymous-auth=false authorization-mode=Webhook cgroup-driver="$CGROUP_DRIVER" \
    pod-infra-container-image="$PAUSE_IMAGE" image-gc-high-threshold=100 cluster-domain=cluster.local \
    cluster-dns="$(dns_address)" runtime-cgroups=/systemd/system.slice kubelet-cgroups=/systemd/system.slice
  [ ! -e "$STATE/resolv.conf" ] || printf -- '--resolv-conf=%s\n' "$STATE/resolv.conf"
  [ "$OPT_SWAP" != keep ] || printf -- '--fail-swap-on=false\n'
  until_minor 15 --allow-privileged=true
}

arguments_of_kube_proxy() {
  printf -- '--%s\n' kubeconfig=$KUBELET_CONF hostname-override="$NODE_NAME" cluster-cidr="$POD_SUBNET" proxy-mode=iptables
  conntrack_writable || printf -- '--%s\n' conntrack-max-per-core=0 conntrack-min=0 conntrack-tcp-timeout-established=0 conntrack-tcp-timeout-close-wait=0
}

# dns_address: the tenth address of the service network, as every add-on for DNS has it.
dns_address() {
  cidr_range "$SERVICE_SUBNET"
  printf '%d.%d.%d.%d' $(((FIRST + 10) >> 24 & 255)) $(((FIRST + 10) >> 16 & 255)) $(((FIRST + 10) >> 8 & 255)) $(((FIRST + 10) & 255))
}

# service_file COMPONENT: writes the file that its unit reads; sets CHANGED.
service_file() {
  local path name words emptied=(KUBE_MASTER)
  case $1 in
    kube-apiserver) path=apiserver name=KUBE_API_ARGS
      emptied=(KUBE_API_ADDRESS KUBE_API_PORT KUBELET_PORT KUBE_ETCD_SERVERS KUBE_SERVICE_ADDRESSES KUBE_ADMISSION_CONTROL) ;;
    kube-controller-manager) path=controller-manager name=KUBE_CONTROLLER_MANAGER_ARGS ;;
    kube-scheduler) path=scheduler name=KUBE_SCHEDULER_ARGS ;;
    kubelet) path=kubelet name=KUBELET_ARGS
      emptied=(KUBELET_ADDRESS KUBELET_PORT KUBELET_HOSTNAME KUBELET_API_SERVER KUBELET_POD_INFRA_CONTAINER) ;;
    kube-proxy) path=proxy name=KUBE_PROXY_ARGS ;;
  esac
  words=$(arguments_of "$1" | tr '\n' ' ') # apart from the redirection, which would hide a failure
  put_file 0644 $SERVICES/$path <<<"$(printf '%s=""\n' "${emptied[@]}")"$'\n'"$name=\"${words% }\""
}

# common_file: what all the units read.
common_file() {
  put_file 0644 $SERVICES/config <<<$'KUBE_LOGTOSTDERR="--logtostderr=true"\nKUBE_LOG_LEVEL="--v=1"\nKUBE_ALLOW_PRIV=""\nKUBE_MASTER=""'
}

# etcd_file: etcd reads such variables by itself, and EL's unit passes on some of them. flannel needs the old API.
etcd_file() {
  put_file 0644 /etc/etcd/etcd.conf <<END_OF_FILE
ETCD_NAME="$NODE_NAME"
ETCD_DATA_DIR="/var/lib/etcd/default.etcd"
ETCD_LISTEN_CLIENT_URLS="https://127.0.0.1:2379,https://$NODE_ADDRESS:2379"
ETCD_ADVERTISE_CLIENT_URLS="https://$NODE_ADDRESS:2379"
ETCD_LISTEN_PEER_URLS="https://127.0.0.1:2380"
ETCD_INITIAL_ADVERTISE_PEER_URLS="https://127.0.0.1:2380"
ETCD_INITIAL_CLUSTER="$NODE_NAME=https://127.0.0.1:2380"
ETCD_CERT_FILE="$PKI/etcd/server.crt"
ETCD_KEY_FILE="$PKI/etcd/server.key"
ETCD_TRUSTED_CA_FILE="$PKI/ca.crt"
ETCD_CLIENT_CERT_AUTH="true"
ETCD_PEER_CERT_FILE="$PKI/etcd/server.crt"
ETCD_PEER_KEY_FILE="$PKI/etcd/server.key"
ETCD_PEER_TRUSTED_CA_FILE="$PKI/ca.crt"
ETCD_PEER_CLIENT_CERT_AUTH="true"
ETCD_ENABLE_V2="true"
END_OF_FILE
}

FLANNEL_PREFIX=/flannel/network # where flannel looks in etcd

# flanneld_file MASTER: flanneld reads the pod network from the master's etcd.
flanneld_file() {
  put_file 0644 /etc/sysconfig/flanneld <<END_OF_FILE
FLANNEL_ETCD_ENDPOINTS="https://$1:2379"
FLANNEL_ETCD_PREFIX="$FLANNEL_PREFIX"
FLANNEL_OPTIONS="-iface=$NODE_DEVICE -ip-masq -etcd-cafile=$PKI/ca.crt -etcd-certfile=$PKI/node.crt -etcd-keyfile=$PKI/node.key"
END_OF_FILE
}
