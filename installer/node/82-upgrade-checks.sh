# shellcheck shell=bash
# Checks before an upgrade: of this host, and of the cluster, whose other nodes are asked through the API.

UPGRADE_CHECKS='
any    root
any    systemd
any    commands
any    os
any    arch
any    release
any    package-manager
any    upgrade-disk
any    clock
any    server
any    proxy
any    upgrade-api
any    upgrade-version
any    upgrade-nodes
any    upgrade-server
master upgrade-etcd
master upgrade-control-plane
node   upgrade-masters
'

CLUSTER_NODES='' # lines of NODE_LINES, by check_upgrade_api
SERVED_VERSION='' # the API server's, by the same

# A node a line: name, kubelet's version, Ready (True, False, Unknown), master or node, cordoned or -.
# shellcheck disable=SC2016 # they are Go's variables
NODE_LINES='{{range .items}}{{$ready := "Unknown"}}{{$role := "node"}}
{{- range .status.conditions}}{{if eq .type "Ready"}}{{$ready = .status}}{{end}}{{end}}
{{- range $key, $_ := .metadata.labels}}{{if or (eq $key "node-role.kubernetes.io/master") (eq $key "node-role.kubernetes.io/control-plane")}}{{$role = "master"}}{{end}}{{end}}
{{- .metadata.name}} {{.status.nodeInfo.kubeletVersion}} {{$ready}} {{$role}} {{if .spec.unschedulable}}cordoned{{else}}-{{end}}
{{end}}'

node_lines() { kube get nodes -o "go-template=$NODE_LINES"; }

