# shellcheck shell=bash
# Plain rule sets, of nft and of iptables: a packet that any chain drops is lost, so our rules go first in each chain that
# drops, and into the file that is loaded at boot. Ours bear the comment "kubecarry".

NFT_RULES=/etc/kubecarry.nft

# nft_chains HOOK: "family table chain" of the chains there that may drop. Those of iptables have names in capitals.
nft_chains() {
  command -v nft >/dev/null 2>&1 || return 0
  nft list ruleset 2>/dev/null </dev/null | awk -v hook="$1" '
    $1 == "table" { family = $2; table = $3 }
    $1 == "chain" { chain = $2; there = drops = 0 }
    $1 == "type" && index($0, "hook " hook " ") { there = 1; if (/policy drop/) drops = 1 }
    $1 != "type" && /(^|[ \t])(drop|reject|jump|goto)([ \t]|$)/ { drops = 1 }
    $1 == "}" { if (there && drops && family ~ /^(inet|ip)$/ && table !~ /^firewalld/ && chain !~ /^(INPUT|FORWARD)$/) print family, table, chain
      there = 0 }'
}

nft_active() { [ -n "$(nft_chains input)" ]; }

# nft_off: its service empties the whole rule set when it is stopped.
nft_off() {
  if systemctl is-active -q nftables.service 2>/dev/null </dev/null; then
    stop_unit nftables.service
  else
    warn 'the rules were not loaded by nftables.service: they stay as they are'
  fi
}

