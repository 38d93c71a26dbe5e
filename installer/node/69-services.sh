# shellcheck shell=bash
# METHOD=packages: the components as services of the host, from EL's own packages, in the order that they need each
# other: etcd, API server, controllers; flanneld, docker, kubelet, kube-proxy. Written for Kubernetes 1.8 on EL7.

# services: whether the components are services of the host: here already, or in the bundle.
services() {
  local method
  method=$(state_get method)
  [ "${method:-${METHOD:-kubeadm}}" = packages ]
}

# service_units: of this host, in the order that they start in.
service_units() {
  if [ "$(state_get role)" = master ]; then
    printf 'etcd kube-apiserver kube-controller-manager kube-scheduler'
  else
    printf 'flanneld docker kubelet kube-proxy'
  fi
}

# component_version: "kubelet v1.20.2", or of the API server where there is no kubelet.
component_version() {
  local program=kubelet
  if services && [ "$(state_get role)" = master ]; then program=kube-apiserver; fi
  printf '%s %s' $program "$(timeout 10 $program --version 2>/dev/null | awk '{ print $2 }')"
}

# own_services: before anything of them appears. Their packages make accounts, and leave them behind.
own_services() {
  local path name
  for path in /etc/kubernetes /etc/etcd /var/lib/kubelet /var/lib/etcd /var/lib/kubernetes /run/flannel /run/kubernetes \
    /var/log/pods /var/log/containers /usr/libexec/kubernetes /var/lib/dockershim /var/lib/cni /etc/cni /opt/cni; do
    own_tree $path
  done
  for path in /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow-; do
    recorded former $path || record former $path "$(original $path)"
  done
  for name in etcd kube flannel dockerroot docker; do
    if getent passwd $name >/dev/null || getent group $name >/dev/null; then continue; fi
    record account $name
  done
  for name in flannel.1 docker0; do
    [ -e /sys/class/net/$name ] || record link $name
  done
}

# undo_former PATH BACKUP: the tools that make accounts keep what the files were one step before.
undo_former() { undo_file "$@"; }

undo_account() {
  ! getent passwd "$1" >/dev/null || logged userdel "$1" || return 1
  ! getent group "$1" >/dev/null || logged groupdel "$1"
}

# prepare_services ROLE: the steps that master and node share.
prepare_services() {
  ROLE=$1
  identify
  recall_networks
  REPORTING=$ROLE
  step preflight preflight "$ROLE"
  step bundle fetch_sums
  remember
  own_services
  [ "$ROLE" = master ] || own_runtime
  stage sealed seal_host
  stage packages install_services
  relax_selinux
  load_modules
  stage host prepare_host
  record_cluster
}

install_services() {
  offer_packages
  install_packages
}

# run_service UNIT: with its file as it is now, over reboots.
run_service() {
  local unit=$1
  case $unit in
    etcd) etcd_file ;;
    flanneld) flanneld_file "$MASTER_HOST" ;;
    *) service_file "$unit" ;;
  esac
  start_unit "$unit" "$CHANGED"
}

# etcd_control ARG…: the old API, the one that flannel reads.
etcd_control() {
  ETCDCTL_API=2 etcdctl --endpoints https://127.0.0.1:2379 --ca-file $PKI/ca.crt --cert-file $PKI/apiserver-etcd-client.crt \
    --key-file $PKI/apiserver-etcd-client.key "$@" </dev/null
}

etcd_healthy() { etcd_control cluster-health; }

# run_etcd: and what flannel is to find there.
run_etcd() {
  run_service etcd
  wait_for 60 etcd etcd_healthy || die $E_ENVIRONMENT 'etcd does not become healthy' 'see: journalctl -u etcd'
  etcd_control set $FLANNEL_PREFIX/config "{\"Network\": \"$POD_SUBNET\", \"Backend\": {\"Type\": \"$OPT_BACKEND\"}}" >/dev/null
}

run_control_plane() {
  local name
  services_kubeconfig "https://$NODE_ADDRESS:6443" admin | put_file 0600 $ADMIN_CONF
  for name in controller-manager scheduler; do
    services_kubeconfig "https://$NODE_ADDRESS:6443" kube-$name | put_file 0600 $SERVICES/$name.conf
    share_file $SERVICES/$name.conf
  done
  common_file
  run_service kube-apiserver
  wait_for "$OPT_TIMEOUT" 'the API server' api_healthy || die $E_ENVIRONMENT 'the API server does not answer' 'see: journalctl -u kube-apiserver'
  run_service kube-controller-manager
  run_service kube-scheduler
}

