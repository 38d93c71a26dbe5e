# shellcheck shell=bash
# Docker as the runtime, through the kubelet's own dockershim. Its images come as archives that are made here of blobs
# which were checked against SHA256SUMS: the daemon itself asks no registry, so none has to be trusted for it.

DOCKER_SETTINGS=/etc/docker/daemon.json
DOCKERSHIM_SOCKET=/var/run/dockershim.sock
BLOBS=images/blobs/sha256

docker_programs() { printf 'containerd docker'; }
docker_packages() { printf 'containerd|docker[.-]'; }
docker_left_out() { is_ours docker || printf '^(containerd|docker[.-])'; }
docker_version() { docker --version 2>/dev/null </dev/null | awk '{ sub(/,$/, "", $3); print "docker " $3 }'; }
docker_socket() { printf '%s' $DOCKERSHIM_SOCKET; }
docker_endpoint() { printf '%s' $DOCKERSHIM_SOCKET; } # without a scheme: it is how kubeadm knows Docker
docker_store() { printf '/var/lib/docker'; }
docker_trees() { printf '%s\n' /etc/docker /var/lib/docker /run/docker; }

docker_owner() { if systemctl cat docker.service >/dev/null 2>&1 </dev/null; then printf 'theirs'; else printf 'ours'; fi; }

docker_active() { systemctl is-active -q docker.service 2>/dev/null </dev/null; }

# docker_says NAME: what `docker info` has under that name. As text: it has had a --format only since 1.13.
docker_says() { timeout 20 docker info 2>/dev/null </dev/null | sed -n "s/^ *$1: *//p" | head -n 1 || true; }

# docker_fixed_driver: that of a daemon that runs, or was installed here, or will run with settings that are here. What
# the daemon does where they say nothing is cgroupfs, but for cgroup v2.
docker_fixed_driver() {
  local said
  if is_ours docker-settings; then return 0; fi # a killed run may not have come to write them
  if docker_active; then
    docker_says 'Cgroup Driver'
  elif [ -s $DOCKER_SETTINGS ] || [ "$(docker_owner)" = theirs ]; then
    said=$(grep -Eos 'native\.cgroupdriver=[a-z]+' $DOCKER_SETTINGS | head -n 1) || true
    if [ -n "$said" ]; then
      printf '%s' "${said#*=}"
    elif [ -e /sys/fs/cgroup/cgroup.controllers ]; then
      printf 'systemd'
    else
      printf 'cgroupfs'
    fi
  fi
}

# docker_settings: the whole daemon.json. Pods have CNI's network: no bridge of Docker's own, no rule of its firewall's.
docker_settings() {
  cat <<END
{
  "bridge": "none",
  "exec-opts": ["native.cgroupdriver=$CGROUP_DRIVER"],
  "ip-forward": false,
  "ip-masq": false,
  "iptables": false,
  "log-driver": "json-file",
  "log-opts": {"max-file": "3", "max-size": "100m"},
  "storage-driver": "overlay2"
}
END
}

# docker_note_host: before packages, since those of some hosts start what they install.
docker_note_host() {
  local settings=ours ran=no
  [ -z "$(state_get docker-ran)" ] || return 0
  getent group docker >/dev/null || record group docker # its packages add it, and leave it
  if docker_active; then ran=yes; fi
  if [ "$(docker_owner)" = theirs ] || [ -e $DOCKER_SETTINGS ]; then settings=theirs; fi
  state_set docker-settings $settings
  state_set docker-ran $ran
}

# undo_group NAME: unless somebody is in it by now.
undo_group() {
  local members
  members=$(getent group "$1") || return 0
  [ -n "${members##*:}" ] || groupdel "$1"
}

# docker_configure: a daemon that was here keeps its settings, and so does one that finds some; so does EL's own, whose
# unit has them as options, and refuses to start if they are said twice.
docker_configure() {
  local restart=0
  if ! services && is_ours docker-settings; then
    put_file 0644 $DOCKER_SETTINGS <<<"$(docker_settings)"
    restart=$CHANGED
  fi
  docker_trust_server
  configure_crictl
  docker_start "$restart"
}

# docker_start 0|1: where it ran before us, down must not stop it, nor restart it: its containers would end.
docker_start() {
  local unit driver
  if [ "$(state_get docker-ran)" = yes ]; then
    docker_enable
  else
    for unit in containerd.service docker.socket docker.service; do docker_note_unit $unit; done
    start_unit docker "$1" $DOCKER_SETTINGS
  fi
  wait_for 60 docker docker info || die $E_ENVIRONMENT 'docker does not answer' 'see: journalctl -u docker'
  driver=$(docker_says 'Cgroup Driver')
  [ "$driver" = "$CGROUP_DRIVER" ] || die $E_ENVIRONMENT "docker uses the cgroup driver $driver, the kubelet would use $CGROUP_DRIVER" \
    "set native.cgroupdriver=$CGROUP_DRIVER in exec-opts of $DOCKER_SETTINGS, restart docker, then run the same line again"
}

# docker_note_unit UNIT: what came with us never ran before, whatever its package did.
docker_note_unit() {
  systemctl cat "$1" >/dev/null 2>&1 </dev/null || return 0
  case $1 in
    containerd.*) is_ours containerd ;;
    *) is_ours docker ;;
  esac || { note_unit "$1"; return 0; }
  recorded unit "$1" || record unit "$1" absent inactive
}

