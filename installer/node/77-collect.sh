# shellcheck shell=bash
# collect: what someone needs who was not there, in one file, without secrets. Changes nothing else, takes no lock (a
# run that hangs holds it), asks no server; what is missing or hangs on this host costs its own part alone.

COLLECT_PART=20 # seconds for a part
COLLECT_ALL=240 # seconds for all of them; parts that come too late say so
COLLECT_MB=2    # of each part the last so many MiB are kept, of at most COLLECT_RAW that are looked through
COLLECT_RAW=16
COLLECT_DIR=''

# hide_blocks: masks what spans lines: private keys, whole or cut at either end, and in Kubernetes' YAML or JSON the
# `data` of Secrets (of which `kind` may come last).
hide_blocks() {
  awk '
    function hide(from, step,   i) { # up to the other end of a key, of which each line is a word of base64
      for (i = from + step; i > 0 && i <= n && (i - from) * step < 200; i += step) {
        if (line[i] ~ /-----(BEGIN|END) /) break
        if (line[i] !~ /[A-Za-z0-9+\/=]$/) break
        line[i] = "********" } }
    function blank(i) { match(line[i], /^ */); return RLENGTH }
    function flush(   i, indent, inside) {
      for (i = 1; i <= n; i++) {
        if (line[i] ~ /-----BEGIN [A-Z ]*PRIVATE KEY/) hide(i, 1)
        if (line[i] ~ /-----END [A-Z ]*PRIVATE KEY/) hide(i, -1) }
      for (i = 1; i <= n; i++) {
        if (inside && (blank(i) > indent || line[i] ~ /^ *}/)) continue
        inside = secret && line[i] ~ /^ *"?(data|stringData)"? *:/
        if (inside) { indent = blank(i); line[i] = substr(line[i], 1, indent) "data: ********" }
        print line[i] }
      n = secret = 0 }
    /^---( |$)/ { flush() }
    { line[++n] = $0 }
    /^ *-? *"?kind"? *: *"?Secret"?,? *$/ { secret = 1 }
    END { flush() }'
}

# hide_secrets: masks what must not leave the host, on its way from stdin to stdout; rather too much than too little.
# In turn: words of base64 (a key's lines), PEM in base64, JWT, HTTP credentials, passwords in URLs, bootstrap tokens,
# certificate keys, and the values of options and of settings that are named as secrets.
hide_secrets() {
  hide_blocks | sed -E -u \
    -e 's#(^|[[:space:]])[A-Za-z0-9+/]{40,}={0,2}$#\1********#' \
    -e 's#LS0tLS1CRUdJTi[A-Za-z0-9+/=]*#********#g' \
    -e 's/eyJ[A-Za-z0-9_=-]{8,}\.[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]*)?/********/g' \
    -e 's#\b(bearer|basic) +[A-Za-z0-9._~+/=-]{6,}#\1 ********#Ig' \
    -e 's#(://[^/:@[:space:]]*):[^/[:space:]]*@#\1:********@#g' \
    -e 's/\b[a-z0-9]{6}\.[a-z0-9]{16}\b/********/g' \
    -e 's/(certificate-?key["'\'' =:]+)[0-9a-f]{64}/\1********/Ig' \
    -e 's#(--[a-z-]*(token|password|passwd|secret)[ =]+)[^-[:space:]][^[:space:]]*#\1********#Ig' \
    -e 's#((token|passw(or)?d|passphrase|secret|key-?data|auth(_pass)?|credentials?)[0-9]*\\?["'\'']?[[:space:]]*[:=][[:space:]]*)(\\"[^"]*"|"[^"]*"|'\''[^'\'']*'\''|[^]["'\''{[:space:]][^"'\''[:space:]]*)#\1********#Ig' \
    -e 's#^([[:space:]]*auth_pass[[:space:]]+).*#\1********#I'
}

# bounded FUNCTION: for at most $COLLECT_PART seconds; its children end by limits of their own.
bounded() {
  local pid
  "$@" &
  pid=$!
  wait_for $COLLECT_PART "$1" eval "! kill -0 $pid" || { kill $pid 2>/dev/null && printf '(ended after %s s)\n' $COLLECT_PART; }
}

# part NAME COMMAND…: its output, errors included, becomes the file NAME; bounded in time and size. It is masked before
# it is cut, since a secret's end alone could not be known for one.
part() {
  local file=$COLLECT_DIR/$1 raw=$COLLECT_DIR.raw runner=(timeout -k 2 "$COLLECT_PART")
  shift
  mkdir -p "$(dirname "$file")"
  clock
  if [ $(((NOW - STARTED) / 100)) -ge $COLLECT_ALL ]; then
    printf 'left out: the others took more than %s s\n' $COLLECT_ALL >"$file"
    return 0
  fi
  [ "$(type -t "$1")" != function ] || runner=(bounded)
  # Into a file: what the command leaves running would hold a pipe open.
  "${runner[@]}" "$@" </dev/null >"$raw" 2>&1 || printf '\n(ended with code %s)\n' $? >>"$raw"
  tail -c ${COLLECT_RAW}M "$raw" | hide_secrets | tail -c ${COLLECT_MB}M >"$file"
}

# part_file FILE: a copy of a file of this host, if it has it.
part_file() { [ ! -f "$1" ] || part "files$1" tail -n 20000 "$1"; }

