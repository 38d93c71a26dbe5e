# shellcheck shell=bash
# The verbs, in the order of their steps.

# proxies are for the outside: nothing here goes there.
drop_proxies() {
  local name
  PROXIES=''
  for name in http_proxy https_proxy ftp_proxy all_proxy HTTP_PROXY HTTPS_PROXY FTP_PROXY ALL_PROXY; do
    if [ -n "${!name:-}" ]; then PROXIES="$PROXIES $name"; fi
    unset "$name"
  done
  PROXIES=${PROXIES# }
}

# remember: what later runs, status and down need to know.
remember() {
  state_set method "${METHOD:-kubeadm}"
  state_set role "$ROLE"
  state_set name "$NODE_NAME"
  state_set address "$NODE_ADDRESS"
  state_set version "$KUBERNETES_VERSION"
  state_set server "$SERVER"
  state_set sums "$SUMS_SHA256"
  state_set pods "$POD_SUBNET"
  state_set services "$SERVICE_SUBNET"
  state_set etcd-endpoints "$ETCD_ENDPOINTS"
  state_set nodeports "$NODE_PORTS"
  state_set runtime "$NODE_RUNTIME"
  state_set cgroup-driver "$CGROUP_DRIVER"
  state_set swap "$OPT_SWAP"
  state_set replica "$REPLICA"
  state_set vip "$OPT_VIP"
  state_set vrid "$OPT_VRID"
  state_set peers "$OPT_PEERS"
}

# recall: the same of a finished installation, for verbs that have no such options.
recall() {
  NODE_NAME=$(state_get name)
  NODE_ADDRESS=$(state_get address)
  POD_SUBNET=$(state_get pods)
  SERVICE_SUBNET=$(state_get services)
  KUBERNETES_VERSION=$(state_get version)
  ETCD_ENDPOINTS=$(state_get etcd-endpoints)
  recall_vip
}

# stage NAME FUNCTION [ARG…]: a step that status shows.
stage() {
  state_set "step-$1" started
  step "$@"
  state_set "step-$1" 'done'
}

# prepare ROLE: the steps that master and join share.
prepare() {
  ROLE=$1
  [ "$ROLE" = node ] || recall_vip
  identify
  REPORTING=$ROLE
  recall_networks
  step preflight preflight "$ROLE"
  step bundle fetch_sums
  remember
  own_cluster
  stage sealed seal_host
  stage runtime install_runtime
  relax_selinux
  load_modules
  stage "$NODE_RUNTIME" runtime configure
  trust_registries
  start_images
  stage packages install_kubernetes
  stage host prepare_host
  [ -z "$OPT_VIP" ] || stage address raise_vip
  stage images await_images
}

verb_master() {
  begin
  if services; then
    master_of_services
    return 0
  fi
  install_master
}

# install_master: what is there already is only started.
install_master() {
  use_etcd
  prepare master
  await_vip
  stage kubeadm init_cluster
  settle_vip
  stage network apply_listed "$NETWORK_MANIFESTS"
  stage ready await_ready
  untaint
  stage addons apply_listed "$ADDON_MANIFESTS"
  give_kubeconfig
  tell_sealed
  [ -z "$OPT_VIP" ] || upload_certificates
  say "the master $NODE_NAME is Ready: Kubernetes $KUBERNETES_VERSION at ${OPT_VIP:-$NODE_ADDRESS}:6443"
  report 'done'
  print_join "$(master_token)"
}

verb_replica() {
  begin
  ! services || die $E_ENVIRONMENT "release $RELEASE has its components as services: it has one master" 'use a release that kubeadm installs'
  REPLICA=replica
  prepare master
  stage kubeadm join_cluster
  stage ready await_ready
  give_kubeconfig
  tell_sealed
  say "$NODE_NAME is a further master and is Ready"
  report 'done'
}

verb_join() {
  begin
  if services; then
    join_services
    return 0
  fi
  prepare node
  stage kubeadm join_cluster
  stage ready await_ready
  tell_sealed
  say "$NODE_NAME has joined and is Ready"
  report 'done'
}

verb_preflight() {
  if [ "$OPT_ROLE" = node ] || [ -n "$REPLICA" ]; then
    [ -n "$MASTER_HOST" ] || misuse "preflight ${REPLICA:-join} needs the address of the master and --token"
  fi
  [ "$OPT_ROLE" = node ] || recall_vip
  identify
  preflight "$OPT_ROLE"
  say 'preflight: this host is fit'
}

verb_status() {
  [ "$(id -u)" = 0 ] || die $E_ENVIRONMENT 'not root' 'run it as root'
  status || {
    REPORTED=1
    exit $E_ENVIRONMENT
  }
}

verb_token() {
  begin
  need_master
  recall_vip
  NODE_NAME=$(state_get name) NODE_ADDRESS=$(state_get address)
  [ -z "$OPT_VIP" ] || upload_certificates
  print_join "$(create_token)"
}

verb_sealed() {
  [ "$(id -u)" = 0 ] || die $E_ENVIRONMENT 'not root' 'run it as root'
  [ "$(state_get sealed)" = yes ] || die $E_ENVIRONMENT 'this host was not installed with --sealed' 'run the line that installed it again, with --sealed'
  sealed_report
  [ $DIFFERS -eq 0 ] || {
    REPORTED=1
    exit $E_ENVIRONMENT
  }
}

verb_remove() {
  begin
  need_master
  NODE_NAME=$(state_get name)
  step remove remove_node "${OPT_OBJECT,,}"
}

verb_collect() {
  [ "$(id -u)" = 0 ] || die $E_ENVIRONMENT 'not root' 'run it as root'
  NODE_NAME=$(state_get name)
  [ -n "$NODE_NAME" ] || detect_name
  collect "$OPT_OBJECT"
}

verb_down() {
  begin
  confirm 'This removes the cluster from this host, its data included.'
  step 'undo' down
}

main() {
  set -euo pipefail
  umask 022
  export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin" # su and sudo may leave these out
  clock
  STARTED=$NOW
  drop_proxies
  parse "$@"
  trap 'finish $?' EXIT
  trust_server
  trap 'interrupted 130' INT
  trap 'interrupted 143' TERM HUP
  set -E
  trap 'FAILED_AT="${FUNCNAME[*]:0:3}"' ERR
  "verb_$VERB"
}
