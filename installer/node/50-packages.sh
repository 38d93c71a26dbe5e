# shellcheck shell=bash
# Packages: the role's closure, fetched and checked by us, installed by the host's own package manager from a local
# repository; no other repository is asked. What depends on the format (51-rpm.sh, 52-deb.sh), called by its name:
#   manager_faults      tells what is wrong with the host's package manager
#   for_here <PATHS     those of the bundle's package paths that are for this architecture
#   names FILE…         "FULL NAME" of package files: name with version, and what stands for any version of it
#   have                "have NAME FULL" of each package that is installed
#   here NAME|FULL      whether it is installed
#   own                 records what packages leave behind on their removal
#   offer               the local repository, ready to install from; what only this does to the host is recorded
#   install FULL…       from it, in one transaction
#   remove FULL…        in one transaction, since they need each other

# of_format FUNCTION [ARG…]
of_format() {
  local function=${HOST_FORMAT}_$1
  shift
  "$function" "$@"
}

# role_packages: paths of the role's packages for this architecture; the list, of all of them, is fetched first.
role_packages() { of_format for_here <"$CACHE/lists/$HOST_OS/$ROLE.packages"; }

# packages_installed: whether every package of the role is there, or its name is with another version (the host's own,
# which a dependency list cannot fault). The names were learnt from the package files at the first run.
packages_installed() {
  local names=$STATE/lists/packages-$HOST_OS-$ROLE list=$CACHE/lists/$HOST_OS/$ROLE.packages
  [ "$(head -n 1 "$names" 2>/dev/null)" = "$(sha256sum <"$list")" ] || return 1
  missing_packages >/dev/null || return 1
  [ -z "$(missing_packages)" ]
}

# listed_packages: what we installed, as FULL, of earlier versions too.
listed_packages() {
  local list
  [ -e "$STATE/journal" ] || return 0
  while read -r list; do cat "$STATE/lists/$list"; done < <(awk -F'\t' '$1 == "packages" { print $2 }' "$STATE/journal")
}

# missing_packages: of the learnt names, those that are not installed under any version; and ours at another version.
missing_packages() {
  local names=$STATE/lists/packages-$HOST_OS-$ROLE
  { listed_packages | sed 's/^/ours /' && of_format have &&
    tail -n +2 "$names"; } | awk -v left_out="$(runtime left_out)" '
    $1 == "ours" { ours[$2]; next }
    $1 == "have" { name[$2] = $3; full[$3]; next }
    left_out != "" && $1 ~ left_out { next }
    $1 in full { next }
    !($2 in name) || name[$2] in ours || $2 ~ /^(kubelet|kubeadm|kubectl|containerd\.io|kubernetes-cni|cri-tools)(\.|$)/ { print $1 }'
}

# record_packages: adds the missing ones to the one list of all that we install: down removes them in one transaction,
# since they need each other, and no earlier than what needs them to be undone.
record_packages() {
  local list
  list=$(awk -F'\t' '$1 == "packages" { print $2; exit }' "$STATE/journal" 2>/dev/null) || list=''
  if [ -z "$list" ]; then
    record packages "$(missing_packages | keep_lines packages)"
  else
    { listed_packages && missing_packages; } | awk '!seen[$0]++' >"$STATE/lists/$list.new"
    mv -f "$STATE/lists/$list.new" "$STATE/lists/$list"
  fi
}

# fetch_packages: the packages, the metadata and the keys into the cache, laid out as the repository.
fetch_packages() {
  local paths=()
  mapfile -t paths < <(role_packages)
  [ ${#paths[@]} -gt 0 ] || die $E_INTEGRITY "lists/$HOST_OS/$ROLE.packages names no package for $(uname -m)" 'verify the bundle on the server'
  mapfile -t -O ${#paths[@]} paths < <(members "packages/$HOST_OS/" |
    grep -E "^packages/$HOST_OS/((repodata|keys)/)?[^/]+\$" | grep -Ev '\.(rpm|deb)$')
  fetch "${paths[@]}"
}

# learn_names: keeps the names of the role's package files, under the digest of the list that they belong to.
learn_names() {
  local list=$CACHE/lists/$HOST_OS/$ROLE.packages files=()
  mapfile -t files < <(role_packages | sed "s|^|$CACHE/|")
  mkdir -p "$STATE/lists"
  { sha256sum <"$list" && of_format names "${files[@]}"; } >"$STATE/lists/packages-$HOST_OS-$ROLE"
}

# offer_packages: the local repository, ready to install from; everything that its packages will change is recorded.
offer_packages() {
  fetch "lists/$HOST_OS/$ROLE.packages"
  if packages_installed; then
    say 'packages are installed'
    return 0
  fi
  fetch_packages
  learn_names
  of_format own
  record_packages
  of_format offer
}

# install_packages [PATTERN]: the missing ones of that name; all by default. Nothing to do if none is missing.
install_packages() {
  local missing=()
  mapfile -t missing < <(missing_packages | grep -E "^${1:-}")
  [ ${#missing[@]} -gt 0 ] || return 0
  of_format install "${missing[@]}" || die $E_ENVIRONMENT 'the packages could not be installed (above)' \
    "see $LOG; wait for a package manager that holds the lock, then run the same line again"
}

# install_runtime: first, so that images can be brought while the other packages are installed.
install_runtime() {
  offer_packages
  install_packages "($(runtime packages)|container-selinux-)"
  runtime version >/dev/null || die $E_ENVIRONMENT "$NODE_RUNTIME does not start from PATH" "see $LOG"
}

install_kubernetes() {
  install_packages
  [ "$(kubelet_version)" = "$KUBERNETES_VERSION" ] || die $E_ENVIRONMENT "kubelet on this host is $(kubelet_version), not $KUBERNETES_VERSION" \
    'remove the other kubelet from PATH, then run the same line again'
}

# undo_packages LIST
undo_packages() {
  local ours=()
  mapfile -t ours <"$STATE/lists/$1"
  of_format remove ${ours[@]+"${ours[@]}"} || {
    warn "packages could not be removed (does something else need them by now?): ${ours[*]}"
    return 1
  }
  systemctl daemon-reload </dev/null 2>/dev/null || true
  ldconfig # the libraries' own scripts ran it before their files had gone
}
