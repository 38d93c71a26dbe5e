# shellcheck shell=bash
# The packages of hosts of Red Hat's kind, by rpm and the host's own dnf or yum, with signature checking on. What each
# function is for: 50-packages.sh.

# package_manager: prints dnf or yum.
package_manager() {
  command -v dnf 2>/dev/null || command -v yum 2>/dev/null
}

rpm_manager_faults() {
  command -v rpm >/dev/null 2>&1 || fault 'rpm is missing' 'use a host whose packages are RPMs'
  package_manager >/dev/null || fault 'neither dnf nor yum is here' 'install dnf or yum from the installation medium'
}

rpm_for_here() { grep -E "\.($(uname -m)|noarch)\.rpm\$"; }

rpm_names() {
  rpm -qp --nosignature --qf '%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH} %{NAME}.%{ARCH}\n' "$@" 2>/dev/null </dev/null
}

rpm_have() { rpm -qa --qf 'have %{NAME}.%{ARCH} %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}\n' </dev/null; }

rpm_here() { rpm -q "$1" >/dev/null 2>&1; }

# rpm_own: directories that packages make and none of them owns; and the paths of what is in them, of all runs.
rpm_own() {
  local directory files=()
  mapfile -t files < <(role_packages | sed "s|^|$CACHE/|")
  { cat "$STATE/lists/contents" 2>/dev/null || true; rpm -qpl --nosignature "${files[@]}" 2>/dev/null </dev/null; } | sort -u >"$STATE/tmp/contents"
  mv -f "$STATE/tmp/contents" "$STATE/lists/contents"
  while read -r directory; do
    [ -d "$directory" ] || record_before packages dir "${directory%/}"
  done < <(rpm -qp --nosignature --qf '[%{DIRNAMES}\n]' "${files[@]}" 2>/dev/null </dev/null | sort -u)
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

rpm_offer() {
  trust_keys
  mkdir -p "$STATE/repos"
  repository >"$STATE/repos/kubecarry.repo"
  rm -rf "$STATE/yum"
}

rpm_install() { package_command install "$@"; }

rpm_remove() {
  local name there=()
  for name; do
    if rpm_here "$name"; then there+=("$name"); fi
  done
  [ ${#there[@]} -eq 0 ] || logged rpm -e "${there[@]}" || return 1
  while IFS= read -r name; do rm -f -- "$name"; done < <(half_unpacked)
}
