# shellcheck shell=bash
# The journal: one line per change, tab separated, written BEFORE the change is made: KIND ARG…
# `down` reads it backwards and calls undo_KIND ARG… for each line. Every undo may run twice, and may run although
# the change was never made. An argument is never empty ('-' stands for nothing): read collapses empty fields.

# record KIND ARG…: appends a line unless the very same is there.
record() {
  local line
  printf -v line '%s\t' "$@"
  line=${line%$'\t'}
  grep -Fxqs -- "$line" "$STATE/journal" || printf '%s\n' "$line" >>"$STATE/journal"
}

# record_before OTHER KIND ARG…: ahead of the first line of kind OTHER, for what `down` may undo only after that.
record_before() {
  local other=$1 line
  shift
  if ! recorded "$other"; then
    record "$@"
    return 0
  fi
  printf -v line '%s\t' "$@"
  line=${line%$'\t'}
  if grep -Fxqs -- "$line" "$STATE/journal"; then return 0; fi
  LINE=$line awk -F'\t' -v other="$other" '$1 == other && !n++ { print ENVIRON["LINE"] } { print }' "$STATE/journal" >"$STATE/journal.new"
  mv -f "$STATE/journal.new" "$STATE/journal"
}

# record_file PATH BACKUP SHA256: one line for each path; a later change takes the line's place, so that the order of
# undoing stays that of the first installation.
record_file() {
  if ! recorded file "$1"; then
    record file "$@"
    return 0
  fi
  LINE=$(printf 'file\t%s\t%s\t%s' "$@") WANTED=$1 awk -F'\t' '
    $1 != "file" || $2 != ENVIRON["WANTED"] { print; next } !n++ { print ENVIRON["LINE"] }' "$STATE/journal" >"$STATE/journal.new"
  mv -f "$STATE/journal.new" "$STATE/journal"
}

# recorded KIND [ARG]: whether such a change was made.
recorded() {
  [ -e "$STATE/journal" ] || return 1
  awk -F'\t' -v kind="$1" -v arg="${2:-}" '$1 == kind && (arg == "" || $2 == arg) { f = 1 } END { exit !f }' "$STATE/journal"
}

# keep_lines PREFIX: keeps stdin as a list under $STATE/lists and prints its name.
keep_lines() {
  local name
  mkdir -p "$STATE/lists"
  name=$1-$(date +%s)-$$-$RANDOM
  cat >"$STATE/lists/$name"
  printf '%s' "$name"
}

