# shellcheck shell=bash
# upgrade: this host's Kubernetes to the bundle's version; masters one after the other, then nodes. Whatever stops it,
# the cluster goes on serving, and the same line goes on from there.

# adopt_installation: what this host is, from what the installation remembers.
adopt_installation() {
  [ "$(state_get cluster)" = 'done' ] ||
    die $E_ENVIRONMENT 'this host has no finished installation' "install it first: $(deploy_curl) | bash -s master (or join)"
  identify
  ROLE=$(state_get role)
  NODE_NAME=$(state_get name)
  NODE_ADDRESS=$(state_get address)
  NODE_DEVICE=$(device_of "$NODE_ADDRESS")
  recall_networks
}

# upgrade_stage NAME FUNCTION [ARG…]: a step that status names when the upgrade stopped in it.
upgrade_stage() {
  state_set upgrade-step "$1"
  step "$@"
}

# upgraded: whether this very bundle was brought in to the end already.
upgraded() {
  [ "$(state_get version)" = "$KUBERNETES_VERSION" ] && [ "$(state_get sums)" = "$SUMS_SHA256" ] && [ -z "$(state_get upgrading)" ]
}

# upgrade_fetch: everything that is needed, into the cache.
upgrade_fetch() {
  fetch "lists/$HOST_OS/$ROLE.packages" lists/images
  fetch_packages
  learn_names
}

# upgrade_images: brought while nothing is touched: not even where containerd is told to pull from.
upgrade_images() {
  local registry CONTAINERD_HOSTS=$STATE/tmp/certs.d CONTAINERD_CA=$STATE/tmp/ca.pem
  printf '%s' "${SERVER_CA:-}" >"$CONTAINERD_CA"
  for registry in $REGISTRIES _default; do
    mkdir -p "$CONTAINERD_HOSTS/$registry"
    registry_hosts >"$CONTAINERD_HOSTS/$registry/hosts.toml"
  done
  start_images
  await_images
}

upgrade_kubeadm() {
  offer_packages
  install_packages 'kubeadm[-=]'
  [ "$(kubeadm version -o short 2>/dev/null </dev/null)" = "$KUBERNETES_VERSION" ] ||
    die $E_ENVIRONMENT "kubeadm on this host is not $KUBERNETES_VERSION" 'remove the other kubeadm from PATH, then run the same line again'
}

