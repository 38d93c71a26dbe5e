# shellcheck shell=bash
# keepalived: gives the virtual address to one master whose API server serves. All begin as BACKUP with nopreempt, so
# that one that comes back does not take the address away from who holds it. A busy host must not delay its adverts: the
# others would take it for dead.

KEEPALIVED_CHECK=/usr/libexec/keepalived/kubecarry-check # where SELinux lets keepalived run scripts
INSTALLING=/run/kubecarry-installing                     # pid of the run that makes the cluster

LAST_READY=/run/kubecarry-ready                          # its time is when the API server was last ready

# api_check: the script that keepalived runs each second. Until the first API server is up, the run that brings it up
# vouches for it, as long as it lives: kubeadm asks its own new API server by the virtual address.
# One that answers but is not ready (after 2 s) mostly waits for etcd, which elects a leader or takes a member in: no
# other master would do better, so it has 15 s for that.
api_check() {
  cat <<END
#!/bin/sh
# Whether this master's API server can serve. Anonymous requests may be forbidden: that is an answer too.
if [ "\${1:-}" != api ] && pid=\$(cat $INSTALLING 2>/dev/null) && [ -d "/proc/\$pid" ]; then exit 0; fi
code=\$(curl -s -o /dev/null -w '%{http_code}' --noproxy '*' --cacert /etc/kubernetes/pki/ca.crt --connect-timeout 2 \\
  --max-time 3 https://$NODE_ADDRESS:6443/readyz)
case \$code in
  200 | 401 | 403) touch $LAST_READY ;;
  500) [ -n "\$(find $LAST_READY -newermt '15 seconds ago' 2>/dev/null)" ] ;;
  *) exit 1 ;;
esac
END
}

# vrrp_priority: differs among addresses of one /24; of equal ones VRRP takes the higher address.
vrrp_priority() {
  cidr_range "$NODE_ADDRESS"
  printf '%s' $((FIRST % 254 + 1))
}