# collect_ours: our log, journal, state; and what status says.
collect_ours() {
  local name
  part_file "$LOG"
  for name in state journal resolv.conf; do part_file "$STATE/$name"; done
  [ ! -d "$STATE" ] || part state-directory find "$STATE" -xdev -not -path "$STATE/cache/*" -printf '%M %u %s %TY-%Tm-%TdT%TH:%TM %p\n'
  part status status
}

# shellcheck disable=SC2016 # they are the inner shell's variables
collect_host() {
  local name
  part versions bash -c 'cat /etc/os-release /proc/version /proc/cmdline; uptime; free -m; nproc
    for tool in kubelet kubeadm containerd dockerd runc; do command -v $tool && $tool --version; done; kubectl version --client; crictl --version
    getenforce; systemctl --version | head -n 1; curl --version | head -n 1; openssl version; iptables --version; date -u'
  part packages bash -c 'if command -v rpm >/dev/null && rpm -q rpm >/dev/null 2>&1; then rpm -qa | sort; else dpkg-query -W; fi'
  part disks bash -c 'df -h; df -i; cat /proc/mounts /proc/swaps'
  part sysctl bash -c 'sysctl -a 2>/dev/null | grep -E "^(net\.(bridge|ipv4\.(ip_forward|conf)|netfilter)|vm\.|kernel\.(panic|osrelease|hostname)|fs\.(file|inotify))"'
  part modules cat /proc/modules
  part network bash -c 'ip -s link; ip addr; ip route show table all; ip rule; ip neigh; ss -tulpn'
  part firewall bash -c 'iptables-save; ip6tables-save; nft list ruleset; firewall-cmd --list-all-zones'
  part dmesg bash -c 'dmesg -T | tail -n 500'
  for name in /etc/hosts /etc/resolv.conf /etc/fstab /etc/crictl.yaml /etc/containerd/config.toml /etc/docker/daemon.json /etc/keepalived/keepalived.conf \
    /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env /etc/sysconfig/kubelet /etc/default/kubelet; do
    part_file $name
  done
  while IFS= read -r name; do part_file "$name"; done < <(find /etc/containerd/certs.d /etc/cni/net.d /etc/kubernetes/manifests -type f 2>/dev/null | head -n 60)
}

collect_units() {
  local unit
  part units bash -c 'systemctl --no-pager --full list-units --all --type=service,socket,mount; systemctl --no-pager list-unit-files --type=service; systemctl --no-pager --failed'
  for unit in kubelet containerd docker keepalived etcd kubecarry-route; do
    part "units-of/$unit" systemctl --no-pager --full status "$unit"
    part "journal-of/$unit" journalctl --no-pager -o short-iso -n 2000 -u "$unit"
  done
}

collect_cluster() {
  local config=$ADMIN_CONF pod file
  part containers bash -c 'crictl ps -a; crictl pods; crictl images; docker ps -a'
  while IFS= read -r file; do
    part "pod-logs/$(basename "$(dirname "$(dirname "$file")")")/$(basename "$(dirname "$file")")-$(basename "$file")" tail -n 500 "$file"
  done < <(find /var/log/pods -path '/var/log/pods/kube-system_*' -name '*.log' 2>/dev/null | sort | head -n 60)
  [ -e "$config" ] || config=$KUBELET_CONF
  if [ ! -e "$config" ] || ! command -v kubectl >/dev/null 2>&1; then return 0; fi
  for pod in nodes 'pods -A' 'events -A --sort-by=.lastTimestamp' 'daemonsets,deployments,services -A' 'certificatesigningrequests'; do
    # shellcheck disable=SC2086 # words
    part "kubectl/get-${pod%% *}" kubectl --kubeconfig="$config" --cache-dir="$COLLECT_DIR.kubectl" --request-timeout=10s get $pod -o wide
  done
  part kubectl/describe-nodes kubectl --kubeconfig="$config" --cache-dir="$COLLECT_DIR.kubectl" --request-timeout=10s describe nodes
  part kubectl/kubeadm-config kubectl --kubeconfig="$config" --cache-dir="$COLLECT_DIR.kubectl" --request-timeout=10s -n kube-system get configmap kubeadm-config -o yaml
}

# collect [FILE]: the parts in a tar, readable by root alone; prints its name.
collect() {
  local name file=$1 mask part_of
  name=kubecarry-${NODE_NAME:-node}-$(date -u +%Y%m%dT%H%M%SZ)
  file=${file:-$name.tar.gz}
  mask=$(umask)
  umask 077
  COLLECT_DIR=$(mktemp -d)/$name
  mkdir "$COLLECT_DIR"
  for part_of in ours units host cluster; do
    say "collecting: $part_of"
    "collect_$part_of"
  done
  rm -f "$COLLECT_DIR.raw"
  { tar -C "${COLLECT_DIR%/*}" -czf "$file.new" "$name" && mv -fT "$file.new" "$file"; } 2>/dev/null || {
    rm -f "$file.new"
    die $E_ENVIRONMENT "$file could not be written" 'name a file where there is room: deploy.sh collect FILE'
  }
  umask "$mask"
  say "$file: $(($(stat -c %s "$file") / 1024)) KiB. Secrets are masked as far as they can be known; look through it before you hand it on"
  printf '%s\n' "$file"
}

# collect_clean: on every exit.
collect_clean() { [ -z "$COLLECT_DIR" ] || rm -rf "${COLLECT_DIR%/*}"; }
