# shellcheck shell=bash
# Prepares the host, reversibly and only as far as needed: swap, modules, sysctls, SELinux, names, the service route.

# swap_off: now, and over reboots (commented out in /etc/fstab; the mark lets down find its lines among later ones).
swap_off() {
  local device
  [ "$OPT_SWAP" = off ] || return 0
  while read -r device; do
    record swap "$device"
    swapoff "$device" </dev/null || die $E_ENVIRONMENT "swap on $device could not be turned off" 'turn it off by hand, or pass --swap=keep'
  done < <(swap_devices)
  if grep -Eqs '^[^#[:space:]]+[[:space:]]+[^[:space:]]+[[:space:]]+swap[[:space:]]' /etc/fstab; then
    record fstab /etc/fstab
    sed -i -E 's/^([^#[:space:]]+[[:space:]]+[^[:space:]]+[[:space:]]+swap[[:space:]])/#kubecarry# \1/' /etc/fstab
  fi
}

undo_swap() {
  if grep -Fxq -- "$1" <<<"$(swap_devices)"; then return 0; fi
  swapon "$1" </dev/null
}

undo_fstab() { sed -i 's/^#kubecarry# //' "$1"; }

# load_modules: those that pods need; ip_vs is only for kube-proxy's ipvs mode, and many kernels lack it.
load_modules() {
  local module
  printf 'br_netfilter\noverlay\n' | put_file 0644 /etc/modules-load.d/kubecarry.conf
  for module in br_netfilter overlay; do load_module $module || warn "kernel module $module could not be loaded"; done
  load_module ip_vs || note 'no ip_vs: kube-proxy can only use iptables'
}

# load_module NAME: recorded only if it was not there.
load_module() {
  if grep -qs "^$1 " /proc/modules || [ -d "/sys/module/$1" ]; then return 0; fi
  record module "$1"
  modprobe -q "$1" </dev/null
}

# undo_module NAME: one that something else uses by now stays until the next boot; that is no failure.
undo_module() {
  if grep -qs "^$1 " /proc/modules; then modprobe -r -q "$1" </dev/null || note "module $1 is in use and stays until the next boot"; fi
}

# note_sysctl KEY…: remembers values that we, the kubelet or kube-proxy change.
note_sysctl() {
  local key value
  for key; do
    if recorded sysctl "$key" || ! value=$(sysctl -n "$key" 2>/dev/null); then continue; fi
    record sysctl "$key" "$value"
  done
}

set_sysctls() {
  local key
  for key in net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables net.ipv4.ip_forward; do
    printf '%s = 1\n' $key
  done | put_file 0644 /etc/sysctl.d/90-kubecarry.conf
  # The kernel sets it with each change of ip_forward; noted first, it is put back last.
  [ "$(sysctl -n net.ipv4.ip_forward 2>/dev/null)" = 1 ] || note_sysctl net.ipv4.conf.all.accept_redirects
  for key in net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables net.ipv4.ip_forward; do
    [ "$(sysctl -n $key 2>/dev/null)" != 1 ] || continue
    note_sysctl $key
    sysctl -q -w $key=1 </dev/null 2>>"$LOG_SINK" || die $E_ENVIRONMENT "$key could not be set to 1" "see whether /proc/sys is writable and br_netfilter loaded"
  done
  note_sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes \
    net.ipv4.conf.all.route_localnet
}

undo_sysctl() {
  [ "$(sysctl -n "$1" 2>/dev/null || printf '%s' "$2")" = "$2" ] || sysctl -q -w "$1=$2" </dev/null 2>>"$LOG_SINK"
}

# relax_selinux: permissive only where it enforces without a policy for containers.
relax_selinux() {
  command -v getenforce >/dev/null 2>&1 || return 0
  if [ "$(getenforce)" != Enforcing ] || of_format here container-selinux; then return 0; fi
  warn 'SELinux is set to permissive: container-selinux is not installed; down sets it back to enforcing'
  record selinux 1
  setenforce 0
  [ ! -e /etc/selinux/config ] || sed 's/^SELINUX=enforcing/SELINUX=permissive/' /etc/selinux/config | put_file 0644 /etc/selinux/config
}

undo_selinux() { ! command -v setenforce >/dev/null 2>&1 || setenforce "$1"; }

# name_host: the kubelet and kubeadm look the node's name up.
name_host() {
  local hosts=/etc/hosts
  if grep -qs '^# kubecarry begin' $hosts || timeout 3 getent hosts "$NODE_NAME" >/dev/null 2>&1; then return 0; fi
  record hosts $hosts
  printf '# kubecarry begin\n%s %s\n# kubecarry end\n' "$NODE_ADDRESS" "$NODE_NAME" >>$hosts
}

undo_hosts() { sed -i '/^# kubecarry begin/,/^# kubecarry end/d' "$1"; }

# route_services: without any route to them, the host's own connections to Service addresses fail before kube-proxy's
# rules see them.
route_services() {
  ! has_default_route || return 0
  if [ -z "$(ip -4 route show exact "$SERVICE_SUBNET" 2>/dev/null)" ]; then
    record route "$SERVICE_SUBNET" "$NODE_DEVICE"
    ip route add "$SERVICE_SUBNET" dev "$NODE_DEVICE"
  fi
  recorded route || return 0
  put_file 0644 /etc/systemd/system/kubecarry-route.service <<END
[Unit]
Description=Route for the cluster's service network (this host has no default route)
Wants=network-online.target
After=network-online.target
Before=kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$(command -v ip) route replace $SERVICE_SUBNET dev $NODE_DEVICE

[Install]
WantedBy=multi-user.target
END
  [ $CHANGED = 0 ] || systemctl daemon-reload </dev/null
  enable_unit kubecarry-route.service
}

undo_route() {
  [ -z "$(ip -4 route show exact "$1" dev "$2" 2>/dev/null)" ] || ip route del "$1" dev "$2"
}

# enable_unit UNIT: for the next boots, recorded.
enable_unit() {
  note_unit "$1"
  systemctl is-enabled -q "$1" 2>/dev/null </dev/null || logged systemctl -q enable "$1"
}

# pod_resolv_conf: what the kubelet gives to pods where the host names no nameserver that they can reach: CoreDNS does
# not start without one, and stops at one that leads back to it.
pod_resolv_conf() {
  if names_beyond /etc/resolv.conf; then return 0; fi
  if names_beyond $RESOLVED_CONF; then
    ln -sfn $RESOLVED_CONF "$STATE/resolv.conf"
  else
    rm -f "$STATE/resolv.conf"
    printf 'nameserver %s\n' "$NODE_ADDRESS" >"$STATE/resolv.conf"
  fi
}

prepare_host() {
  swap_off
  set_sysctls
  open_firewall
  name_host
  route_services
  pod_resolv_conf
  release_interfaces
  bypass_proxy kubelet
  configure_kubelet_unit
}
