#!/usr/bin/env bash
# Turns a plain Debian tree into the layer that makes it a lab machine: golden.sh VARIANT BASE LAYER FILES [RPM]
# Runs in a mount namespace of its own; LAYER is an overlay layer, to be stacked upon BASE.
set -euo pipefail
variant=$1 base=$2 layer=$3 files=$4 rpm=${5:-}
root=$layer.root
unit_dir=$root/etc/systemd/system

# Everything that any lab machine needs, whatever distribution it stands for.
machine() {
  install -D -m 755 "$files/lab-prep.sh" "$root/usr/local/sbin/lab-prep"
  install -D -m 755 "$files/runc.sh" "$root/usr/local/sbin/runc"
  install -D -m 644 "$files/lab-prep.service" "$unit_dir/lab-prep.service"
  install -d "$unit_dir/sysinit.target.wants" "$root/etc/systemd/journald.conf.d"
  ln -sf ../lab-prep.service "$unit_dir/sysinit.target.wants/"
  ln -sf /usr/lib/systemd/system/multi-user.target "$unit_dir/default.target"
  printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=64M\n' > "$root/etc/systemd/journald.conf.d/lab.conf"
  local unit
  for unit in systemd-timesyncd.service systemd-networkd.service systemd-resolved.service console-getty.service \
    apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer; do
    ln -sf /dev/null "$unit_dir/$unit"
  done
  rm -f "$unit_dir/getty.target.wants/"*
  rmdir "$unit_dir/getty.target.wants"
  rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id"
  ln -sf /etc/machine-id "$root/var/lib/dbus/machine-id"
  : > "$root/etc/resolv.conf"
  builtin_modules
}

# Where the kernel has no module files, `modprobe` of what is built in must succeed, as it does on any machine.
builtin_modules() {
  local release dir pair
  release=$(uname -r)
  [ ! -d "/lib/modules/$release" ] || return 0
  [ -e /proc/config.gz ] || return 0
  dir=$root/usr/lib/modules/$release
  install -d "$dir"
  : > "$dir/modules.order"
  for pair in br_netfilter=BRIDGE_NETFILTER overlay=OVERLAY_FS nf_conntrack=NF_CONNTRACK vxlan=VXLAN bridge=BRIDGE \
    veth=VETH ip_vs=IP_VS ip_vs_rr=IP_VS_RR ip_vs_wrr=IP_VS_WRR ip_vs_sh=IP_VS_SH ip_tables=IP_NF_IPTABLES \
    iptable_nat=IP_NF_NAT iptable_filter=IP_NF_FILTER nf_nat=NF_NAT ip_set=IP_SET xt_set=NETFILTER_XT_SET \
    nf_tables=NF_TABLES tun=TUN dummy=DUMMY loop=BLK_DEV_LOOP xt_comment=NETFILTER_XT_MATCH_COMMENT; do
    ! zgrep -q "^CONFIG_${pair#*=}=y" /proc/config.gz || echo "kernel/${pair%%=*}.ko"
  done > "$dir/modules.builtin"
  chroot "$root" depmod -a "$release"
}

# An EL7-like host: its identity, an rpm database, dnf with nothing configured, and no apt or dpkg to be found.
el7() {
  rm -f "$root/etc/os-release" "$root/etc/debian_version"
  cat > "$root/etc/os-release" <<'R'
NAME="Lab EL"
VERSION="7"
ID="lab-el"
ID_LIKE="rhel centos"
VERSION_ID="7"
PRETTY_NAME="lab stand-in for EL7 (Debian 12 userland)"
R
  install -d "$root/etc/rpm" "$root/etc/dnf/vars" "$root/etc/yum.repos.d" "$root/etc/pki/rpm-gpg"
  echo '%_dbpath /var/lib/rpm' > "$root/etc/rpm/macros"   # Debian's own default is a database per user
  echo 7 > "$root/etc/dnf/vars/releasever"
  printf '[main]\ngpgcheck=1\nmodule_platform_id=platform:el7\n' > "$root/etc/dnf/dnf.conf"
  printf '127.0.0.1   localhost localhost.localdomain localhost4 localhost4.localdomain4
::1         localhost localhost.localdomain localhost6 localhost6.localdomain6\n' > "$root/etc/hosts"
  cp "$rpm" "$root/tmp/base.rpm"
  chroot "$root" rpm -i --force-debian --nodeps /tmp/base.rpm
  rm "$root/tmp/base.rpm"
  rm -rf "$root"/usr/bin/apt* "$root"/usr/bin/dpkg* "$root"/etc/apt
}

# A plain Debian 12, whose apt knows Debian's own mirror, which it cannot reach.
debian12() {
  echo 'deb http://ftp.debian.org/debian bookworm main' > "$root/etc/apt/sources.list"
  printf '127.0.0.1\tlocalhost\n::1\t\tlocalhost ip6-localhost ip6-loopback\n' > "$root/etc/hosts"
}

mkdir -p "$layer" "$layer.work" "$root"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$layer,workdir=$layer.work" "$root"
machine
"$variant"
umount "$root"
rm -rf "$layer.work" "$root"
