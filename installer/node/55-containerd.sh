# shellcheck shell=bash
# containerd: the bundle's server as the only registry, systemd cgroups, the pause image of the bundle.

CONTAINERD_SOCKET=/run/containerd/containerd.sock
CONTAINERD_CA=/etc/containerd/kubecarry-ca.pem

# containerd_config: the whole config.toml.
containerd_config() {
  cat <<END
version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
END
}

# registry_hosts: a hosts.toml. Its server line takes the place of the upstream, so that nothing is asked there, ever;
# a [host] table alone would only come before it, and a file without one is refused, which leads upstream again.
registry_hosts() {
  local ca='' server
  [ -z "${SERVER_CA:-}" ] || printf -v ca 'ca = "%s"\n' $CONTAINERD_CA
  printf 'server = "%s"\n%s' "$SERVER" "$ca"
  while read -r server; do # in this order, the next where one fails
    printf '\n[host."%s"]\n  capabilities = ["pull", "resolve"]\n%s' "$server" "${ca:+  $ca}"
  done <<<"$(all_servers)"
}

# containerd_ours: whether containerd came with this installation (decided at the first run, before packages).
containerd_ours() { [ "$(state_get containerd)" = ours ]; }

configure_containerd() {
  local registry restart
  note_unit containerd.service
  put_file 0644 /etc/containerd/config.toml <<<"$(containerd_config)" # no pipe: CHANGED must reach this shell
  restart=$CHANGED
  [ -z "${SERVER_CA:-}" ] || put_file 0644 $CONTAINERD_CA <<<"$SERVER_CA"
  for registry in $REGISTRIES _default; do
    registry_hosts | put_file 0644 "/etc/containerd/certs.d/$registry/hosts.toml" # read at each pull: needs no restart
  done
  printf 'runtime-endpoint: unix://%s\nimage-endpoint: unix://%s\ntimeout: 10\n' $CONTAINERD_SOCKET $CONTAINERD_SOCKET |
    put_file 0644 /etc/crictl.yaml
  start_containerd "$restart"
}

# start_containerd 0|1: restarted only if its configuration changed.
start_containerd() {
  enable_unit containerd.service
  if ! systemctl is-active -q containerd.service </dev/null; then
    logged systemctl start containerd.service || die $E_ENVIRONMENT 'containerd does not start' 'see: journalctl -u containerd'
  elif [ "$1" = 1 ]; then
    logged systemctl restart containerd.service || die $E_ENVIRONMENT 'containerd does not start again' 'see: journalctl -u containerd'
  fi
  wait_for 60 containerd ctr version || die $E_ENVIRONMENT "containerd does not answer at $CONTAINERD_SOCKET" 'see: journalctl -u containerd'
}
