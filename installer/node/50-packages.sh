# shellcheck shell=bash
# Packages: the role's closure, fetched and checked by us, installed by the host's own dnf or yum from a local
# repository with signature checking on; no other repository is asked.

# package_manager: prints dnf or yum.
package_manager() {
  command -v dnf 2>/dev/null || command -v yum 2>/dev/null
}

# rpm_names FILE…: name-version-release.arch of package files.
rpm_names() {
  rpm -qp --nosignature --qf '%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH} %{NAME}.%{ARCH}\n' "$@" 2>/dev/null </dev/null
}

# role_packages: paths of the role's packages for this architecture; the list, of all of them, is fetched first.
role_packages() {
  grep -E "\.($(uname -m)|noarch)\.rpm\$" "$CACHE/lists/$HOST_OS/$ROLE.packages"
}

# packages_installed: whether every package of the role is there, or its name is with another version (the host's own,
# which a dependency list cannot fault). The names were learnt from the package files at the first run.
packages_installed() {
  local names=$STATE/lists/packages-$HOST_OS-$ROLE list=$CACHE/lists/$HOST_OS/$ROLE.packages
  [ "$(head -n 1 "$names" 2>/dev/null)" = "$(sha256sum <"$list")" ] || return 1
  missing_packages >/dev/null || return 1
  [ -z "$(missing_packages)" ]
}

# listed_packages: what we installed, as name-version-release.arch, of earlier versions too.
listed_packages() {
  local list
  [ -e "$STATE/journal" ] || return 0
  while read -r list; do cat "$STATE/lists/$list"; done < <(awk -F'\t' '$1 == "packages" { print $2 }' "$STATE/journal")
}

