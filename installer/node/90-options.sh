# shellcheck shell=bash
# The command line: VERB [OPTION…] [MASTER]; --name=value and --name value are the same.

VERB=''
OPT_ADDRESS='' OPT_INTERFACE='' OPT_NODE_NAME='' OPT_TOKEN='' OPT_CA_HASH='' OPT_IGNORE=''
OPT_FIREWALL=open OPT_SWAP=off OPT_TIMEOUT=300 OPT_SINGLE_NODE='' OPT_YES='' OPT_KEEP_PACKAGES=''
OPT_ROLE=master OPT_BACKEND=vxlan OPT_FORCE='' OPT_DELETE_EMPTYDIR='' OPT_RUNTIME='' OPT_CGROUP_DRIVER='' OPT_SEALED=''
OPT_OBJECT='' # the node to remove, the file to collect into or to save
OPT_VIP='' OPT_VRID='' OPT_PEERS='' OPT_CERTIFICATE_KEY=''
OPT_FROM='' OPT_MEMBERS='' OPT_ETCD_CA='' OPT_ETCD_CERT='' OPT_ETCD_KEY=''
OPT_NO_DRAIN='' OPT_FETCH_ONLY=''

usage() {
  cat >&2 <<END
usage: $(deploy_curl) | bash -s VERB [OPTION…]

  preflight [master|replica|join]  list every problem of this host; changes nothing
  master, m                 make this host the master of a new cluster
  replica, r ADDRESS[:PORT] make this host a further master of that cluster (made with --vip)
  join, j [ADDRESS[:PORT]]  join this host to the cluster of that master (port 6443)
  etcd                      make this host a member of an etcd cluster outside Kubernetes
  status                    what is installed here, and what differs from it
  upgrade, u                take this host to the bundle's version: masters first, one after the other
  token                     on a master: print fresh lines for nodes and further masters
  sealed                    on a node installed with --sealed: what it tried to reach outside
  remove NODE               on a master: drain a node, dead or alive, and take it out of the cluster
  collect [FILE]            what is needed to find a fault, secrets masked, as a tar.gz
  backup [FILE]             on a master: save etcd, keys and configuration (default: below $BACKUPS)
  restore FILE              on that master, or a fresh host with its address: bring a backup back
  certificates              when each certificate of this host expires
  renew                     on a master: renew them, and restart what reads them
  down, d                   undo everything that was done to this host

master, replica, join, preflight, restore:
  --advertise-address IP    this node's address (default: the one that reaches the server)
  --interface NAME          the same, by interface
  --node-name NAME          default: the host name
  --firewall open|off       open what the cluster needs in the host's firewall (default), or stop it
  --swap off|keep           turn swap off (default), or tolerate it
  --ignore CHECK[,CHECK]    preflight checks to be warned of only
  --timeout SECONDS         for each long wait (default 300)
  --runtime NAME            containerd or docker (default: what runs here already, else ${RUNTIME:-containerd})
  --cgroup-driver NAME      systemd or cgroupfs (default: as the runtime of this host has it, else systemd)
  --registry-ca HOST=FILE   trust this CA (PEM, absolute path) for the site's own registry HOST[:PORT]; may be repeated
  --sealed                  let no image come from elsewhere, and list what tried to reach anything outside
master:
  --pod-subnet CIDR         default $POD_SUBNET
  --service-subnet CIDR     default $SERVICE_SUBNET
  --node-port-range A-B     ports for Services of type NodePort (default $NODE_PORTS)
  --token TOKEN             default: made here
  --flannel-backend NAME    vxlan (default), host-gw or udp, of a release whose components are services
  --single-node             let the master run workloads too
  --etcd-endpoints URL,…    https://IP:2379 of each member of an etcd outside the cluster (default: etcd on the master)
  --from IP|FILE            where the keys for it are: the first member, or its handout
  --etcd-ca, --etcd-cert, --etcd-key FILE   or the keys themselves
  --vip IP                  a free address of the masters' network, which keepalived keeps at a living master
master with --vip, replica:
  --vrid N                  VRRP number of the address, 1 to 255 (default: its last number)
  --peers IP,IP,IP          all masters, where VRRP multicast does not pass
replica:
  --certificate-key KEY     required; as printed by master and token, for 2 h
etcd:
  --members [NAME=]IP,…     all of them, the same words in the same order on each host
  --from IP|FILE            the first member, or its handout; not on the first member itself
replica, join:
  --token TOKEN             required
  --ca-cert-hash HASH       sha256:…; without it the master's identity is not checked
upgrade:
  --fetch-only              fetch packages and images, change nothing else
  --no-drain                leave the pods on the node; they run on while its kubelet is restarted
  --force                   evict pods, too, that no controller makes again
  --delete-emptydir-data    evict pods, too, that keep data in emptyDir volumes
  --ignore, --timeout       as above; --timeout for draining, too
remove:
  --force                   evict pods that no controller would make again
  --delete-emptydir-data    evict pods that keep data on the node
  --timeout SECONDS         for draining (default 300)
down, restore:
  --yes                     do not ask, even on a terminal
down:
  --keep-packages           leave the packages installed
backup, renew:
  --timeout SECONDS         for each long wait (default 300)
END
}

