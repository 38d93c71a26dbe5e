# shellcheck shell=bash
# Checks of names, addresses, networks, ports, time and the server.

check_hostname() {
  [[ $NODE_NAME =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$ ]] && [ ${#NODE_NAME} -le 63 ] && [ "$NODE_NAME" != localhost ] &&
    [ "${NODE_NAME#localhost.}" = "$NODE_NAME" ] ||
    fault "\"$NODE_NAME\" cannot be a node's name (a-z, 0-9, - and . only, at most 63, not localhost)" 'set another host name (hostnamectl set-hostname), or pass --node-name'
}

check_hostname_resolves() {
  timeout 3 getent hosts "$NODE_NAME" >/dev/null 2>&1 ||
    caution "$NODE_NAME does not resolve" 'a marked line goes into /etc/hosts; down removes it'
}

# has_nameserver: whether pods would be given a resolver; CoreDNS refuses to start without one.
has_nameserver() {
  grep -Eq '^[[:space:]]*nameserver[[:space:]]' /etc/resolv.conf 2>/dev/null
}

RESOLVED_CONF=/run/systemd/resolve/resolv.conf # what systemd-resolved asks, while /etc/resolv.conf names itself

# names_beyond FILE: whether it names nameservers, and none of them is this host's loopback.
names_beyond() {
  awk '$1 == "nameserver" { n++; if ($2 ~ /^(127\.|::1$)/) own++ } END { exit !(n && !own) }' "$1" 2>/dev/null
}

check_resolv_conf() {
  ! ours || return 0
  if has_nameserver && ! names_beyond /etc/resolv.conf; then
    if names_beyond $RESOLVED_CONF; then
      caution "the nameserver of /etc/resolv.conf is this host itself" "pods get those that it asks ($RESOLVED_CONF)"
    else
      caution "the nameserver of /etc/resolv.conf is this host itself" "pods cannot ask it, so names outside the cluster will not resolve in them: name one that they can reach"
    fi
  fi
  has_nameserver || caution '/etc/resolv.conf names no nameserver' "pods get one that names only this node's own address, so that the cluster's DNS starts; names outside the cluster will not resolve"
}

check_address() {
  local remedy='pass --advertise-address with one of: '
  remedy=$remedy$(ip -4 -o addr show scope global 2>/dev/null | awk '{ split($4, p, "/"); printf "%s ", p[1] }')
  if [ -z "$NODE_ADDRESS" ]; then
    fault "no address of this host was found${OPT_INTERFACE:+ on $OPT_INTERFACE}" "$remedy"
  elif [ -z "$NODE_DEVICE" ]; then
    fault "$NODE_ADDRESS is not an address of this host" "$remedy"
  elif [ "$NODE_DEVICE" = lo ]; then
    fault "$NODE_ADDRESS is a loopback address: other nodes cannot reach it" "$remedy"
  elif [ -n "$OPT_INTERFACE" ] && [ "$NODE_DEVICE" != "$OPT_INTERFACE" ]; then
    fault "$NODE_ADDRESS is on $NODE_DEVICE, not on $OPT_INTERFACE" 'pass only one of --advertise-address and --interface'
  fi
}

has_default_route() { [ -n "$(ip -4 route show default 2>/dev/null)" ]; }

check_default_route() {
  has_default_route || ours || caution 'no default route' "a route for the service network ($SERVICE_SUBNET) over ${NODE_DEVICE:-the node interface} is added, kept over reboots; down removes it"
}

# used_networks: "network what" lines: what this host can reach directly or by a route, but for what the cluster made.
used_networks() {
  ip -4 -o addr show 2>/dev/null | awk '$2 !~ /^(lo|cni0|flannel|docker0|kube-|veth)/ { print $4, "address of " $2 }'
  ip -4 route show 2>/dev/null | awk '$1 ~ /^[0-9]/ && !/ dev (cni0|flannel[^ ]*|docker0)/ { print $1, "route" }'
}

# clashes CIDR: the used networks that share an address with it.
clashes() {
  local network what
  while read -r network what; do
    if [ "$what" = route ] && recorded route "$network"; then continue; fi # ours, of a run that was interrupted
    if overlap "$1" "$network"; then printf '%s (%s) ' "$network" "$what"; fi
  done < <(used_networks)
}

# is_private CIDR: set aside for private use (RFC 1918, RFC 6598).
is_private() {
  local network
  for network in 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10; do
    if within "$1" $network; then return 0; fi
  done
  return 1
}

check_networks() {
  local name clash
  if overlap "$POD_SUBNET" "$SERVICE_SUBNET"; then
    fault "the pod network $POD_SUBNET and the service network $SERVICE_SUBNET overlap" 'choose others with --pod-subnet and --service-subnet'
  fi
  ! ours || return 0
  [ "${POD_SUBNET#*/}" != 24 ] || [ "$ROLE" != master ] ||
    caution "the pod network $POD_SUBNET has room for one node" 'each node takes a /24 of it: choose a larger one with --pod-subnet, or no other node gets addresses'
  for name in POD_SUBNET SERVICE_SUBNET; do
    is_private "${!name}" || caution "the network ${!name} is public address space" 'hosts that have those addresses elsewhere become unreachable: choose one of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16'
    clash=$(clashes "${!name}")
    [ -z "$clash" ] || fault "the network ${!name} is in use on this host: $clash" "choose another with --pod-subnet or --service-subnet on the master"
  done
}

check_clock() {
  local header skew year
  year=$(date -u +%Y)
  if [ "$year" -lt 2024 ]; then fault "the clock says $(date -u +%F)" 'set it (date -s, or start chronyd): certificates would not be valid'; fi
  header=$(curl_server -sI --max-time 5 "$SERVER/healthz" 2>/dev/null | tr -d '\r' | sed -n 's/^[Dd]ate: //p') || true
  [ -n "$header" ] || return 0
  skew=$(($(date +%s) - $(date -d "$header" +%s)))
  if [ ${skew#-} -gt 60 ]; then
    fault "the clock differs from the server's by $skew s" 'set both (date -s, or start chronyd): certificates are refused before they become valid'
  fi
}

check_proxy() {
  [ -z "$PROXIES" ] || caution "a proxy is set in the environment ($PROXIES)" 'it is ignored for the server and the cluster'
  ! has_proxy <<<"$(service_environment "$NODE_RUNTIME")"$'\n'"$(service_environment kubelet)" ||
    caution 'services have a proxy in their environment' "the cluster's own addresses are added to NO_PROXY of $NODE_RUNTIME and the kubelet; down takes that back"
  ! grep -Eqsi '^(https?|all)_proxy=.' /etc/sysconfig/kubelet /etc/default/kubelet "/etc/sysconfig/$NODE_RUNTIME" "/etc/default/$NODE_RUNTIME" ||
    caution "$NODE_RUNTIME or the kubelet has a proxy in its environment file" "see that NO_PROXY there names $(unproxied)"
}

check_server() {
  living_server ||
    fault "$SERVER does not answer" 'check that the server still runs, and the firewall and route between'
}

# listening: local TCP ports in use, of both address families; read from /proc, because ss is not everywhere.
listening() {
  local hex
  awk '$4 == "0A" { n = split($2, a, ":"); print a[n] }' /proc/net/tcp /proc/net/tcp6 2>/dev/null | sort -u |
    while read -r hex; do printf '%d\n' "0x$hex"; done
}

# port_user PORT: who listens, if ss can tell.
port_user() {
  ss -Hltnp "sport = :$1" 2>/dev/null | sed -n 's/.*users:((\("[^"]*",pid=[0-9]*\).*/ by \1/p' | head -n 1 || true
}

check_ports() {
  local port used wanted='10250 10248 10249 10256'
  ! ours || return 0
  used=$(listening)
  [ "$ROLE" != master ] || wanted="6443 10257 10259 $wanted"
  [ "$ROLE:$ETCD_ENDPOINTS" != master: ] || recorded etcd || wanted="2379 2380 2381 $wanted"
  for port in $wanted; do
    if grep -qx "$port" <<<"$used"; then
      fault "port $port is in use$(port_user "$port")" "stop what listens there (ss -ltnp 'sport = :$port')"
    fi
  done
}
