# shellcheck shell=bash
# The virtual address of a cluster with several masters: where it lies, and whether it and its VRRP number are free.

REPLICA=''          # replica where this host is to be a further master
CLUSTER_ENDPOINT='' # the cluster's controlPlaneEndpoint, as a joining host read it

# recall_vip: what is not given is as it was at the last run.
recall_vip() {
  [ -n "$OPT_VIP" ] || OPT_VIP=$(state_get vip)
  [ -n "$OPT_VRID" ] || OPT_VRID=$(state_get vrid)
  [ -n "$OPT_PEERS" ] || OPT_PEERS=$(state_get peers)
}

# default_vrid: the last number of the address: masters on one link that have different addresses mostly differ in it.
default_vrid() {
  local last=${OPT_VIP##*.}
  printf '%s' "$((last > 0 ? last : 1))"
}

vrid() { printf '%s' "${OPT_VRID:-$(default_vrid)}"; }

# link_source ADDRESS: this host's address in the network that ADDRESS lies in; nothing if it lies in none.
link_source() {
  local network
  while read -r network; do
    case $network in */32) continue ;; esac
    if within "$1" "$network"; then
      printf '%s' "${network%/*}"
      return 0
    fi
  done < <(ip -4 -o addr show 2>/dev/null | awk '$2 !~ /^(lo|cni0|flannel|docker0|kube-|veth)/ { print $4 }')
}

# listen_rule -I|-D VERSION: a rule without a target that counts VRRP adverts of our number, before any firewall.
listen_rule() {
  iptables -w -t mangle "$1" PREROUTING -i "$NODE_DEVICE" -p 112 -m string --algo bm --from 20 --to 22 \
    --hex-string "|${2}1$(printf '%02x' "$(vrid)")|" -m comment --comment kubecarry-listens
}

# stop_listening: takes every such rule away.
stop_listening() {
  local version
  for version in 2 3; do
    while listen_rule -D $version; do :; done
  done
  ip maddress del 01:00:5e:00:00:12 dev "$NODE_DEVICE" || true
}

advert_counted() {
  iptables -w -t mangle -nvxL PREROUTING | awk '/kubecarry-listens/ && $1 > 0 { f = 1 } END { exit !f }'
}

# hears_vrrp SECONDS: whether adverts of our number come in on the node's interface; 2 where this host cannot listen.
# Adverts come each second by default. The network card passes their group only to who asks for it.
hears_vrrp() (
  trap 'stop_listening >/dev/null 2>&1' EXIT
  trap 'exit 143' INT TERM HUP
  listen_rule -I 2 >/dev/null 2>&1 && listen_rule -I 3 >/dev/null 2>&1 || exit 2
  ip maddress add 01:00:5e:00:00:12 dev "$NODE_DEVICE" >/dev/null 2>&1 || true
  wait_for "$1" "VRRP adverts of number $(vrid) on $NODE_DEVICE" advert_counted
)

is_neighbour() { grep -q lladdr <<<"$(ip -4 neigh show to "$1" dev "$2" 2>/dev/null)"; }

# answers_arp ADDRESS: whether some machine on the link has it.
answers_arp() {
  local device
  device=$(device_of "$(link_source "$1")")
  [ -n "$device" ] || return 1
  ip neigh del "$1" dev "$device" 2>/dev/null || true
  { printf '' >"/dev/udp/$1/9"; printf x >"/dev/udp/$1/9"; } 2>/dev/null || true
  wait_for 2 "an answer of $1" is_neighbour "$1" "$device"
}

# vip_kept: whether an earlier run of ours has set this very address up.
vip_kept() { recorded vip "$OPT_VIP"; }

