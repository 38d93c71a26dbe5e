# shellcheck shell=bash
# Checks of what was here before us, and, for join, of the master and the token.

check_release() {
  case ${METHOD:-kubeadm}:${RUNTIME:-}:${KUBEADM_API:-} in
    packages:docker:) ;;
    kubeadm:containerd:kubeadm.k8s.io/v1beta[234] | kubeadm:docker:kubeadm.k8s.io/v1beta[234]) ;;
    kubeadm:docker:kubeadm.k8s.io/v1alpha1) ;;
    *) fault "deploy.sh cannot install this release by itself (runtime ${RUNTIME:-none}, kubeadm API ${KUBEADM_API:-none})" \
      "its packages and images can be used by hand: $SERVER/packages/ and $SERVER/v2/" ;;
  esac
}

check_other_kubelet() {
  ! ours || return 0
  if systemctl is-active -q kubelet 2>/dev/null; then
    fault 'a kubelet runs that was not installed by this' 'remove the other cluster from this host first'
  elif command -v kubelet >/dev/null 2>&1 && [ "$(kubelet_version)" != "$KUBERNETES_VERSION" ]; then
    fault "kubelet $(kubelet_version) is installed, the bundle has $KUBERNETES_VERSION" 'remove its package first'
  fi
}

# kubelet_version: v1.20.2, of the program on PATH.
kubelet_version() { timeout 10 kubelet --version 2>/dev/null | awk '{ print $2 }'; }

check_other_cluster() {
  local unit
  for unit in k3s k3s-agent rke2-server rke2-agent k0scontroller k0sworker microk8s; do
    if systemctl is-active -q $unit 2>/dev/null; then fault "$unit runs here" 'uninstall it first: two clusters cannot share a host'; fi
  done
}

check_other_role() {
  local role was
  role=$(state_get role)
  was=$(state_get replica)
  [ "$was" = replica ] || was=''
  if [ -n "$role" ] && [ "$role" != "$ROLE" ]; then
    fault "this host is installed as $role" 'run the down verb first to make it something else'
  elif [ -n "$role" ] && [ "$was" != "$REPLICA" ]; then
    fault "this host is installed as the ${was:-first master} of its cluster" 'repeat the line that it was installed with, or run the down verb first'
  fi
}

# check_other_version: master and join would change packages under a running cluster; that is upgrade's, step by step.
check_other_version() {
  if [ "$(state_get cluster)" != 'done' ]; then return 0; fi
  if [ -n "$(state_get upgrading)" ]; then
    fault "an upgrade of this host to $(state_get upgrading) is unfinished" "finish it: $(deploy_curl) | bash -s upgrade"
  elif [ "$(state_get version)" != "$KUBERNETES_VERSION" ]; then
    fault "this host has Kubernetes $(state_get version), the bundle is $KUBERNETES_VERSION" "use the verb for it: $(deploy_curl) | bash -s upgrade"
  fi
}

# has_files PATH: whether any file lies below it.
has_files() { [ -n "$(find "$1" -type f -print -quit 2>/dev/null)" ]; }

check_residue() {
  local path
  ! ours || return 0
  for path in /etc/kubernetes /var/lib/kubelet /var/lib/etcd; do
    if has_files $path; then fault "$path has files of an earlier cluster" "run the down verb of what installed it, or remove them: rm -rf $path/*"; fi
  done
}

check_cni_residue() {
  ! ours || return 0
  if has_files /etc/cni/net.d; then
    fault "/etc/cni/net.d has $(find /etc/cni/net.d -type f -printf '%f ')" 'remove it: the first file there decides the pod network'
  fi
  if has_files /var/lib/cni/networks/cbr0; then # flannel's; others may well be in use
    fault '/var/lib/cni/networks/cbr0 has addresses that an earlier cluster reserved' 'remove it: rm -rf /var/lib/cni/networks/cbr0; no pod would ever get those addresses'
  fi
}

check_links() {
  local link
  ! ours || return 0
  for link in cni0 flannel.1 kube-ipvs0; do
    [ ! -e /sys/class/net/$link ] || fault "the interface $link is left from an earlier cluster" "ip link delete $link"
  done
}

check_token_form() {
  [[ $OPT_TOKEN =~ ^[a-z0-9]{6}\.[a-z0-9]{16}$ ]] || fault 'the token is not of the form abcdef.0123456789abcdef' 'copy it again from the join line that the master printed'
}

check_master_reachable() {
  load_cluster_info || fault "the master at $MASTER_HOST:$MASTER_PORT does not answer" \
    'check the address, that the master is installed and its API server runs, and the firewall (6443/tcp) and route between'
}

