# shellcheck shell=bash
# restore: a backup back onto the master that it was made on, or onto a fresh host with that master's address.

RESTORING='' # the opened backup, while a restore runs

# same_cluster: whether the keys on this host are those of the opened backup.
same_cluster() {
  local name
  for name in ca.crt sa.key; do cmp -s "/etc/kubernetes/pki/$name" "$RESTORING/pki/$name" || return 1; done
}

# prove_backup FILE: nothing is changed before all of this holds.
prove_backup() {
  local want
  open_backup "$1" "$STATE/tmp/opened"
  RESTORING=$STATE/tmp/opened
  [ "$(fact_of "$RESTORING" kubernetes)" = "$KUBERNETES_VERSION" ] || die $E_ENVIRONMENT \
    "the backup is of Kubernetes $(fact_of "$RESTORING" kubernetes), the bundle has $KUBERNETES_VERSION" 'serve the bundle of that version'
  want=$(fact_of "$RESTORING" address)
  [ -n "$(device_of "$want")" ] || die $E_ENVIRONMENT "the backup is of a master at $want, which is no address of this host" "give this host that address: certificates and the other nodes name it"
  if [ -e /etc/kubernetes/pki/ca.crt ] && ! same_cluster; then
    die $E_ENVIRONMENT 'this host belongs to another cluster than the backup' 'if that one may go: deploy.sh down, then the same line again'
  fi
  others_are_silent
}

# others_are_silent: members that live on would go on as the old cluster, beside the restored one.
others_are_silent() {
  local peer host
  for peer in $(fact_of "$RESTORING" peers | tr ',' ' '); do
    host=${peer#https://}
    [ "$peer" = "$(fact_of "$RESTORING" peer)" ] || ! timeout 3 bash -c "exec 3<>/dev/tcp/${host%:*}/${host##*:}" 2>/dev/null ||
      die $E_ENVIRONMENT "another master's etcd still runs at $host" 'run deploy.sh down there: it joins the restored cluster again afterwards (replica)'
  done
}

# restore_data: the snapshot as the data of this member alone. What was there is put aside, never removed. etcd must be
# stopped; killed anywhere, the next run finds no data, or that of the snapshot.
restore_data() {
  local data=/var/lib/etcd member peer
  member=$(fact_of "$RESTORING" member) peer=$(fact_of "$RESTORING" peer)
  rm -rf $data/restore.new
  logged etcd_snapshot restore "$RESTORING/etcd.db" --data-dir=$data/restore.new --name="$member" \
    --initial-cluster="$member=$peer" --initial-advertise-peer-urls="$peer" ||
    die $E_ENVIRONMENT "etcd's data could not be restored: $(tail -n 1 "$LOG")" "see $LOG; nothing of the old data was touched"
  if [ -e $data/member ]; then
    OLD_DATA=$data/before-$(date -u +%Y%m%dT%H%M%SZ)
    mv -T $data/member "$OLD_DATA"
    say "the data that was here is in $OLD_DATA"
  fi
  mv -T $data/restore.new/member $data/member
  rmdir $data/restore.new
}

# restore_here: on the master that made the backup.
restore_here() {
  step stop stop_control_plane
  if [ "$(state_get restored)" = "$1" ]; then
    say 'an interrupted run restored the data already'
  else
    step data restore_data
    state_set restored "$1"
  fi
  step start start_control_plane
  state_set restored none
}

# place_backup: between the packages and kubeadm init on a fresh host: kubeadm takes keys and data that it finds.
place_backup() {
  mkdir -p /etc/kubernetes /var/lib/etcd
  chmod 0700 /var/lib/etcd
  rm -rf /etc/kubernetes/pki.new
  cp -a "$RESTORING/pki" /etc/kubernetes/pki.new
  rm -rf /etc/kubernetes/pki
  mv -T /etc/kubernetes/pki.new /etc/kubernetes/pki
  [ -e /var/lib/etcd/member ] || restore_data
}

# backup_vip: the virtual address of the cluster in the opened backup; nothing if its endpoint was its master's own.
backup_vip() {
  local endpoint
  endpoint=$(sed -n 's/^ *controlPlaneEndpoint: *//p' "$RESTORING/kubeadm-config.yaml" | tr -d \"\')
  [ "${endpoint%:*}" = "$(fact_of "$RESTORING" address)" ] || printf '%s' "${endpoint%:*}"
}

# restart_watchers: what watches the cluster knows of a future that is undone; it must look again.
restart_watchers() {
  logged kube -n kube-system rollout restart daemonset,deployment || warn "the cluster's own pods could not be restarted: kubectl -n kube-system rollout restart daemonset,deployment"
}

# after_restore: what only the operator can do.
after_restore() {
  local others
  say "restored: revision $(fact_of "$RESTORING" revision) of $(fact_of "$RESTORING" created), $(fact_of "$RESTORING" keys) keys"
  others=$(kube get nodes -o name | sed 's|^node/||' | grep -Fxv "$NODE_NAME" | tr '\n' ' ') || others=''
  [ -z "$others" ] || warn "restart the kubelet of every other node (systemctl restart kubelet): ${others% }"
  case $(fact_of "$RESTORING" peers) in
    *,*) warn 'this is the only master now: on each of the others run deploy.sh down, then the replica line that deploy.sh token prints' ;;
  esac
}

verb_restore() {
  local sum
  begin
  [ -f "$OPT_OBJECT" ] || die $E_ENVIRONMENT "$OPT_OBJECT is not there" 'name the file that backup wrote'
  step tools take_etcd_tools
  step verify prove_backup "$OPT_OBJECT"
  OPT_ADDRESS=$(fact_of "$RESTORING" address) OPT_NODE_NAME=$(fact_of "$RESTORING" node)
  POD_SUBNET=$(fact_of "$RESTORING" pods) SERVICE_SUBNET=$(fact_of "$RESTORING" services)
  OPT_VIP=$(backup_vip) OPT_VRID=$(fact_of "$RESTORING" vrid) OPT_PEERS=$(fact_of "$RESTORING" vrrp)
  [ "$(fact_of "$RESTORING" taints)" != 0 ] || OPT_SINGLE_NODE=1
  confirm 'This replaces all that the cluster knows by what the backup knows.'
  if [ "$(state_get cluster)" = 'done' ]; then
    recall
    sum=$(sha256sum <"$OPT_OBJECT")
    restore_here "${sum%% *}"
  else
    install_master
  fi
  restart_watchers
  after_restore
}