# misuse TEXT: exit 2.
misuse() {
  usage
  die $E_USAGE "$1" 'see the usage above'
}

# set_option NAME VALUE: checks and keeps one option that takes a value.
set_option() {
  local name=$1 value=$2 check
  case $name in
    --advertise-address) is_address "$value" && OPT_ADDRESS=$value ;;
    --interface) [ -n "$value" ] && OPT_INTERFACE=$value ;;
    --node-name) [[ $value =~ ^[A-Za-z0-9._-]+$ ]] && OPT_NODE_NAME=$value ;;
    --pod-subnet) is_cidr "$value" && [ "${value#*/}" -le 24 ] && POD_SUBNET=$value ;; # each node gets a /24 of it
    --service-subnet) is_cidr "$value" && [ "${value#*/}" -ge 12 ] && [ "${value#*/}" -le 28 ] && SERVICE_SUBNET=$value ;; # kube-apiserver takes no larger
    --flannel-backend) [[ $value =~ ^(vxlan|host-gw|udp)$ ]] && OPT_BACKEND=$value ;;
    --node-port-range) is_port_range "$value" && NODE_PORTS=$value ;;
    --token) [ -n "$value" ] && OPT_TOKEN=$value ;;
    --vip) is_address "$value" && OPT_VIP=$value ;;
    --vrid) [[ $value =~ ^[1-9][0-9]{0,2}$ ]] && [ "$value" -le 255 ] && OPT_VRID=$value ;;
    --peers) are_addresses "$value" && OPT_PEERS=$value ;;
    --certificate-key) [[ $value =~ ^[0-9a-f]{64}$ ]] && OPT_CERTIFICATE_KEY=$value ;;
    --members) set_members "$value" && OPT_MEMBERS=$value ;;
    --from) { is_address "$value" || [ -f "$value" ]; } && OPT_FROM=$value ;;
    --etcd-endpoints) [[ $value =~ ^https://[0-9.]+:[0-9]+(,https://[0-9.]+:[0-9]+)*$ ]] && ETCD_ENDPOINTS=$value ;;
    --etcd-ca) [ -f "$value" ] && OPT_ETCD_CA=$value ;;
    --etcd-cert) [ -f "$value" ] && OPT_ETCD_CERT=$value ;;
    --etcd-key) [ -f "$value" ] && OPT_ETCD_KEY=$value ;;
    --ca-cert-hash | --discovery-token-ca-cert-hash) [[ $value =~ ^sha256:[0-9a-f]{64}$ ]] && OPT_CA_HASH=$value ;;
    --firewall) [[ $value =~ ^(open|off)$ ]] && OPT_FIREWALL=$value ;;
    --runtime) [[ $value =~ ^(containerd|docker)$ ]] && OPT_RUNTIME=$value ;;
    --cgroup-driver) [[ $value =~ ^(systemd|cgroupfs)$ ]] && OPT_CGROUP_DRIVER=$value ;;
    --registry-ca) add_registry_ca "$value" ;;
    --swap) [[ $value =~ ^(off|keep)$ ]] && OPT_SWAP=$value ;;
    --timeout) [[ $value =~ ^[1-9][0-9]{0,4}$ ]] && OPT_TIMEOUT=$value ;;
    --ignore)
      for check in ${value//,/ }; do known_check "$check" || misuse "--ignore: there is no check \"$check\""; done
      [ -n "$value" ] && OPT_IGNORE=$OPT_IGNORE,$value
      ;;
  esac || misuse "$name: \"$value\" does not do"
}