# vrrp_peers: by multicast, or to each of the other masters where they are named.
vrrp_peers() {
  local peer
  if [ -z "$OPT_PEERS" ]; then
    printf '  mcast_src_ip %s\n' "$NODE_ADDRESS"
    return 0
  fi
  printf '  unicast_src_ip %s\n  unicast_peer {\n' "$NODE_ADDRESS"
  for peer in ${OPT_PEERS//,/ }; do
    [ "$peer" = "$NODE_ADDRESS" ] || printf '    %s\n' "$peer"
  done
  printf '  }\n'
}

keepalived_config() {
  cat <<END
global_defs {
  script_user root
  enable_script_security
  vrrp_priority -20
}

vrrp_script kubecarry_api {
  script "$KEEPALIVED_CHECK"
  interval 1
  timeout 4
  fall 2
  rise 2
  init_fail
}

vrrp_instance kubecarry {
  state BACKUP
  nopreempt
  interface $NODE_DEVICE
  virtual_router_id $(vrid)
  priority $(vrrp_priority)
  advert_int 1
  garp_master_refresh 60
$(vrrp_peers)
  virtual_ipaddress {
    $OPT_VIP/32 dev $NODE_DEVICE
  }
  track_script {
    kubecarry_api
  }
}
END
}

# keepalived_unit: what the package's unit lacks: a keepalived that was killed must not leave the address behind, since
# another master takes it.
keepalived_unit() {
  printf '[Service]\nRestart=always\nRestartSec=1\nExecStopPost=-%s address del %s/32 dev %s\n' "$(command -v ip)" "$OPT_VIP" "$NODE_DEVICE"
}

# keepalived_options: VRRP alone: without IPVS in the kernel its other half does not start.
keepalived_options() {
  if [ -d /etc/sysconfig ]; then
    put_file 0644 /etc/sysconfig/keepalived <<<'KEEPALIVED_OPTIONS="-D -P"'
  else
    put_file 0644 /etc/default/keepalived <<<'DAEMON_ARGS="-D -P"'
  fi
}

# configure_keepalived: writes its files; sets CHANGED to 1 if it must be started anew for one.
configure_keepalived() {
  local any=0
  put_file 0755 $KEEPALIVED_CHECK <<<"$(api_check)"
  ! command -v restorecon >/dev/null 2>&1 || logged restorecon $KEEPALIVED_CHECK
  put_file 0644 /etc/systemd/system/keepalived.service.d/kubecarry.conf <<<"$(keepalived_unit)"
  [ $CHANGED = 0 ] || any=1
  keepalived_options
  [ $CHANGED = 0 ] || any=1
  put_file 0600 /etc/keepalived/keepalived.conf <<<"$(keepalived_config)"
  [ $any = 0 ] || CHANGED=1
}

# raise_vip: starts keepalived. It holds the address only while the API server here is good, or (first master) made.
raise_vip() {
  command -v keepalived >/dev/null 2>&1 || die $E_ENVIRONMENT "the bundle brought no keepalived for $HOST_OS, which would move $OPT_VIP" \
    "build the bundle with keepalived among the master's packages"
  record vip "$OPT_VIP" "$NODE_DEVICE"
  configure_keepalived
  note_unit keepalived.service # after its files, to be undone before them: systemctl knows no unit whose drop-in is gone
  if [ -z "$REPLICA" ] && [ "$(state_get cluster)" != 'done' ]; then printf '%s' $$ >$INSTALLING; fi
  [ $CHANGED = 0 ] || systemctl daemon-reload </dev/null
  enable_unit keepalived.service
  if ! systemctl is-active -q keepalived.service </dev/null; then
    logged systemctl start keepalived.service || die $E_ENVIRONMENT 'keepalived does not start' 'see: journalctl -u keepalived'
  elif [ $CHANGED = 1 ]; then
    logged systemctl restart keepalived.service || die $E_ENVIRONMENT 'keepalived does not start again' 'see: journalctl -u keepalived'
  fi
}

vip_held() { [ -n "$(device_of "$OPT_VIP")" ]; }

# await_vip: before the first API server is made, which is asked by this address.
await_vip() {
  if [ -z "$OPT_VIP" ] || [ "$(state_get cluster)" = 'done' ]; then return 0; fi
  wait_for 30 "$OPT_VIP to come up" vip_held || die $E_ENVIRONMENT "keepalived does not bring $OPT_VIP up" 'see: journalctl -u keepalived'
}

# settle_vip: from here on the API server has to speak for itself.
settle_vip() {
  [ -e $INSTALLING ] || return 0
  wait_for "$OPT_TIMEOUT" 'the API server on this host' $KEEPALIVED_CHECK api ||
    die $E_ENVIRONMENT "the API server at $NODE_ADDRESS:6443 is not ready" 'see journalctl -u kubelet and /var/log/pods, then run the same line again'
  rm -f $INSTALLING
}

# undo_vip ADDRESS DEVICE: after keepalived was stopped, which takes it away itself.
undo_vip() {
  rm -f $INSTALLING $LAST_READY
  if [ "$(device_of "$1")" = "$2" ]; then ip -4 address del "$1/32" dev "$2"; fi
}

# other_masters: names of the cluster's masters that are Ready, but this one.
other_masters() {
  kube get nodes -l node-role.kubernetes.io/control-plane \
    -o 'jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' 2>/dev/null | awk -v self="$(state_get name)" '$2 == "True" && $1 != self { print $1 }' || true
}

# hand_over: where other masters live, one of them gets the address before this one leaves: kubeadm takes this one's
# etcd out of the others' through it.
hand_over() {
  recorded vip || return 0
  if [ ! -e $ADMIN_CONF ] || [ -z "$(other_masters)" ]; then return 0; fi
  logged systemctl stop keepalived.service || true
  wait_for 30 'another master to take the virtual address over' api_healthy || warn 'no other master took the virtual address over'
}
