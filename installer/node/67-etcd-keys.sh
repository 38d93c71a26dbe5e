# shellcheck shell=bash
# The keys of an etcd cluster outside Kubernetes. The first member makes them all, so that the authority's key never
# leaves it, and hands each host its own, encrypted for one secret, over a socket that ends by itself.

ETCD_HOME=/etc/kubecarry-etcd
HANDOUT=kubecarry-etcd-handout
HANDOUT_PORT=2378
HANDOUT_LIFE=2h
ETCD_DAYS=3650 # as the authorities that kubeadm makes: there is nobody who would renew them
ETCD_MEMBERS=() # "name address" of each
ETCD_MEMBER='' # this host's name among them

# set_members LIST: NAME=IP,… or IP,…; 1 if it is neither.
set_members() {
  local word name address seen=' '
  ETCD_MEMBERS=()
  for word in ${1//,/ }; do
    address=${word#*=} name=${word%%=*}
    [ "$name" != "$word" ] || name=etcd-${address//./-}
    is_address "$address" && [[ $name =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ ]] || return 1
    case $seen in *" $address "* | *" $name "*) return 1 ;; esac
    [ "$name" != client ] || return 1 # the handout's name for those that are no members
    seen="$seen$address $name "
    ETCD_MEMBERS+=("$name $address")
  done
  [ ${#ETCD_MEMBERS[@]} -gt 0 ]
}

# members_as FORMAT: printf of name and address of each member, joined by commas.
members_as() {
  local member text=''
  for member in "${ETCD_MEMBERS[@]}"; do
    # shellcheck disable=SC2059,SC2086 # the format is ours, and a member is two words
    text=$text,$(printf "$1" $member)
  done
  printf '%s' "${text#,}"
}

# make_certificate DIRECTORY NAME SUBJECT EXTENSIONS: DIRECTORY/NAME.{key,crt}, signed by the authority in $ETCD_HOME.new.
make_certificate() {
  local file=$1/$2 ca=$ETCD_HOME.new
  mkdir -p "$1"
  {
    openssl genrsa -out "$file.key" 2048 2>/dev/null &&
    openssl req -new -sha256 -key "$file.key" -subj "$3" -config <(printf '[req]\ndistinguished_name=n\n[n]\n') -out "$file.csr" &&
    openssl x509 -req -sha256 -in "$file.csr" -CA "$ca/ca.crt" -CAkey "$ca/ca.key" -set_serial "0x$(openssl rand -hex 15)" \
      -days $ETCD_DAYS -extfile <(printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\n%s\n' "$4") \
      -out "$file.crt" 2>>"$LOG_SINK"
  } || die $E_UNEXPECTED "openssl could not make $file.crt" "see $LOG"
  rm -f "$file.csr"
}

# make_authority: its certificate and key, on the first member alone.
make_authority() {
  local ca=$ETCD_HOME.new
  {
    openssl genrsa -out "$ca/ca.key" 2048 2>/dev/null &&
    openssl req -x509 -new -sha256 -key "$ca/ca.key" -days $ETCD_DAYS -subj '/CN=kubecarry-etcd-ca' -extensions e -out "$ca/ca.crt" -config <(
      printf '[req]\ndistinguished_name=n\n[n]\n[e]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,digitalSignature\nsubjectKeyIdentifier=hash\n'
    )
  } || die $E_UNEXPECTED 'openssl could not make an authority' "see $LOG"
}

# make_keys: all of them, in a directory that gets its name when it is whole.
make_keys() {
  local new=$ETCD_HOME.new member name address
  rm -rf "$new"
  mkdir -p "$new/handout"
  make_authority
  make_certificate "$new" client '/O=system:masters/CN=kube-apiserver-etcd-client' 'extendedKeyUsage=clientAuth'
  hand_out client client
  for member in "${ETCD_MEMBERS[@]}"; do
    read -r name address <<<"$member"
    make_certificate "$new/of-$name" member "/CN=$name" \
      "extendedKeyUsage=serverAuth,clientAuth"$'\n'"subjectAltName=IP:$address,IP:127.0.0.1,DNS:$name,DNS:localhost"
    if [ "$name" = "$ETCD_MEMBER" ]; then cp "$new/of-$name/"* "$new/"; else hand_out "$name" client "of-$name/member"; fi
    rm -rf "$new/of-$name"
  done
  mv -T "$new" $ETCD_HOME
}

# hand_out HOST PAIR…: what that host is to get, encrypted for a secret of its own, as a line of the handout.
hand_out() {
  local host=$1 new=$ETCD_HOME.new secret text pair
  local work=$new/handout/work
  shift
  mkdir -p "$work"
  cp "$new/ca.crt" "$work/"
  for pair; do cp "$new/$pair.crt" "$new/$pair.key" "$work/"; done
  secret=$(openssl rand -hex 32)
  text=$(tar -cf - -C "$work" . | sealed "$secret")
  printf '%s %s %s\n' "$host" "$(seal_of "$secret" <<<"$text")" "$text" >>"$new/handout/sealed"
  printf '%s %s\n' "$host" "$secret" >>"$new/secrets"
  rm -rf "$work"
}

# sealed SECRET <data: encrypted, base64 on one line. The secret is 256 random bits, so no slow derivation is needed.
sealed() { openssl enc -aes-256-cbc -md sha256 -salt -pass fd:3 3<<<"$1" 2>/dev/null | base64 -w0; }

# unsealed SECRET <base64
unsealed() { base64 -d | openssl enc -d -aes-256-cbc -md sha256 -pass fd:3 3<<<"$1" 2>/dev/null; }

# seal_of SECRET <text: its authentication code: nested hashes with a key each, as HMAC, but with no secret in arguments.
seal_of() {
  local inner
  inner=$({ printf 'inner %s ' "$1" && cat; } | sha256sum)
  inner=$(printf 'outer %s %s' "$1" "${inner%% *}" | sha256sum)
  printf '%s' "${inner%% *}"
}

# read_handout FROM: the handout of the first member, out of a file or from its socket.
read_handout() {
  if [ -f "$1" ]; then
    cat "$1"
  else
    timeout 20 bash -c "exec 3<>/dev/tcp/$1/$HANDOUT_PORT && cat <&3" 2>>"$LOG_SINK"
  fi
}

# accept_handout HOST DIRECTORY: what $OPT_FROM has for that name, opened by $ETCD_SECRET, in a directory that gets its
# name when it is whole.
accept_handout() {
  local host=$1 new=$2.new line seal text
  [[ ${ETCD_SECRET:-} =~ ^[0-9a-f]{64}$ ]] || die $E_USAGE 'the secret of this host is missing (ETCD_SECRET)' 'use the whole line that the first member printed for this host'
  line=$(read_handout "$OPT_FROM" | awk -v host="$host" '$1 == host') || line=''
  [ -n "$line" ] || die $E_ENVIRONMENT "$OPT_FROM has no keys for $host" \
    "run the line again on the first member: its keys can be fetched for $HANDOUT_LIFE; check the firewall ($HANDOUT_PORT/tcp), or carry $ETCD_HOME/handout/sealed here and name it with --from"
  read -r _ seal text <<<"$line"
  [ "$(seal_of "$ETCD_SECRET" <<<"$text")" = "$seal" ] || die $E_INTEGRITY "the keys for $host at $OPT_FROM do not fit the secret" \
    'use the line that the first member printed for this very host; it was changed, or made for another cluster'
  rm -rf "$new"
  mkdir -p "$new"
  unsealed "$ETCD_SECRET" <<<"$text" | tar -xf - -C "$new" --no-same-owner || die $E_INTEGRITY "the keys for $host cannot be opened" 'run the line again on the first member, and the line that it prints here'
  rm -rf "$2"
  mv -T "$new" "$2"
}

# serve_handout: a socket of systemd's for a while. Its units are of this boot only.
serve_handout() {
  local units=/run/systemd/system
  record handout $HANDOUT
  mkdir -p $units
  printf '[Unit]\nDescription=Keys for the other members of etcd, encrypted\n[Socket]\nListenStream=%s:%s\nAccept=yes\n' "$NODE_ADDRESS" $HANDOUT_PORT >$units/$HANDOUT.socket
  printf '[Service]\nExecStart=/bin/cat %s/handout/sealed\nStandardInput=socket\n' $ETCD_HOME >"$units/$HANDOUT@.service"
  systemctl daemon-reload </dev/null
  systemctl stop "$HANDOUT-end.timer" >/dev/null 2>&1 </dev/null || true
  logged systemctl restart $HANDOUT.socket || die $E_ENVIRONMENT "port $HANDOUT_PORT cannot be listened on" "see journalctl -u $HANDOUT.socket"
  logged systemd-run --unit=$HANDOUT-end --on-active=$HANDOUT_LIFE systemctl stop $HANDOUT.socket || note 'no timer: the handout stays until the next run or boot'
}

# undo_handout NAME
undo_handout() {
  systemctl stop "$1.socket" "$1-end.timer" >/dev/null 2>&1 </dev/null || true
  rm -f "/run/systemd/system/$1.socket" "/run/systemd/system/$1@.service"
  systemctl daemon-reload </dev/null
}

# obtain_keys: this member's, once.
obtain_keys() {
  [ ! -e $ETCD_HOME/member.crt ] || return 0
  own_tree $ETCD_HOME
  own_tree $ETCD_HOME.new
  umask 077
  if [ -n "$OPT_FROM" ]; then
    accept_handout "$ETCD_MEMBER" $ETCD_HOME
  elif [ "${ETCD_MEMBERS[0]%% *}" = "$ETCD_MEMBER" ]; then
    make_keys
  else
    die $E_ENVIRONMENT "the keys come from the first member, ${ETCD_MEMBERS[0]#* }" 'run the line there first, and here the line that it prints'
  fi
  umask 022
}