docker_answers() { timeout 20 docker info; }

# docker_stale: one that ran before us is not ours to restart.
docker_stale() {
  local versions
  [ "$(state_get docker-ran)" != yes ] || return 1
  versions=$(timeout 20 docker version --format '{{.Client.Version}} {{.Server.Version}}' 2>/dev/null </dev/null) || return 1
  [ "${versions% *}" != "${versions#* }" ]
}

docker_enable() {
  ! systemctl is-enabled -q docker.service 2>/dev/null </dev/null || return 0
  record enabled docker.service
  logged systemctl -q enable docker.service
}

undo_enabled() { systemctl -q disable "$1" </dev/null 2>/dev/null; }

# docker_trust_server: for an operator's own `docker pull SERVER/…`: the server's CA, for the server alone.
docker_trust_server() {
  local server host
  [ -n "${SERVER_CA:-}" ] || return 0
  while read -r server; do
    host=${server#*://}
    printf '%s' "$SERVER_CA" | put_file 0644 "/etc/docker/certs.d/${host%%/*}/ca.crt"
  done <<<"$(all_servers)"
}

# image_parts DIGEST: config and layers, sha256 hex, of the image for this architecture.
image_parts() {
  awk -v digest="$1" -v arch="$HOST_ARCH" '$1 == digest && $2 == arch { for (i = 3; i <= NF; i++) print substr($i, 8); exit }' "$CACHE/lists/layers"
}

# docker_complete_images: Docker names an image by the digest of its config, and has checked its layers against that.
docker_complete_images() {
  local digest ref id
  detect_arch
  while read -r digest ref; do
    id=$(docker_image_id "$ref") || continue
    [ "$id" != "sha256:$(image_parts "$digest" | head -n 1)" ] || printf '%s %s\n' "$ref" "$digest"
  done < <(role_images)
}

docker_fetch_images() {
  local line paths=()
  mapfile -t paths < <(for line; do image_parts "${line%% *}"; done | sort -u | sed "s|^|$BLOBS/|")
  fetch "${paths[@]}"
}

# docker_get_image DIGEST REFERENCE: an archive as `docker save` writes it, but with the layers as they came; the
# daemon unpacks them and refuses any whose content is not what the config says.
docker_get_image() {
  local digest=$1 ref=$2 parts=() place=$STATE/tmp/image-${1#sha256:} output
  mapfile -t parts < <(image_parts "$digest")
  if [ ${#parts[@]} -lt 2 ]; then
    printf 'error: %s (%s) is not in lists/layers for %s\n' "$ref" "$digest" "$HOST_ARCH" >&2
    return 1
  fi
  docker_record_image "$ref" "sha256:${parts[0]}"
  mkdir -p "$place"
  printf '[{"Config":"%s","RepoTags":["%s"],"Layers":[%s]}]\n' "${parts[0]}" "$ref" \
    "$(printf '"%s"\n' "${parts[@]:1}" | paste -s -d ,)" >"$place/manifest.json"
  if ! output=$(docker_archive "$place" "${parts[@]}" | docker load -q 2>&1); then
    printf 'error: %s (%s) could not be loaded into docker: %s\n' "$ref" "$digest" "$(tail -n 1 <<<"$output")" >&2
    return 1
  fi
  rm -rf "$place"
}

docker_record_images() { :; } # each by itself

docker_image_id() { docker inspect --type image --format '{{.Id}}' "$1" 2>/dev/null </dev/null; }

# docker_record_image REFERENCE ID: in a Docker that was here before, with what the name means there.
docker_record_image() {
  local was
  is_ours docker || recorded image "$1" || {
    was=$(docker_image_id "$1") || was=-
    record image "$1" "$2" "$was"
  }
}

# undo_image REFERENCE ID FORMER-ID: one that somebody uses by now stays.
undo_image() {
  docker_active && [ "$(docker_image_id "$1")" = "$2" ] || return 0
  if [ "$3" = - ]; then
    logged docker rmi --no-prune "$1" || note "$1 stays"
  elif [ "$3" != "$2" ]; then
    logged docker tag "$3" "$1"
    logged docker rmi --no-prune "$2" || note "$2 stays"
  fi
}

# docker_archive DIRECTORY BLOB…: a tar of its manifest.json and of the blobs, to stdout.
docker_archive() {
  local place=$1
  shift
  printf '%s\n' "$@" | sort -u | tar -C "$place" -cf - manifest.json -C "$CACHE/$BLOBS" -T -
}

# docker_ids ARG…: ids of containers.
docker_ids() {
  docker_active || return 0
  timeout 20 docker ps -aq --no-trunc "$@" 2>/dev/null </dev/null || true
}

docker_containers() { docker_ids --filter label=io.kubernetes.docker.type; }

docker_remove_containers() {
  logged timeout 120 docker rm -f -v "$@" || true
}

# docker_foreign: other containers of it, and of its containerd.
docker_foreign() {
  local other
  other=$(is_ours docker && docker_ids | grep -Fxv -f <(docker_containers; echo -) | cut -c 1-12 | tr '\n' ' ') || true
  printf '%s%s' "${other:+containers: $other}" "$(containerd_others moby)"
}
