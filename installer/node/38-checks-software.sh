# shellcheck shell=bash
# Checks of the software that is here already: packages, units, programs, scanners, what earlier clusters left.

# begun: whether we have installed something here, so that what is found may be our own.
begun() { recorded packages || ours; }

# lock_owners FILE…: pids that hold a record lock on one of them; 0 for a process of elsewhere.
lock_owners() {
  local inodes
  inodes=$(stat -Lc %i "$@" 2>/dev/null) || true
  [ -z "$inodes" ] || awk -v inodes="$inodes" 'BEGIN { n = split(inodes, i, "\n"); for (k = 1; k <= n; k++) want[i[k]] }
    { split($6, at, ":") } $2 == "POSIX" && $4 == "WRITE" && at[3] in want { print $5 }' /proc/locks 2>/dev/null
}

check_package_lock() {
  local pid
  pid=$(lock_owners /var/lib/rpm/.rpm.lock /var/lib/dnf/rpmdb_lock.pid /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock | head -n 1)
  [ -n "$pid" ] || pid=$(cat /var/run/yum.pid 2>/dev/null) || return 0
  [ -d "/proc/$pid" ] || return 0
  if [ "$HOST_FORMAT" = deb ]; then
    caution "a package manager is at work (process $pid)" 'apt-get waits until it has ended, up to 500 s'
    return 0
  fi
  fault "a package manager is at work (process $pid)" 'wait until it has ended'
}

check_package_db() {
  local said
  if command -v rpm >/dev/null 2>&1; then
    said=$(rpm -q kubecarry-no-such-package 2>&1) || true
    if grep -q '^error' <<<"$said"; then fault "the rpm database cannot be read: $(head -n 1 <<<"$said")" 'rpm --rebuilddb; if that fails, restore /var/lib/rpm'; fi
  fi
  begun && return 0 # what we left half installed, we finish
  if command -v dpkg >/dev/null 2>&1 && deb_interrupted; then
    fault 'dpkg has packages that are half installed' 'dpkg --configure -a; apt-get -f install'
  fi
}

check_package_excludes() {
  local found
  found=$(grep -Eis '^[[:space:]]*exclude(pkgs)?[[:space:]]*=.*(kube|containerd|cri-tools|docker|\*[[:space:]]*$)' /etc/yum.conf /etc/dnf/dnf.conf | head -n 1) || true
  [ -z "$found" ] || caution "packages are excluded (${found#*:} in ${found%%:*})" 'that is not heeded for the packages of the bundle, and stays as it is'
}

check_shadowed() {
  local name path
  for name in kubelet kubeadm kubectl containerd ctr crictl; do
    for path in $(type -aP $name); do
      case $path in /usr/bin/* | /bin/* | /usr/sbin/* | /sbin/*) continue ;; esac
      fault "$path stands beside the bundle's $name, which goes to /usr/bin" 'remove it, or take its directory out of PATH'
    done
  done
}

check_units() {
  local unit path
  begun && return 0
  for unit in kubelet containerd; do
    path=/etc/systemd/system/$unit.service
    if [ "$(readlink "$path")" = /dev/null ]; then
      fault "$unit.service is masked" "systemctl unmask $unit"
    elif [ -e $path ]; then
      fault "$path would win over the unit of the bundle's package" 'remove it, then: systemctl daemon-reload'
    fi
    for path in "$path".d/*.conf "/run/systemd/system/$unit.service.d"/*.conf; do
      [ -e "$path" ] || continue
      case $path in *proxy*) continue ;; esac
      fault "$path changes the unit of the bundle's package" 'remove it, then: systemctl daemon-reload'
    done
  done
}

check_kubelet_arguments() {
  local file
  begun && return 0
  for file in /etc/sysconfig/kubelet /etc/default/kubelet; do
    ! grep -Eqs '^KUBELET_EXTRA_ARGS=["'\'']?[^"'\'' ]' $file || fault "$file has arguments for the kubelet of an earlier cluster" "look at them, then: rm $file"
  done
}

check_scanners() {
  local unit
  for unit in fapolicyd clamav-clamonacc ds_agent falcon-sensor mdatp sav-protect cbdaemon nails mfetpd; do
    systemctl is-active -q $unit 2>/dev/null || continue
    case $unit in
      fapolicyd) caution 'fapolicyd runs here: it stops programs that no package brought' 'allow /opt/cni/bin and /var/lib/containerd in /etc/fapolicyd/rules.d, or disable it' ;;
      *) caution "the scanner $unit runs here: it reads each file that containers open" 'except /var/lib/containerd, /var/lib/etcd and /var/lib/kubelet from its scans' ;;
    esac
  done
}

check_apparmor() {
  [ "$(cat "${APPARMOR:-/sys/module/apparmor/parameters/enabled}" 2>/dev/null)" = Y ] || return 0
  command -v apparmor_parser >/dev/null 2>&1 || caution 'AppArmor is on, but apparmor_parser is missing' 'containers run without a profile: install apparmor from the installation medium'
}

check_rules_residue() {
  local tool chains
  ! ours || return 0
  for tool in iptables iptables-legacy; do
    chains=$("$tool-save" 2>/dev/null | grep -Ec '^:(KUBE-|CNI-|FLANNEL)') || continue
    fault "$tool has $chains chains of an earlier cluster (KUBE-, CNI-, FLANNEL-)" "take them away: $tool-save | grep -Ev '(KUBE|CNI|FLANNEL)' | $tool-restore"
    return 0
  done
}

check_rules_mixed() {
  grep -q nf_tables <<<"$(iptables -V 2>/dev/null)" || return 0
  grep -qs . /proc/net/ip_tables_names || return 0 # asking would load the module
  ! grep -q '^-A' <<<"$(iptables-legacy-save 2>/dev/null)" ||
    caution 'there are rules in iptables-legacy, while iptables is of nf_tables' 'both are applied; see iptables-legacy-save, and move them to one of the two'
}

check_mount_residue() {
  local mounts
  ! ours || return 0
  mounts=$(mounts_below /var/lib/kubelet | wc -l)
  [ "$mounts" = 0 ] || fault "$mounts volume(s) of an earlier cluster are mounted below /var/lib/kubelet" "umount them: awk '\$5 ~ \"^/var/lib/kubelet/\" { print \$5 }' /proc/self/mountinfo | sort -r | xargs umount"
}

check_netns_residue() {
  local names
  ! ours || return 0
  names=$(find /run/netns -maxdepth 1 -name 'cni-*' -printf '%f ' 2>/dev/null) || true
  [ -z "$names" ] || fault "network namespaces of an earlier cluster's pods are left: $names" 'ip netns delete each of them'
}

check_machine_id() {
  grep -Eqx '[0-9a-f]{32}' /etc/machine-id 2>/dev/null || fault '/etc/machine-id holds no id' 'systemd-machine-id-setup: machines are told apart by it'
}
