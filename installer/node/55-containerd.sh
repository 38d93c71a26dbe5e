# shellcheck shell=bash
# containerd as the runtime: the bundle's server as the only registry, the pause image of the bundle. Its images are
# pulled by digest, tagged as the manifests name them, and marked pinned.

CONTAINERD_SOCKET=/run/containerd/containerd.sock
CONTAINERD_CA=/etc/containerd/kubecarry-ca.pem
CONTAINERD_HOSTS=/etc/containerd/certs.d # where it is said which server to pull from

containerd_programs() { printf 'containerd'; }
containerd_packages() { printf 'containerd(\\.io)?[-=]'; }
containerd_left_out() { printf '^docker[.-]'; } # what a bundle with Docker has beside it
containerd_version() { containerd --version 2>/dev/null | awk '{ print "containerd " $3 }'; }
containerd_socket() { printf '%s' $CONTAINERD_SOCKET; }
containerd_endpoint() { kubeadm_api_from 3 && printf 'unix://%s' $CONTAINERD_SOCKET || printf '%s' $CONTAINERD_SOCKET; } # newer ones want the scheme
containerd_store() { printf '/var/lib/containerd'; }
containerd_note_host() { :; }
containerd_owner() { if command -v containerd >/dev/null 2>&1; then printf 'theirs'; else printf 'ours'; fi; }
containerd_trees() { printf '%s\n' /etc/containerd /var/lib/containerd /run/containerd /opt/containerd; }

# containerd_fixed_driver: only where it is said: containerd's default is no choice of anyone's.
containerd_fixed_driver() {
  systemctl is-active -q containerd 2>/dev/null </dev/null || return 0
  awk '$1 == "SystemdCgroup" { print ($3 == "true" ? "systemd" : "cgroupfs"); exit }' /etc/containerd/config.toml 2>/dev/null || true
}

# containerd_config: the whole config.toml.
containerd_config() {
  cat <<END
version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = $([ $CGROUP_DRIVER = systemd ] && printf true || printf false)

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
END
}

# registry_hosts: a hosts.toml. Its server line takes the place of the upstream, so that nothing is asked there, ever;
# a [host] table alone would only come before it, and a file without one is refused, which leads upstream again.
registry_hosts() {
  local ca='' server
  [ -z "${SERVER_CA:-}" ] || printf -v ca 'ca = "%s"\n' "$CONTAINERD_CA"
  printf 'server = "%s"\n%s' "$SERVER" "$ca"
  while read -r server; do # in this order, the next where one fails
    printf '\n[host."%s"]\n  capabilities = ["pull", "resolve"]\n%s' "$server" "${ca:+  $ca}"
  done <<<"$(all_servers)"
}

containerd_configure() {
  local registry restart
  note_unit containerd.service
  put_file 0644 /etc/containerd/config.toml <<<"$(containerd_config)" # no pipe: CHANGED must reach this shell
  restart=$CHANGED
  [ -z "${SERVER_CA:-}" ] || put_file 0644 $CONTAINERD_CA <<<"$SERVER_CA"
  for registry in $REGISTRIES _default; do
    registry_hosts | put_file 0644 "$CONTAINERD_HOSTS/$registry/hosts.toml" # read at each pull: needs no restart
  done
  configure_crictl
  bypass_proxy containerd
  [ $CHANGED = 0 ] || restart=1
  start_unit containerd "$restart" /etc/containerd/config.toml
  wait_for 60 containerd ctr version || die $E_ENVIRONMENT "containerd does not answer at $CONTAINERD_SOCKET" 'see: journalctl -u containerd'
}

containerd_answers() { timeout 10 ctr version; }

containerd_stale() {
  timeout 10 ctr version 2>/dev/null </dev/null | awk '
    $1 == "Version:" || $1 == "Revision:" { if ($1 in first && first[$1] != $2) stale = 1; first[$1] = $2 } END { exit !stale }'
}

ctr_images() { ctr -n k8s.io images "$@" </dev/null; }

# containerd_complete_images: every part is here and unpacked.
containerd_complete_images() {
  ctr_images check 2>/dev/null | awk '$4 == "complete" && $NF == "true" { print $1, $3 }'
}

containerd_fetch_images() { :; } # each is pulled by itself

# containerd_get_image DIGEST REFERENCE: tried again while the server may be restarting.
containerd_get_image() {
  local digest=$1 ref=$2 begun by_digest output
  by_digest=${ref%:*}@$digest
  clock
  begun=$NOW
  until output=$(ctr_images pull --hosts-dir "$CONTAINERD_HOSTS" --platform "linux/$HOST_ARCH" "$by_digest" 2>&1); do
    clock
    if [ $(((NOW - begun) / 100)) -ge $FETCH_PATIENCE ]; then
      printf 'error: %s (%s) could not be pulled from %s: %s\n' "$ref" "$digest" "$SERVER" "$(tail -n 1 <<<"$output")" >&2
      return 1
    fi
    sleep 0.3
  done
  ctr_images tag --force "$by_digest" "$ref" >/dev/null
  # Newer runtimes' image collection spares what has this label.
  ctr_images label "$ref" io.cri-containerd.pinned=pinned >/dev/null
}

# containerd_record_images: in one that was here before, down removes the images of k8s.io that were not.
containerd_record_images() {
  if is_ours containerd || recorded images; then return 0; fi
  record images "$(ctr_images list -q | keep_lines images)"
}

# undo_images LIST
undo_images() {
  local images=()
  systemctl is-active -q containerd </dev/null || return 0
  mapfile -t images < <(ctr_images list -q | grep -Fxv -f "$STATE/lists/$1")
  [ ${#images[@]} -eq 0 ] || ctr_images rm "${images[@]}" >/dev/null
}

# containerd_containers: of its namespace k8s.io.
containerd_containers() {
  [ -S $CONTAINERD_SOCKET ] || return 0
  command -v ctr >/dev/null 2>&1 || return 0
  timeout 10 ctr -n k8s.io containers list -q 2>/dev/null </dev/null || true
}

# containerd_remove_containers ID…: the CRI's own tool first, since it undoes their networks.
containerd_remove_containers() {
  local id left
  for id; do timeout 20 crictl rmp -f "$id" >/dev/null 2>&1 </dev/null || true; done
  left=$(containerd_containers)
  for id; do
    grep -Fqx -- "$id" <<<"$left" || continue
    timeout 20 ctr -n k8s.io task kill -s SIGKILL "$id" >/dev/null 2>&1 </dev/null || true
    timeout 20 ctr -n k8s.io task rm -f "$id" >/dev/null 2>&1 </dev/null || true
    timeout 20 ctr -n k8s.io container rm "$id" >/dev/null 2>&1 </dev/null || true
  done
}

containerd_foreign() { containerd_others k8s.io; }

# containerd_others NAMESPACE: other namespaces that have containers, if containerd came with us.
containerd_others() {
  local space found=''
  if ! is_ours containerd || ! systemctl is-active -q containerd </dev/null 2>/dev/null; then return 0; fi
  for space in $(timeout 10 ctr namespaces list -q 2>/dev/null </dev/null); do
    [ "$space" != "$1" ] || continue
    [ -z "$(timeout 10 ctr -n "$space" containers list -q 2>/dev/null </dev/null)" ] || found="$found $space"
  done
  [ -z "$found" ] || printf 'namespaces:%s' "$found"
}