# missing_packages: of the learnt names, those that are not installed under any version; and ours at another version.
missing_packages() {
  local names=$STATE/lists/packages-$HOST_OS-$ROLE
  { listed_packages | sed 's/^/ours /' && rpm -qa --qf 'have %{NAME}.%{ARCH} %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}\n' </dev/null &&
    tail -n +2 "$names"; } | awk -v left_out="$(runtime left_out)" '
    $1 == "ours" { ours[$2]; next }
    $1 == "have" { name[$2] = $3; full[$3]; next }
    left_out != "" && $1 ~ left_out { next }
    $1 in full { next }
    !($2 in name) || name[$2] in ours || $2 ~ /^(kubelet|kubeadm|kubectl|containerd\.io|kubernetes-cni|cri-tools)\./ { print $1 }'
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
  mapfile -t -O ${#paths[@]} paths < <(members "packages/$HOST_OS/repodata/" && members "packages/$HOST_OS/keys/")
  fetch "${paths[@]}"
}

# own_directories: packages make directories that none of them owns, and leave them behind.
own_directories() {
  local directory
  while read -r directory; do
    [ -d "$directory" ] || record_before packages dir "${directory%/}"
  done < <(role_packages | sed "s|^|$CACHE/|" | xargs -d '\n' rpm -qp --nosignature --qf '[%{DIRNAMES}\n]' 2>/dev/null | sort -u)
}

# learn_names: keeps the names of the role's package files, under the digest of the list that they belong to, and the
# paths of what is in them, of all runs.
learn_names() {
  local list=$CACHE/lists/$HOST_OS/$ROLE.packages files=()
  mapfile -t files < <(role_packages | sed "s|^|$CACHE/|")
  mkdir -p "$STATE/lists"
  { cat "$STATE/lists/contents" 2>/dev/null || true; rpm -qpl --nosignature "${files[@]}" 2>/dev/null </dev/null; } | sort -u >"$STATE/tmp/contents"
  mv -f "$STATE/tmp/contents" "$STATE/lists/contents"
  { sha256sum <"$list" && rpm_names "${files[@]}"; } >"$STATE/lists/packages-$HOST_OS-$ROLE"
}

# half_unpacked: what a killed rpm leaves of our packages: it unpacks each file as `PATH;8 hex digits`, then renames it.
half_unpacked() {
  local directory
  [ -e "$STATE/lists/contents" ] || return 0
  sed 's|/[^/]*$||' "$STATE/lists/contents" | sort -u | while IFS= read -r directory; do
    [ ! -d "$directory" ] || find "$directory" -maxdepth 1 -name '*;????????' ! -type d
  done | awk -v list="$STATE/lists/contents" 'BEGIN { while ((getline line < list) > 0) ours[line] } substr($0, 1, length($0) - 9) in ours'
}

# trust_keys: imports the bundle's keys. Their names in the rpm database are learnt in a scratch database first, so that
# they are recorded before the real one changes and down removes exactly these.
trust_keys() {
  local scratch=$STATE/tmp/rpmdb key name
  mkdir -p "$scratch"
  for key in "$CACHE/packages/$HOST_OS/keys/"*; do
    [ -e "$key" ] || continue
    rpm --dbpath "$scratch" --import "$key" </dev/null 2>>"$LOG_SINK" || die $E_INTEGRITY "packages/$HOST_OS/keys/${key##*/} is not a key that rpm can import" \
      'rebuild the bundle'
    while read -r name; do
      if rpm -q "$name" >/dev/null 2>&1; then continue; fi
      record rpmkey "$name"
      rpm --import "$key" </dev/null
    done < <(rpm --dbpath "$scratch" -qa 'gpg-pubkey*' </dev/null)
  done
  rm -rf "$scratch"
}

undo_rpmkey() {
  if rpm -q "$1" >/dev/null 2>&1; then logged rpm -e --allmatches "$1"; fi
}

# repository: the .repo file that names the local copy.
repository() {
  local key keys=''
  for key in "$CACHE/packages/$HOST_OS/keys/"*; do
    [ ! -e "$key" ] || keys="$keys file://$key"
  done
  printf '[kubecarry]\nname=Kubecarry bundle\nbaseurl=file://%s\nenabled=1\nmodule_hotfixes=1\n' "$CACHE/packages/$HOST_OS"
  if [ -n "$keys" ]; then
    printf 'gpgcheck=1\ngpgkey=%s\n' "${keys# }"
  else
    warn "the bundle carries no signing key for $HOST_OS: packages are checked by digest alone"
    printf 'gpgcheck=0\n'
  fi
}

# package_command ARG…: dnf or yum with nothing but our repository, our cache and no plug-ins.
package_command() {
  local manager
  manager=$(package_manager)
  local options=(-y --noplugins --disablerepo='*' --enablerepo=kubecarry --setopt=reposdir="$STATE/repos" --setopt=cachedir="$STATE/yum"
    --setopt=keepcache=0 --disableexcludes=all --releasever="${HOST_OS#el}")
  if [ "${manager##*/}" = dnf ]; then
    options+=(--setopt=install_weak_deps=False --setopt="module_platform_id=platform:$HOST_OS")
  fi
  supervise 600 'installing packages' "$manager" "${options[@]}" "$@"
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
  own_directories
  record_packages
  trust_keys
  mkdir -p "$STATE/repos"
  repository >"$STATE/repos/kubecarry.repo"
  rm -rf "$STATE/yum"
}

# install_packages [PATTERN]: the missing ones of that name; all by default. Nothing to do if none is missing.
install_packages() {
  local missing=()
  mapfile -t missing < <(missing_packages | grep -E "^${1:-}")
  [ ${#missing[@]} -gt 0 ] || return 0
  package_command install "${missing[@]}" || die $E_ENVIRONMENT 'the packages could not be installed (above)' \
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

# undo_packages LIST: one transaction, since they need each other.
undo_packages() {
  local name there=()
  while read -r name; do
    if rpm -q "$name" >/dev/null 2>&1; then there+=("$name"); fi
  done <"$STATE/lists/$1"
  [ ${#there[@]} -eq 0 ] || logged rpm -e "${there[@]}" || {
    warn "packages could not be removed (does something else need them by now?): ${there[*]}"
    return 1
  }
  while IFS= read -r name; do rm -f -- "$name"; done < <(half_unpacked)
  systemctl daemon-reload </dev/null 2>/dev/null || true
  ldconfig # the libraries' own scripts ran it before their files had gone
}
