# shellcheck shell=bash
# Further masters: the cluster's certificates reach them encrypted, through the cluster itself, by kubeadm's
# certificate key; no file is copied.

# upload_certificates: offers the certificates for 2 h under a new key; sets OPT_CERTIFICATE_KEY. A former key ends.
upload_certificates() {
  local config=$STATE/tmp/kubeadm.yaml rc=0
  OPT_CERTIFICATE_KEY=$(openssl rand -hex 32)
  (umask 077 && upload_documents >"$config")
  logged timeout 60 kubeadm init phase upload-certs --upload-certs --skip-certificate-key-print --config="$config" || rc=$?
  rm -f "$config"
  [ $rc -eq 0 ] || die $E_ENVIRONMENT 'the certificates could not be put into the cluster for further masters' "see $LOG"
}

# upload_documents: the key, and the cluster's configuration as the cluster has it.
upload_documents() {
  init_document "$(new_token)" "$OPT_CERTIFICATE_KEY"
  printf -- '---\n'
  kube -n kube-system get configmap kubeadm-config -o 'jsonpath={.data.ClusterConfiguration}'
}

# marked_master: whether the cluster has this node for a master: what kubeadm does last.
marked_master() {
  grep -q 'node-role.kubernetes.io/control-plane' <<<"$(kube get node "$NODE_NAME" -o 'jsonpath={.metadata.labels}' 2>/dev/null)"
}

# forget_node ADMIN-CONF: kubeadm refuses the name of a node that the cluster still takes for Ready.
forget_node() {
  logged kubectl --kubeconfig="$1" --cache-dir="$STATE/kubectl" --request-timeout=10s delete node "$NODE_NAME" --ignore-not-found ||
    note 'the node could not be taken off the list'
}

# replica_arguments TOKEN ENDPOINT: what a further master is installed with.
replica_arguments() {
  printf 'replica --token %s --ca-cert-hash %s --certificate-key %s' "$1" "$(own_ca_hash)" "$OPT_CERTIFICATE_KEY"
  [ "$(vrid)" = "$(default_vrid)" ] || printf ' --vrid %s' "$(vrid)"
  [ -z "$OPT_PEERS" ] || printf ' --peers %s' "$OPT_PEERS"
  printf ' %s' "$2"
}
