# shellcheck shell=bash
# Checks of the kernel's settings and of what the process that runs this may do.

# blocked_modules: "module file" lines of those that modprobe is told not to load.
blocked_modules() {
  find /etc/modprobe.d /run/modprobe.d /usr/lib/modprobe.d /lib/modprobe.d -name '*.conf' -exec \
    awk '$1 == "install" && $2 ~ /^(br_netfilter|overlay|bridge|veth|nf_conntrack|ip_tables|iptable_nat|iptable_filter|vxlan)$/ &&
      $3 ~ /(^|\/)(true|false)$/ { print $2, FILENAME }' {} + 2>/dev/null | sort -u -k 1,1
  tr ' ' '\n' </proc/cmdline 2>/dev/null | awk -F= '$1 ~ /module_blacklist$/ { n = split($2, m, ",")
    for (i = 1; i <= n; i++) if (m[i] ~ /^(br_netfilter|overlay|nf_conntrack|vxlan|veth|bridge)$/) print m[i], "/proc/cmdline" }'
}

check_modules_blocked() {
  local module file
  while read -r module file; do
    [ -z "$module" ] || fault "the kernel module $module is not to be loaded ($file)" "remove that line: pods have no network, or no file system, without it"
  done <<<"$(blocked_modules)"
}

# module_there NAME: whether what it does is in the running kernel, loaded or built in.
module_there() {
  case $1 in
    br_netfilter) [ -e /proc/sys/net/bridge ] ;;
    overlay) grep -qw overlay /proc/filesystems ;;
    nf_conntrack) [ -e /proc/sys/net/netfilter/nf_conntrack_max ] ;;
  esac
}

check_modules_locked() {
  local module
  [ "$(cat "${MODULES_DISABLED:-/proc/sys/kernel/modules_disabled}" 2>/dev/null)" = 1 ] || return 0
  for module in br_netfilter overlay nf_conntrack; do
    module_there $module || fault "the kernel takes no more modules (kernel.modules_disabled), and $module is not loaded" 'list it in /etc/modules-load.d and reboot'
  done
}

check_conntrack() {
  module_there nf_conntrack || has_module nf_conntrack ||
    fault 'the kernel module nf_conntrack is not available: Services do not work' 'install the kernel-modules package of the running kernel'
}

check_running_kernel() {
  local release modules
  release=$(cat /proc/sys/kernel/osrelease)
  modules=$(ls -d /lib/modules/[0-9]*/ 2>/dev/null) || true
  [ -z "$modules" ] || [ -d "/lib/modules/$release" ] ||
    fault "the modules of the running kernel $release are gone (there are: $(xargs -n1 basename <<<"$modules" | tr '\n' ' '))" 'reboot into the kernel that is installed'
  [ ! -e /run/reboot-required ] || caution 'a reboot is pending' 'reboot before the installation: services run with libraries that are replaced'
}

# later_sysctls: the files that systemd-sysctl reads after ours, in that order.
later_sysctls() {
  find /etc/sysctl.d /run/sysctl.d /usr/local/lib/sysctl.d /usr/lib/sysctl.d /lib/sysctl.d -name '*.conf' -printf '%f\t%p\n' 2>/dev/null |
    sort -u | awk -F'\t' '$1 > "90-kubecarry.conf" { print $2 }'
  [ ! -e /etc/sysctl.conf ] || printf '/etc/sysctl.conf\n'
}

# zeroed_later: "key file" lines of the settings we need that another file sets to 0 at the next boot.
zeroed_later() {
  local files=()
  mapfile -t files < <(later_sysctls)
  awk -F= '
    { key = $1; value = $2; gsub(/[ \t]/, "", key); gsub(/[ \t\r]/, "", value); sub(/^-/, "", key); gsub("/", ".", key) }
    key ~ /^net\.(ipv4\.ip_forward|ipv4\.conf\.all\.forwarding|bridge\.bridge-nf-call-iptables)$/ { last[key] = value; where[key] = FILENAME }
    END { for (k in last) if (last[k] == 0) print k, where[k] }' ${files[@]+"${files[@]}"} 2>/dev/null </dev/null | sort
}

check_sysctl_boot() {
  local key file
  while read -r key file; do
    [ -z "$key" ] || fault "$file sets $key to 0 at the next boot" 'remove that line: pods would have no network'
  done <<<"$(zeroed_later)"
}

check_rp_filter() {
  local key others
  others=$(ip -4 -o addr show scope global 2>/dev/null | awk '$2 !~ /^(cni0|flannel|docker|veth|kube)/ { print $2 }' | sort -u | wc -l)
  [ "$others" -gt 1 ] || return 0
  for key in all "$NODE_DEVICE"; do
    [ "$(cat "/proc/sys/net/ipv4/conf/$key/rp_filter" 2>/dev/null)" = 1 ] || continue
    caution "reverse paths are strict (net.ipv4.conf.$key.rp_filter) on a host of $others interfaces" 'packets that come by one and answer by another are dropped: 2 is loose'
    return 0
  done
}

