# shellcheck shell=bash
# down: undoes the journal, backwards; never stops at what is missing already.

RULE_TOOLS='iptables ip6tables'

# save_rules: keeps the firewall rules as they are; prints the name of the lists.
save_rules() {
  local tool name=rules-$$-$RANDOM
  for tool in $RULE_TOOLS; do
    "$tool-save" 2>/dev/null </dev/null | rule_lines >"$STATE/lists/$name-$tool" || true
  done
  printf '%s' "$name"
}

# rule_lines <iptables-save: "table rule" lines, chains included, counters and comments left out.
rule_lines() {
  awk '/^\*/ { table = substr($0, 2) } /^:/ { print table " " $1 } /^-A/ { print table " " $0 }'
}

# pod_networks: the pod network that we were told, and the one that flannel says.
pod_networks() {
  { printf '%s\n' "$1"; sed -n 's/^FLANNEL_NETWORK=//p' /run/flannel/subnet.env 2>/dev/null; } | sort -u
}

# removal OLD-LIST NETWORKS [docker] <rules: an iptables-restore --noflush script that takes away what the cluster
# brought: its chains (KUBE-, CNI-, FLANNEL-; DOCKER, if it came with us) and, elsewhere, rules that were not there
# before and name them, docker0 or a pod network.
removal() {
  awk -v old="$1" -v networks="$2" -v docker="${3:+|DOCKER}" '
    BEGIN { while ((getline line < old) > 0) was[line]
            chain_names = "(KUBE-|CNI-|FLANNEL" docker ")"
            names = "(KUBE-|CNI-|FLANNEL-" docker (docker == "" ? "" : "|docker0") ")"
            n = split(networks, nets, " ")
            for (i = 1; i <= n; i++) { gsub(/[.\/]/, "[&]", nets[i]); nets[i] = "(^| )" nets[i] "( |$)" } }
    function mine(text,   i) {
      if (text ~ names) return 1
      for (i = 1; i <= n; i++) if (text ~ nets[i]) return 1
      return 0 }
    function flush() { if (deletes chains) printf "*%s\n%s%s%sCOMMIT\n", table, flushes, deletes, chains
      flushes = deletes = chains = "" }
    { if ($1 != table) { flush(); table = $1 } if ($0 in was) next; rule = substr($0, length($1) + 2) }
    rule ~ "^:" chain_names { chain = substr(rule, 2); flushes = flushes ":" chain " - [0:0]\n"; chains = chains "-X " chain "\n"; next }
    rule ~ "^-A " chain_names { next }
    rule ~ /^-A/ && mine(rule) { deletes = deletes "-D" substr(rule, 3) "\n" }
    END { flush() }'
}

# undo_rules NAME: foreign rules stay as they are.
undo_rules() {
  local tool script rc=0 networks docker=''
  networks=$(pod_networks "$POD_SUBNET" | tr '\n' ' ')
  if services && is_ours docker; then docker=docker; fi
  for tool in $RULE_TOOLS; do
    command -v "$tool-save" >/dev/null 2>&1 || continue
    script=$("$tool-save" 2>/dev/null </dev/null | rule_lines | removal "$STATE/lists/$1-$tool" "$networks" $docker)
    [ -z "$script" ] || "$tool-restore" --noflush <<<"$script" 2>>"$LOG_SINK" || rc=1
  done
  return $rc
}

# our_containers LIST: containers of the cluster that were not there before us.
our_containers() { runtime containers | grep -Fxv -f "$1" || true; }

