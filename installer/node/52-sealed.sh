# shellcheck shell=bash
# --sealed: no image can come from elsewhere than the bundle's server, and whatever this host tries to reach outside is
# listed: a chain of our own looks at new connections that leave (or are forwarded from pods) and lets the kernel keep
# the addresses that are neither the server's nor in the networks of the nodes, pods and services. It drops nothing. An
# attempt without any route makes no packet, and is not seen.

SEAL=KUBECARRY-SEALED
SEEN=/proc/net/xt_recent
CERTS_D=/etc/containerd/certs.d

is_sealed() { [ -n "$OPT_SEALED" ] || [ "$(state_get sealed)" = yes ]; }

# foreign_hosts: configurations of registries that are not ours.
foreign_hosts() {
  local file
  while IFS= read -r file; do
    recorded file "$file" || printf '%s\n' "$file"
  done < <(find "$CERTS_D" -mindepth 2 -name hosts.toml 2>/dev/null | sort)
}

check_sealed() {
  local found
  is_sealed || return 0
  found=$(foreign_hosts | tr '\n' ' ')
  [ -z "$found" ] || fault "containerd could pull from elsewhere by $found" 'remove them, or install without --sealed'
  if [ "$NODE_RUNTIME" = docker ]; then
    fault "Docker asks an image's own registry for what it lacks" 'pass --runtime containerd, or install without --sealed'
  elif docker_active; then
    fault 'docker runs here, and pulls from wherever it likes' 'stop it (systemctl disable --now docker.socket docker), or install without --sealed'
  fi
  [ -d $SEEN ] || has_module xt_recent ||
    fault 'the kernel module xt_recent is not available' 'install the kernel-modules package of the running kernel, or install without --sealed'
}

