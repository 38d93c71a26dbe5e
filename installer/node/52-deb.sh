# shellcheck shell=bash
# The packages of hosts of Debian's kind, by the host's own apt-get and dpkg. What each function is for: 50-packages.sh.

# What is ours lies in $STATE/apt: nothing of the configuration, sources and lists of the host is read or written.
POLICY=/usr/sbin/policy-rc.d
POLICY_MARK='# kubecarry: no package starts a service before it is configured'

deb_manager_faults() {
  local tool
  for tool in dpkg dpkg-deb dpkg-query apt-get; do
    command -v $tool >/dev/null 2>&1 || fault "$tool is missing" 'use a host whose packages are debs'
  done
}

# deb_interrupted: whether dpkg has something to finish.
deb_interrupted() {
  [ -n "$(dpkg --audit 2>/dev/null </dev/null)" ] || [ -n "$(find /var/lib/dpkg/updates -type f -name '[0-9]*' 2>/dev/null)" ]
}

# Some repositories put the sha256 behind the architecture.
deb_for_here() { grep -E "_($(dpkg --print-architecture)|all)(_[0-9a-f]+)?\.deb\$"; }

deb_names() {
  local file
  # shellcheck disable=SC2016
  for file; do dpkg-deb -W --showformat='${Package}=${Version} ${Package}\n' "$file" </dev/null; done
}

# Packages of another architecture do not count: what they have is of no use to ours.
deb_have() {
  dpkg-query -W -f '${db:Status-Status} ${Architecture} ${Package} ${Version}\n' </dev/null | awk -v arch="$(dpkg --print-architecture)" '
    $1 == "installed" && ($2 == arch || $2 == "all") { print "have", $3, $3 "=" $4 }'
}

# deb_state NAME: "STATE VERSION", or nothing where dpkg knows no such package.
deb_state() { dpkg-query -W -f '${db:Status-Status} ${Version}\n' "$1" 2>/dev/null </dev/null | head -n 1; }

deb_here() {
  local state
  state=$(deb_state "${1%%=*}")
  case $1 in
    *=*) [ "$state" = "installed ${1#*=}" ] ;;
    *) [ "${state%% *}" = installed ] ;;
  esac
}

# deb_own: of packages that were removed and not purged, the configuration stays with down, too; and directories that
# no package has, /opt say, which dpkg takes away with the last of ours.
deb_own() {
  local name directory directories=()
  while read -r name; do
    [[ $(deb_state "${name%%=*}") != config-files* ]] || record_before packages leftover "${name%%=*}"
  done < <(missing_packages)
  mapfile -t directories < <(role_packages | while read -r name; do
    dpkg-deb --fsys-tarfile "$CACHE/$name" </dev/null | tar -t | sed -n 's|^\.\(/..*\)/$|\1|p'
  done | sort -u)
  while read -r directory; do
    [ ! -d "$directory" ] || [ -L "$directory" ] || record_before packages bare "$directory" "$(stat -c '%a %u:%g' "$directory")"
  done < <(dpkg-query -S ${directories[@]+"${directories[@]}"} 2>&1 >/dev/null </dev/null | sed -n 's/.*no path found matching pattern //p')
}

undo_leftover() { :; }

# undo_bare DIRECTORY "MODE OWNER:GROUP"
undo_bare() {
  local mode owner
  [ ! -e "$1" ] || return 0
  read -r mode owner <<<"$2"
  mkdir -p "$1" && chmod "$mode" "$1" && chown "$owner" "$1"
}

# apt_key FILE NUMBER: copies a key under the ending by which apt tells its form, and prints its new name.
apt_key() {
  local ending=gpg
  if grep -q -e '-----BEGIN PGP PUBLIC KEY BLOCK-----' "$1"; then ending=asc; fi
  cp "$1" "$STATE/apt/$2.$ending"
  printf '%s' "$STATE/apt/$2.$ending"
}

# apt_source: the line that names the local copy. Where its builder signed it, apt checks that. Where not, it is trusted
# for what it is: files that we fetched ourselves, each checked against SHA256SUMS, whose digest deploy.sh brought.
apt_source() {
  local repo=$CACHE/packages/$HOST_OS key keys='' number=0
  if [ -e "$repo/InRelease" ]; then
    for key in "$repo/keys/"*; do
      number=$((number + 1))
      [ ! -e "$key" ] || keys=$keys,$(apt_key "$key" $number)
    done
  fi
  if [ -n "$keys" ]; then
    printf 'deb [signed-by=%s] file:%s ./\n' "${keys#,}" "$repo"
  else
    printf 'deb [trusted=yes] file:%s ./\n' "$repo"
  fi
}