check_vip() {
  local source network
  if [ -n "$REPLICA" ] && [ -n "$CLUSTER_ENDPOINT" ]; then OPT_VIP=${CLUSTER_ENDPOINT%:*}; fi
  if [ "$(state_get cluster)" = 'done' ] && [ "$(state_get vip)" != "$OPT_VIP" ]; then
    fault "this cluster was not made with the virtual address $OPT_VIP" 'its endpoint is in every certificate and cannot change: run the down verb on every node first'
    return 0
  fi
  if [ -z "$OPT_VIP" ] || vip_kept; then return 0; fi
  ! kubeadm_alpha || fault "kubeadm of $KUBERNETES_VERSION knows no further masters" 'install one master without --vip, or a newer release'
  if ! is_address "$OPT_VIP"; then
    fault "the cluster's endpoint $CLUSTER_ENDPOINT is no virtual address" 'further masters need a cluster that was made with --vip'
    OPT_VIP=''
    return 0
  fi
  source=$(link_source "$OPT_VIP")
  if [ -z "$source" ]; then
    fault "the virtual address $OPT_VIP lies in none of this host's networks" 'choose a free one of the network that all masters share (ip -4 address)'
  elif [ "$(device_of "$source")" != "$NODE_DEVICE" ]; then
    fault "the virtual address $OPT_VIP lies on $(device_of "$source"), this node's $NODE_ADDRESS on ${NODE_DEVICE:-no interface}" 'choose both in one network (--vip, --advertise-address)'
  elif [ -n "$(device_of "$OPT_VIP")" ]; then
    fault "the virtual address $OPT_VIP is one of this host's own" 'choose one that no machine has'
  fi
  for network in "$POD_SUBNET" "$SERVICE_SUBNET"; do
    ! overlap "$OPT_VIP" "$network" || fault "the virtual address $OPT_VIP lies in the cluster's own network $network" 'choose another address, or other networks (--pod-subnet, --service-subnet)'
  done
  ! systemctl is-active -q keepalived 2>/dev/null || fault 'keepalived runs here for something else' 'its configuration would be replaced: use another host, or remove it'
}

check_peers() {
  local peers=",$OPT_PEERS,"
  [ -n "$OPT_PEERS" ] || return 0
  case $peers in *",$NODE_ADDRESS,"*) ;; *) fault "$NODE_ADDRESS is not among the peers ($OPT_PEERS)" 'run the same line on every master with --peers that names them all, this one too' ;; esac
  case $peers in *",$OPT_VIP,"*) fault "the virtual address $OPT_VIP is among the peers" "--peers takes the masters' own addresses" ;; esac
}

# check_vip_free: on the first master: nobody has the address, nobody uses the number.
check_vip_free() {
  local rc=0
  if [ -z "$OPT_VIP" ] || vip_kept; then return 0; fi
  ! answers_arp "$OPT_VIP" || fault "another machine has the virtual address $OPT_VIP" 'choose one that is free'
  hears_vrrp 4 || rc=$?
  case $rc in
    0) fault "VRRP number $(vrid) is in use on $NODE_DEVICE by others" 'choose another with --vrid (1 to 255)' ;;
    2) caution "whether VRRP number $(vrid) is free could not be heard" 'see that no other machines on this link use it' ;;
  esac
}

# check_vip_heard: on a further master: it must hear the one that holds the address, or both would hold it.
check_vip_heard() {
  local rc=0
  if [ -z "$OPT_VIP" ] || vip_kept; then return 0; fi
  hears_vrrp 6 || rc=$?
  case $rc in
    0) ;;
    2) caution "whether the other masters' VRRP adverts (number $(vrid)) come in could not be heard" 'see that IP protocol 112 passes between the masters' ;;
    *) fault "no VRRP advert of number $(vrid) for $OPT_VIP comes in on $NODE_DEVICE: this master would hold the address a second time" \
      'was the first master installed with --vip? If it was, the network drops VRRP multicast: run its line again with --peers that names all masters, then the replica line it prints' ;;
  esac
}

check_certificates() {
  local code
  if [ -z "$CLUSTER_INFO" ] || ours; then return 0; fi
  code=$(ask_master /api/v1/namespaces/kube-system/secrets/kubeadm-certs -o /dev/null -w '%{http_code}') || true
  [ "$code" = 200 ] || fault "the cluster offers no certificates to further masters (HTTP ${code:-000}): they expire after 2 h" 'print a new replica line on a master: deploy.sh token'
}