# inside_networks: what this host may reach, a network a line: its links', the cluster's, the servers and the master.
inside_networks() {
  local server
  ip -4 route show dev "$NODE_DEVICE" scope link 2>/dev/null | awk '{ print $1 }'
  printf '%s\n' "$POD_SUBNET" "$SERVICE_SUBNET" 127.0.0.0/8 224.0.0.0/4 255.255.255.255 ${MASTER_HOST:+"$MASTER_HOST"}
  while read -r server; do
    server=${server#*://}
    server=${server%%/*}
    getent ahostsv4 "${server%:*}" | awk '{ print $1; exit }'
  done < <(all_servers)
}

# seal_rules LIST NETWORK…: the chain for iptables-restore --noflush, which makes it anew if it is there.
seal_rules() {
  local list=$1 network
  shift
  printf '*filter\n:%s - [0:0]\n' $SEAL
  printf -- '-A %s -p udp --dport 53 -m addrtype ! --dst-type LOCAL -m recent --name %s-dns --set --rdest\n' $SEAL "$list"
  for network; do printf -- '-A %s -d %s -j RETURN\n' $SEAL "$network"; done
  printf -- '-A %s -m addrtype --dst-type LOCAL -j RETURN\n' $SEAL
  printf -- '-A %s -m recent --name %s --set --rdest\nCOMMIT\n' $SEAL "$list"
}

# watch_with TOOL: loads the chain and sends every new connection that leaves through it, first of all.
watch_with() {
  local tool=$1 hook
  "$tool-restore" --noflush <"$STATE/seal-$tool" || return 1
  for hook in OUTPUT FORWARD; do
    "$tool" -C $hook -m conntrack --ctstate NEW -j $SEAL 2>/dev/null || "$tool" -I $hook -m conntrack --ctstate NEW -j $SEAL || return 1
  done
}

# seal_host: before the first thing is fetched for the cluster.
seal_host() {
  is_sealed || return 0
  local tool networks=()
  state_set sealed yes
  record seal $SEAL
  load_module xt_recent || true
  mapfile -t networks < <(inside_networks | sort -u)
  seal_rules kubecarry "${networks[@]}" >"$STATE/seal-iptables"
  seal_rules kubecarry6 ::1 fe80::/10 fc00::/7 ff00::/8 >"$STATE/seal-ip6tables"
  for tool in $RULE_TOOLS; do
    is_watching "$tool" || watch_with "$tool" 2>>"$LOG_SINK" || [ "$tool" = ip6tables ] ||
      die $E_ENVIRONMENT "$tool did not take the rules that watch what leaves this host" "see $LOG, or install without --sealed"
  done
  keep_watching
}

# keep_watching: over reboots.
keep_watching() {
  local hook tool starts=''
  for tool in $RULE_TOOLS; do
    starts+="ExecStart=-/bin/sh -c '$tool-restore --noflush <$STATE/seal-$tool'"$'\n'
    for hook in OUTPUT FORWARD; do
      starts+="ExecStart=-/bin/sh -c '$tool -C $hook -m conntrack --ctstate NEW -j $SEAL || $tool -I $hook -m conntrack --ctstate NEW -j $SEAL'"$'\n'
    done
  done
  put_file 0644 /etc/systemd/system/kubecarry-sealed.service <<END
[Unit]
Description=List what this host tries to reach outside its cluster
After=firewalld.service iptables.service
Before=containerd.service kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
$starts
[Install]
WantedBy=multi-user.target
END
  [ $CHANGED = 0 ] || systemctl daemon-reload </dev/null
  enable_unit kubecarry-sealed.service
}

# is_watching TOOL: whether the chain is there, is ours as it was written last, and is asked.
is_watching() {
  "$1" -C OUTPUT -m conntrack --ctstate NEW -j $SEAL 2>/dev/null && "$1" -C FORWARD -m conntrack --ctstate NEW -j $SEAL 2>/dev/null &&
    [ "$("$1" -S $SEAL 2>/dev/null | grep -c '^-A')" = "$(grep -c '^-A' "$STATE/seal-$1")" ]
}

undo_seal() {
  local tool hook
  for tool in $RULE_TOOLS; do
    for hook in OUTPUT FORWARD; do
      while "$tool" -D $hook -m conntrack --ctstate NEW -j "$1" 2>/dev/null; do :; done
    done
    "$tool" -S "$1" >/dev/null 2>&1 || continue
    "$tool" -F "$1" && "$tool" -X "$1" || return 1
  done
}

# seen_in LIST…: "address attempts" lines; the kernel keeps the last 100 addresses, and few attempts of each.
seen_in() {
  local list
  for list; do
    [ ! -e "$SEEN/$list" ] || awk '{ sub(/^src=/, "", $1); n = 0; for (i = 2; i <= NF; i++) if ($i == "oldest_pkt:") n = NF - i - 1; print $1, n }' "$SEEN/$list"
  done
}

# cluster_addresses: of the nodes, which may lie in networks of their own.
cluster_addresses() { kube get nodes -o 'jsonpath={range .items[*]}{range .status.addresses[*]}{.address}{"\n"}{end}{end}' 2>/dev/null || true; }

# sealed_report: a line for each breach, counted in DIFFERS.
sealed_report() {
  local address count file nodes
  nodes=$(cluster_addresses)
  is_watching iptables || differs 'sealed: the rules that watch what leaves this host are gone: run the line that installed it again'
  while IFS= read -r file; do
    [ -z "$file" ] || differs "sealed: containerd could pull from elsewhere by $file"
  done <<<"$(foreign_hosts)"
  while read -r address count; do
    if [ -z "$address" ] || grep -Fxq -- "$address" <<<"$nodes"; then continue; fi
    differs "sealed: this host tried to reach $address ($count packet(s) or more)"
  done <<<"$(seen_in kubecarry kubecarry6)"
  while read -r address count; do # what is asked inside may be about the outside, so it is told, but it is no breach
    if [ -z "$address" ] || { is_address "$address" && within "$address" "$(state_get pods)"; }; then continue; fi
    tell dns "$address was asked for names ($count times or more)"
  done <<<"$(seen_in kubecarry-dns kubecarry6-dns)"
  [ $DIFFERS -gt 0 ] || tell sealed 'nothing tried to reach anything outside, and no image can come from elsewhere'
}

# tell_sealed: at the end of an installation.
tell_sealed() { ! is_sealed || sealed_report >&2; }