# version_number V: a number that grows with it; v1.20.3 is 1020003.
version_number() {
  local major minor patch
  IFS=. read -r major minor patch <<<"${1#v}"
  printf '%s' $((10#$major * 1000000 + 10#${minor%%[!0-9]*} * 1000 + 10#${patch%%[!0-9]*}))
}

# skew FROM TO: why Kubernetes cannot be taken from one version to the other; nothing if it can.
skew() {
  local from to
  from=$(version_number "$1") to=$(version_number "$2")
  if [ "$to" -lt "$from" ]; then
    printf 'Kubernetes cannot go back'
  elif [ $((to / 1000)) -gt $((from / 1000 + 1)) ]; then
    printf 'Kubernetes goes up by one minor release at a time'
  fi
}

check_upgrade_disk() {
  local need path
  while read -r need path; do
    [ "$(free_mb "$path")" -ge "$need" ] || fault "$path: $(free_mb "$path") MiB free, $need MiB needed" 'make room, or mount a larger file system there'
  done <<<"1500 $(runtime store)
600 /var/lib/kubecarry
200 /var/lib/kubelet
200 /usr
50 /var/log
20 /etc"
}

check_upgrade_api() {
  if ! wait_for 60 'the API server' api_healthy || ! CLUSTER_NODES=$(node_lines 2>>"$LOG_SINK") ||
    ! SERVED_VERSION=$(kube get --raw=/version 2>>"$LOG_SINK" | json_string gitVersion); then
    fault 'the API server does not answer' 'see deploy.sh status on the master, journalctl -u kubelet; the upgrade needs a healthy cluster'
  fi
}

# check_upgrade_version: each node's kubelet and the API server; others may be at the new version already, none above it.
check_upgrade_version() {
  local name version why
  [ -n "$SERVED_VERSION" ] || return 0
  while read -r name version _; do
    why=$(skew "$version" "$KUBERNETES_VERSION")
    [ -z "$why" ] || fault "$name is $version, the bundle is $KUBERNETES_VERSION: $why" "serve a bundle between, or not older than, what the cluster has"
  done <<<"the-API-server $SERVED_VERSION
$CLUSTER_NODES"
}

check_upgrade_nodes() {
  local name ready role cordoned
  while read -r name _ ready role cordoned; do
    if [ -z "$name" ]; then continue; fi
    if [ "$ready" != True ] && [ "$role$ROLE" = mastermaster ] && [ "$name" != "$NODE_NAME" ]; then
      fault "the master $name is not Ready" 'mend it first: while a master is away, another must not be changed'
    elif [ "$ready" != True ]; then
      caution "$name is not Ready" 'it keeps its version until it is mended and upgraded'
    fi
    if [ "$cordoned" = cordoned ] && [ "$name" != "$NODE_NAME" ]; then
      caution "$name is cordoned: is it being upgraded?" 'one node after the other keeps more room for pods'
    fi
  done <<<"$CLUSTER_NODES"
}

# check_upgrade_server: kube-proxy changes on all nodes with the first master: each pulls it from where it pulled before.
check_upgrade_server() {
  local was
  was=$(state_get server)
  if [ "$ROLE" != master ] || [ "$was" = "$SERVER" ]; then return 0; fi
  caution "this host was installed from $was, the new bundle is at $SERVER" \
    'serve it at the old address too, or run "upgrade --fetch-only" on every node first: the new kube-proxy must be there'
}

# etcd_urls: client URLs of all members of the cluster's etcd, as the first of those that answers knows them.
etcd_urls() {
  local server members
  for server in $(api_flag etcd-servers | tr ',' ' '); do
    members=$(ask_etcd "$server/v3/cluster/member/list" -d '{}') || continue
    grep -oE '"clientURLs":\["[^]]*\]' <<<"$members" | grep -oE 'https?://[^"]+'
    return 0
  done
  return 1
}

# api_flag NAME: a flag of this master's API server.
api_flag() { sed -n "s/^ *- --$1=//p" /etc/kubernetes/manifests/kube-apiserver.yaml; }

# ask_etcd URL ARG…: by the API server's own certificate.
ask_etcd() {
  curl -fsS --noproxy '*' --max-time 10 --cacert "$(api_flag etcd-cafile)" --cert "$(api_flag etcd-certfile)" --key "$(api_flag etcd-keyfile)" "$@" 2>>"$LOG_SINK" </dev/null
}

check_upgrade_etcd() {
  local urls url
  urls=$(etcd_urls) || urls=''
  [ -n "$urls" ] || fault 'etcd does not tell its members' 'see that etcd runs: crictl ps --name etcd; the upgrade needs all of it healthy'
  for url in $urls; do
    grep -q '"health": *"true"' <<<"$(ask_etcd "$url/health" || true)" || fault "etcd at $url is not healthy" 'mend it first: the upgrade restarts one member after the other'
  done
}

# A pod of the control plane a line: name, node, image of its first container, Ready (true or false).
# shellcheck disable=SC2016 # they are Go's variables
CONTROL_LINES='{{range .items}}{{$ready := "false"}}
{{- range .status.conditions}}{{if and (eq .type "Ready") (eq .status "True")}}{{$ready = "true"}}{{end}}{{end}}
{{- .metadata.name}} {{.spec.nodeName}} {{range .spec.containers}}{{.image}} {{end}}{{$ready}}
{{end}}'

control_lines() { kube get pods -n kube-system -l tier=control-plane -o "go-template=$CONTROL_LINES"; }

# check_upgrade_control_plane: given time, since an interrupted run may just have restarted a kubelet, which takes a
# minute and more to say again that its static pods are Ready.
check_upgrade_control_plane() {
  local down
  [ -n "$SERVED_VERSION" ] || return 0
  wait_for 150 'the control plane' control_plane_ready ||
    for down in $(control_lines 2>/dev/null | awk '$NF != "true" { print $1 }'); do
      fault "$down is not Ready" "see kubectl -n kube-system describe pod $down; the upgrade needs a healthy control plane"
    done
}

control_plane_ready() { [ -z "$(control_lines | awk 'NF && $NF != "true"')" ]; }

check_upgrade_masters() {
  local name version role
  [ -n "$SERVED_VERSION" ] || return 0
  while read -r name version _ role _; do
    [ "$role" = master ] || [ "$name" = the-API-server ] || continue
    [ "$(version_number "$version")" -ge "$(version_number "$KUBERNETES_VERSION")" ] ||
      fault "$name is $version still" 'upgrade the masters first, one after the other, then the nodes'
  done <<<"the-API-server $SERVED_VERSION
$CLUSTER_NODES"
}