# master_of_services: what kubeadm init is elsewhere.
master_of_services() {
  prepare_services master
  stage certificates pki_of_master
  stage etcd run_etcd
  stage control-plane run_control_plane
  stage admission apply_text "$(admission_objects)"
  state_set cluster 'done'
  stage addons apply_listed "$ADDON_MANIFESTS"
  give_kubeconfig
  say "the master $NODE_NAME is up: Kubernetes $KUBERNETES_VERSION at $NODE_ADDRESS:6443"
  report 'done'
  print_join "$(master_token)"
}

# apply_text YAML
apply_text() {
  printf '%s\n' "$1" >"$STATE/tmp/apply.yaml"
  logged kube apply -f "$STATE/tmp/apply.yaml" || die $E_ENVIRONMENT "the cluster's own objects could not be applied: $(tail -n 1 "$LOG")" \
    "see $LOG, then run the same line again"
}

# admission_objects: by them a node with a token learns the CA, asks for its certificate and gets it; and its kube-proxy
# may look at Services with the same certificate.
admission_objects() {
  local group=Group:system:bootstrappers
  binding cluster kubecarry:bootstrap system:node-bootstrapper $group
  binding cluster kubecarry:approve system:certificates.k8s.io:certificatesigningrequests:nodeclient $group
  binding cluster kubecarry:proxy system:node-proxier Group:system:nodes
  cat <<END_OF_FILE
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: kubecarry:cluster-info, namespace: kube-public}
rules: [{apiGroups: [""], resources: [configmaps], resourceNames: [cluster-info], verbs: [get]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cluster-info, namespace: kube-public}
data:
  kubeconfig: |
    apiVersion: v1
    kind: Config
    clusters:
    - name: ""
      cluster:
        certificate-authority-data: $(base64 -w0 $PKI/ca.crt)
        server: https://$NODE_ADDRESS:6443
END_OF_FILE
  binding kube-public kubecarry:cluster-info kubecarry:cluster-info User:system:anonymous
  settings_objects
}

# settings_objects: the cluster's networks, for those that join, under the name that kubeadm has for them.
settings_objects() {
  cat <<END_OF_FILE
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kubeadm-config, namespace: kube-system}
data:
  ClusterConfiguration: |
    networking:
      podSubnet: $POD_SUBNET
      serviceSubnet: $SERVICE_SUBNET
    apiServer:
      extraArgs:
        service-node-port-range: $NODE_PORTS
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: kubecarry:settings, namespace: kube-system}
rules: [{apiGroups: [""], resources: [configmaps], resourceNames: [kubeadm-config], verbs: [get]}]
END_OF_FILE
  binding kube-system kubecarry:settings kubecarry:settings Group:system:bootstrappers
}

# binding cluster|NAMESPACE NAME ROLE KIND:SUBJECT
binding() {
  local kind=ClusterRole place=''
  [ "$1" = cluster ] || kind=Role place=", namespace: $1"
  printf -- '---\napiVersion: rbac.authorization.k8s.io/v1\nkind: %sBinding\nmetadata: {name: "%s"%s}\n' $kind "$2" "$place"
  printf 'roleRef: {apiGroup: rbac.authorization.k8s.io, kind: %s, name: "%s"}\n' $kind "$3"
  printf 'subjects: [{apiGroup: rbac.authorization.k8s.io, kind: %s, name: "%s"}]\n' "${4%%:*}" "${4#*:}"
}

# token_object TOKEN: a bootstrap token that works for 24 hours.
token_object() {
  cat <<END_OF_FILE
apiVersion: v1
kind: Secret
type: bootstrap.kubernetes.io/token
metadata: {name: bootstrap-token-${1%%.*}, namespace: kube-system}
stringData:
  token-id: "${1%%.*}"
  token-secret: "${1#*.}"
  expiration: "$(date -u -d '+24 hours' +%Y-%m-%dT%H:%M:%SZ)"
  usage-bootstrap-authentication: "true"
  usage-bootstrap-signing: "true"
END_OF_FILE
}

# create_service_token TOKEN: prints it once it works: a controller signs cluster-info with it, some seconds later.
create_service_token() {
  apply_text "$(token_object "$1")"
  wait_for 60 'the token to be good' token_published "${1%%.*}" ||
    die $E_ENVIRONMENT 'the cluster did not sign cluster-info with the token' 'see: journalctl -u kube-controller-manager'
  printf '%s' "$1"
}

