# shellcheck shell=bash
# backup: etcd's snapshot, the cluster's keys and its configuration in one tar (docs/formats.md, Backup).

BACKUPS=/var/lib/kubecarry-backups # down leaves it alone
ETCD_PKI=/etc/kubernetes/pki/etcd
ETCD_CTL=() # see etcd_words

# etcd_words: sets ETCD_CTL to the words that start etcdctl for the member on this host, as its health checks ask it.
etcd_words() {
  ETCD_CTL=(env ETCDCTL_API=3 "$STATE/etcd/bin/etcdctl" --endpoints=https://127.0.0.1:2379 "--cacert=$ETCD_PKI/ca.crt"
    "--cert=$ETCD_PKI/healthcheck-client.crt" "--key=$ETCD_PKI/healthcheck-client.key")
}

# snapshot_facts FILE: hash=, revision= and keys= of a snapshot; 1 if it is none or damaged.
snapshot_facts() {
  etcd_snapshot status -w simple "$1" 2>>"$LOG_SINK" | awk -F', *' 'NF >= 4 { print "hash=" $1 "\nrevision=" $2 "\nkeys=" $3; ok = 1 } END { exit !ok }'
}

# flag_of FILE NAME: the value of --NAME in a static pod's manifest.
flag_of() { sed -n "s/^ *- --$2=//p" "$1" | head -n 1; }

# master_taints: what keeps workloads off this master; nothing where it works too.
master_taints() { kube get node "$NODE_NAME" -o 'jsonpath={.spec.taints[*].key}' | tr ' ' '\n' | grep '^node-role' || true; }

# backup_facts DIRECTORY: what the backup says of itself.
backup_facts() {
  printf 'schema=1\ncreated=%s\nnode=%s\naddress=%s\nkubernetes=%s\npods=%s\nservices=%s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
    "$NODE_NAME" "$NODE_ADDRESS" "$KUBERNETES_VERSION" "$POD_SUBNET" "$SERVICE_SUBNET"
  printf 'vrid=%s\nvrrp=%s\n' "$OPT_VRID" "$OPT_PEERS"
  printf 'member=%s\npeer=%s\n' "$(flag_of /etc/kubernetes/manifests/etcd.yaml name)" \
    "$(flag_of /etc/kubernetes/manifests/etcd.yaml initial-advertise-peer-urls)"
  printf 'taints=%s\n' "$(master_taints | wc -w)"
  printf 'peers=%s\n' "$("${ETCD_CTL[@]}" member list -w simple </dev/null | awk -F', *' '{ printf "%s%s", s, $4; s = "," }')"
  snapshot_facts "$1/etcd.db"
}

# room_for_backup PATH…: the database is written twice, and read back once.
room_for_backup() {
  local path need
  need=$(du -smx /var/lib/etcd/member/snap | awk '{ print 2 * $1 + 20 }')
  for path; do
    [ "$(free_mb "$path")" -ge "$need" ] || die $E_ENVIRONMENT "$path: $(free_mb "$path") MiB free, $need MiB needed" 'make room, or name a FILE elsewhere'
  done
}

# gather_backup DIRECTORY: everything that goes into the tar.
gather_backup() {
  mkdir -p "$1"
  etcd_words
  supervise "$OPT_TIMEOUT" 'saving a snapshot of etcd' "${ETCD_CTL[@]}" snapshot save "$1/etcd.db" ||
    die $E_ENVIRONMENT 'etcd gave no snapshot' "see $LOG, and deploy.sh status"
  cp -a /etc/kubernetes/pki "$1/pki"
  kube -n kube-system get configmap kubeadm-config -o 'jsonpath={.data.ClusterConfiguration}' >"$1/kubeadm-config.yaml"
  backup_facts "$1" >"$1/backup" || die $E_INTEGRITY 'the snapshot that etcd gave is damaged' "see $LOG, then run the same line again"
  members_of "$1" | (cd "$1" && xargs -d '\n' sha256sum) >"$1.sums"
  mv "$1.sums" "$1/SHA256SUMS"
}

# members_of DIRECTORY: the names of all files below it, sorted.
members_of() { (cd "$1" && find . -type f -printf '%P\n') | sort; }

