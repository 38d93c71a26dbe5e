# shellcheck shell=bash
# What the host gives to services and must not come between the cluster's own addresses: proxies, NetworkManager.

NM_CONF=/etc/NetworkManager/conf.d/kubecarry.conf

# service_environment UNIT: NAME=VALUE a line: the manager's, then the unit's own, which wins.
service_environment() {
  {
    systemctl show --property=Environment
    systemctl show --property=DefaultEnvironment
    systemctl show --property=Environment "$1"
  } 2>/dev/null </dev/null | sed -e 's/^[A-Za-z]*Environment=//' -e 's/"//g' | tr ' ' '\n'
}

# has_proxy <NAME=VALUE lines
has_proxy() { grep -Eqi '^(https?|all)_proxy=.'; }

# unproxied: what never lies behind a proxy, separated by commas.
unproxied() {
  local own
  own=$(ip -4 -o addr show 2>/dev/null | awk -v a="$NODE_ADDRESS" '{ split($4, p, "/"); if (p[1] == a) { print $4; exit } }') || true
  printf '%s,' localhost 127.0.0.1 "$NODE_ADDRESS" "${own:-$NODE_ADDRESS}" "$(server_host)" "${MASTER_HOST:-$NODE_ADDRESS}" "$POD_SUBNET" "$SERVICE_SUBNET" .svc
  printf '.cluster.local'
}

# bypass_proxy UNIT: where it has a proxy, NO_PROXY is extended by the cluster's addresses. Sets CHANGED.
bypass_proxy() {
  local unit=$1 given list
  CHANGED=0
  given=$(service_environment "$unit")
  has_proxy <<<"$given" || return 0
  list=$(sed -n 's/^\(NO_PROXY\|no_proxy\)=//p' <<<"$given" | tail -n 1),$(unproxied)
  list=$(tr ',' '\n' <<<"$list" | awk 'NF && !seen[$0]++' | paste -sd , -)
  record reload systemd
  printf '[Service]\nEnvironment="NO_PROXY=%s" "no_proxy=%s"\n' "$list" "$list" >"$STATE/tmp/proxy.conf"
  put_file 0644 "/etc/systemd/system/$unit.service.d/zz-kubecarry-proxy.conf" <"$STATE/tmp/proxy.conf"
  [ $CHANGED = 0 ] || systemctl daemon-reload </dev/null
}

undo_reload() {
  case $1 in
    systemd) systemctl daemon-reload </dev/null 2>/dev/null || true ;;
    NetworkManager) ! networkmanager_active || systemctl reload NetworkManager </dev/null 2>/dev/null || true ;;
  esac
}

# release_interfaces: NetworkManager would configure, or take down, what the pod network makes.
release_interfaces() {
  networkmanager_active || return 0
  record reload NetworkManager
  put_file 0644 $NM_CONF <<<'[keyfile]
unmanaged-devices+=interface-name:cni0;interface-name:flannel*;interface-name:cali*;interface-name:tunl*;interface-name:veth*'
  [ $CHANGED = 0 ] || logged systemctl reload NetworkManager || note 'NetworkManager could not be reloaded'
}