# apt_conf: nothing is asked of anybody, nothing is removed, a lock held by another (unattended-upgrades) is waited for.
# The bundle's date is that of the release, and it never ends.
apt_conf() {
  local path
  for path in main parts sourceparts preferences preferencesparts trusted trustedparts; do
    printf 'Dir::Etc::%s "/dev/null";\n' $path
  done
  cat <<END
Dir::Etc::sourcelist "$STATE/apt/sources.list";
Dir::State::lists "$STATE/apt/lists";
Dir::State::extended_states "$STATE/apt/extended_states";
Dir::Cache "$STATE/apt/cache";
Acquire::Languages "none";
Acquire::Check-Date "false";
Acquire::Check-Valid-Until "false";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::Assume-Yes "true";
APT::Get::Remove "false";
DPkg::Lock::Timeout "500";
DPkg::Use-Pty "false";
DPkg::Options { "--force-confdef"; "--force-confold"; };
END
}

# our_apt ARG…: the host's apt-get under our configuration alone.
our_apt() {
  supervise 600 'installing packages' env APT_CONFIG="$STATE/apt/apt.conf" DEBIAN_FRONTEND=noninteractive DEBIAN_PRIORITY=critical apt-get "$@"
}

deb_offer() {
  rm -rf "$STATE/apt"
  mkdir -p "$STATE/apt/lists/partial" "$STATE/apt/cache/archives/partial"
  apt_source >"$STATE/apt/sources.list"
  apt_conf >"$STATE/apt/apt.conf"
  our_apt -q update || die $E_INTEGRITY "packages/$HOST_OS: apt-get refuses the bundle's repository (above)" 'rebuild the bundle, or see that its keys are those that signed it'
}

# dpkg_patiently ARG…: dpkg, once nobody else holds its lock.
dpkg_patiently() {
  local out=$STATE/tmp/dpkg begun rc
  clock
  begun=$NOW
  while :; do
    rc=0
    # Into a file: of a pipe the reader may be killed, and dpkg with it
    DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold "$@" >"$out" 2>&1 </dev/null || rc=$?
    note "+ dpkg $*"$'\n'"$(cat "$out")"
    grep -q 'lock was locked by another process' "$out" || return $rc
    clock
    [ $((NOW - begun)) -lt 30000 ] || return $rc
    say 'waiting for the package manager that holds the lock of dpkg'
    sleep 2
  done
}

# hold_services: packages start what they bring, but kubelet and containerd are configured first. An administrator's
# own policy is put aside for as long.
hold_services() {
  local kept=-
  if grep -Fqsx "$POLICY_MARK" $POLICY; then return 0; fi
  if [ -e $POLICY ]; then kept=policy-rc.d; fi
  record policy $POLICY $kept
  if [ $kept != - ]; then cp -a $POLICY "$STATE/backup/$kept"; fi
  printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" >$POLICY.kubecarry-new
  chmod 0755 $POLICY.kubecarry-new
  mv -fT $POLICY.kubecarry-new $POLICY
}

release_services() { ! recorded policy || undo_policy $POLICY "$(awk -F'\t' '$1 == "policy" { print $3; exit }' "$STATE/journal")"; }

# undo_policy PATH BACKUP: only where it is still ours.
undo_policy() {
  rm -f "$1.kubecarry-new"
  grep -Fqsx "$POLICY_MARK" "$1" || return 0
  if [ "$2" = - ]; then rm -f "$1"; else cp -a "$STATE/backup/$2" "$1.kubecarry-new" && mv -fT "$1.kubecarry-new" "$1"; fi
}

# deb_install: what an interrupted run left unpacked is configured first, as far as it goes: apt-get does the rest, if
# it is told everything that is missing.
deb_install() {
  local rc=0
  hold_services
  if deb_interrupted; then
    say 'dpkg was interrupted: finishing that first'
    dpkg_patiently --configure -a || note 'not all could be configured'
    mapfile -t missing < <(missing_packages)
    set -- ${missing[@]+"${missing[@]}"}
  fi
  [ $# -eq 0 ] || our_apt -q install "$@" || rc=$?
  release_services
  return $rc
}

# deb_remove: also what is only half there, or has another version by now.
deb_remove() {
  local name gone=() kept=()
  for name; do
    name=${name%%=*}
    case $(deb_state "$name") in '' | not-installed*) continue ;; esac
    if recorded leftover "$name"; then kept+=("$name"); else gone+=("$name"); fi
  done
  [ ${#gone[@]} -eq 0 ] || dpkg_patiently --purge --force-remove-reinstreq "${gone[@]}" || return 1
  [ ${#kept[@]} -eq 0 ] || dpkg_patiently --remove --force-remove-reinstreq "${kept[@]}"
}