# are_addresses LIST: IPv4 addresses between commas, none twice.
are_addresses() {
  local address
  [[ $1 =~ ^[0-9.,]+[0-9]$ ]] || return 1
  for address in ${1//,/ }; do is_address "$address" || return 1; done
  [ -z "$(tr ',' '\n' <<<"$1" | sort | uniq -d)" ]
}

# allowed_options VERB: those that take a value, then those that do not.
allowed_options() {
  local node='--advertise-address --interface --node-name --firewall --swap --ignore --timeout --runtime --cgroup-driver --sealed --registry-ca'
  local first='--pod-subnet --service-subnet --single-node --vip --vrid --peers' joins='--ca-cert-hash --discovery-token-ca-cert-hash'
  case $1 in
    master) printf '%s' "$node --token $first --node-port-range --etcd-endpoints --etcd-ca --etcd-cert --etcd-key --from --flannel-backend" ;;
    join) printf '%s' "$node --token $joins" ;;
    replica) printf '%s' "$node --token $joins --certificate-key --vrid --peers" ;;
    preflight) printf '%s' "$node --token $joins $first --certificate-key" ;;
    remove) printf '%s' '--force --delete-emptydir-data --timeout' ;;
    etcd) printf '%s' '--members --from --firewall --ignore --timeout' ;;
    restore) printf '%s' "$node --yes --single-node" ;;
    backup | renew) printf '%s' '--timeout' ;;
    upgrade) printf '%s' '--ignore --timeout --no-drain --force --delete-emptydir-data --fetch-only' ;;
    down) printf '%s' '--yes --keep-packages' ;;
  esac
}

# set_master ADDRESS[:PORT]
set_master() {
  [ -z "$MASTER_HOST" ] || misuse "\"$1\": one master only"
  MASTER_HOST=${1%:*}
  case $1 in *:*) MASTER_PORT=${1##*:} ;; esac
  is_address "$MASTER_HOST" && [[ $MASTER_PORT =~ ^[1-9][0-9]{0,4}$ ]] || misuse "\"$1\" is not ADDRESS or ADDRESS:PORT"
  [ "$MASTER_PORT" -le 65535 ] || misuse "\"$1\": a port is 65535 at most"
}

# positional WORD
positional() {
  case $VERB:$1 in
    preflight:master | preflight:m) OPT_ROLE=master ;;
    preflight:replica | preflight:r) REPLICA=replica ;;
    preflight:join | preflight:j | preflight:node) OPT_ROLE=node ;;
    join:* | replica:* | preflight:*) set_master "$1" ;;
    backup:* | restore:* | collect:* | remove:*)
      [ -z "$OPT_OBJECT" ] || misuse "\"$1\": one word only"
      OPT_OBJECT=$1
      ;;
    *) misuse "\"$1\": $VERB takes no such word" ;;
  esac
}