# is_backup FILE: whether it is a tar of plain files with the names that a backup has, and no other.
is_backup() {
  local names types
  types=$(tar -tvf "$1" 2>>"$LOG_SINK" </dev/null | cut -c 1 | sort -u) || return 1
  names=$(tar -tf "$1" 2>>"$LOG_SINK" </dev/null) || return 1
  [ "$types" = - ] && ! grep -Eqv '^(backup|etcd\.db|SHA256SUMS|kubeadm-config\.yaml|pki(/[A-Za-z0-9_][A-Za-z0-9._-]*)+)$' <<<"$names"
}

# sums_hold DIRECTORY: whether its SHA256SUMS covers all of it, and holds.
sums_hold() {
  [ -e "$1/SHA256SUMS" ] && (cd "$1" && sha256sum -c --strict --quiet SHA256SUMS) >>"$LOG_SINK" 2>&1 </dev/null &&
    [ "$(cut -c 67- "$1/SHA256SUMS")" = "$(members_of "$1" | grep -vx SHA256SUMS)" ]
}

# open_backup FILE DIRECTORY: unpacks a backup and proves it whole; ends with 6 if it is not, before anything is changed.
open_backup() {
  local file=$1 into=$2 why=''
  rm -rf "$into"
  mkdir -p "$into"
  if ! is_backup "$file"; then
    why='it is no backup of this installer, or damaged'
  elif ! tar -xf "$file" -C "$into" --no-same-owner 2>>"$LOG_SINK" </dev/null; then
    why='it cannot be unpacked'
  elif ! sums_hold "$into"; then
    why='its content is not what its SHA256SUMS says'
  elif [ "$(fact_of "$into" schema)" != 1 ]; then
    why='its form is that of a newer installer'
  elif [ "$(snapshot_facts "$into/etcd.db")" != "$(grep -E '^(hash|revision|keys)=' "$into/backup")" ]; then
    why="etcd's snapshot in it is damaged"
  fi
  [ -z "$why" ] || die $E_INTEGRITY "$file: $why" 'nothing was changed: use another copy of it, or another backup'
}

# fact_of DIRECTORY KEY: what an opened backup says.
fact_of() { sed -n "s/^$2=//p" "$1/backup" 2>/dev/null; }

# write_backup FILE: beside it under another name, opened again to prove it, and only then named.
write_backup() {
  local file=$1 work=$STATE/tmp/backup
  gather_backup "$work"
  members_of "$work" >"$work.members"
  tar -cf "$file.new" -C "$work" --owner=0 --group=0 -T "$work.members" 2>>"$LOG_SINK" </dev/null ||
    die $E_ENVIRONMENT "$file.new could not be written: $(free_mb "$(dirname "$file")") MiB are free there" 'make room, or name another FILE'
  rm -rf "$work"
  open_backup "$file.new" "$STATE/tmp/opened"
  sync
  mv -fT "$file.new" "$file"
}

# need_local_etcd REMEDY: the verb works on a master with etcd of its own only.
need_local_etcd() {
  ! kubeadm_alpha || die $E_ENVIRONMENT "$VERB is not made for Kubernetes $KUBERNETES_VERSION" 'its etcd has no TLS: use etcdctl snapshot save by hand'
  [ -e /etc/kubernetes/manifests/etcd.yaml ] || die $E_ENVIRONMENT 'this host runs no etcd of the cluster' "$1"
}

# verb_backup: 077, since everything in it is secret: whoever reads a backup owns the cluster.
verb_backup() {
  local file=$OPT_OBJECT
  begin
  need_local_etcd 'run it on a master that has one; members outside the cluster are saved with etcdctl snapshot save'
  recall
  need_master
  umask 077
  if [ -z "$file" ]; then
    mkdir -p $BACKUPS
    file=$BACKUPS/$NODE_NAME-$(date -u +%Y%m%dT%H%M%SZ).tar
  fi
  [ -d "$(dirname "$file")" ] && [ ! -d "$file" ] || die $E_ENVIRONMENT "$file cannot be written" 'name a file in a directory that is there'
  room_for_backup "$STATE" "$(dirname "$file")"
  step tools take_etcd_tools
  step backup write_backup "$file"
  printf 'file      %s\nbytes     %s\nrevision  %s\nkeys      %s\n' "$file" "$(stat -c %s "$file")" "$(fact_of "$STATE/tmp/opened" revision)" "$(fact_of "$STATE/tmp/opened" keys)"
  say 'the backup holds the keys of the cluster: keep it like a password, and a copy on another machine; down does not remove it'
}
