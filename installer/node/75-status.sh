# shellcheck shell=bash
# status: what this host is, and what differs from what was installed. Changes nothing; needs no server.

DIFFERS=0

# tell KEY TEXT: a line of status.
tell() { printf '%-10s %s\n' "$1" "$2"; }

# differs TEXT
differs() {
  tell differs "$1"
  DIFFERS=$((DIFFERS + 1))
}

# changed_files: compares each file that we put with its digest in the journal (the last one counts).
changed_files() {
  local path sum
  while IFS=$'\t' read -r path sum; do
    if [ ! -e "$path" ]; then
      differs "$path is missing"
    elif ! is_sum "$sum" "$path"; then
      differs "$path was changed after the installation"
    fi
  done < <(awk -F'\t' '$1 == "file" { sum[$2] = $4 } END { for (p in sum) print p "\t" sum[p] }' "$STATE/journal" | sort)
}

status_units() {
  local unit state main units
  units="$(runtime programs) kubelet"
  ! services || units=$(service_units)
  for unit in $units; do
    # What Docker is made of besides, it starts itself, and an old one has no unit for.
    case $unit in containerd) [ "$NODE_RUNTIME" = containerd ] && main=1 || main='' ;; *) main=1 ;; esac
    [ -n "$main" ] || systemctl cat "$unit.service" >/dev/null 2>&1 </dev/null || continue
    state=$(systemctl is-active "$unit" 2>/dev/null </dev/null || true)
    tell service "$unit ${state:-absent}"
    [ "$state" = active ] || differs "$unit is ${state:-absent}"
    [ -z "$main" ] || systemctl is-enabled -q "$unit" 2>/dev/null </dev/null || differs "$unit does not start at boot"
  done
}

status_packages() {
  local name
  while read -r name; do
    of_format here "$name" || differs "package $name is not installed any more"
  done < <(listed_packages | awk '{ name = $0; if (!sub(/=.*/, "", name)) sub(/-[^-]*-[^-]*$/, "", name); arch = $0; if (!sub(/.*=.*/, "", arch)) sub(/.*\./, "", arch); last[name "." arch] = $0 }
    END { for (one in last) print last[one] }' | sort)
  tell versions "$(component_version), $(runtime version)"
  [[ $(component_version) == *" $(state_get version)" ]] || differs "$(component_version) is not the $(state_get version) installed"
}

# status_images: of the role, while there is a runtime to ask.
status_images() {
  local ref
  ROLE=$(state_get role)
  if [ ! -e "$CACHE/lists/images" ] || ! systemctl is-active -q "$NODE_RUNTIME" 2>/dev/null </dev/null; then return 0; fi
  while read -r _ ref; do differs "image $ref is missing or incomplete"; done < <(missing_images)
}

status_host() {
  local key
  if [ "$(state_get swap)" = off ] && [ -n "$(swap_devices)" ]; then differs "swap is on: $(swap_devices | xargs)"; fi
  for key in net.bridge.bridge-nf-call-iptables net.ipv4.ip_forward; do
    [ "$(sysctl -n $key 2>/dev/null)" = 1 ] || differs "$key is not 1"
  done
  if recorded route && [ -z "$(ip -4 route show exact "$(state_get services)" 2>/dev/null)" ]; then
    differs "the route to $(state_get services) is gone"
  fi
  [ -n "$(device_of "$NODE_ADDRESS")" ] || differs "$NODE_ADDRESS is no address of this host any more"
}

# status_vip: who has the virtual address; another master's keepalived cannot be seen, but whether it answers can.
status_vip() {
  local vip
  vip=$(state_get vip)
  [ -n "$vip" ] || return 0
  if [ -n "$(device_of "$vip")" ]; then
    tell address "$vip is held here"
  elif curl -k -s -o /dev/null --noproxy '*' --max-time 3 "https://$vip:6443/healthz"; then
    tell address "$vip is held by another master"
  else
    differs "$vip, the cluster's address, does not answer"
  fi
  systemctl is-active -q keepalived </dev/null || differs 'keepalived does not run: this master cannot take the virtual address'
}

# etcd_get URL [ARG…]: curl as a health check of the cluster's own etcd.
etcd_get() {
  local pki=/etc/kubernetes/pki/etcd
  curl -s --noproxy '*' --cacert $pki/ca.crt --cert $pki/healthcheck-client.crt --key $pki/healthcheck-client.key --max-time 5 "$@"
}

# etcd_members <member list, JSON: "name client-URL" lines; a member that never started has neither.
etcd_members() {
  sed 's/},{/}\n{/g' | sed -n -e 's/.*"name":"\([^"]*\)".*"clientURLs":\["\([^"]*\)".*/\1 \2/p' -e '/"clientURLs"/!s/.*"peerURLs":\["\([^"]*\)".*/\1 -/p'
}

# status_etcd: each member of the masters' own etcd.
status_etcd() {
  local name url
  [ -e /etc/kubernetes/pki/etcd/healthcheck-client.key ] || return 0
  while read -r name url; do
    [ -n "$name" ] || differs 'etcd on this host does not answer'
    [ -n "$name" ] || continue
    if [ "$url" != - ] && grep -q '"health": *"true"' <<<"$(etcd_get "$url/health")"; then
      tell etcd "$name is healthy"
    else
      differs "etcd member $name is not healthy"
    fi
  done <<<"$(etcd_get -X POST -d '{}' https://127.0.0.1:2379/v3/cluster/member/list | etcd_members)"
}

status_cluster() {
  if ! api_healthy >/dev/null 2>&1; then
    differs 'the API server does not answer'
    [ ! -d $HELD ] || differs 'an interrupted renew or restore stopped the control plane: run the same line again'
  elif services && [ "$(state_get role)" = master ]; then
    tell cluster 'the API server answers; a master of services is no node'
  elif node_ready; then
    tell cluster "$NODE_NAME is Ready"
  else
    differs "$NODE_NAME is not Ready"
  fi
}

# status: exit 0 if all is as installed, else 7.
status() {
  local replica
  if [ ! -e "$STATE/journal" ]; then
    tell node 'nothing is installed here by Kubecarry'
    return $E_ENVIRONMENT
  fi
  status_member
  if recorded etcd && [ -z "$(state_get role)" ]; then
    changed_files
    status_certificates
  else
    status_node
  fi
  [ $DIFFERS -eq 0 ] || return $E_ENVIRONMENT
}

# status_node: of a master or a node.
status_node() {
  detect_os
  recall_runtime
  NODE_NAME=$(state_get name)
  NODE_ADDRESS=$(state_get address)
  replica=$(state_get replica)
  tell node "$NODE_NAME ($NODE_ADDRESS), $(state_get role)${replica:+ (further)}, Kubernetes $(state_get version), from $(state_get server)"
  tell steps "$(sed -n 's/^step-//p' "$STATE/state" | awk -F= '{ printf "%s%s %s", s, $1, $2; s = ", " }')"
  [ -z "$(state_get upgrading)" ] || differs "the upgrade to $(state_get upgrading) is unfinished (it was at: $(state_get upgrade-step)): run the verb upgrade again"
  status_packages
  status_units
  status_images
  status_host
  changed_files
  [ "$(state_get sealed)" != yes ] || sealed_report
  status_certificates
  status_vip
  status_etcd
  if [ "$(state_get cluster)" = 'done' ]; then status_cluster; else differs 'the installation is unfinished: run the same line again'; fi
}
