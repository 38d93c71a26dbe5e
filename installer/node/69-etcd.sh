# shellcheck shell=bash
# etcd outside Kubernetes: a member of a cluster of its own, as a service of the host, and the master's side of it.

ETCD_UNIT=kubecarry-etcd.service
ETCD_DATA=/var/lib/kubecarry-etcd # not /var/lib/etcd, which kubeadm reset empties
ETCD_PROGRAMS=/usr/local/bin
ETCD_ENDPOINTS='' # https://IP:2379,…: what --etcd-endpoints named
ETCD_CLIENT=''    # directory with ca.crt, client.crt and client.key

# find_member: sets ETCD_MEMBER, NODE_ADDRESS and NODE_DEVICE by which of the members' addresses this host has.
find_member() {
  local member name address
  for member in "${ETCD_MEMBERS[@]}"; do
    read -r name address <<<"$member"
    [ -n "$(device_of "$address")" ] || continue
    [ -z "$ETCD_MEMBER" ] || die $E_ENVIRONMENT "this host has the addresses of two members ($ETCD_MEMBER, $name)" 'give each member a host of its own'
    ETCD_MEMBER=$name NODE_ADDRESS=$address NODE_DEVICE=$(device_of "$address")
  done
  [ -n "$ETCD_MEMBER" ] || die $E_ENVIRONMENT 'no address in --members is one of this host' "its addresses: $(ip -4 -o addr show scope global | awk '{ split($4, p, "/"); printf "%s ", p[1] }')"
}

# etcd_config: the member's file. The token keeps clusters apart that were made of the same hosts.
etcd_config() {
  cat <<END
name: $ETCD_MEMBER
data-dir: $ETCD_DATA
listen-client-urls: https://$NODE_ADDRESS:2379,https://127.0.0.1:2379
advertise-client-urls: https://$NODE_ADDRESS:2379
listen-peer-urls: https://$NODE_ADDRESS:2380
initial-advertise-peer-urls: https://$NODE_ADDRESS:2380
initial-cluster: $(members_as '%s=https://%s:2380')
initial-cluster-token: $(ca_hash <$ETCD_HOME/ca.crt)
initial-cluster-state: new
client-transport-security:
  client-cert-auth: true
  trusted-ca-file: $ETCD_HOME/ca.crt
  cert-file: $ETCD_HOME/member.crt
  key-file: $ETCD_HOME/member.key
peer-transport-security:
  client-cert-auth: true
  trusted-ca-file: $ETCD_HOME/ca.crt
  cert-file: $ETCD_HOME/member.crt
  key-file: $ETCD_HOME/member.key
END
}

# etcd_unit: it is ready only with a quorum, however long that takes.
etcd_unit() {
  cat <<END
[Unit]
Description=etcd, member $ETCD_MEMBER
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart=$ETCD_PROGRAMS/kubecarry-etcd --config-file=$ETCD_HOME/etcd.yaml
Restart=always
RestartSec=5
TimeoutStartSec=0
LimitNOFILE=16384
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
END
}

# start_member: never waits for the others; started anew only if its program or configuration changed.
start_member() {
  local restart=0
  own_tree $ETCD_DATA
  mkdir -p $ETCD_DATA
  chmod 0700 $ETCD_DATA
  put_file 0755 $ETCD_PROGRAMS/kubecarry-etcd <"$STATE/etcd/bin/etcd"
  restart=$((restart + CHANGED))
  put_file 0600 $ETCD_HOME/etcd.yaml <<<"$(etcd_config)"
  restart=$((restart + CHANGED))
  put_file 0644 /etc/systemd/system/$ETCD_UNIT <<<"$(etcd_unit)"
  [ $CHANGED = 0 ] || systemctl daemon-reload </dev/null
  enable_unit $ETCD_UNIT
  if [ $((restart + CHANGED)) -gt 0 ]; then
    logged systemctl restart --no-block $ETCD_UNIT
  else
    logged systemctl start --no-block $ETCD_UNIT
  fi
  wait_for 60 'the member to listen' answers "$NODE_ADDRESS" 2380 ||
    die $E_ENVIRONMENT "etcd does not run: $(journalctl -u $ETCD_UNIT -n 1 -o cat 2>/dev/null | cut -c 1-300)" "see journalctl -u $ETCD_UNIT"
}

