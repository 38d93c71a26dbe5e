# shellcheck shell=bash
# Checks of file systems: where they lie, how they are mounted, what is left in them.

# mount_of PATH: "mount point<TAB>type<TAB>,option,…," of the file system that PATH is or would be on.
mount_of() {
  awk -v path="$(readlink -m "$1")" '{
    m = $5
    gsub(/\\040/, " ", m)
    if (m != "/" && path != m && index(path, m "/") != 1 || length(m) < length(best)) next
    best = m
    for (i = 7; $i != "-"; i++);
    line = m "\t" $(i + 1) "\t," $6 "," $(i + 3) "," } END { print line }' "${MOUNTINFO:-/proc/self/mountinfo}"
}

check_read_only() {
  local path place type options told=' '
  for path in / /etc /usr /opt /var/lib "$(runtime store)" /var/lib/kubelet /var/lib/etcd; do
    IFS=$'\t' read -r place type options <<<"$(mount_of "$path")"
    case $options:$told in
      *:*" $place "*) ;;
      *,ro,*:*)
        told="$told$place "
        fault "$place ($type) is mounted read-only" "mount -o remount,rw $place; see dmesg for why, and /etc/fstab"
        ;;
    esac
  done
}

check_noexec() {
  local place type options
  IFS=$'\t' read -r place type options <<<"$(mount_of /opt/cni/bin)"
  case $options in *,noexec,*) fault "$place ($type) is mounted noexec: pods' networks are made by programs in /opt/cni/bin" "mount -o remount,exec $place, and in /etc/fstab" ;; esac
}

check_memory_fs() {
  local path place type
  for path in "$(runtime store)" /var/lib/kubelet /var/lib/etcd /etc; do
    IFS=$'\t' read -r place type _ <<<"$(mount_of "$path")"
    case $type in tmpfs | ramfs) fault "$path is in memory ($type at $place): it would be empty after a reboot" 'put it on a disk' ;; esac
  done
}

check_container_fs() {
  local store place type
  store=$(runtime store)
  IFS=$'\t' read -r place type _ <<<"$(mount_of "$store")"
  case $type in
    overlay | aufs | nfs* | cifs | smb* | vfat | exfat | ntfs* | fuse* | 9p | ecryptfs | squashfs)
      fault "$store is on $type ($place), which containers' overlays cannot lie on" 'mount an ext4 or xfs there' ;;
    xfs)
      if command -v xfs_info >/dev/null 2>&1 && grep -q 'ftype=0' <<<"$(xfs_info "$place" 2>/dev/null)"; then
        fault "$store is on an xfs without ftype ($place), which containers' overlays cannot lie on" 'make it anew: mkfs.xfs -n ftype=1'
      fi
      ;;
  esac
}

check_etcd_fs() {
  local place type
  [ -z "$ETCD_ENDPOINTS" ] || return 0
  IFS=$'\t' read -r place type _ <<<"$(mount_of /var/lib/etcd)"
  case $type in nfs* | cifs | smb* | fuse* | 9p) fault "/var/lib/etcd is on $type ($place): etcd loses its leader, or data, on such" 'put it on a local disk' ;; esac
}

check_inodes() {
  local path free
  for path in "$(runtime store)" /var/lib/kubelet; do
    [ -e "$path" ] || path=/var/lib
    free=$(df -Pi "$path" 2>/dev/null | awk 'NR == 2 && $2 + 0 > 0 { print $4 }')
    [ "${free:-20000}" -ge 20000 ] || fault "$path: $free inodes free, 20000 needed" 'remove small files, or make the file system anew with more inodes (mkfs -N)'
  done
}

# free_percent PATH: of the file system that PATH is or would be on.
free_percent() {
  local path=$1
  while [ ! -e "$path" ]; do path=$(dirname "$path"); done
  df -Pk "$path" | awk 'NR == 2 { print ($2 > 0 ? int($4 * 100 / $2) : 100) }'
}

check_disk_pressure() {
  local path least free
  ! ours || return 0
  while read -r least path; do
    free=$(free_percent "$path")
    [ "$free" -ge "$least" ] || fault "$path: $free % free; below $least % the kubelet evicts pods" 'make room, or mount a file system of its own there'
  done <<<"15 $(runtime store)
10 /var/lib/kubelet"
}

check_immutable() {
  local path
  command -v lsattr >/dev/null 2>&1 || return 0
  for path in $(lsattr -d /etc /etc/hosts /etc/fstab /etc/resolv.conf /etc/sysctl.d /etc/modules-load.d /etc/systemd/system /opt /var/lib /usr/bin 2>/dev/null |
    awk '$1 ~ /i/ { print $2 }'); do
    fault "$path is immutable" "chattr -i $path"
  done
}

check_tmp() {
  local path
  for path in /tmp /var/tmp; do
    if [ ! -d $path ] || [ ! -w $path ]; then
      fault "$path cannot be written" "make it: install -d -m 1777 $path"
    elif [ "$(stat -Lc %a $path)" != 1777 ]; then
      caution "$path has the mode $(stat -Lc %a $path)" "chmod 1777 $path: services that are not root need it"
    fi
  done
}

check_swap_boot() {
  local unit
  [ "$OPT_SWAP" = off ] || return 0
  for unit in /etc/systemd/zram-generator.conf /usr/lib/systemd/zram-generator.conf /etc/systemd/system/*.swap /etc/systemd/system/*.wants/*{zram,swap}*; do
    case $unit in *.target.wants/*.swap) continue ;; esac
    [ -e "$unit" ] || continue
    fault "$unit turns swap on again at the next boot, and the kubelet would not start" "disable it (rm or systemctl disable ${unit##*/}), or pass --swap=keep"
  done
}

check_shared_root() {
  awk '$5 == "/" { for (i = 7; $i != "-"; i++) if ($i ~ /^shared:/) f = 1 } END { exit !f }' "${MOUNTINFO:-/proc/self/mountinfo}" ||
    caution 'the root file system is mounted private' 'volumes that pods mount would not be seen by others: mount --make-rshared /'
}
