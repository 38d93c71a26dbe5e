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

# adopt_networks: POD_SUBNET and SERVICE_SUBNET as the cluster has them; 1 if they cannot be read.
adopt_networks() {
  local ca config pods services
  ca=$(mktemp)
  cluster_ca >"$ca"
  config=$(printf 'header = "Authorization: Bearer %s"\n' "$OPT_TOKEN" |
    curl -f -s --noproxy '*' --cacert "$ca" --connect-timeout 5 --max-time 10 -K - \
      "https://$MASTER_HOST:$MASTER_PORT/api/v1/namespaces/kube-system/configmaps/kubeadm-config?pretty=false" 2>/dev/null) || config=''
  rm -f "$ca"
  config=$(json_string ClusterConfiguration <<<"$config")
  pods=$(sed -n 's/^ *podSubnet: *//p' <<<"$config" | tr -d \"\')
  services=$(sed -n 's/^ *serviceSubnet: *//p' <<<"$config" | tr -d \"\')
  is_cidr "$pods" && is_cidr "$services" || return 1
  POD_SUBNET=$pods SERVICE_SUBNET=$services
}
