# shellcheck shell=bash
# --registry-ca HOST[:PORT]=FILE: a registry of the site's own, with a CA that only the runtime learns to trust, and
# only for that registry; the host's own store of CAs stays as it is.

OPT_REGISTRY_CA='' # "HOST[:PORT] FILE" a line

# add_registry_ca HOST[:PORT]=FILE
add_registry_ca() {
  local host=${1%%=*} file=${1#*=}
  [[ $1 == *=/* && $host =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[1-9][0-9]{0,4})?$ ]] || return 1
  OPT_REGISTRY_CA+="$host $file"$'\n'
}

check_registry_ca() {
  local host file
  while read -r host file; do
    [ -n "$host" ] || continue
    ! is_sealed || fault "--sealed lets no image come from $host" 'give --sealed or --registry-ca, not both'
    case " $REGISTRIES " in *" $host "*) fault "$host is a registry of the bundle, which the server stands for" 'leave its --registry-ca away' ;; esac
    openssl x509 -noout -in "$file" 2>/dev/null || fault "$file is no certificate (PEM)" 'name the file of the CA that signed the registry'"'"'s certificate'
  done <<<"$OPT_REGISTRY_CA"
}

# trust_registries: read by the runtime at each pull, so nothing is restarted.
trust_registries() {
  local host file
  while read -r host file; do
    [ -z "$host" ] || runtime trust_registry "$host" "$file"
  done <<<"$OPT_REGISTRY_CA"
}

containerd_trust_registry() {
  local place=/etc/containerd/certs.d/$1
  put_file 0644 "$place/ca.pem" <"$2"
  printf 'server = "https://%s"\n\n[host."https://%s"]\n  capabilities = ["pull", "resolve"]\n  ca = "%s"\n' "$1" "$1" "$place/ca.pem" |
    put_file 0644 "$place/hosts.toml"
}

docker_trust_registry() { put_file 0644 "/etc/docker/certs.d/$1/ca.crt" <"$2"; }