check_kernel_limits() {
  local key least value
  while read -r key least; do
    value=$(cat "/proc/sys/${key//.//}" 2>/dev/null) || continue
    [ "$value" -ge "$least" ] || caution "$key is $value, at least $least is wanted" "raise it in /etc/sysctl.d, then: sysctl -w $key=$least"
  done <<<'fs.file-max 100000
fs.nr_open 65536
fs.inotify.max_user_instances 128
fs.inotify.max_user_watches 8192
kernel.pid_max 32768
kernel.threads-max 10000'
}

check_port_range() {
  local low high ports=${NODE_PORTS:-30000-32767}
  read -r low high </proc/sys/net/ipv4/ip_local_port_range || return 0
  if [ "$low" -gt "${ports#*-}" ] || [ "$high" -lt "${ports%-*}" ] || grep -q "$ports" /proc/sys/net/ipv4/ip_local_reserved_ports; then return 0; fi
  caution "outgoing connections use the ports $low-$high, which NodePorts ($ports) lie in" "sysctl -w net.ipv4.ip_local_reserved_ports=$ports, and in /etc/sysctl.d"
}

check_namespaces() {
  local kind value
  for kind in net mnt pid ipc uts; do
    value=$(cat /proc/sys/user/max_${kind}_namespaces 2>/dev/null) || continue
    [ "$value" -ge 100 ] || fault "the kernel makes no more than $value $kind namespaces" "sysctl -w user.max_${kind}_namespaces=15000, and in /etc/sysctl.d"
  done
}

check_cgroup_mounts() {
  local mounted controller
  [ ! -e /sys/fs/cgroup/cgroup.controllers ] || return 0
  mounted=$(awk '{ for (i = 7; $i != "-"; i++); if ($(i + 1) == "cgroup") print $(i + 3) }' "${MOUNTINFO:-/proc/self/mountinfo}")
  for controller in cpu cpuacct cpuset devices memory pids; do
    grep -Eq "(^|,)$controller(,|\$)" <<<"$mounted" || fault "cgroup controller $controller is not mounted" 'reboot: systemd mounts it'
  done
}

# kubelet_sysctls: what the kubelet sets, or does not start.
check_kubelet_sysctls() {
  local key want have
  [ "$(id -u)" = 0 ] || return 0
  while read -r key want; do
    have=$(cat "/proc/sys/$key" 2>/dev/null) || continue
    [ "$have" = "$want" ] || rewritable "/proc/sys/$key" || fault "/proc/sys/$key is $have and cannot be written; the kubelet needs $want" "set it on the machine itself: sysctl -w ${key//\//.}=$want"
  done <<<'vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1'
}

check_devices() {
  local device
  for device in kmsg null zero urandom; do
    [ -c /dev/$device ] || fault "/dev/$device is no device" 'reboot, or make it again with mknod: the kubelet and pods need it'
  done
}

check_privileges() {
  local held bit name inside outside count
  [ "$(id -u)" = 0 ] || return 0
  held=$(awk '$1 == "CapEff:" { print $2 }' /proc/self/status)
  while read -r bit name; do
    [ $((16#$held >> bit & 1)) = 1 ] || fault "root lacks $name here" 'run it on the machine itself, not in a restricted shell or container'
  done <<<'12 CAP_NET_ADMIN
21 CAP_SYS_ADMIN'
  read -r inside outside count <"${UID_MAP:-/proc/self/uid_map}"
  [ "$inside$outside" = 00 ] && [ "$count" -ge 4294967295 ] || fault 'this is root of a user namespace only' 'run it as root of the machine'
}

check_ulimits() {
  [ "$(ulimit -f)" = unlimited ] || fault "files may not grow beyond $(ulimit -f) KiB (ulimit -f)" 'raise fsize in /etc/security/limits.conf and log in again'
  [ "$(ulimit -v)" = unlimited ] || fault "processes may not have more than $(ulimit -v) KiB (ulimit -v)" 'raise as in /etc/security/limits.conf and log in again'
  [ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge 512 ] || fault "no more than $(ulimit -n) files may be open (ulimit -n)" 'raise nofile in /etc/security/limits.conf and log in again'
}

check_systemd_state() {
  local version
  [ -d /run/systemd/system ] || return 0
  version=$(systemctl --version 2>/dev/null | awk 'NR == 1 { print $2 }') || true
  [ "${version:-219}" -ge 219 ] || fault "systemd $version is too old" 'use a host with 219 or newer'
  case $(systemctl is-system-running 2>/dev/null || true) in
    stopping) fault 'the host is shutting down' 'wait until it is up again' ;;
    maintenance) fault 'the host is in its rescue mode' 'mend what it complains about, and boot it' ;;
  esac
}

check_fips() {
  [ "$(cat /proc/sys/crypto/fips_enabled 2>/dev/null)" != 1 ] ||
    caution 'the kernel is in FIPS mode' "Kubernetes' own cryptography is not validated by it"
}
