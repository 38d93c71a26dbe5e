#!/bin/sh
# First unit of a lab node: makes a systemd-nspawn container enough of a machine for kubelet and containerd.
set -u
mount --make-rshared /
# nspawn mounts every v1 controller but systemd's read-only; runc and kubelet write to all of them.
for dir in /sys/fs/cgroup /sys/fs/cgroup/*/; do
    mountpoint -q "$dir" && mount -o remount,rw,bind "$dir"
done
# These settings belong to the one kernel that all nodes and the host share: each node gets files of its own to write.
mkdir -p /run/lab/sysctl
for name in vm/overcommit_memory vm/panic_on_oom vm/swappiness vm/max_map_count \
    kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes \
    fs/file-max fs/inotify/max_user_instances fs/inotify/max_user_watches; do
    [ -e "/proc/sys/$name" ] || continue
    copy=/run/lab/sysctl/$(echo "$name" | tr / .)
    cat "/proc/sys/$name" > "$copy"
    mount --bind "$copy" "/proc/sys/$name"
done
# As on a machine where br_netfilter is not loaded yet: whoever needs these must set them.
for name in net/bridge/bridge-nf-call-iptables net/bridge/bridge-nf-call-ip6tables net/ipv4/ip_forward; do
    [ ! -e "/proc/sys/$name" ] || echo 0 > "/proc/sys/$name"
done
[ -c /dev/kmsg ] || mknod /dev/kmsg c 1 11
exit 0
