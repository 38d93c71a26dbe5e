# shellcheck shell=bash
# What this host is: operating system, architecture, addresses, name; and IPv4 arithmetic.

HOST_OS=''      # el7, as the bundle spells it
HOST_FORMAT=rpm # or deb: of its packages
HOST_ARCH=''    # amd64, as Go spells it
NODE_ADDRESS='' # IPv4 that the cluster knows this node by
NODE_DEVICE=''  # the interface that has it
NODE_NAME=''
NODE_PORTS=30000-32767 # where Services of type NodePort listen

# os_release KEY: a value of /etc/os-release, unquoted.
os_release() {
  sed -n "s/^$1=//p" "${OS_RELEASE:-/etc/os-release}" 2>/dev/null | tr -d "\"'" | head -n 1 || true
}

# detect_os: sets HOST_OS and HOST_FORMAT; every rebuild of Enterprise Linux is one host family.
detect_os() {
  local id version
  id=" $(os_release ID) $(os_release ID_LIKE) "
  version=$(os_release VERSION_ID)
  case $id in
    *' rhel '* | *' centos '*) HOST_OS=el${version%%.*} ;;
    *) HOST_OS=$(os_release ID)${version%%.*} ;;
  esac
  case $id in *' debian '* | *' ubuntu '*) HOST_FORMAT=deb ;; *) HOST_FORMAT=rpm ;; esac
}

detect_arch() {
  case $(uname -m) in
    x86_64) HOST_ARCH=amd64 ;;
    aarch64) HOST_ARCH=arm64 ;;
    *) HOST_ARCH=$(uname -m) ;;
  esac
}

# server_host: the address in $SERVER, without port.
server_host() {
  local host=${SERVER#*://}
  host=${host%%/*}
  printf '%s' "${host%:*}"
}

# device_of ADDRESS: the interface that has it; nothing if none has.
device_of() {
  ip -4 -o addr show 2>/dev/null | awk -v a="$1" '{ split($4, p, "/"); if (p[1] == a) { print $2; exit } }' || true
}

# first_address DEVICE: its first IPv4 address.
first_address() {
  ip -4 -o addr show dev "$1" 2>/dev/null | awk '{ split($4, p, "/"); print p[1]; exit }' || true
}

# route_source ADDRESS: the address that this host uses to reach it.
route_source() {
  ip -4 -o route get "$1" 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p' || true
}

# detect_address: NODE_ADDRESS from --advertise-address, --interface, or the route to the server (or to the master
# joined), since air-gapped hosts often have no default route to go by. Left empty if there is none.
detect_address() {
  local peer=${MASTER_HOST:-${OPT_VIP:-$(server_host)}}
  if [ -n "$OPT_ADDRESS" ]; then
    NODE_ADDRESS=$OPT_ADDRESS
  elif [ -n "$OPT_INTERFACE" ]; then
    NODE_ADDRESS=$(first_address "$OPT_INTERFACE")
  else
    NODE_ADDRESS=$(route_source "$peer")
    [ "$NODE_ADDRESS" != "$peer" ] || NODE_ADDRESS=$(link_source "$peer") # a virtual address that is here by now
    case $NODE_ADDRESS in
      '' | 127.*) NODE_ADDRESS=$(ip -4 -o addr show scope global 2>/dev/null | awk '{ split($4, p, "/"); print p[1]; exit }' || true) ;;
    esac
  fi
  NODE_DEVICE=$(device_of "$NODE_ADDRESS")
}

# detect_name: node names are DNS names: lower case.
detect_name() {
  local name=$OPT_NODE_NAME
  [ -n "$name" ] || name=$(cat /proc/sys/kernel/hostname)
  NODE_NAME=${name,,}
}

# identify: all of the above, without changing or judging anything.
identify() {
  detect_os
  detect_arch
  detect_address
  detect_name
  choose_runtime
}

# is_address TEXT: an IPv4 address.
is_address() {
  local part parts
  [[ $1 =~ ^(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}$ ]] || return 1 # 010 would be octal
  IFS=. read -r -a parts <<<"$1"
  for part in "${parts[@]}"; do [ "$part" -le 255 ] || return 1; done
}

# is_cidr TEXT: an IPv4 network, a.b.c.d/n.
is_cidr() {
  local bits=${1##*/}
  case $1 in */*) ;; *) return 1 ;; esac
  is_address "${1%/*}" && [[ $bits =~ ^(0|[1-9][0-9]?)$ ]] && [ "$bits" -le 32 ]
}

# cidr_range CIDR: sets FIRST and LAST, the network's ends as numbers. A bare address is a /32.
cidr_range() {
  local a b c d bits=32 size
  case $1 in */*) bits=${1#*/} ;; esac
  IFS=. read -r a b c d <<<"${1%/*}"
  size=$((1 << (32 - bits)))
  FIRST=$((((a << 24) + (b << 16) + (c << 8) + d) / size * size))
  LAST=$((FIRST + size - 1))
}

# overlap CIDR CIDR: whether two networks share an address.
overlap() {
  local first last
  cidr_range "$1"
  first=$FIRST last=$LAST
  cidr_range "$2"
  [ $first -le $LAST ] && [ $FIRST -le $last ]
}

# within CIDR CIDR: whether the first lies inside the second.
within() {
  local first last
  cidr_range "$1"
  first=$FIRST last=$LAST
  cidr_range "$2"
  [ $first -ge $FIRST ] && [ $last -le $LAST ]
}

# is_port_range TEXT: A-B, where kube-apiserver takes it: above the well-known ports, beside those of the cluster itself.
is_port_range() {
  [[ $1 =~ ^[1-9][0-9]{3,4}-[1-9][0-9]{3,4}$ ]] && [ "${1%-*}" -ge 1024 ] && [ "${1%-*}" -lt "${1#*-}" ] && [ "${1#*-}" -le 65535 ]
}
