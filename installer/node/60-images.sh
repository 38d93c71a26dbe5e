# shellcheck shell=bash
# Images: pulled by digest before anything needs them, tagged as the manifests name them, and marked pinned.

IMAGE_WORKERS=3
IMAGES_PID='' # the background process that pulls

# role_images: "digest reference" lines of the role.
role_images() {
  awk -v role="$ROLE" '{ n = split($3, roles, ","); for (i = 1; i <= n; i++) if (roles[i] == role) print $1, $2 }' "$CACHE/lists/images"
}

ctr_images() { ctr -n k8s.io images "$@" </dev/null; }

# complete_images: "reference digest" of the images whose every part is here and unpacked.
complete_images() {
  ctr_images check 2>/dev/null | awk '$4 == "complete" && $NF == "true" { print $1, $3 }'
}

# missing_images: the role's lines whose tag is not here, complete, at that digest.
missing_images() {
  role_images | awk -v have="$(complete_images)" '
    BEGIN { n = split(have, lines, "\n"); for (i = 1; i <= n; i++) there[lines[i]] }
    !(($2 " " $1) in there)'
}

# pull_image DIGEST REFERENCE: tried again while the server may be restarting.
pull_image() {
  local digest=$1 ref=$2 begun by_digest output
  by_digest=${ref%:*}@$digest
  clock
  begun=$NOW
  until output=$(ctr_images pull --hosts-dir /etc/containerd/certs.d --platform "linux/$HOST_ARCH" "$by_digest" 2>&1); do
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

# record_images: on a containerd that was here before, down removes the images of k8s.io that were not.
record_images() {
  if containerd_ours || recorded images; then return 0; fi
  record images "$(ctr_images list -q | keep_lines images)"
}

# undo_images LIST
undo_images() {
  local images=()
  systemctl is-active -q containerd </dev/null || return 0
  mapfile -t images < <(ctr_images list -q | grep -Fxv -f "$STATE/lists/$1")
  [ ${#images[@]} -eq 0 ] || ctr_images rm "${images[@]}" >/dev/null
}

# start_images: pulls in the background of other steps; await_images ends with its code.
start_images() {
  fetch lists/images
  record_images
  pull_images &
  IMAGES_PID=$!
}

await_images() {
  local rc=0
  wait "$IMAGES_PID" || rc=$?
  IMAGES_PID=''
  REPORTED=1
  [ $rc -eq 0 ] || exit $rc
  REPORTED=''
}

pull_images() {
  local lines=() worker pids=() pid rc=0
  trap - EXIT ERR
  mapfile -t lines < <(missing_images)
  if [ ${#lines[@]} -eq 0 ]; then
    say 'images are here'
    return 0
  fi
  for ((worker = 0; worker < IMAGE_WORKERS; worker++)); do
    (
      set +e
      for ((i = worker; i < ${#lines[@]}; i += IMAGE_WORKERS)); do
        pull_image "${lines[i]%% *}" "${lines[i]#* }" || exit 1
      done
    ) </dev/null &
    pids+=($!)
  done
  for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid" || rc=1; done
  [ $rc -eq 0 ] || die $E_FETCH 'an image could not be pulled (above)' "check the server (curl $SERVER/healthz), then run the same line again"
  [ -z "$(missing_images)" ] || die $E_INTEGRITY "images are incomplete after the pull: $(missing_images | awk '{ printf "%s ", $2 }')" \
    "see journalctl -u containerd, then run the same line again"
}
