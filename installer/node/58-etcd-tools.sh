# shellcheck shell=bash
# etcd's own programs, taken out of the bundle's etcd image: nothing more is downloaded, and nothing needs to run.

BLOB=''       # path of the blob that image_blob found last
ETCD_LAYERS=() # paths of an image's layers

# etcd_image: the digest of the bundle's etcd image; nothing if it has none.
etcd_image() { awk '$2 ~ /\/etcd(-[a-z0-9]+)?:/ { print $1; exit }' "$CACHE/lists/images"; }

# digests_in FILE: every digest that a manifest or an index names, in its order.
digests_in() { grep -oE 'sha256:[0-9a-f]{64}' "$1" | awk '!seen[$0]++'; }

# image_blob DIGEST: sets BLOB: containerd's own copy where it is whole, so that no server is needed; else the server's.
# 1 if the bundle does not carry it (the image of another architecture).
image_blob() {
  local hex=${1#sha256:}
  BLOB=/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256/$hex
  if is_sum "$hex" "$BLOB"; then return 0; fi
  [ -n "$(sum_of "images/blobs/sha256/$hex")" ] || return 1
  fetch "images/blobs/sha256/$hex"
  BLOB=$CACHE/images/blobs/sha256/$hex
}

# find_layers DIGEST: sets ETCD_LAYERS to the layers of an image; of an index, to those of this architecture's image.
find_layers() {
  local digest manifest
  image_blob "$1" || return 1
  manifest=$BLOB
  ETCD_LAYERS=()
  while read -r digest; do
    if ! grep -q '"layers"' "$manifest"; then
      if find_layers "$digest"; then return 0; fi
    elif ! image_blob "$digest"; then
      return 1
    elif [ "$(head -c 1 "$BLOB" | tr -d '\0')" != '{' ]; then
      ETCD_LAYERS+=("$BLOB")
    else
      grep -Eq "\"architecture\" *: *\"$HOST_ARCH\"" "$BLOB" || return 1
    fi
  done < <(digests_in "$manifest")
  [ ${#ETCD_LAYERS[@]} -gt 0 ]
}

# take_etcd_tools: etcd, etcdctl and, where the image has it, etcdutl in $STATE/etcd/bin, once for each image.
take_etcd_tools() {
  local digest layer new=$STATE/etcd/new paths=()
  detect_arch
  [ -e "$CACHE/SHA256SUMS" ] || fetch_sums
  [ -e "$CACHE/lists/images" ] || fetch lists/images
  digest=$(etcd_image)
  [ "$(cat "$STATE/etcd/digest" 2>/dev/null)" != "$digest" ] || return 0
  find_layers "${digest:-none}" || die $E_INTEGRITY "the bundle has no etcd image for $HOST_ARCH" 'verify the bundle on the server'
  rm -rf "$new"
  mkdir -p "$new"
  for layer in "${ETCD_LAYERS[@]}"; do
    mapfile -t paths < <(tar -tf "$layer" | grep -E '^(\./)?usr/local/bin/(etcd|etcdctl|etcdutl)$')
    [ ${#paths[@]} -eq 0 ] || tar -xf "$layer" -C "$new" --no-same-owner "${paths[@]}"
  done
  ETCDCTL_API=3 "$new/usr/local/bin/etcdctl" version >/dev/null 2>&1 </dev/null || die $E_INTEGRITY 'etcdctl of the bundle does not run on this host' "see $LOG"
  rm -rf "$STATE/etcd/bin"
  mv "$new/usr/local/bin" "$STATE/etcd/bin"
  printf '%s' "$digest" >"$STATE/etcd/digest"
}

# etcd_snapshot ARG…: the program that knows snapshot files: etcdutl from 3.5 on, etcdctl before.
etcd_snapshot() {
  local tool=$STATE/etcd/bin/etcdutl
  [ -x "$tool" ] || tool=$STATE/etcd/bin/etcdctl
  ETCDCTL_API=3 "$tool" snapshot "$@" </dev/null
}
