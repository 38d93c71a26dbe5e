# shellcheck shell=bash
# Checks of a host that becomes a member of etcd, and, for a master, of the members it is to use.

check_etcd_commands() {
  local missing='' command
  for command in awk base64 cmp curl date flock grep ip openssl sed sha256sum sort systemctl systemd-run tar timeout; do
    command -v "$command" >/dev/null 2>&1 || missing="$missing $command"
  done
  [ -z "$missing" ] || fault "commands are missing:$missing" 'install the packages that have them from the installation medium'
}

check_etcd_room() {
  local path
  for path in $ETCD_DATA $STATE; do
    [ "$(free_mb "$path")" -ge 2000 ] || fault "$path: $(free_mb "$path") MiB free, 2000 MiB needed" 'make room: etcd stops the cluster when its disk is full'
  done
}

# check_etcd_data: a member that finds the data of another cluster would go on as that one's.
check_etcd_data() {
  local members
  members=$(members_as '%s=%s')
  if recorded etcd; then
    grep -Fxq -- "etcd"$'\t'"$ETCD_MEMBER"$'\t'"$members" "$STATE/journal" ||
      fault "this host is a member already, of: $(awk -F'\t' '$1 == "etcd" { print $3; exit }' "$STATE/journal")" 'name the same members in the same order, or run deploy.sh down on each of them first'
  elif has_files $ETCD_DATA; then
    fault "$ETCD_DATA has data of another cluster" "keep it under another name: mv $ETCD_DATA $ETCD_DATA.old"
  elif has_files $ETCD_HOME; then
    fault "$ETCD_HOME has keys of another cluster" "keep them under another name: mv $ETCD_HOME $ETCD_HOME.old"
  fi
}

check_etcd_ports() {
  local port used
  ! recorded etcd || return 0
  used=$(listening)
  for port in $HANDOUT_PORT 2379 2380; do
    if grep -qx "$port" <<<"$used"; then fault "port $port is in use$(port_user "$port")" "stop what listens there (ss -ltnp 'sport = :$port')"; fi
  done
}

check_etcd_count() {
  [ $((${#ETCD_MEMBERS[@]} % 2)) -eq 1 ] || caution "${#ETCD_MEMBERS[@]} members bear no more losses than $((${#ETCD_MEMBERS[@]} - 1))" 'take an odd number'
}

# check_etcd_endpoints: the members answer to the client's keys, enough of them for a quorum, and serve no other cluster.
check_etcd_endpoints() {
  local endpoint why count=0 good='' bad=0
  [ -n "$ETCD_ENDPOINTS" ] || return 0
  for endpoint in ${ETCD_ENDPOINTS//,/ }; do
    count=$((count + 1))
    if why=$(healthy "$ETCD_CLIENT" "$endpoint" 2>&1); then
      good=$endpoint
      continue
    fi
    bad=$((bad + 1))
    why=$(grep -oE 'x509: [^"]*|tls: [^"]*|connection refused|no route to host|deadline exceeded' <<<"$why" | head -n 1)
    caution "$endpoint is not healthy${why:+: $why}" 'start that member; the master goes on while most of them are healthy'
  done
  if [ $((2 * bad)) -ge $count ]; then
    fault "$bad of $count members of etcd are not healthy (above)" 'a quorum is needed: see deploy.sh status on the members, the keys, and the firewall between'
  elif ! ours && [ -n "$(other_registry "$good")" ]; then
    fault "etcd at $good has the data of another Kubernetes cluster" 'if that one may go: deploy.sh down on each member, and build them again'
  fi
}

# other_registry ENDPOINT: a key of Kubernetes there, if there is any.
other_registry() {
  member_words "$ETCD_CLIENT" "$1"
  "${ETCD_CTL[@]}" get /registry/ --prefix --keys-only --limit=1 </dev/null 2>>"$LOG_SINK"
}
