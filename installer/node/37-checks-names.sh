# shellcheck shell=bash
# Checks of names, the resolver, interfaces and clocks.

check_hostname_boot() {
  local now later
  later=$(grep -v '^#' /etc/hostname 2>/dev/null | head -n 1) || true
  now=$(cat /proc/sys/kernel/hostname)
  if [ -z "$later" ] || [ "${later,,}" = "${now,,}" ] || [ -n "$OPT_NODE_NAME" ]; then return 0; fi
  case $later in
    localhost*) caution "the name $now comes from the network (/etc/hostname says $later)" "should it change, the node is lost to the cluster: hostnamectl set-hostname $now" ;;
    *) fault "the host's name is $now, but $later after the next boot (/etc/hostname): the node would be lost to the cluster" "hostnamectl set-hostname $now (or $later)" ;;
  esac
}

check_hostname_elsewhere() {
  local address
  for address in $(timeout 3 getent ahostsv4 "$NODE_NAME" 2>/dev/null | awk '{ print $1 }' | sort -u); do
    case $address in 127.*) continue ;; esac
    [ -n "$(device_of "$address")" ] || caution "$NODE_NAME resolves to $address, which is no address of this host" 'mend /etc/hosts or the DNS'
  done
}

check_localhost() {
  local address
  address=$(timeout 3 getent ahostsv4 localhost 2>/dev/null | awk 'NR == 1 { print $1 }') || true
  case $address in
    127.*) ;;
    *) fault "localhost is ${address:-not known} here: the kubelet is asked there whether it is well" 'put "127.0.0.1 localhost" into /etc/hosts' ;;
  esac
  grep -Eq 'UP' <<<"$(ip link show lo up 2>/dev/null)" && [ "$(device_of 127.0.0.1)" = lo ] ||
    fault 'the loopback interface is down, or lacks 127.0.0.1' 'ip link set lo up; ip address add 127.0.0.1/8 dev lo'
}

check_nsswitch() {
  local hosts
  hosts=$(sed -n 's/^hosts:/ /p' /etc/nsswitch.conf 2>/dev/null)
  [ -z "$hosts" ] || grep -qw files <<<"$hosts" || fault "/etc/hosts is not asked (/etc/nsswitch.conf has hosts:$hosts)" 'put "files" first in its line "hosts:"'
}

check_resolver_limits() {
  local servers domains
  servers=$(awk '$1 == "nameserver"' /etc/resolv.conf 2>/dev/null | wc -l)
  domains=$(awk '$1 == "search" { n = NF - 1 } END { print n + 0 }' /etc/resolv.conf 2>/dev/null || echo 0)
  [ "$servers" -le 3 ] || caution "/etc/resolv.conf names $servers nameservers" 'only the first three are asked, by pods too'
  [ "$domains" -le 3 ] || caution "/etc/resolv.conf searches $domains domains" "pods search six, three of them the cluster's: the others are left out"
}

check_address_lease() {
  ip -4 -o addr show dev "${NODE_DEVICE:-lo}" 2>/dev/null | awk -v a="$NODE_ADDRESS" '{ split($4, p, "/") } p[1] == a && / dynamic / { f = 1 } END { exit !f }' || return 0
  caution "$NODE_ADDRESS is leased (DHCP)" 'the node is known by it: reserve it, or make it static'
}

check_mtu() {
  local mtu
  mtu=$(cat "/sys/class/net/${NODE_DEVICE:-lo}/mtu" 2>/dev/null) || return 0
  [ "$mtu" -ge 1280 ] || fault "$NODE_DEVICE carries packets of $mtu bytes at most" "ip link set $NODE_DEVICE mtu 1500: pods' packets would not fit"
}

# check_path_mtu: where small packets arrive and full ones vanish without a word, transfers hang.
check_path_mtu() {
  local mtu peer=${MASTER_HOST:-$(server_host)} said
  command -v ping >/dev/null 2>&1 && mtu=$(cat "/sys/class/net/${NODE_DEVICE:-lo}/mtu" 2>/dev/null) || return 0
  if [ "$NODE_DEVICE" = lo ] || ! ping -n -q -c 1 -W 1 "$peer" >/dev/null 2>&1; then return 0; fi
  if said=$(ping -n -c 1 -W 1 -M 'do' -s $((mtu - 28)) "$peer" 2>&1); then return 0; fi
  if grep -Eqi 'frag|too long' <<<"$said"; then return 0; fi
  fault "packets of $mtu bytes ($NODE_DEVICE) do not arrive at $peer, small ones do" "make the MTU the same on the whole way: ip link set $NODE_DEVICE mtu 1500"
}

networkmanager_active() { systemctl is-active -q NetworkManager 2>/dev/null; }

check_networkmanager() {
  ! networkmanager_active || ours || caution 'NetworkManager runs here' "it is told to leave pods' interfaces alone ($NM_CONF); down takes that back"
  ! grep -qx enabled <<<"$(systemctl is-enabled nm-cloud-setup.service nm-cloud-setup.timer 2>/dev/null)" ||
    caution 'nm-cloud-setup is enabled' "its routing rules take pods' packets away: systemctl disable --now nm-cloud-setup.service nm-cloud-setup.timer"
}

check_clock_source() {
  local unit
  [ "$(sed -n 3p /etc/adjtime 2>/dev/null)" != LOCAL ] || caution "the hardware clock is in local time (/etc/adjtime)" 'timedatectl set-local-rtc 0: the time is wrong until it is corrected after each boot'
  if systemd-detect-virt -c -q 2>/dev/null; then return 0; fi # a container has its host's clock
  for unit in chronyd chrony ntpd ntp ntpsec openntpd systemd-timesyncd; do
    if systemctl is-active -q $unit 2>/dev/null; then return 0; fi
  done
  caution 'nothing sets the clock' 'start chronyd with a time server of this site: certificates and etcd rely on it'
}
