#!/usr/bin/env bash
# Prints what a node is made of, a fact a line, in sections (`== name`): to be compared with the same at another time.
export LC_ALL=C

echo '== files'
# Left out: the histories that dnf, rpm, dpkg and systemd keep of every change, even of one that was taken back.
find / /var/lib/{containerd,docker,etcd,kubelet} -xdev \
  \( -path /var/log -o -path /var/cache -o -path /var/lib/rpm -o -path /var/lib/dnf -o -path /var/lib/systemd \
    -o -path '/var/lib/dpkg/*-old' \) -prune \
  -o -type d -printf 'd %m %U:%G %p\n' -o -type f -printf 'f %m %U:%G %s %p\n' -o -printf '%y %m %U:%G %l %p\n'
echo '== contents'
find /etc /opt /root /srv /usr/local -xdev -type f -exec sha256sum {} +
echo '== units'
systemctl list-unit-files --no-legend --no-pager --plain | awk '{print $1, $2}'
systemctl list-units --type=service,socket,timer --state=active,failed --no-legend --no-pager --plain | awk '{print $1, $3}'
echo '== mounts'
findmnt --list --noheadings --output TARGET,FSTYPE,OPTIONS | sed 's/ (deleted)//'
echo '== packages'
rpm -qa 2>/dev/null || true
! command -v dpkg-query >/dev/null || dpkg-query -W
echo '== network'
ip -o -brief link show | awk '{print $1, $2}'
ip -o -4 address show | awk '{print $2, $4}'
ip -4 route show table all | grep -v '^broadcast'
echo '== firewall'
for tool in iptables ip6tables; do
  for table in filter nat mangle raw; do
    "$tool" -t "$table" -S 2>/dev/null | sed "s/^/$tool $table /"
  done
done
# iptables-nft leaves its built-in chains behind, which decide nothing: only what is in any chain counts, and other chains.
! command -v nft >/dev/null || nft list ruleset |
  grep -Ev '^table |^[[:space:]]*}?$|^#|type .* hook|chain (INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING) ' || true
echo '== settings'
sysctl -a 2>/dev/null | grep -E '^(net\.bridge|net\.ipv4\.(ip_forward|conf\.(all|default))|net\.netfilter\.nf_conntrack_(max|tcp)|vm\.(overcommit|panic|swappiness|max_map)|kernel\.(panic|keys\.root)|fs\.(file-max|inotify))'
cat /proc/swaps
echo '== processes'
ps -eo args= --ppid 2 -N | awk '{print $1}' | grep -Ev '^(bash|ps|awk|grep|sort)$' | sort -u
