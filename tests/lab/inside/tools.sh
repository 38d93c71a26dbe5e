#!/bin/bash
# Runs a script (stdin) with the node functions in a throw-away root that has the real tools of a host, in a network of
# its own and without an init: tools.sh PLACE BASE LAYER DEPLOY DEB…; to be started by unshare -mnp --fork.
# systemctl is a stub here: units named in $ACTIVE are active and enabled, whatever is asked of others fails.
set -euo pipefail
place=$1 base=$2 layer=$3 deploy=$4
shift 4
mount --make-rprivate /
mount -t tmpfs none "$place"
cd "$place"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=$layer:$base,upperdir=upper,workdir=work" root
for deb; do dpkg-deb --fsys-tarfile "$deb" | tar -C root -x --keep-directory-symlink; done
mount -t proc none root/proc
mount -t sysfs none root/sys
mount --rbind /dev root/dev
mount -t tmpfs none root/run
rm root/usr/bin/systemctl
cat > root/usr/bin/systemctl <<'S'
#!/bin/bash
case "$*" in is-active*|is-enabled*) ;; *) exit 0 ;; esac
case " $ACTIVE " in *" ${*: -1} "* | *" ${*: -1}.service "*) echo active ;; *) exit 1 ;; esac
S
chmod 755 root/usr/bin/systemctl
cp "$deploy" root/deploy.sh
cat > root/script
chroot root ldconfig
ip link set lo up
cat > root/run.sh <<'S'
export DEPLOY_SOURCED=1 ACTIVE=
. /deploy.sh
set -euo pipefail
mkdir -p $STATE/tmp $STATE/lists $STATE/backup /run/lock
LOG_SINK=/log NODE_ADDRESS=10.77.0.11 NODE_DEVICE=lo ROLE=master OPT_VIP=
. /script </dev/null
S
exec chroot root /bin/bash /run.sh