# remove_pods [LIST]: ends and removes our containers. A runtime that was here before must run for that; one that came
# with us goes with all that it has.
remove_pods() {
  local list=${1:-/dev/null} ids=()
  if ! systemctl is-active -q "$NODE_RUNTIME" </dev/null; then
    if is_ours "$NODE_RUNTIME" || ! systemctl cat "$NODE_RUNTIME.service" >/dev/null 2>&1 </dev/null; then return 0; fi
    warn "$NODE_RUNTIME does not run: start it (systemctl start $NODE_RUNTIME), then run down again"
    return 1
  fi
  mapfile -t ids < <(our_containers "$list")
  [ ${#ids[@]} -eq 0 ] || runtime remove_containers "${ids[@]}"
  [ -z "$(our_containers "$list")" ]
}

# stop_scopes: units that the kubelet made on the fly, for pods and for mounting their volumes.
stop_scopes() {
  local scopes=()
  mapfile -t scopes < <(systemctl list-units --type=scope --no-legend --plain 2>/dev/null </dev/null | awk '/Kubernetes (transient mount|systemd probe)/ { print $1 }')
  systemctl stop 'kubepods*.slice' ${scopes[@]+"${scopes[@]}"} >/dev/null 2>&1 </dev/null || true
}

# undo_cluster ROLE LIST POD-SUBNET
undo_cluster() {
  local list=$STATE/lists/$2 network destination
  POD_SUBNET=$3
  hand_over
  systemctl stop kubelet.service >/dev/null 2>&1 </dev/null || true
  if [ ! -s "$list" ] && command -v kubeadm >/dev/null 2>&1 && [ -d /etc/kubernetes ]; then
    reset_kubeadm 90 # it also takes this master out of an etcd that has others
  fi
  remove_pods "$list" || { warn "containers of the cluster could not be removed from $NODE_RUNTIME"; return 1; }
  stop_scopes
  for network in $(pod_networks "$3"); do
    while read -r destination; do
      if within "$destination" "$network"; then ip -4 route del "$destination" 2>/dev/null || true; fi
    done < <(ip -4 route show | awk '$1 ~ /^[0-9.]+(\/[0-9]+)?$/ && / via / { print $1 }')
  done
}

FOREIGN='' # what else uses a runtime that came with us

# find_foreign: sets FOREIGN. Someone may have used the runtime that came with us for something else.
find_foreign() {
  FOREIGN=$(runtime foreign)
  [ -z "$FOREIGN" ] || warn "$NODE_RUNTIME has containers that are not the cluster's ($FOREIGN): it stays, with the packages"
}

# held_back KIND [ARG…]: whether this line must wait until foreign containers have gone.
held_back() {
  [ -n "$FOREIGN" ] || return 1
  case $1:${2:-} in
    packages:* | rpmkey:* | group:* | dir:* | unit:containerd.service | unit:docker.* | module:overlay) return 0 ;;
    tree:*/containerd | file:/etc/containerd/*) return 0 ;;
    tree:*/docker | file:/etc/docker/*) return 0 ;;
    *) return 1 ;;
  esac
}

# confirm WHAT: asks on a terminal; through a pipe the operator has typed the verb already.
confirm() {
  local answer
  if [ -n "$OPT_YES" ] || [ ! -t 0 ]; then return 0; fi
  printf '%s Type yes to go on: ' "$1" >&2
  read -r answer
  [ "$answer" = yes ] || die $E_ENVIRONMENT 'not confirmed: nothing was changed'
}

# forget: removes the last traces, our own state and log; a file system of its own under the state is only emptied.
forget() {
  if mountpoint -q "$STATE"; then find "$STATE" -xdev -mindepth 1 -delete; else rm -rf --one-file-system "$STATE"; fi
  LOG_SINK=/dev/null
  rm -f "$LOG"
}

# down: exit 7 only if something could not be undone; then the same line may be run again for the rest.
down() {
  if [ ! -e "$STATE/journal" ]; then
    forget
    say 'nothing is installed here: nothing to undo'
    return 0
  fi
  detect_os
  ETCD_ENDPOINTS=$(state_get etcd-endpoints)
  rm -rf --one-file-system "$CACHE" # nothing is undone with it, and the journal shrinks only where there is room
  find_foreign
  if [ -n "$OPT_KEEP_PACKAGES" ]; then undo_all packages rpmkey; else undo_all; fi
  systemctl daemon-reload </dev/null 2>/dev/null || true
  if [ "$LEFT" -gt 0 ]; then
    die $E_ENVIRONMENT "$LEFT change(s) could not be undone (above); all others were" "mend what is in the way, then run down again: $STATE/journal has the rest"
  fi
  forget
  [ -z "$ETCD_ENDPOINTS" ] || say "the cluster's data stay in its etcd ($ETCD_ENDPOINTS), until deploy.sh down there"
  say 'everything that was installed here is undone'
}
