# shellcheck shell=bash
# Preflight: every fault of the host at once, each with its remedy, before anything is changed.
# A check is a function check_ID (dashes as underscores) that calls fault or caution, and a line in the table.

FAULTS=()   # "id<TAB>what<TAB>remedy"
CAUTIONS=()
CHECKING='' # id of the check that runs
ROLE=''     # master or node

# In the order they are told. all: everyone; any: all but a member of etcd outside the cluster; first: a cluster's first
# master; replica: a further one; joins: a node or a further master.
CHECKS='
all    root
any    privileges
all    systemd
any    systemd-state
any    commands
any    shadowed
any    ulimits
any    os
all    arch
any    release
any    package-manager
any    package-lock
any    package-db
any    package-excludes
any    kernel
any    kernel-modules
any    modules-blocked
any    modules-locked
any    conntrack
any    running-kernel
any    proc-sys
any    kubelet-sysctls
any    sysctl-boot
any    kernel-limits
any    namespaces
any    fips
any    devices
any    cgroup
any    cgroup-mounts
master cpu-count
master memory
node   node-memory
any    swap
any    swap-boot
any    disk
any    disk-pressure
any    inodes
any    read-only
any    noexec
any    memory-fs
any    container-fs
any    shared-root
any    immutable
any    tmp
master etcd-disk
master etcd-fs
any    machine-id
any    hostname
any    hostname-resolves
any    hostname-boot
any    hostname-elsewhere
any    localhost
any    nsswitch
any    resolv-conf
any    resolver-limits
all    address
any    address-lease
any    mtu
any    path-mtu
any    rp-filter
any    port-range
any    networkmanager
joins  join-self
joins  token-form
joins  same-link
joins  master-reachable
joins  token-valid
joins  ca-hash
joins  ca-valid
joins  name-taken
joins  master-version
joins  master-clock
replica certificates
master vip
master peers
first  vip-free
replica vip-heard
any    default-route
any    networks
all    clock
any    clock-source
all    server
any    proxy
any    selinux
any    apparmor
any    scanners
all    firewall
any    other-role
any    other-version
any    other-cluster
any    other-kubelet
any    units
any    kubelet-arguments
any    residue
any    cni-residue
any    rules-residue
any    rules-mixed
any    mount-residue
any    netns-residue
any    links
any    runtime
any    containerd
any    docker
any    sealed
any    registry-ca
any    ports
etcd   etcd-commands
etcd   etcd-room
etcd   etcd-count
etcd   etcd-data
etcd   etcd-ports
master etcd-endpoints
'

# fault WHAT REMEDY: an error of the running check, unless --ignore names it.
fault() {
  if ignored "$CHECKING"; then
    caution "$1 (ignored)" "$2"
  else
    FAULTS+=("$CHECKING"$'\t'"$1"$'\t'"$2")
  fi
}

# caution WHAT REMEDY: worth knowing, but no reason to stop.
caution() {
  CAUTIONS+=("$CHECKING"$'\t'"$1"$'\t'"$2")
}

# ignored ID: whether --ignore names this check, or all.
ignored() {
  case ",$OPT_IGNORE," in *",$1,"* | *,all,*) return 0 ;; *) return 1 ;; esac
}

# known_check ID: whether a table has it.
known_check() {
  [ "$1" = all ] || grep -Eq "^[a-z]+ +$1\$" <<<"$CHECKS$UPGRADE_CHECKS"
}

# ours: whether what stands here was installed by us, so that its ports and files are no residue.
ours() { recorded cluster; }

# plays WORD: whether this host plays that part, in the words of the table.
plays() {
  case $1 in
    all | "$ROLE") return 0 ;;
    any) [ "$ROLE" != etcd ] ;;
    first) [ "$ROLE" = master ] && [ -z "$REPLICA" ] ;;
    replica) [ -n "$REPLICA" ] ;;
    joins) [ "$ROLE" = node ] || [ -n "$REPLICA" ] ;;
    *) return 1 ;;
  esac
}

# run_checks ROLE [TABLE]: fills FAULTS and CAUTIONS.
run_checks() {
  local role id
  ROLE=$1
  FAULTS=() CAUTIONS=()
  while read -r role id; do
    if [ -z "$role" ] || ! plays "$role"; then continue; fi
    CHECKING=$id
    "check_${id//-/_}" </dev/null
  done <<<"${2:-$CHECKS}"
}

# tell_findings LABEL LINE…: "LABEL id: what" and the remedy below it.
tell_findings() {
  local label=$1 line id what remedy
  shift
  for line; do
    IFS=$'\t' read -r id what remedy <<<"$line"
    printf '%s %s: %s\n' "$label" "$id" "$what" >&2
    printf '        -> %s\n' "$remedy" >&2
    note "$label $id: $what"
  done
}

# preflight ROLE [TABLE]: tells every finding; exit 7 if one is a fault.
preflight() {
  run_checks "$@"
  tell_findings 'warning' ${CAUTIONS[@]+"${CAUTIONS[@]}"}
  tell_findings 'fault  ' ${FAULTS[@]+"${FAULTS[@]}"}
  [ ${#FAULTS[@]} -eq 0 ] || die $E_ENVIRONMENT "preflight found ${#FAULTS[@]} fault(s) (above); nothing was changed on this host by it" \
    "mend them and run the same line again, or add --ignore ID[,ID] for what you judge harmless"
}
