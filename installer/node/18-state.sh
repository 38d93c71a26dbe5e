# shellcheck shell=bash
# One run at a time, the state directory, and what is remembered between runs (KEY=VALUE lines, no secrets).

LOCK=/run/lock/kubecarry.lock

# state_get KEY: its value, or nothing.
state_get() {
  [ ! -e "$STATE/state" ] || sed -n "s/^$1=//p" "$STATE/state" | tail -n 1
}

# state_set KEY VALUE
state_set() {
  { [ ! -e "$STATE/state" ] || grep -v "^$1=" "$STATE/state" || true; } >"$STATE/state.new"
  printf '%s=%s\n' "$1" "$2" >>"$STATE/state.new"
  mv -f "$STATE/state.new" "$STATE/state"
}

# lock_holders: pids of the processes that have the lock file open, but us.
lock_holders() {
  local fd pid
  for fd in /proc/[0-9]*/fd/9; do
    [ "$(readlink "$fd" 2>/dev/null)" = "$LOCK" ] || continue
    pid=${fd#/proc/}
    pid=${pid%%/*}
    [ "$pid" = $$ ] || [ "$pid" = "$BASHPID" ] || printf '%s\n' "$pid"
  done
}

# is_transaction PID: whether it must not be ended half-way: a package manager, or kubeadm as it swaps the control plane;
# itself, or the `timeout` around it, which would pass the signal on, or a script that apt-get or dpkg runs.
is_transaction() {
  local pid=$1 line
  line=" $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)"
  case $line in *[\ /]dnf\ * | *[\ /]yum\ * | *[\ /]rpm\ * | *[\ /]python* | *[\ /]kubeadm\ upgrade\ *) return 0 ;; esac
  while [ "${pid:-0}" -gt 1 ]; do
    case $line in *[\ /]apt-get\ * | *[\ /]dpkg\ *) return 0 ;; esac
    pid=$(awk '$1 == "PPid:" { print $2 }' "/proc/$pid/status" 2>/dev/null || true)
    line=" $(tr '\0' ' ' <"/proc/${pid:-0}/cmdline" 2>/dev/null)"
  done
  return 1
}

# take_lock: children inherit the lock, so what a killed run left running still holds it: that is ended first, except
# a transaction, which is waited for.
take_lock() {
  local owner pid
  mkdir -p "${LOCK%/*}"
  exec 9<>"$LOCK"
  if ! flock -n 9; then
    owner=$(cat "$LOCK" 2>/dev/null || true)
    if grep -qx "${owner:-none}" <<<"$(lock_holders)"; then
      die $E_ENVIRONMENT "another deploy.sh runs on this host (process $owner)" 'wait until it has ended'
    fi
    for pid in $(lock_holders); do
      if is_transaction "$pid"; then
        say "waiting for what an interrupted run left at work (process $pid: $(cat "/proc/$pid/comm" 2>/dev/null || true))"
      else
        kill "$pid" 2>/dev/null || true
      fi
    done
    flock -w 900 9 || die $E_ENVIRONMENT "what an interrupted run left does not end (processes: $(lock_holders | tr '\n' ' '))" 'end them, then run the same line again'
  fi
  printf '%s' $$ >"$LOCK"
}

# begin: root, lock, log, state directory; what every verb that changes the host does first.
begin() {
  [ "$(id -u)" = 0 ] || die $E_ENVIRONMENT 'not root' "run it as root: $(deploy_curl) | sudo bash -s $VERB …"
  take_lock
  open_log
  mkdir -p "$STATE"
  chmod 0700 "$STATE"
  rm -rf "$STATE/tmp"
  mkdir -p "$STATE/tmp" "$STATE/lists" "$STATE/backup"
  recall_runtime
}

# interrupted CODE: by Ctrl-C or a closed terminal.
interrupted() {
  die "$1" 'interrupted' 'run the same line again: it goes on from there'
}

# finish CODE: on every exit: ends our child, removes files with secrets, says what to do after a failure.
finish() {
  local code=$1
  trap - EXIT
  [ -z "$CHILD$IMAGES_PID" ] || kill ${CHILD:+"$CHILD"} ${IMAGES_PID:+"$IMAGES_PID"} 2>/dev/null || true
  [ -z "$CA_FILE" ] || rm -f "$CA_FILE"
  collect_clean
  [ ! -d "$STATE/tmp" ] || [ "$LOG_SINK" = /dev/null ] || rm -rf "$STATE/tmp"
  if [ "$code" -ne 0 ] && [ -z "$REPORTED" ]; then
    printf 'error: %s failed unexpectedly (code %s)%s\n       see %s, then run the same line again: it goes on from there\n' \
      "${STEP:-$VERB}" "$code" "${FAILED_AT:+ at $FAILED_AT}" "$LOG" >&2
    report failed "${STEP:-$VERB} failed unexpectedly (code $code)" "see $LOG on the node, then run the same line again: it goes on from there"
    code=$E_UNEXPECTED
  fi
  exit "$code"
}