# restore_static_pods: kubeadm moves an old manifest away and then the new one in. Where the power was cut between, there
# is none, and the kubelet has ended that component: the old one comes back.
restore_static_pods() {
  local directory=${ADMIN_CONF%/*} name file kept
  for name in kube-apiserver kube-controller-manager kube-scheduler etcd; do
    kept=''
    [ ! -e "$directory/manifests/$name.yaml" ] || continue
    for file in "$directory"/tmp/kubeadm-backup-manifests*/"$name".yaml; do # by their time: the last is the latest
      [ ! -e "$file" ] || kept=$file
    done
    [ -n "$kept" ] || continue
    say "putting $name back, which an interrupted upgrade left out"
    cp -p "$kept" "$directory/manifests/.$name.yaml"
    mv -f "$directory/manifests/.$name.yaml" "$directory/manifests/$name.yaml"
  done
}

# cluster_version: what kubeadm last took the cluster to.
cluster_version() {
  kube get configmap -n kube-system kubeadm-config -o 'jsonpath={.data.ClusterConfiguration}' | sed -n 's/^kubernetesVersion: *//p' | tr -d \"\'
}

# leads: whether this master is the first: the one that takes the cluster's own settings and add-ons along.
leads() {
  [ "$(state_get leads)" = "$KUBERNETES_VERSION" ] || [ "$(cluster_version)" != "$KUBERNETES_VERSION" ]
}

# kubeadm_upgrade WORD…
kubeadm_upgrade() {
  supervise $((OPT_TIMEOUT * 4)) "kubeadm upgrade $1" kubeadm upgrade "$@" ||
    die $E_ENVIRONMENT "kubeadm upgrade $1 did not succeed; what it could not bring up it has put back" \
      "see $LOG and journalctl -u kubelet; mend the cause, then run the same line again"
}

upgrade_control_plane() {
  if leads; then
    state_set leads "$KUBERNETES_VERSION"
    kubeadm_upgrade apply "$KUBERNETES_VERSION" --yes --kubeconfig="$ADMIN_CONF"
  else
    kubeadm_upgrade node --kubeconfig="$ADMIN_CONF"
  fi
  wait_for "$OPT_TIMEOUT" 'kube-proxy on all nodes' proxy_settled ||
    warn 'kube-proxy is not at the new version on every node: kubectl -n kube-system get pods -o wide -l k8s-app=kube-proxy'
}

# proxy_settled: whether every node runs the cluster's kube-proxy; one that cannot pull it shows here.
proxy_settled() {
  local wanted updated ready
  read -r wanted updated ready <<<"$(kube get daemonset -n kube-system kube-proxy \
    -o 'jsonpath={.status.desiredNumberScheduled} {.status.updatedNumberScheduled} {.status.numberReady}')"
  [ "${wanted:-0}" -gt 0 ] && [ "$wanted" = "${updated:-}" ] && [ "$wanted" = "${ready:-}" ]
}

# upgrade_drain: for what the kubelet of another version might restart.
upgrade_drain() {
  if node_upgraded; then return 0; fi # interrupted after that
  if [ -z "$(other_hosts "$NODE_NAME")" ]; then
    warn "no other node could take the pods of $NODE_NAME: they stay, and run on while its kubelet is restarted"
    return 0
  fi
  drain_node "$NODE_NAME" "$OPT_TIMEOUT"
}

# upgrade_runtime: restarted only where it must be; containerd's containers run on without it.
upgrade_runtime() {
  runtime configure
  if runtime stale; then start_unit "$NODE_RUNTIME" 1; fi
  wait_for 60 "$NODE_RUNTIME" runtime answers || die $E_ENVIRONMENT "$NODE_RUNTIME does not answer" "see: journalctl -u $NODE_RUNTIME; then run the same line again"
}

upgrade_kubelet() {
  if node_upgraded; then return 0; fi
  systemctl daemon-reload </dev/null
  logged systemctl restart kubelet.service || die $E_ENVIRONMENT 'the kubelet does not start again' 'see: journalctl -u kubelet; then run the same line again'
}

# node_upgraded: whether the cluster hears from this node's kubelet that it is the new one, and Ready.
node_upgraded() {
  [ "$(kubelet_version)" = "$KUBERNETES_VERSION" ] &&
    node_lines 2>/dev/null | awk -v name="$NODE_NAME" -v version="$KUBERNETES_VERSION" '$1 == name && $2 == version && $3 == "True" { f = 1 } END { exit !f }'
}

# control_plane_upgraded: whether this master's part of it runs, at the new version, and is well by its own word: after a
# restart of the kubelet it takes more than a minute until the cluster calls static pods Ready again.
control_plane_upgraded() {
  local port
  control_lines 2>/dev/null | awk -v node="$NODE_NAME" -v tag=":$KUBERNETES_VERSION" '
    $2 != node || $1 ~ /^etcd-/ { next }
    { n++ } substr($3, length($3) - length(tag) + 1) != tag { bad = 1 } END { exit bad || n < 3 }' || return 1
  for port in 6443 10257 10259; do
    [ "$(curl -ks --noproxy '*' --max-time 5 "https://127.0.0.1:$port/healthz" </dev/null)" = ok ] || return 1
  done
}

upgrade_ready() {
  wait_for "$OPT_TIMEOUT" "$NODE_NAME to be Ready at $KUBERNETES_VERSION" node_upgraded ||
    die $E_ENVIRONMENT "$NODE_NAME is not Ready at $KUBERNETES_VERSION after $OPT_TIMEOUT s; it stays cordoned" 'see journalctl -u kubelet; then run the same line again'
  [ "$ROLE" != master ] || wait_for "$OPT_TIMEOUT" "the control plane of $NODE_NAME" control_plane_upgraded ||
    die $E_ENVIRONMENT "the control plane of $NODE_NAME is not healthy at $KUBERNETES_VERSION after $OPT_TIMEOUT s; it stays cordoned" \
      'see kubectl -n kube-system get pods -o wide; then run the same line again'
  wait_for 60 'the API server' release_node "$NODE_NAME" || die $E_ENVIRONMENT "$NODE_NAME could not be uncordoned" 'run the same line again'
}

upgrade_addons() {
  apply_listed "$NETWORK_MANIFESTS"
  apply_listed "$ADDON_MANIFESTS"
}

# finish_upgrade: from here on this host is of the new version.
finish_upgrade() {
  state_set version "$KUBERNETES_VERSION"
  state_set server "$SERVER"
  state_set sums "$SUMS_SHA256"
  state_set leads ''
  state_set upgrade-backup ''
  state_set upgrade-step ''
  state_set upgrading ''
  [ "$ROLE" != master ] || give_kubeconfig # kubeadm has renewed its certificate
}

# tell_others: on stdout, which nodes are to follow.
tell_others() {
  local others
  others=$(node_lines | awk -v version="$KUBERNETES_VERSION" 'NF && $2 != version { print $4, $1 }' | sort | awk '{ printf "%s%s", s, $2; s = ", " }')
  if [ -n "$others" ]; then
    printf '\nTo follow, one after the other (masters first): %s. Run there as root:\n\n  %s | bash -s upgrade\n\n' "$others" "$(deploy_curl)"
  fi
}

# backup_before_upgrade: the way back, should all else fail; of the state before the first change, so it is made once.
backup_before_upgrade() {
  local file
  if [ ! -e "${ADMIN_CONF%/*}/manifests/etcd.yaml" ]; then
    warn "etcd runs elsewhere: save it there (etcdctl snapshot save)"
    return 0
  fi
  file=$(state_get upgrade-backup)
  if [ -n "$file" ] && [ -e "$file" ]; then return 0; fi
  file=$BACKUPS/$NODE_NAME-before-$KUBERNETES_VERSION-$(date -u +%Y%m%dT%H%M%SZ).tar
  umask 077
  mkdir -p "$BACKUPS"
  room_for_backup "$STATE" "$BACKUPS"
  take_etcd_tools
  write_backup "$file"
  umask 022
  state_set upgrade-backup "$file"
  say "the backup $file holds the keys of the cluster: keep it like a password, and a copy on another machine"
}

# upgrade_cluster_part: on a master; with its backup first.
upgrade_cluster_part() {
  upgrade_stage backup backup_before_upgrade
  upgrade_stage kubeadm upgrade_kubeadm
  upgrade_stage control-plane upgrade_control_plane
}

upgrade_node_part() {
  upgrade_stage kubeadm upgrade_kubeadm
  upgrade_stage kubelet-config kubeadm_upgrade node --kubeconfig="$KUBELET_CONF"
}

verb_upgrade() {
  begin
  ! services || die $E_ENVIRONMENT 'the components of this host are services: they are not upgraded by this verb' "install the newer release's packages by hand, from $SERVER/packages/"
  adopt_installation
  REPORTING=$ROLE
  [ -z "$(state_get upgrading)" ] || restore_static_pods
  step preflight preflight "$ROLE" "$UPGRADE_CHECKS"
  step bundle fetch_sums
  if upgraded; then
    say "$NODE_NAME is at Kubernetes $KUBERNETES_VERSION, of this bundle: nothing to do"
    return 0
  fi
  step fetch upgrade_fetch
  step images upgrade_images
  if [ -n "$OPT_FETCH_ONLY" ]; then
    say "packages and images of $KUBERNETES_VERSION are here; nothing else was changed"
    return 0
  fi
  state_set upgrading "$KUBERNETES_VERSION"
  if [ "$ROLE" = master ]; then upgrade_cluster_part; else upgrade_node_part; fi
  [ -n "$OPT_NO_DRAIN" ] || upgrade_stage drain upgrade_drain
  upgrade_stage packages install_kubernetes
  upgrade_stage runtime upgrade_runtime
  upgrade_stage kubelet upgrade_kubelet
  upgrade_stage ready upgrade_ready
  if [ "$(state_get leads)" = "$KUBERNETES_VERSION" ]; then upgrade_stage addons upgrade_addons; fi
  finish_upgrade
  say "$NODE_NAME is Ready at Kubernetes $KUBERNETES_VERSION"
  report 'done'
  tell_others
}