check_token_valid() {
  if [ -z "$CLUSTER_INFO" ] || ours; then return 0; fi
  if ! grep -q "\"jws-kubeconfig-${OPT_TOKEN%%.*}\"" <<<"$CLUSTER_INFO"; then
    fault "the master does not know the token ${OPT_TOKEN%%.*}.…, or it has expired (after 24 h)" 'print a new join line on the master: deploy.sh token'
  elif ! token_signs "$OPT_TOKEN"; then
    fault "the token's second half is wrong" 'copy it again from the join line that the master printed'
  else
    adopt_networks || caution "the cluster's networks could not be read" "its defaults are assumed: pods $POD_SUBNET, services $SERVICE_SUBNET"
  fi
}

check_ca_hash() {
  local hash
  [ -n "$CLUSTER_INFO" ] || return 0
  if [ -z "$OPT_CA_HASH" ]; then
    caution 'no --ca-cert-hash: whether the master is the right one is NOT checked beyond the token' 'anyone who knows the token can pose as the master; use the whole join line that it printed'
    return 0
  fi
  hash=$(cluster_ca | ca_hash)
  [ "$hash" = "$OPT_CA_HASH" ] || fault "the cluster's CA is $hash, not the $OPT_CA_HASH asked for" 'either the hash is of another cluster, or another machine answers at this address'
}

# crosses_router ADDRESS: whether the way there goes over another host.
crosses_router() { grep -q ' via ' <<<"$(ip -4 -o route get "$1" 2>/dev/null)"; }

# check_same_link: host-gw routes name the other node as the next hop, so it must be a neighbour.
check_same_link() {
  case $MANIFEST_REPLACE in *host-gw*) ;; *) return 0 ;; esac
  ! crosses_router "$MASTER_HOST" ||
    fault "$MASTER_HOST is reached over a router ($(ip -4 -o route get "$MASTER_HOST" | sed 's/ src.*//')), and this bundle's pod network needs all nodes on one link" \
      'join it over an interface that is on the same link as the master'
}

check_join_self() {
  ! vip_kept || return 0
  [ -z "$(device_of "$MASTER_HOST")" ] || fault "$MASTER_HOST is this host itself" 'give the address of the master'
}

check_ca_valid() {
  local ca start
  [ -n "$CLUSTER_INFO" ] || return 0
  ca=$(cluster_ca)
  openssl x509 -noout -checkend 0 <<<"$ca" >/dev/null 2>&1 || fault "the cluster's CA has expired: $(openssl x509 -noout -enddate <<<"$ca" 2>&1)" 'compare the clocks; else the cluster needs a new CA'
  start=$(openssl x509 -noout -startdate <<<"$ca" 2>/dev/null | sed 's/^notBefore=//') || return 0
  [ "$(date -d "$start" +%s)" -le "$(date +%s)" ] || fault "the cluster's CA is not yet valid ($start)" "this host's clock, or the master's, is wrong: set both"
}

# check_name_taken: a second machine under a node's name would take its place.
check_name_taken() {
  local node
  if [ -z "$CLUSTER_INFO" ] || ours || ! token_signs "$OPT_TOKEN" || name_free; then return 0; fi
  node=$(ask_master "/api/v1/nodes/$NODE_NAME") || return 0
  [ "$(json_string machineID <<<"$node")" = "$(cat /etc/machine-id 2>/dev/null)" ] ||
    fault "the cluster has a node $NODE_NAME, which is another machine and Ready" 'pass another --node-name, or rename this host (hostnamectl set-hostname)'
}

# master_reply: the headers and body of the master's /version; nothing secret, and nothing that must be believed.
master_reply() {
  curl -k -s -D - --noproxy '*' --connect-timeout 5 --max-time 10 "https://$MASTER_HOST:$MASTER_PORT/version" 2>/dev/null | tr -d '\r'
}

check_master_version() {
  local version theirs ours
  [ -n "$CLUSTER_INFO" ] || return 0
  version=$(master_reply | json_string gitVersion) || return 0
  [[ $version =~ ^v1\.([0-9]+)\. ]] || return 0
  theirs=${BASH_REMATCH[1]}
  ours=${KUBERNETES_VERSION#v1.}
  ours=${ours%%.*}
  if [ "$ours" -gt "$theirs" ]; then
    fault "the master is $version, the bundle $KUBERNETES_VERSION: a node may not be newer than its master" 'upgrade the master first, or use the bundle that it was installed from'
  elif [ $((theirs - ours)) -gt 2 ]; then
    fault "the master is $version, the bundle $KUBERNETES_VERSION: a node may be two releases older at most" 'use the bundle that the master was installed from'
  fi
}

check_master_clock() {
  local header skew
  [ -n "$CLUSTER_INFO" ] || return 0
  header=$(master_reply | sed -n 's/^[Dd]ate: //p') || return 0
  [ -n "$header" ] || return 0
  skew=$(($(date +%s) - $(date -d "$header" +%s)))
  [ ${skew#-} -le 60 ] || fault "the clock differs from the master's by $skew s" 'set both (date -s, or start chronyd): certificates are refused before they become valid'
}
