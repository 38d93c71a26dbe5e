# shellcheck shell=bash
# Certificates that kubeadm made: when they expire, and renewing them.

CERTIFICATE_DAYS=30 # with fewer left status differs
KUBELET_CLIENT=/var/lib/kubelet/pki/kubelet-client-current.pem

# certificate_of FILE: the PEM certificate in a file of its own, or in a kubeconfig.
certificate_of() {
  case $1 in
    *.conf) sed -n 's/^ *client-certificate-data: *//p' "$1" | head -n 1 | base64 -d ;;
    *) cat "$1" ;;
  esac
}

# certificate_files: those that may expire on this host.
certificate_files() {
  local file
  for file in /etc/kubernetes/{admin,super-admin,controller-manager,scheduler}.conf /etc/kubernetes/pki/*.crt /etc/kubernetes/pki/etcd/*.crt \
    $KUBELET_CLIENT "$ETCD_HOME"/*.crt; do
    [ ! -e "$file" ] || printf '%s\n' "$file"
  done
}

# days_left FILE: whole days until it expires, negative afterwards; nothing if it holds no certificate.
days_left() {
  local ends seconds
  ends=$(certificate_of "$1" 2>/dev/null | openssl x509 -noout -enddate 2>/dev/null) || return 0
  seconds=$(($(date -d "${ends#*=}" +%s) - $(date +%s)))
  [ $seconds -ge 0 ] || seconds=$((seconds - 86399)) # division cuts towards zero
  printf '%s' $((seconds / 86400))
}

# list_certificates: "days date path" lines, the first to expire first.
list_certificates() {
  local file days
  while read -r file; do
    days=$(days_left "$file")
    [ -z "$days" ] || printf '%s %s %s\n' "$days" "$(date -u -d "+$days days" +%F)" "$file"
  done < <(certificate_files) | sort -n
}

# status_certificates: a line of status; differs where one must be renewed soon.
status_certificates() {
  local days date file
  read -r days date file < <(list_certificates) || return 0
  tell certs "$days days left ($date, $file)"
  if [ "$days" -ge $CERTIFICATE_DAYS ]; then return 0; fi
  case $file in
    "$ETCD_HOME"/*) differs "$file ends soon, and nothing renews it: save etcd, and build its members again" ;;
    */kubelet-client-current.pem) differs 'the kubelet has not renewed its certificate by itself: see journalctl -u kubelet; on a master: deploy.sh renew' ;;
    *ca.crt) differs "$file, an authority of the cluster, ends soon: no renewal helps, build a new cluster beside this one" ;;
    *) differs 'certificates expire soon or have expired: renew them (deploy.sh renew)' ;;
  esac
}

# verb_certificates: the table on stdout; 7 where one must be renewed.
verb_certificates() {
  local lines
  [ "$(id -u)" = 0 ] || die $E_ENVIRONMENT 'not root' 'run it as root'
  lines=$(list_certificates)
  [ -n "$lines" ] || die $E_ENVIRONMENT 'there are no certificates on this host' 'run it on a master'
  printf '%-6s %-11s %s\n' DAYS EXPIRES FILE
  awk '{ printf "%-6s %-11s %s\n", $1, $2, $3 }' <<<"$lines"
  [ "$(awk 'NR == 1 { print $1 }' <<<"$lines")" -ge $CERTIFICATE_DAYS ] ||
    die $E_ENVIRONMENT "a certificate has fewer than $CERTIFICATE_DAYS days left" 'run deploy.sh renew on each master; the kubelet renews its own by itself'
}

# kubeadm_renew: by a file that says where this node is: without one kubeadm asks the cluster, which may answer no more.
kubeadm_renew() {
  local config=$STATE/tmp/kubeadm.yaml words=(certs)
  kubeadm certs renew --help >/dev/null 2>&1 </dev/null || words=(alpha certs) # before 1.20
  (umask 077 && kubeadm_config init "$(new_token)" >"$config")
  supervise "$OPT_TIMEOUT" 'kubeadm certs renew' kubeadm "${words[@]}" renew all --config="$config" ||
    die $E_ENVIRONMENT 'kubeadm could not renew the certificates' "see $LOG; then run the same line again"
  renew_kubelet "$config"
  rm -f "$config"
}

# renew_kubelet CONFIG: the kubelet renews its own, but not once it has expired: then it gets one as at the first start.
renew_kubelet() {
  local days
  days=$(days_left $KUBELET_CLIENT)
  [ "${days:-0}" -lt 0 ] || return 0
  rm -f $KUBELET_CONF
  supervise "$OPT_TIMEOUT" 'kubeadm init phase kubeconfig' kubeadm init phase kubeconfig kubelet --config="$1" ||
    die $E_ENVIRONMENT 'the kubelet could not be given a new certificate' "see $LOG; then run the same line again"
  rm -f "${KUBELET_CLIENT%current.pem}"*
}

# renew_certificates: nothing reads a certificate again by itself, so the control plane is started anew.
renew_certificates() {
  release_control_plane
  step renew kubeadm_renew
  step stop stop_control_plane
  step start start_control_plane
  give_kubeconfig
}

verb_renew() {
  begin
  [ -e $ADMIN_CONF ] && [ "$(state_get cluster)" = 'done' ] || die $E_ENVIRONMENT 'this host is no master' 'run it on each master, one after the other'
  ! kubeadm_alpha || die $E_ENVIRONMENT "kubeadm $KUBERNETES_VERSION cannot renew certificates" 'renew them by hand with openssl'
  recall
  renew_certificates
  say "certificates are good for $(list_certificates | grep -v kubelet-client | awk 'NR == 1 { print $1 }') days; the kubelet renews its own by itself"
}
