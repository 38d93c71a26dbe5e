# shellcheck shell=bash
# The host's firewall: exactly what the role needs is opened in it, kept as that firewall keeps its own rules, or
# (--firewall=off) it is stopped. Undone by down. Each kind is a set of functions: KIND_active, KIND_open, KIND_off.

# ports_of ROLE: what others must reach: port/protocol, or a protocol of its own, a line.
ports_of() {
  case $1 in
    etcd) printf '%s/tcp\n' 2378-2380 ;;
    master) printf '%s/tcp\n' 6443 2379-2380 10250 10257 10259 ;;
    node) printf '%s/tcp\n' 10250 "$NODE_PORTS" ;;
  esac
  if [ "$1" = etcd ]; then return 0; fi
  [ -z "${OPT_VIP:-}" ] || printf 'vrrp\n'
  case $NETWORK_ADDON:$MANIFEST_REPLACE in
    *host-gw* | :*) ;;
    *) printf '8472/udp\n' ;; # vxlan, as flannel and others use it
  esac
}

# pod_sources: the networks whose packets are let in and passed on.
pod_sources() { [ "$ROLE" = etcd ] || printf '%s\n' "$POD_SUBNET"; }

# active_firewalls: the kinds that would stop the cluster's packets here. firewalld and ufw have rules of iptables or nft
# of their own, which are nobody else's to touch.
active_firewalls() {
  local kind
  for kind in firewalld ufw; do
    if "${kind}_active"; then
      printf '%s\n' $kind
      return 0
    fi
  done
  for kind in nft iptables; do
    if "${kind}_active"; then printf '%s\n' $kind; fi
  done
}

open_firewall() {
  local kind kinds
  kinds=$(active_firewalls)
  for kind in $kinds; do
    if [ "$OPT_FIREWALL" = off ]; then
      warn "the firewall ($kind) is stopped (--firewall=off); down starts it again"
      "${kind}_off"
    else
      "${kind}_open"
    fi
  done
}

check_firewall() {
  local kind
  for kind in $(active_firewalls); do
    case $OPT_FIREWALL in
      open) caution "a firewall is active ($kind)" "what the cluster needs is opened in it ($(ports_of "$ROLE" | tr '\n' ' ')and $POD_SUBNET); down closes it again" ;;
      off) caution "a firewall is active ($kind)" 'it is stopped, and kept from starting at boot; down starts it again' ;;
    esac
  done
}

# stop_unit UNIT: now and for the next boots; down starts it again.
stop_unit() {
  note_unit "$1"
  logged systemctl -q disable --now "$1"
}

FIREWALLD_ZONES=/etc/firewalld/zones

firewalld_active() { systemctl is-active -q firewalld >/dev/null 2>&1 </dev/null; }

firewalld_off() { stop_unit firewalld.service; }

firewalld_open() {
  local zone item
  zone=$(firewall-cmd --get-zone-of-interface="$NODE_DEVICE" 2>/dev/null </dev/null || true)
  [ -n "$zone" ] || zone=$(firewall-cmd --get-default-zone </dev/null)
  while read -r item; do
    case $item in
      */*) allow "$zone" port "$item" ;;
      *) allow "$zone" protocol "$item" ;;
    esac
  done < <(ports_of "$ROLE")
  [ -n "$(pod_sources)" ] || return 0
  for item in "$POD_SUBNET" "$SERVICE_SUBNET"; do allow trusted source "$item"; done
}

# allow ZONE port|protocol|source ITEM: now and over reloads, unless the administrator did already.
allow() {
  local permanent
  for permanent in '' --permanent; do
    if firewall-cmd -q ${permanent:+"$permanent"} --zone="$1" --query-"$2"="$3" </dev/null; then continue; fi
    [ -e "$FIREWALLD_ZONES/$1.xml" ] || record zone "$1"
    record firewall "$1" "$2" "$3" "${permanent:---runtime}"
    logged firewall-cmd ${permanent:+"$permanent"} --zone="$1" --add-"$2"="$3"
  done
}

# undo_zone ZONE: firewalld wrote a file of its own for it, which goes if it says no more than the one that it came with.
undo_zone() {
  local file=$FIREWALLD_ZONES/$1.xml given=/usr/lib/firewalld/zones/$1.xml
  if [ -e "$file" ] && [ "$(tr -d '[:space:]' <"$file")" = "$(tr -d '[:space:]' <"$given" 2>/dev/null)" ]; then rm -f "$file" "$file.old"; fi
}

# undo_firewall ZONE KIND ITEM --permanent|--runtime
undo_firewall() {
  local permanent=''
  [ "$4" = --runtime ] || permanent=--permanent
  if ! command -v firewall-cmd >/dev/null 2>&1 || ! firewalld_active; then
    [ -z "$permanent" ] || command -v firewall-offline-cmd >/dev/null 2>&1 || return 0
    [ -z "$permanent" ] || logged firewall-offline-cmd --zone="$1" --remove-"$2"="$3"
    return 0
  fi
  firewall-cmd -q ${permanent:+"$permanent"} --zone="$1" --query-"$2"="$3" </dev/null || return 0
  logged firewall-cmd ${permanent:+"$permanent"} --zone="$1" --remove-"$2"="$3"
}
