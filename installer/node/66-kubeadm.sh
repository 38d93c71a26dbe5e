# shellcheck shell=bash
# kubeadm init and join: bounded, and resumed after an interruption from what really stands.

ADMIN_CONF=/etc/kubernetes/admin.conf
KUBELET_CONF=/etc/kubernetes/kubelet.conf

# kube ARG…: kubectl as the administrator (or, on a node, as its kubelet), without a cache in anyone's home.
kube() {
  local config=$ADMIN_CONF
  [ -e "$config" ] || config=$KUBELET_CONF
  kubectl --kubeconfig="$config" --cache-dir="$STATE/kubectl" --request-timeout=10s "$@" </dev/null
}

api_healthy() { kube get --raw=/healthz; }

node_ready() {
  [ "$(kube get node "$NODE_NAME" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null)" = True ]
}

# own_cluster: before anything of it appears: whatever the kubelet, etcd, CNI and kube-proxy leave is ours to remove.
own_cluster() {
  local path link
  for path in /etc/kubernetes /var/lib/kubelet /var/lib/etcd /etc/cni /opt/cni /var/lib/cni /run/flannel /run/netns \
    /var/log/pods /var/log/containers /usr/libexec/kubernetes /var/lib/dockershim; do
    own_tree $path
  done
  own_runtime
  for link in cni0 flannel.1; do
    [ -e /sys/class/net/$link ] || record link $link
  done
}

undo_link() { [ ! -e "/sys/class/net/$1" ] || ip link delete "$1" </dev/null; }

# record_cluster: the line that makes this host's ports and files ours; with what was there before, to be spared.
record_cluster() {
  ! ours || return 0
  record rules "$(save_rules)"
  record cluster "$ROLE" "$(runtime containers | keep_lines containers)" "$POD_SUBNET"
}

# new_token: a bootstrap token, made here.
new_token() {
  local hex
  hex=$(openssl rand -hex 11)
  printf '%s.%s' "${hex:0:6}" "${hex:6:16}"
}

# kubeadm_ignored: kubeadm's own names of the checks that --ignore waived, or swap kept on.
kubeadm_ignored() {
  local names=''
  ! ignored all || names=,all
  ! ignored cpu-count || names=$names,NumCPU
  ! ignored memory || names=$names,Mem
  ! ignored ports || names=$names,Port-10250
  [ "$OPT_SWAP" != keep ] || names=$names,Swap
  [ -z "$ETCD_ENDPOINTS" ] || names=$names,ExternalEtcdVersion # it wants every member; ours wanted a quorum
  printf '%s' "${names#,}"
}

# run_kubeadm init|join IGNORED [ARG…]: its file holds a token: readable by root alone, removed at once.
run_kubeadm() {
  local verb=$1 config=$STATE/tmp/kubeadm.yaml rc=0 waiver
  waiver=$(kubeadm_waiver "$2")
  shift 2
  (umask 077 && kubeadm_config "$verb" "$OPT_TOKEN" "$OPT_CERTIFICATE_KEY" >"$config")
  supervise "$OPT_TIMEOUT" "kubeadm $verb" kubeadm "$verb" --config="$config" ${waiver:+"$waiver"} "$@" || rc=$?
  rm -f "$config"
  [ $rc -eq 0 ] || die $E_ENVIRONMENT "kubeadm $verb did not succeed" "see $LOG and journalctl -u kubelet; then run the same line again: it goes on from there"
}

# await_own_etcd: a member that joined the others' etcd must run before it can be taken out again: until then one of two
# has no majority, and the cluster stands still.
await_own_etcd() {
  if [ -z "$REPLICA" ] || [ ! -e /etc/kubernetes/manifests/etcd.yaml ]; then return 0; fi
  systemctl start kubelet.service </dev/null || true
  wait_for "$OPT_TIMEOUT" 'the etcd member of an interrupted run' api_healthy ||
    die $E_ENVIRONMENT "the etcd member that an interrupted run added does not come up, and the cluster's API does not answer"       'see journalctl -u kubelet and /var/log/pods; then run the same line again'
}

