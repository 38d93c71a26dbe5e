# shellcheck shell=bash
# What join asks the master before it changes anything: is it there, is the token good, is the CA the right one.

CLUSTER_INFO='' # the master's public cluster-info, JSON
MASTER_HOST=''
MASTER_PORT=6443

# load_cluster_info: sets CLUSTER_INFO; 1 if the master does not answer. Not trusted until token_signs.
load_cluster_info() {
  CLUSTER_INFO=$(curl -k -f -s --noproxy '*' --connect-timeout 5 --max-time 10 \
    "https://$MASTER_HOST:$MASTER_PORT/api/v1/namespaces/kube-public/configmaps/cluster-info?pretty=false" 2>/dev/null </dev/null)
}

# json_string KEY <json: the text of one string member.
json_string() {
  local raw
  raw=$(grep -oE "\"$1\": *\"([^\"\\\\]|\\\\.)*\"" | head -n 1) || true
  raw=${raw#*:}
  raw=${raw#*\"}
  printf '%b' "$(sed -e 's/"$//' -e 's/\\"/"/g' <<<"$raw")"
}

# base64url <bytes: as JWS wants it.
base64url() { base64 -w0 | tr '+/' '-_' | tr -d '='; }

# token_signs TOKEN: whether CLUSTER_INFO is signed by the token's second half, as kubeadm join checks (JWS, HS256).
token_signs() {
  local id=${1%%.*} secret=${1#*.} jws header want have
  jws=$(json_string "jws-kubeconfig-$id" <<<"$CLUSTER_INFO")
  header=${jws%%.*}
  want=${jws##*.}
  have=$({ printf '%s.' "$header" && json_string kubeconfig <<<"$CLUSTER_INFO" | base64url; } |
    openssl dgst -sha256 -hmac "$secret" -binary | base64url)
  [ -n "$want" ] && [ "$have" = "$want" ]
}

# cluster_ca: the CA certificate in CLUSTER_INFO, PEM.
cluster_ca() {
  json_string kubeconfig <<<"$CLUSTER_INFO" | awk '$1 == "certificate-authority-data:" && !n++ { print $2 }' | base64 -d
}

# ca_hash <PEM: sha256:…, over the public key, as kubeadm writes it.
ca_hash() {
  openssl x509 -pubkey -noout | openssl pkey -pubin -outform der 2>/dev/null | openssl dgst -sha256 -hex | sed 's/^.* /sha256:/'
}

# ask_master PATH [ARG…]: what its API answers to the join token; curl's code. The token goes by stdin: arguments can
# be seen.
ask_master() {
  local path=$1 ca rc=0
  shift
  ca=$(mktemp)
  cluster_ca >"$ca"
  printf 'header = "Authorization: Bearer %s"\n' "$OPT_TOKEN" |
    curl -f -s --noproxy '*' --cacert "$ca" --connect-timeout 5 --max-time 10 -K - "$@" \
      "https://$MASTER_HOST:$MASTER_PORT$path?pretty=false" 2>/dev/null || rc=$?
  rm -f "$ca"
  return $rc
}

# adopt_networks: POD_SUBNET, SERVICE_SUBNET, NODE_PORTS and CLUSTER_ENDPOINT as the cluster has them; 1 if they cannot
# be read.
adopt_networks() {
  local config pods services ports
  config=$(ask_master /api/v1/namespaces/kube-system/configmaps/kubeadm-config) || config=''
  config=$(json_string ClusterConfiguration <<<"$config")
  CLUSTER_ENDPOINT=$(sed -n 's/^ *controlPlaneEndpoint: *//p' <<<"$config" | tr -d \"\')
  pods=$(sed -n 's/^ *podSubnet: *//p' <<<"$config" | tr -d \"\')
  services=$(sed -n 's/^ *serviceSubnet: *//p' <<<"$config" | tr -d \"\')
  # An argument is a line `name: value`, or (v1beta4) a line with its name and one with its value.
  ports=$(sed -n '/service-node-port-range/{s/.*-range: *//p;n;s/^ *value: *//p}' <<<"$config" | head -n 1 | tr -d \"\')
  is_cidr "$pods" && is_cidr "$services" || return 1
  POD_SUBNET=$pods SERVICE_SUBNET=$services
  ! is_port_range "$ports" || NODE_PORTS=$ports
}

# recall_networks: once they are settled, the line that is run again may leave them out: a master has them of its first
# run, a node of the cluster that it joins.
recall_networks() {
  local pods services ports
  if ! ours || { [ "$ROLE" = master ] && [ "$(state_get cluster)" != 'done' ]; }; then return 0; fi
  pods=$(state_get pods) services=$(state_get services) ports=$(state_get nodeports)
  POD_SUBNET=${pods:-$POD_SUBNET} SERVICE_SUBNET=${services:-$SERVICE_SUBNET} NODE_PORTS=${ports:-$NODE_PORTS}
}

# name_free: whether the cluster holds no node of our name for Ready. kubeadm refuses one that is, and the node
# controller takes some 40 s to see that a node has gone. Where it cannot be asked, kubeadm will tell.
name_free() {
  local conditions
  conditions=$(ask_master "/api/v1/nodes/$NODE_NAME" | grep -oE '\{[^{}]*"type": *"Ready"[^{}]*\}') || return 0
  ! grep -q '"status": *"True"' <<<"$conditions"
}

await_name() {
  wait_for 90 "the cluster to see that the former node $NODE_NAME has gone" name_free ||
    die $E_ENVIRONMENT "the cluster has a node $NODE_NAME already, and it is Ready" \
      "if that is another host, pass --node-name; if not, remove it on the master (deploy.sh remove $NODE_NAME), then run the same line again"
}
