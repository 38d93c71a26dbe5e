# shellcheck shell=bash
# remove: takes a node out of the cluster from a master, alive or dead. What it leaves on the node itself is for its own
# `down`.

ETCD_MANIFEST=/etc/kubernetes/manifests/etcd.yaml

# node_field NODE JSONPATH: nothing where there is no such node.
node_field() { kube get node "$1" --ignore-not-found -o "jsonpath=$2"; }

is_master() { grep -Eqw 'node-role.kubernetes.io/(master|control-plane)' <<<"$(node_field "$1" '{.metadata.labels}')"; }

# etcdctl_here ARG…: in this master's own etcd.
etcdctl_here() {
  local pki=/etc/kubernetes/pki/etcd
  kube -n kube-system exec "etcd-$NODE_NAME" -- etcdctl --endpoints=https://127.0.0.1:2379 --cacert=$pki/ca.crt --cert=$pki/peer.crt --key=$pki/peer.key "$@"
}

# member_of NODE ADDRESS <member list: the id of its member; one that never started has no name, only its address.
member_of() {
  awk -F', ' -v node="$1" -v peer="https://${2:-none}:2380" '$3 == node || ($3 == "" && $4 == peer) { print $1; exit }'
}

# drop_member NODE ADDRESS: of an etcd that runs on the masters.
drop_member() {
  local list id
  [ -e $ETCD_MANIFEST ] || return 0
  list=$(etcdctl_here member list 2>>"$LOG_SINK") ||
    die $E_ENVIRONMENT "etcd's members could not be listed: $(last_lines 1 "$LOG")" 'see that more than half of the masters run, then run the same line again'
  id=$(member_of "$1" "$2" <<<"$list")
  [ -n "$id" ] || return 0
  logged etcdctl_here member remove "$id" ||
    die $E_ENVIRONMENT "etcd did not let the member of $1 go: $(last_lines 1 "$LOG")" 'more than half of the members that stay must run: start the other masters, then run the same line again'
  say "etcd: the member of $1 is removed"
}

# without_endpoint NODE <ClusterStatus: what kubeadm before 1.22 keeps of each master.
without_endpoint() {
  awk -v key="  $1:" '$0 == key { gone = 1; next } gone && /^    / { next } { gone = 0; print }'
}

forget_endpoint() {
  local old new
  old=$(kube -n kube-system get configmap kubeadm-config --ignore-not-found -o 'jsonpath={.data.ClusterStatus}')
  new=$(without_endpoint "$1" <<<"$old")
  [ "$old" != "$new" ] || return 0
  new=${new//\\/\\\\} new=${new//\"/\\\"} new=${new//$'\n'/\\n}
  logged kube -n kube-system patch configmap kubeadm-config --type merge -p "{\"data\":{\"ClusterStatus\":\"$new\\n\"}}"
}

# lose_pods NODE: a dead kubelet never confirms that they have ended, and their controllers wait for that.
lose_pods() {
  local namespace name
  while read -r namespace name; do
    [ -z "$name" ] || logged kube -n "$namespace" delete pod "$name" --force --grace-period=0 --wait=false || true
  done <<<"$(kube get pods --all-namespaces --field-selector "spec.nodeName=$1" -o 'jsonpath={range .items[*]}{.metadata.namespace}{" "}{.metadata.name}{"\n"}{end}')"
}

# refuse_self: what this master cannot do to itself.
refuse_self() {
  local name others=''
  for name in $(kube get nodes -o 'jsonpath={.items[*].metadata.name}'); do
    [ "$name" = "$NODE_NAME" ] || ! is_master "$name" || others="$others $name"
  done
  [ -n "$others" ] || die $E_ENVIRONMENT "$NODE_NAME is the cluster's only master: without it there is no cluster" 'to end the cluster, run down on each node, here last'
  die $E_ENVIRONMENT "$NODE_NAME is this host itself" "run remove $NODE_NAME on another master ($(xargs <<<"$others")), then down here"
}

# remove_node NODE: may be run again after any interruption.
remove_node() {
  local node=$1 there ready address
  [ "$node" != "$NODE_NAME" ] || refuse_self
  there=$(node_field "$node" '{.metadata.name}') ||
    die $E_ENVIRONMENT "$node could not be looked up" 'see that the API server answers, then run the same line again'
  ready=$(node_field "$node" '{.status.conditions[?(@.type=="Ready")].status}')
  address=$(node_field "$node" '{.status.addresses[?(@.type=="InternalIP")].address}')
  case $there:$ready in
    *:True) drain_node "$node" "$OPT_TIMEOUT" ;;
    :*) say "the cluster has no node $node; it has: $(kube get nodes -o 'jsonpath={.items[*].metadata.name}')" ;;
    *) say "$node is not Ready: it cannot be drained, its pods are taken for lost" ;;
  esac
  drop_member "$node" "$address"
  forget_endpoint "$node"
  [ -z "$there" ] || logged kube delete node "$node" --ignore-not-found
  [ "$ready" = True ] || lose_pods "$node"
  [ "$(state_get cordoned)" != "$node" ] || state_set cordoned ''
  say "$node is not in the cluster any more. On the host itself, if it lives, run: $(deploy_curl) | bash -s down"
}