# reset_half_made: clears our own unfinished attempt; never called once the cluster was finished.
reset_half_made() {
  local admin=''
  say 'clearing the unfinished attempt of an interrupted run'
  await_own_etcd
  if [ -n "$REPLICA" ] && [ -e $ADMIN_CONF ]; then
    admin=$STATE/tmp/admin.conf
    (umask 077 && cp $ADMIN_CONF "$admin")
  fi
  reset_kubeadm 120
  [ -z "$admin" ] || forget_node "$admin"
  remove_pods
  rm -rf /etc/cni/net.d/* /var/lib/etcd/member
  clear_registry
}

init_cluster() {
  local ignored
  enable_unit kubelet.service
  record_cluster
  if [ "$(state_get cluster)" = 'done' ]; then
    resume_master
    return 0
  fi
  [ -n "$OPT_TOKEN" ] || OPT_TOKEN=$(new_token)
  ignored=$(kubeadm_ignored)
  if [ -e /etc/kubernetes/manifests/kube-apiserver.yaml ]; then
    systemctl start kubelet.service </dev/null || true
    if wait_for 45 'the control plane of an interrupted run' api_healthy; then
      ignored=all # every phase finds what the interrupted run made, and completes it
    else
      reset_half_made
    fi
  fi
  place_etcd_client
  if [ -n "$RESTORING" ]; then
    place_backup
    ignored=${ignored:+$ignored,}DirAvailable--var-lib-etcd
  fi
  run_kubeadm init "$ignored" --skip-token-print
  state_set cluster 'done'
}

# resume_master: a finished control plane is never reset, only started.
resume_master() {
  systemctl is-active -q kubelet.service </dev/null || logged systemctl start kubelet.service
  wait_for "$OPT_TIMEOUT" 'the API server' api_healthy ||
    die $E_ENVIRONMENT 'the control plane is installed, but its API server does not answer' "see journalctl -u kubelet and /var/log/pods; deploy.sh status tells more"
  say 'the control plane is installed'
}

# joined: whether the API knows this node (a further master: as one), asked with the node's own credentials.
joined() {
  [ -e $KUBELET_CONF ] || return 1
  if [ -n "$REPLICA" ]; then marked_master; else kube get node "$NODE_NAME" -o name; fi
}

join_cluster() {
  enable_unit kubelet.service
  record_cluster
  if [ "$(state_get cluster)" = 'done' ] || joined >/dev/null 2>&1; then
    systemctl is-active -q kubelet.service </dev/null || logged systemctl start kubelet.service
    say 'this node has joined'
  else
    if has_files /var/lib/kubelet || has_files /etc/kubernetes; then reset_half_made; fi
    await_name
    run_kubeadm join "$(kubeadm_ignored)"
  fi
  state_set cluster 'done'
}

await_ready() {
  wait_for "$OPT_TIMEOUT" "$NODE_NAME to be Ready" node_ready ||
    die $E_ENVIRONMENT "$NODE_NAME is not Ready after $OPT_TIMEOUT s: $(kube get node "$NODE_NAME" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].message}' 2>&1 | tail -n 1)" \
      "see journalctl -u kubelet; then run the same line again"
}

# give_kubeconfig: root's kubectl works at once, unless it has a configuration of its own.
give_kubeconfig() {
  local home
  home=$(getent passwd 0 | cut -d: -f6) # not $HOME: sudo may have kept the user's
  if [ -e "$home/.kube/config" ] && ! recorded file "$home/.kube/config"; then return 0; fi
  make_dirs "$home/.kube"
  [ -e "$home/.kube/cache" ] || own_tree "$home/.kube/cache"
  put_file 0600 "$home/.kube/config" <$ADMIN_CONF
}

# untaint: --single-node lets the master run workloads.
untaint() {
  local key
  [ -n "$OPT_SINGLE_NODE" ] || return 0
  for key in node-role.kubernetes.io/master node-role.kubernetes.io/control-plane; do
    if grep -Fqw $key <<<"$(kube get node "$NODE_NAME" -o 'jsonpath={.spec.taints[*].key}')"; then
      logged kube taint node "$NODE_NAME" "$key-"
    fi
  done
}