# original PATH: prints the name of the backup of PATH as it was before us, '-' when it was absent.
# Only the first of our changes to a path makes one: later ones would back up our own file.
original() {
  local path=$1 name=''
  [ ! -e "$STATE/journal" ] || name=$(awk -F'\t' -v p="$path" '$1 == "file" && $2 == p { print $3; exit }' "$STATE/journal")
  if [ -z "$name" ]; then
    name=-
    if [ -e "$path" ] || [ -L "$path" ]; then
      name=${path//\//%}
      mkdir -p "$STATE/backup"
      cp -a "$path" "$STATE/backup/$name.new"
      mv -fT "$STATE/backup/$name.new" "$STATE/backup/$name"
    fi
  fi
  printf '%s' "$name"
}

# make_dirs PATH: mkdir -p whose new directories `down` removes when they are empty.
make_dirs() {
  local path=$1 fresh=()
  while [ ! -d "$path" ]; do
    fresh=("$path" ${fresh[@]+"${fresh[@]}"})
    path=$(dirname "$path")
  done
  for path in ${fresh[@]+"${fresh[@]}"}; do
    record dir "$path"
    mkdir -p "$path"
  done
}

# put_file MODE PATH <content: replaces PATH atomically, and only if it differs. Sets CHANGED to 1 or 0.
put_file() {
  local mode=$1 path=$2 staged=$STATE/tmp/put sum backup
  CHANGED=0
  cat >"$staged"
  if cmp -s "$staged" "$path"; then return 0; fi
  CHANGED=1
  make_dirs "$(dirname "$path")"
  sum=$(sha256sum "$staged")
  backup=$(original "$path")
  record_file "$path" "$backup" "${sum%% *}"
  cp "$staged" "$path.kubecarry-new"
  chmod "$mode" "$path.kubecarry-new"
  mv -fT "$path.kubecarry-new" "$path"
}

# own_tree PATH: whatever appears below PATH from now on is ours (for what other programs write: etcd, kubelet, CNI).
own_tree() {
  local path=$1 list
  ! recorded tree "$path" || return 0
  if [ -e "$path" ]; then
    list=$(find "$path" -xdev -mindepth 1 -print 2>/dev/null | keep_lines tree)
    record tree "$path" "$list" "$(stat -c '%a %u:%g' "$path")"
  else
    record tree "$path" new -
  fi
}

# note_unit UNIT: remembers whether it was enabled and active, once.
note_unit() {
  ! recorded unit "$1" || return 0
  local enabled active
  enabled=$(systemctl is-enabled "$1" 2>/dev/null </dev/null || true)
  active=$(systemctl is-active "$1" 2>/dev/null </dev/null || true)
  record unit "$1" "${enabled:-absent}" "${active:-unknown}"
}

undo_dir() {
  [ ! -d "$1" ] || rmdir --ignore-fail-on-non-empty "$1" 2>/dev/null || true
}

undo_file() {
  local path=$1 backup=$2
  rm -f "$path.kubecarry-new"
  if [ "$backup" = - ]; then
    rm -f "$path"
  elif [ -e "$STATE/backup/$backup" ] || [ -L "$STATE/backup/$backup" ]; then
    cp -a "$STATE/backup/$backup" "$path.kubecarry-new" && mv -fT "$path.kubecarry-new" "$path"
  else
    warn "$path: its original ($STATE/backup/$backup) is missing; left as it is"
    return 1
  fi
}

# mounts_below PATH: mount points below PATH (not PATH itself), deepest first; mountinfo writes a blank as \040.
mounts_below() {
  awk -v p="$1/" '{ m = $5; gsub(/\\040/, " ", m); if (index(m, p) == 1) print m }' /proc/self/mountinfo | sort -r
}

# appeared PATH LIST: what is below PATH and not in the list, without the contents of directories that are printed.
appeared() {
  find "$1" -xdev -mindepth 1 -print 2>/dev/null | awk -v list="$2" '
    BEGIN { while ((getline line < list) > 0) keep[line] }
    !($0 in keep) && (top == "" || index($0, top "/") != 1) { top = $0; print }'
}

# undo_tree PATH new|LIST MODE: unmounts and removes what was not there before us; never crosses into another file
# system. MODE is "mode owner:group" of a directory that was there.
undo_tree() {
  local path=$1 list=/dev/null entry rc=0 mode owner
  [ -e "$path" ] || return 0
  [ "$2" = new ] || list=$STATE/lists/$2
  while IFS= read -r entry; do
    if grep -Fxqs -- "$entry" "$list"; then continue; fi
    umount "$entry" 2>/dev/null || umount -l "$entry" || rc=1
  done < <(mounts_below "$path")
  while IFS= read -r entry; do
    rm -rf --one-file-system -- "$entry" || rc=1
  done < <(appeared "$path" "$list")
  if [ "$2" != new ]; then
    read -r mode owner <<<"$3"
    chmod "$mode" "$path" && chown "$owner" "$path" || rc=1
  elif ! mountpoint -q "$path"; then
    rmdir "$path" || rc=1
  fi
  [ $rc -eq 0 ] || warn "$path: could not be emptied"
  return $rc
}

undo_unit() {
  local unit=$1 enabled=$2 active=$3
  systemctl cat "$unit" >/dev/null 2>&1 </dev/null || return 0
  case $active in
    active) systemctl restart "$unit" </dev/null || return 1 ;; # with the configuration that it had
    *) systemctl stop "$unit" </dev/null 2>/dev/null || return 1 ;;
  esac
  case $enabled in
    enabled) systemctl -q enable "$unit" </dev/null 2>/dev/null || return 1 ;;
    *) systemctl -q disable "$unit" </dev/null 2>/dev/null || return 1 ;;
  esac
  systemctl reset-failed "$unit" >/dev/null 2>&1 </dev/null || true
}

# undo_all KIND…: undoes every line backwards, except of the kinds named; keeps the lines that could not be undone, or
# must not be yet (held_back). Sets LEFT to their number. The journal shrinks with each line, so that an interrupted
# down goes on where it stopped: what came first was undone on the ground of what came later.
undo_all() {
  local spared=" $* " lines=() left=() fields i
  mapfile -t lines <"$STATE/journal"
  for ((i = ${#lines[@]} - 1; i >= 0; i--)); do
    IFS=$'\t' read -r -a fields <<<"${lines[i]}"
    case $spared in *" ${fields[0]} "*) continue ;; esac
    note "undo ${lines[i]}"
    if held_back "${fields[@]}"; then
      left=("${lines[i]}" ${left[@]+"${left[@]}"})
    elif ! "undo_${fields[0]//-/_}" "${fields[@]:1}"; then
      warn "could not undo: ${lines[i]//$'\t'/ }"
      left=("${lines[i]}" ${left[@]+"${left[@]}"})
    fi
    printf '%s\n' "${lines[@]:0:i}" ${left[@]+"${left[@]}"} | sed '/^$/d' >"$STATE/journal.new"
    mv -f "$STATE/journal.new" "$STATE/journal"
  done
  LEFT=${#left[@]}
}
