# shellcheck shell=bash
# Where the components are services of the host (METHOD=packages): their certificates. One authority, which outlives
# what it signs; each certificate is of X.509 v3 and says what it is for. A key never leaves the host that made it.

PKI=/etc/kubernetes/pki
CA_DAYS=3650
LEAF_DAYS=3600

# service_address: the first address of the service network, by which pods know the API.
service_address() {
  cidr_range "$SERVICE_SUBNET"
  printf '%d.%d.%d.%d' $(((FIRST + 1) >> 24 & 255)) $(((FIRST + 1) >> 16 & 255)) $(((FIRST + 1) >> 8 & 255)) $(((FIRST + 1) & 255))
}

# api_names: what the API server's certificate is for, as openssl writes it.
api_names() {
  local name names=''
  for name in kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local localhost "$NODE_NAME"; do
    names="${names}DNS:$name,"
  done
  printf '%sIP:127.0.0.1,IP:%s,IP:%s' "$names" "$(service_address)" "$NODE_ADDRESS"
}

# pki_key NAME: makes $PKI/NAME.key, unless it is there.
pki_key() {
  [ -s "$PKI/$1.key" ] || (umask 077 && openssl genrsa 2048 2>/dev/null | keep_key "$PKI/$1.key")
}

# keep_key PATH <key: readable by root, and by the group that the packages run their services as.
keep_key() {
  put_file 0600 "$1"
  share_file "$1"
}

# share_file PATH: the EL packages run their services as kube, and etcd as etcd.
share_file() {
  local group=kube
  case $1 in */etcd/*) group=etcd ;; esac
  ! getent group $group >/dev/null 2>&1 || { chgrp $group "$1" && chmod 0640 "$1"; }
}

# openssl_config TEXT: a file for openssl 1.0.2 and later, none of which reads the host's own.
openssl_config() {
  printf '[req]\ndistinguished_name=dn\n[dn]\n[ext]\n%s\n' "$1"
}

# pki_authority: the CA.
pki_authority() {
  pki_key ca
  [ ! -s $PKI/ca.crt ] || return 0
  openssl_config $'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash' >"$STATE/tmp/ca.cnf"
  openssl req -x509 -new -sha256 -key $PKI/ca.key -days $CA_DAYS -subj /CN=kubernetes -extensions ext -config "$STATE/tmp/ca.cnf" |
    put_file 0644 $PKI/ca.crt
}

# pki_request NAME SUBJECT: a signing request on stdout.
pki_request() {
  openssl_config '' >"$STATE/tmp/request.cnf"
  openssl req -new -sha256 -key "$PKI/$1.key" -subj "$2" -config "$STATE/tmp/request.cnf"
}

# pki_certificate NAME SUBJECT USES [NAMES]: signs $PKI/NAME.crt, unless one that is good for the same is there.
pki_certificate() {
  local name=$1 subject=$2 uses=$3 names=${4:-} extensions
  pki_key "$name"
  ! pki_fits "$name" "$names" || return 0
  extensions=$'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature,keyEncipherment\n'"extendedKeyUsage=$uses"
  [ -z "$names" ] || extensions=$extensions$'\n'"subjectAltName=$names"
  openssl_config "$extensions" >"$STATE/tmp/leaf.cnf"
  pki_request "$name" "$subject" |
    openssl x509 -req -sha256 -CA $PKI/ca.crt -CAkey $PKI/ca.key -set_serial "0x$(openssl rand -hex 8)" -days $LEAF_DAYS \
      -extensions ext -extfile "$STATE/tmp/leaf.cnf" 2>/dev/null | put_file 0644 "$PKI/$name.crt"
}

# pki_fits NAME [NAMES]: whether its certificate is signed by the CA, is of its key, has these names, and lasts a month.
pki_fits() {
  local crt=$PKI/$1.crt have
  [ -s "$crt" ] && openssl verify -CAfile $PKI/ca.crt "$crt" >/dev/null 2>&1 && openssl x509 -in "$crt" -noout -checkend 2592000 >/dev/null || return 1
  [ "$(openssl x509 -in "$crt" -noout -pubkey)" = "$(openssl pkey -in "$PKI/$1.key" -pubout 2>/dev/null)" ] || return 1
  have=$(openssl x509 -in "$crt" -noout -text | sed -n '/Subject Alternative Name/{n;s/IP Address:/IP:/g;s/ //g;p}')
  [ "$have" = "${2:-}" ]
}

# pki_of_master: all that a master of services needs.
pki_of_master() {
  local name
  make_dirs $PKI/etcd
  pki_authority
  pki_certificate apiserver "/CN=kube-apiserver" serverAuth "$(api_names)"
  pki_certificate apiserver-kubelet-client "/O=system:masters/CN=kube-apiserver-kubelet-client" clientAuth
  pki_certificate apiserver-etcd-client "/CN=kube-apiserver-etcd-client" clientAuth
  pki_certificate etcd/server "/CN=$NODE_NAME" serverAuth,clientAuth "DNS:localhost,DNS:$NODE_NAME,IP:127.0.0.1,IP:$NODE_ADDRESS"
  pki_certificate admin "/O=system:masters/CN=kubernetes-admin" clientAuth
  for name in kube-controller-manager kube-scheduler; do pki_certificate $name "/CN=system:$name" clientAuth; done
  pki_key sa
  openssl pkey -in $PKI/sa.key -pubout 2>/dev/null | put_file 0644 $PKI/sa.pub
}

# services_kubeconfig SERVER NAME: with the certificate of that name inside, so that it can be copied as it is.
services_kubeconfig() {
  cat <<END_OF_FILE
apiVersion: v1
kind: Config
clusters:
- name: kubernetes
  cluster:
    server: $1
    certificate-authority-data: $(base64 -w0 $PKI/ca.crt)
users:
- name: $2
  user:
    client-certificate-data: $(base64 -w0 "$PKI/$2.crt")
    client-key-data: $(base64 -w0 "$PKI/$2.key")
contexts:
- name: $2@kubernetes
  context: {cluster: kubernetes, user: $2}
current-context: $2@kubernetes
END_OF_FILE
}