# parse WORD…: sets VERB and the options; exit 2 for anything unknown.
parse() {
  local name allowed
  case ${1:-} in
    m) VERB='master' ;;
    r) VERB='replica' ;;
    j) VERB='join' ;;
    u) VERB='upgrade' ;;
    d) VERB='down' ;;
    preflight | master | replica | join | status | sealed | upgrade | token | remove | collect | etcd | backup | restore | certificates | renew | down) VERB=$1 ;;
    help | -h | --help)
      usage
      exit 0
      ;;
    '') misuse 'a verb is missing' ;;
    *) misuse "there is no verb \"$1\"" ;;
  esac
  shift
  allowed=" $(allowed_options "$VERB") "
  while [ $# -gt 0 ]; do
    name=${1%%=*}
    case $name in
      -*) case $allowed in *" $name "*) ;; *) misuse "$VERB has no option $name" ;; esac ;;
    esac
    case $1 in
      --single-node) OPT_SINGLE_NODE=1 ;;
      --yes) OPT_YES=1 ;;
      --sealed) OPT_SEALED=1 ;;
      --keep-packages) OPT_KEEP_PACKAGES=1 ;;
      --force) OPT_FORCE=1 ;;
      --no-drain) OPT_NO_DRAIN=1 ;;
      --fetch-only) OPT_FETCH_ONLY=1 ;;
      --delete-emptydir-data) OPT_DELETE_EMPTYDIR=1 ;;
      --single-node=* | --sealed=* | --yes=* | --keep-packages=* | --force=* | --delete-emptydir-data=* | --no-drain=* | --fetch-only=*) misuse "$name takes no value" ;;
      --*=*) set_option "$name" "${1#*=}" ;;
      -*)
        [ $# -gt 1 ] || misuse "$name needs a value"
        set_option "$name" "$2"
        shift
        ;;
      *) positional "$1" ;;
    esac
    shift
  done
  check_combination
}

# check_combination: what a single option cannot tell.
check_combination() {
  if [ "$VERB" = join ] || [ "$VERB" = replica ]; then
    [ -n "$MASTER_HOST" ] || misuse "$VERB needs the address of the master"
    [ -n "$OPT_TOKEN" ] || misuse "$VERB needs --token"
    [ "$VERB" = join ] || [ -n "$OPT_CERTIFICATE_KEY" ] || misuse 'replica needs --certificate-key'
  elif [ "$VERB" = remove ]; then
    [[ $OPT_OBJECT =~ ^[A-Za-z0-9][A-Za-z0-9.-]*$ ]] || misuse 'remove needs the name of a node'
  elif [ "$VERB" = master ] && [ -n "$OPT_TOKEN" ]; then
    [[ $OPT_TOKEN =~ ^[a-z0-9]{6}\.[a-z0-9]{16}$ ]] || misuse '--token: not of the form abcdef.0123456789abcdef'
  fi
  if [ "$VERB" = master ] && [ -n "$OPT_VRID$OPT_PEERS" ] && [ -z "$OPT_VIP" ]; then misuse '--vrid and --peers go with --vip'; fi
  [ "$VERB" != etcd ] || [ -n "$OPT_MEMBERS" ] || misuse 'etcd needs --members'
  combined_etcd_options
  [ "$VERB" != restore ] || [ -n "$OPT_OBJECT" ] || misuse 'restore needs the file of a backup'
  if [ -n "$OPT_ADDRESS" ] && [ -n "$OPT_INTERFACE" ]; then misuse 'give --advertise-address or --interface, not both'; fi
}

# combined_etcd_options: the keys of a client are three files, or come from the first member.
combined_etcd_options() {
  local count
  count=$(wc -w <<<"${OPT_ETCD_CA:+1} ${OPT_ETCD_CERT:+1} ${OPT_ETCD_KEY:+1}")
  [ "$count" = 0 ] || [ "$count" = 3 ] || misuse 'give --etcd-ca, --etcd-cert and --etcd-key together'
  if [ "$VERB" = master ] && [ -z "$ETCD_ENDPOINTS" ] && [ -n "$OPT_FROM$OPT_ETCD_CA" ]; then misuse 'these keys are for --etcd-endpoints'; fi
}
