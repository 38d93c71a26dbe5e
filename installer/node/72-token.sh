# shellcheck shell=bash
# Tokens and the lines that nodes and further masters join by.

# usable_token: one that the cluster has and that can be joined with for an hour at least; nothing if there is none.
usable_token() {
  ! services || return 0
  kubeadm --kubeconfig=$ADMIN_CONF token list 2>/dev/null </dev/null |
    awk 'NR > 1 && $2 ~ /^([0-9]+[hdy].*|<forever>)$/ && /authentication,signing/ && /default-node-token/ { print $1; exit }' || true
}

# create_token [TOKEN]: makes it, or a new one, good for 24 h, and prints it.
create_token() {
  if services; then
    create_service_token "${1:-$(new_token)}"
  else
    kubeadm --kubeconfig=$ADMIN_CONF token create ${1:+"$1"} --ttl 24h 2>>"$LOG_SINK" </dev/null
  fi
}

# has_token TOKEN: whether the cluster knows it.
has_token() {
  ! services && grep -q "^$1 " <<<"$(kubeadm --kubeconfig=$ADMIN_CONF token list 2>/dev/null </dev/null)"
}

# master_token: the token to print: the one asked for, one that still works, or a new one.
master_token() {
  local token=$OPT_TOKEN
  if [ -z "$token" ]; then
    token=$(usable_token)
  elif ! has_token "$token"; then
    create_token "$token" >/dev/null
  fi
  printf '%s' "${token:-$(create_token)}"
}

own_ca_hash() { ca_hash </etc/kubernetes/pki/ca.crt; }

# token_signed TOKEN: whether a joining host would be let in by it: the controller manager signs each, and takes its time
# where it has just been started.
token_signed() { [ -n "$(kube -n kube-public get configmap cluster-info -o "jsonpath={.data.jws-kubeconfig-${1%%.*}}")" ]; }

# print_join TOKEN: on stdout, for nodes; and, where there is a certificate key, for further masters.
print_join() {
  local endpoint
  living_server || true # the one that the next node shall ask
  wait_for 60 'the controller manager to sign the token' token_signed "$1" || warn 'the token is not signed yet: a node may be told for a while that the master does not know it'
  endpoint=$(kube config view -o 'jsonpath={.clusters[0].cluster.server}')
  endpoint=${endpoint#https://}
  print_line 'To join a node, run there as root (the token expires within 24 h; the verb "token" prints a new line):' \
    "join --token $1 --ca-cert-hash $(own_ca_hash) $endpoint"
  [ -z "$OPT_CERTIFICATE_KEY" ] || print_line 'To add a master, run there as root, one after the other (within 2 h; the verb "token" prints a new line, which ends this one):' \
    "$(replica_arguments "$1" "$endpoint")"
}

# print_line HEADING ARGUMENTS: the short line, and the one that checks deploy.sh before it runs it.
print_line() {
  local digest
  printf '\n%s\n\n' "$1"
  printf '  %s | bash -s %s\n' "$(deploy_curl)" "$2"
  digest=$(curl_server -fsS --max-time 10 "$SERVER/deploy.sh" 2>/dev/null | sha256sum) || return 0
  printf '\nor, safe against a changed script on the way:\n\n'
  printf '  curl -fsSL%s %s/deploy.sh -o deploy.sh && echo "%s  deploy.sh" | sha256sum -c - && bash deploy.sh %s\n\n' \
    "${SERVER_PIN:+ -k}" "$SERVER" "${digest%% *}" "$2"
}

# need_master: the verb works on a finished master only.
need_master() {
  [ -e $ADMIN_CONF ] || die $E_ENVIRONMENT 'this host is no master' 'run it on the master'
  api_healthy >/dev/null 2>&1 || die $E_ENVIRONMENT 'the API server does not answer' 'see deploy.sh status, journalctl -u kubelet'
}