# token_published ID
token_published() {
  grep -Fq "jws-kubeconfig-$1" <<<"$(kube -n kube-public get configmap cluster-info -o json)"
}

# join_services: what kubeadm join is elsewhere.
join_services() {
  prepare_services node
  stage certificates pki_of_node
  stage flannel run_flanneld
  stage runtime run_docker
  start_images
  stage images await_images
  common_file
  stage kubelet run_service kubelet
  stage proxy run_service kube-proxy
  state_set cluster 'done'
  stage ready await_ready
  say "$NODE_NAME has joined and is Ready"
  report 'done'
}

# pki_of_node: the CA out of what the token vouches for, and a certificate that the cluster signs.
pki_of_node() {
  make_dirs $PKI
  [ -s $PKI/ca.crt ] || cluster_ca | put_file 0644 $PKI/ca.crt
  pki_key node
  [ -s $PKI/node.crt ] || ask_certificate "/O=system:nodes/CN=system:node:$NODE_NAME"
  services_kubeconfig "https://$MASTER_HOST:$MASTER_PORT" node | put_file 0600 $KUBELET_CONF
}

# ask_certificate SUBJECT: the request's name has a digest of it, so that the same is not asked for twice.
ask_certificate() {
  local request name path kind=v1 signer='"signerName": "kubernetes.io/kube-apiserver-client-kubelet", '
  [ "$(minor)" -ge 19 ] || kind=v1beta1 signer=''
  [ -s "$PKI/node.csr" ] || pki_request node "$1" | put_file 0644 $PKI/node.csr
  request=$(base64 -w0 <$PKI/node.csr)
  name=node-csr-$(sha256sum <<<"$request" | cut -c 1-32)
  path=apis/certificates.k8s.io/$kind/certificatesigningrequests
  ask_api "$path" "{\"apiVersion\": \"certificates.k8s.io/$kind\", \"kind\": \"CertificateSigningRequest\", \"metadata\": {\"name\": \"$name\"}, \
\"spec\": {$signer\"request\": \"$request\", \"usages\": [\"digital signature\", \"key encipherment\", \"client auth\"]}}" >/dev/null || true
  wait_for 60 'the certificate of this node' take_certificate "$path/$name" ||
    die $E_ENVIRONMENT 'the cluster did not sign this node'"'"'s certificate' "on the master: kubectl get csr $name -o yaml"
}

# take_certificate PATH
take_certificate() {
  local found
  found=$(ask_api "$1" | json_string certificate)
  [ -n "$found" ] || return 1
  base64 -d <<<"$found" >"$STATE/tmp/node.crt" && openssl verify -CAfile $PKI/ca.crt "$STATE/tmp/node.crt" >/dev/null || return 1
  put_file 0644 $PKI/node.crt <"$STATE/tmp/node.crt"
}

# ask_api PATH [JSON]: GET or POST as the owner of the token, which no process list shows.
ask_api() {
  local words=()
  [ -z "${2:-}" ] || words=(-H 'Content-Type: application/json' --data-binary "$2")
  printf 'header = "Authorization: Bearer %s"\n' "$OPT_TOKEN" |
    curl -f -s --noproxy '*' --cacert $PKI/ca.crt --connect-timeout 5 --max-time 10 -K - ${words[@]+"${words[@]}"} \
      "https://$MASTER_HOST:$MASTER_PORT/$1"
}

run_flanneld() {
  run_service flanneld
  wait_for 60 'a network from flannel' test -s /run/flannel/subnet.env || die $E_ENVIRONMENT 'flanneld got no network' 'see: journalctl -u flanneld'
}

# run_docker: flannel's package tells Docker's unit its network; a bridge with another address is made anew.
run_docker() {
  local subnet
  subnet=$(sed -n 's/^FLANNEL_SUBNET=//p' /run/flannel/subnet.env)
  systemctl daemon-reload </dev/null
  if systemctl is-active -q docker </dev/null && [ "$(first_address docker0)" != "${subnet%/*}" ]; then
    logged systemctl restart docker.service || die $E_ENVIRONMENT 'docker does not start with the network of flannel' 'see: journalctl -u docker'
  fi
  runtime configure
  [ "$(first_address docker0)" = "${subnet%/*}" ] || die $E_ENVIRONMENT "docker0 has $(first_address docker0), not flannel's $subnet" \
    "docker's unit must read /run/flannel/docker (DOCKER_NETWORK_OPTIONS)"
}
