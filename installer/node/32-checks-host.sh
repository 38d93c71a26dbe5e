# shellcheck shell=bash
# Checks of the machine itself: system, tools, kernel, memory, disk, swap.

check_root() {
  [ "$(id -u)" = 0 ] || fault 'not running as root' 'run it as root: curl … | sudo bash -s …'
}

check_systemd() {
  [ -d /run/systemd/system ] || fault 'systemd does not run this host' 'use a host booted by systemd'
}

check_commands() {
  local missing='' command carried=''
  [ "$HOST_FORMAT" = deb ] || carried='iptables iptables-save' # of Debian's, the bundle brings them
  for command in awk curl cmp cut date flock getent grep ip modprobe mount mountpoint nsenter openssl sed sha256sum \
    sort sysctl systemctl tar timeout umount $carried; do
    command -v "$command" >/dev/null 2>&1 || missing="$missing $command"
  done
  [ -z "$missing" ] || fault "commands are missing:$missing" 'install the packages that have them from the installation medium'
}

check_os() {
  case " $BUNDLE_HOSTS " in
    *" $HOST_OS "*) ;;
    *) fault "this host is ${HOST_OS:-unknown} ($(os_release PRETTY_NAME)); the bundle carries packages for: $BUNDLE_HOSTS" \
      'build a bundle for it (bundler build --os) or use one of these systems' ;;
  esac
}

check_arch() {
  case " $BUNDLE_ARCHES " in
    *" $HOST_ARCH "*) ;;
    *) fault "this host is $HOST_ARCH; the bundle carries: $BUNDLE_ARCHES" 'build a bundle for this architecture' ;;
  esac
}

check_package_manager() { of_format manager_faults; }

# has_module NAME: loaded, built in, or loadable.
has_module() {
  [ -d "/sys/module/$1" ] || modprobe -n -q "$1" 2>/dev/null
}

check_kernel_modules() {
  local remedy='install the kernel-modules package of the running kernel, or boot the kernel whose modules are installed'
  [ -e /proc/sys/net/bridge ] || has_module br_netfilter || fault 'the kernel module br_netfilter is not available' "$remedy"
  grep -qw overlay /proc/filesystems || has_module overlay || fault 'the kernel module overlay is not available' "$remedy"
}

# rewritable FILE: whether a kernel setting may be written: by writing what it holds (its mode does not tell).
rewritable() {
  local value
  value=$(cat "$1") && { printf '%s\n' "$value" >"$1"; } 2>/dev/null
}

check_proc_sys() {
  [ "$(id -u)" = 0 ] || return 0 # nobody else may, and check_root has told
  rewritable /proc/sys/net/ipv4/ip_forward || fault '/proc/sys is read-only: kernel settings cannot be made' 'run on a machine, or in a container that may write /proc/sys/net'
}

unified_cgroup() { [ -e /sys/fs/cgroup/cgroup.controllers ]; }

check_cgroup() {
  local controller
  if unified_cgroup; then
    case $KUBERNETES_VERSION in
      v1.?.* | v1.1?.* | v1.20.* | v1.21.*)
        caution "this host uses cgroup v2, which $KUBERNETES_VERSION supports only in part" 'boot with systemd.unified_cgroup_hierarchy=0 if pods misbehave' ;;
    esac
    return 0
  fi
  case $KUBERNETES_VERSION in
    v1.3[5-9].* | v1.[4-9]?.*) fault "this host uses cgroup v1, with which the kubelet of $KUBERNETES_VERSION does not start" 'boot with systemd.unified_cgroup_hierarchy=1' ;;
  esac
  for controller in cpu cpuset devices memory pids; do
    awk -v c=$controller '$1 == c && $4 == 1 { f = 1 } END { exit !f }' /proc/cgroups ||
      fault "cgroup controller $controller is disabled" "enable it on the kernel command line (cgroup_enable=$controller)"
  done
}

# swap_devices: the active ones.
swap_devices() { awk 'NR > 1 { print $1 }' /proc/swaps; }

check_swap() {
  local devices
  devices=$(swap_devices | tr '\n' ' ')
  [ -n "$devices" ] || return 0
  if [ "$OPT_SWAP" = keep ]; then
    caution "swap stays on ($devices)" 'pods may be slowed by swapping; --swap=off turns it off'
  elif ! command -v swapoff >/dev/null 2>&1; then
    fault "swap is on ($devices) and swapoff is missing" 'turn it off by hand, or pass --swap=keep'
  elif ! swap_fits; then
    fault "swap is in use beyond what memory can take back ($devices)" 'stop what uses the memory, or pass --swap=keep'
  fi
}

# swap_fits: whether what is swapped out fits into available memory; swapoff would kill processes otherwise.
swap_fits() {
  awk '$1 == "MemAvailable:" { a = $2 } $1 == "SwapTotal:" { t = $2 } $1 == "SwapFree:" { f = $2 } END { exit !(t - f < a) }' /proc/meminfo
}

# free_mb PATH: MiB free in the file system that PATH is or would be on.
free_mb() {
  local path=$1
  while [ ! -e "$path" ]; do path=$(dirname "$path"); done
  df -Pk "$path" | awk 'NR == 2 { print int($4 / 1024) }'
}

check_disk() {
  local need path
  while read -r need path; do
    [ "$(free_mb "$path")" -ge "$need" ] || fault "$path: $(free_mb "$path") MiB free, $need MiB needed" 'make room, or mount a larger file system there'
  done <<<"3000 $(runtime store)
1000 /var/lib/kubelet
600 /var/lib/kubecarry
50 /var/log
20 /etc"
}

check_etcd_disk() {
  [ -z "$ETCD_ENDPOINTS" ] || return 0
  [ "$(free_mb /var/lib/etcd)" -ge 2000 ] || fault "/var/lib/etcd: $(free_mb /var/lib/etcd) MiB free, 2000 MiB needed" 'make room: etcd stops the cluster when its disk is full'
}

check_cpu_count() {
  local count
  count=$(nproc)
  [ "$count" -ge 2 ] || fault "$count CPU; a master needs 2" 'give it another CPU: with one, the static pods leave none for DNS, which stays Pending'
}

# memory_mb: total memory in MB (10^6, as kubeadm counts).
memory_mb() { awk '$1 == "MemTotal:" { print int($2 * 1024 / 1000000) }' /proc/meminfo; }

check_memory() {
  [ "$(memory_mb)" -ge 1700 ] || fault "$(memory_mb) MB memory; a master needs 1700" 'give it more memory'
}

check_node_memory() {
  [ "$(memory_mb)" -ge 700 ] || fault "$(memory_mb) MB memory; a node needs 700" 'give it more memory'
}

check_kernel() {
  local release major minor
  release=$(cat /proc/sys/kernel/osrelease)
  IFS=. read -r major minor _ <<<"$release"
  minor=${minor%%[!0-9]*}
  [ $((major * 1000 + minor)) -ge 3010 ] || fault "kernel $release is too old" 'use 3.10 or newer'
}

check_selinux() {
  command -v getenforce >/dev/null 2>&1 || return 0
  [ "$(getenforce 2>/dev/null)" = Enforcing ] || return 0
  of_format here container-selinux ||
    caution 'SELinux is enforcing and container-selinux is not installed' 'unless the bundle brings it, SELinux becomes permissive for this installation; down sets it back'
}
