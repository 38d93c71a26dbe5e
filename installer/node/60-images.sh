# shellcheck shell=bash
# Images: brought before anything needs them, by digest, under the names that the manifests have for them.

IMAGE_WORKERS=3
IMAGES_PID='' # the background process that pulls

# role_images: "digest reference" lines of the role.
role_images() {
  awk -v role="$ROLE" '{ n = split($3, roles, ","); for (i = 1; i <= n; i++) if (roles[i] == role) print $1, $2 }' "$CACHE/lists/images"
}

# missing_images: the role's lines whose tag is not here, complete, at that digest.
missing_images() {
  role_images | awk -v have="$(runtime complete_images)" '
    BEGIN { n = split(have, lines, "\n"); for (i = 1; i <= n; i++) there[lines[i]] }
    !(($2 " " $1) in there)'
}

# start_images: pulls in the background of other steps; await_images ends with its code.
start_images() {
  fetch lists/images lists/layers
  runtime record_images
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
  runtime fetch_images "${lines[@]}"
  for ((worker = 0; worker < IMAGE_WORKERS; worker++)); do
    (
      set +e
      for ((i = worker; i < ${#lines[@]}; i += IMAGE_WORKERS)); do
        runtime get_image "${lines[i]%% *}" "${lines[i]#* }" || exit 1
      done
    ) </dev/null &
    pids+=($!)
  done
  for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid" || rc=1; done
  [ $rc -eq 0 ] || die $E_FETCH 'an image could not be brought (above)' "check the server (curl $SERVER/healthz), then run the same line again"
  [ -z "$(missing_images)" ] || die $E_INTEGRITY "images are incomplete after that: $(missing_images | awk '{ printf "%s ", $2 }')" \
    "see journalctl -u $NODE_RUNTIME, then run the same line again"
  rm -rf "$CACHE/images"
}
