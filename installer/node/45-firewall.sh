# shellcheck shell=bash
# firewalld: exactly the ports that the role needs, or (--firewall=off) stopped. Both undone by down.

# ports_of ROLE: port/protocol a line.
ports_of() {
  case $1 in
    etcd) printf '%s/tcp\n' 2378-2380 ;;
    master) printf '%s/tcp\n' 6443 2379-2380 10250 10257 10259 ;;
    node) printf '%s/tcp\n' 10250 "$NODE_PORTS" ;;
  esac
}

open_firewall() {
  local zone item
  firewalld_active || return 0
  if [ "$OPT_FIREWALL" = off ]; then
    warn 'firewalld is stopped and disabled (--firewall=off); down starts it again'
    note_unit firewalld.service
    logged systemctl -q disable --now firewalld.service
    return 0
  fi
  zone=$(firewall-cmd --get-zone-of-interface="$NODE_DEVICE" 2>/dev/null </dev/null || true)
  [ -n "$zone" ] || zone=$(firewall-cmd --get-default-zone </dev/null)
  while read -r item; do allow "$zone" port "$item"; done < <(ports_of "$ROLE")
  if [ "$ROLE" = etcd ]; then return 0; fi
  [ -z "$OPT_VIP" ] || allow "$zone" protocol vrrp
  for item in "$POD_SUBNET" "$SERVICE_SUBNET"; do allow trusted source "$item"; done
}

# allow ZONE port|source ITEM: now and over reloads, unless the administrator did already.
allow() {
  local permanent
  for permanent in '' --permanent; do
    if firewall-cmd -q ${permanent:+"$permanent"} --zone="$1" --query-"$2"="$3" </dev/null; then continue; fi
    record firewall "$1" "$2" "$3" "${permanent:---runtime}"
    logged firewall-cmd ${permanent:+"$permanent"} --zone="$1" --add-"$2"="$3"
  done
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
