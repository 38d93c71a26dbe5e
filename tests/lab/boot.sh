#!/bin/sh
# Becomes the supervisor of one node: boot.sh NAME DIR NETNS UNIFIED (1 on cgroup v2). Ends when the node powers off.
# The mounts below exist only here and inside the node, so nothing is left when it ends, however it ends.
set -eu
name=$1 dir=$2 netns=$3 unified=$4
mount -t overlay overlay -o "lowerdir=$(cat "$dir/lower"),upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
modules=/lib/modules/$(uname -r)
set --
[ ! -d "$modules" ] || set -- "--bind-ro=$modules"
# The container runtimes mount overlays of their own, which must not lie on one: their directories are of the disk below.
for data in containerd docker etcd kubelet; do
    set -- "$@" "--bind=$dir/disk/$data:/var/lib/$data"
done
# Its default filter refuses system calls that a container runtime needs.
export SYSTEMD_SECCOMP=0 SYSTEMD_NSPAWN_API_VFS_WRITABLE=network SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="$unified"
exec systemd-nspawn --quiet --boot --directory="$dir/root" --machine="$netns" --hostname="$name" \
    --uuid="$(cat "$dir/uuid")" --register=no --keep-unit --network-namespace-path="/run/netns/$netns" \
    --resolv-conf=off --timezone=off --link-journal=no --capability=all --private-users=no --console=read-only \
    --bind=/dev/kmsg "$@"