# nft_wanted HOOK: the rules for its chains, the last one first, as they are inserted one before the other.
nft_wanted() {
  local item
  for item in $(pod_sources); do
    [ "$1" = input ] || printf 'ip daddr %s accept\n' "$item"
    printf 'ip saddr %s accept\n' "$item"
  done
  [ "$1" = input ] || return 0
  for item in $(ports_of "$ROLE"); do
    case $item in
      */*) printf '%s dport %s accept\n' "${item#*/}" "${item%/*}" ;;
      *) printf 'ip protocol %s accept\n' "$item" ;;
    esac
  done
}

# nft_script: what inserts all of them.
nft_script() {
  local hook chain rule
  for hook in input forward; do
    while read -r chain; do
      [ -n "$chain" ] || continue
      while read -r rule; do printf 'insert rule %s %s comment "kubecarry"\n' "$chain" "$rule"; done < <(nft_wanted $hook)
    done < <(nft_chains $hook)
  done
}

# nft_ours CHAIN: handles of our rules.
nft_ours() {
  local words
  read -r -a words <<<"$1"
  nft -a list chain "${words[@]}" 2>/dev/null </dev/null | sed -n 's/.*comment "kubecarry".* # handle \([0-9]*\)$/\1/p'
}

# nft_open: the former ones go and the new ones come at one moment.
nft_open() {
  local chain handle
  nft_script >"$STATE/tmp/nft"
  : >"$STATE/tmp/nft-delete"
  while read -r chain; do
    record nft "$chain"
    for handle in $(nft_ours "$chain"); do printf 'delete rule %s handle %s\n' "$chain" "$handle"; done >>"$STATE/tmp/nft-delete"
  done < <({ nft_chains input && nft_chains forward; } | sort -u)
  cat "$STATE/tmp/nft-delete" "$STATE/tmp/nft" | nft -f - 2>>"$LOG_SINK" ||
    die $E_ENVIRONMENT 'nft does not take the rules of the cluster' "see $LOG; --firewall=off does without"
  nft_keep
}

# nft_keep: in the file that nftables.service loads, if it is that service's rules; a file that would not load is not left.
nft_keep() {
  local conf=/etc/nftables.conf
  [ ! -e /etc/sysconfig/nftables.conf ] || conf=/etc/sysconfig/nftables.conf
  if [ ! -e $conf ] || ! systemctl is-enabled -q nftables.service 2>/dev/null </dev/null; then return 0; fi
  put_file 0600 $NFT_RULES <"$STATE/tmp/nft"
  grep -Fq "include \"$NFT_RULES\"" $conf || { cat $conf && printf '\ninclude "%s"\n' $NFT_RULES; } | put_file "$(stat -c %a $conf)" $conf
  nft -c -f $conf </dev/null 2>>"$LOG_SINK" && return 0
  : >$NFT_RULES
  warn "$conf does not load with the cluster's rules ($NFT_RULES): they will not be there after a reboot"
}

undo_nft() {
  local handle words
  command -v nft >/dev/null 2>&1 || return 0
  read -r -a words <<<"$1"
  for handle in $(nft_ours "$1"); do nft delete rule "${words[@]}" handle "$handle" </dev/null || return 1; done
}

# iptables_active: whether incoming packets are dropped by rules that are not the cluster's.
iptables_active() {
  iptables-save -t filter 2>/dev/null </dev/null | awk '/^:INPUT (DROP|REJECT)/ { f = 1 }
    /^-A / && $2 !~ /^(OUTPUT|FORWARD|KUBE-|KUBECARRY|CNI-|FLANNEL|DOCKER|f2b-)/ && / -j (DROP|REJECT)/ { f = 1 } END { exit !f }'
}

# iptables_rules: "CHAIN rule" lines as iptables-save writes them.
iptables_rules() {
  local item comment='-m comment --comment kubecarry -j ACCEPT' port protocol
  for item in $(ports_of "$ROLE"); do
    port=${item%/*} protocol=${item#*/}
    case $item in
      */*) printf 'INPUT -p %s -m %s --dport %s %s\n' "$protocol" "$protocol" "${port/-/:}" "$comment" ;;
      *) printf 'INPUT -p %s %s\n' "$item" "$comment" ;;
    esac
  done
  for item in $(pod_sources); do printf '%s %s\n' "INPUT -s $item" "$comment" "FORWARD -s $item" "$comment" "FORWARD -d $item" "$comment"; done
}

iptables_open() {
  local rule words
  while read -r rule; do
    read -r -a words <<<"$rule"
    if iptables -w 10 -C "${words[@]}" 2>/dev/null </dev/null; then continue; fi
    record iptables "$rule"
    logged iptables -w 10 -I "${words[@]}"
  done < <(iptables_rules)
  iptables_keep
}

undo_iptables() {
  local words
  read -r -a words <<<"$1"
  if iptables -w 10 -C "${words[@]}" 2>/dev/null </dev/null; then logged iptables -w 10 -D "${words[@]}"; fi
}

# iptables_keep: before the first rule of the filter table in the file that is loaded at boot.
iptables_keep() {
  local file
  for file in /etc/sysconfig/iptables /etc/iptables/rules.v4; do
    if [ ! -e $file ] || grep -q -- '--comment kubecarry' $file; then continue; fi
    awk -v rules="$(iptables_rules | sed 's/^/-A /')" '/^\*/ { filter = $1 == "*filter" }
      filter && (/^-/ || /^COMMIT/) { print rules; filter = 0 } { print }' $file >"$STATE/tmp/rules"
    put_file "$(stat -c %a $file)" $file <"$STATE/tmp/rules"
  done
}

# iptables_off: what loads the rules is stopped, and its two chains are emptied.
iptables_off() {
  local unit list chain
  list=$(iptables-save -t filter </dev/null | grep -E '^(:|-A )(INPUT|FORWARD) ' | keep_lines iptables)
  record iptables-off "$list"
  for unit in iptables.service netfilter-persistent.service; do
    if systemctl is-active -q $unit 2>/dev/null </dev/null; then stop_unit $unit; fi
  done
  for chain in INPUT FORWARD; do
    iptables -w 10 -P $chain ACCEPT </dev/null
    iptables -w 10 -F $chain </dev/null
  done
}

undo_iptables_off() {
  [ -e "$STATE/lists/$1" ] || return 0
  iptables -w 10 -F INPUT </dev/null && iptables -w 10 -F FORWARD </dev/null
  { printf '*filter\n' && cat "$STATE/lists/$1" && printf 'COMMIT\n'; } | iptables-restore --noflush
}