# answers ADDRESS PORT: whether something listens there.
answers() { timeout 3 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; }

# member_words DIRECTORY ENDPOINT: sets ETCD_CTL to the words that start etcdctl with that client's keys.
member_words() {
  ETCD_CTL=(env ETCDCTL_API=3 "$STATE/etcd/bin/etcdctl" --dial-timeout=3s --command-timeout=6s "--endpoints=$2" "--cacert=$1/ca.crt" "--cert=$1/client.crt"
    "--key=$1/client.key")
}

# healthy DIRECTORY ENDPOINT: whether that member takes part in a quorum; sets nothing, says why not on stderr.
healthy() {
  member_words "$1" "$2"
  "${ETCD_CTL[@]}" endpoint health </dev/null
}

# silent_members: names of those that do not listen.
silent_members() {
  local member name address
  for member in "${ETCD_MEMBERS[@]}"; do
    read -r name address <<<"$member"
    answers "$address" 2380 || printf '%s ' "$name"
  done
}

# await_quorum: waits for health only where enough members run for it; the others may be installed later.
await_quorum() {
  local silent count=${#ETCD_MEMBERS[@]} up
  silent=$(silent_members)
  up=$((count - $(wc -w <<<"$silent")))
  if [ $up -le $((count / 2)) ]; then
    say "$up of $count members run: not yet enough for a quorum; run the line on the others: ${silent% }"
    return 0
  fi
  wait_for "$OPT_TIMEOUT" 'the quorum' healthy $ETCD_HOME "https://$NODE_ADDRESS:2379" ||
    die $E_ENVIRONMENT "$up of $count members run, but this one is not healthy after $OPT_TIMEOUT s" "see journalctl -u $ETCD_UNIT here and on the others"
  say "$up of $count members run, and this one is healthy${silent:+; run the line on the others: ${silent% }}"
}

# print_etcd_lines: on stdout, on the first member: what to run on the others, and on masters.
print_etcd_lines() {
  local name secret list
  [ -e $ETCD_HOME/secrets ] || return 0
  list=$(members_as '%s=%s')
  printf '\nTo be run as root, each on its own host (the secret in it opens the keys of that host alone; keys can be fetched for %s):\n' $HANDOUT_LIFE
  while read -r name secret; do
    [ "$name" != client ] || continue
    printf '\n%s:\n  %s | ETCD_SECRET=%s bash -s etcd --members %s --from %s\n' "$name" "$(deploy_curl)" "$secret" "$list" "$NODE_ADDRESS"
  done <$ETCD_HOME/secrets
  secret=$(sed -n 's/^client //p' $ETCD_HOME/secrets)
  printf '\nthe master (without ETCD_SECRET and --from where it is a member itself):\n  %s | ETCD_SECRET=%s bash -s master --etcd-endpoints %s --from %s\n\n' \
    "$(deploy_curl)" "$secret" "$(members_as 'https://%.0s%s:2379')" "$NODE_ADDRESS"
}

undo_etcd() { true; } # its line says only whose the data is

verb_etcd() {
  begin
  ROLE=etcd
  detect_os
  detect_arch
  find_member
  step preflight preflight etcd
  step bundle fetch_sums
  step tools take_etcd_tools
  record etcd "$ETCD_MEMBER" "$(members_as '%s=%s')"
  state_set etcd "$ETCD_MEMBER $NODE_ADDRESS"
  step firewall open_firewall
  step keys obtain_keys
  step member start_member
  [ ! -e $ETCD_HOME/secrets ] || serve_handout
  await_quorum
  print_etcd_lines
}

# status_member: lines of status about a member.
status_member() {
  local name address state
  recorded etcd || return 0
  read -r name address <<<"$(state_get etcd)"
  state=$(systemctl is-active $ETCD_UNIT 2>/dev/null </dev/null || true)
  tell etcd "$name ($address) ${state:-absent}"
  systemctl is-enabled -q $ETCD_UNIT 2>/dev/null </dev/null || differs "$ETCD_UNIT does not start at boot"
  healthy $ETCD_HOME "https://$address:2379" >/dev/null 2>&1 || differs 'this member of etcd is not healthy: is there a quorum?'
}

# use_etcd: the master's side: where the client's keys are; before preflight, which asks the members with them.
use_etcd() {
  local pair
  [ -n "$ETCD_ENDPOINTS" ] || return 0
  step tools take_etcd_tools
  ETCD_CLIENT=$STATE/etcd/client
  if [ -n "$OPT_ETCD_CA" ]; then
    rm -rf "$ETCD_CLIENT"
    (umask 077 && mkdir -p "$ETCD_CLIENT" && cp "$OPT_ETCD_CA" "$ETCD_CLIENT/ca.crt" && cp "$OPT_ETCD_CERT" "$ETCD_CLIENT/client.crt" &&
      cp "$OPT_ETCD_KEY" "$ETCD_CLIENT/client.key") || die $E_ENVIRONMENT "the files of --etcd-ca, --etcd-cert and --etcd-key cannot be read" 'name three PEM files'
  elif [ -n "$OPT_FROM" ] && [ ! -e "$ETCD_CLIENT/client.key" ]; then
    (umask 077 && accept_handout client "$ETCD_CLIENT")
  elif [ ! -e "$ETCD_CLIENT/client.key" ]; then
    ETCD_CLIENT=$ETCD_HOME
  fi
  for pair in ca.crt client.crt client.key; do
    [ -e "$ETCD_CLIENT/$pair" ] || die $E_ENVIRONMENT "there is no $ETCD_CLIENT/$pair" 'use the line that the first member printed for the master, or name --etcd-ca, --etcd-cert and --etcd-key'
  done
}

# clear_registry: of an unfinished attempt; only where our own check saw that nothing else was there before it.
clear_registry() {
  [ -n "$ETCD_ENDPOINTS" ] && [ "$(state_get etcd-was)" = empty ] || return 0
  member_words "$ETCD_CLIENT" "$ETCD_ENDPOINTS"
  logged "${ETCD_CTL[@]}" del /registry/ --prefix
}

# place_etcd_client: where kubeadm wants the keys of a client; it uploads them for further masters.
place_etcd_client() {
  [ -n "$ETCD_ENDPOINTS" ] || return 0
  if [ -z "$(state_get etcd-was)" ]; then
    if [ -z "$(other_registry "$ETCD_ENDPOINTS")" ]; then state_set etcd-was empty; else state_set etcd-was used; fi
  fi
  mkdir -p /etc/kubernetes/pki/etcd
  (umask 077 && cp "$ETCD_CLIENT/ca.crt" $ETCD_PKI/ca.crt && cp "$ETCD_CLIENT/client.crt" /etc/kubernetes/pki/apiserver-etcd-client.crt &&
    cp "$ETCD_CLIENT/client.key" /etc/kubernetes/pki/apiserver-etcd-client.key)
}

# etcd_document INDENT: etcd's part of the cluster's configuration, where it is not kubeadm's own.
etcd_document() {
  local endpoint
  [ -n "$ETCD_ENDPOINTS" ] || return 0
  printf '%sendpoints:\n' "$1"
  for endpoint in ${ETCD_ENDPOINTS//,/ }; do printf '%s- "%s"\n' "$1" "$endpoint"; done
  printf '%scaFile: %s/ca.crt\n%scertFile: /etc/kubernetes/pki/apiserver-etcd-client.crt\n%skeyFile: /etc/kubernetes/pki/apiserver-etcd-client.key\n' \
    "$1" $ETCD_PKI "$1" "$1"
}
