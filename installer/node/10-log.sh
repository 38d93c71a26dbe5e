# shellcheck shell=bash
# Messages, the log and the clock. stdout carries data (the join line, status); everything else goes to stderr,
# and to the log with secrets masked.

STATE=/var/lib/kubecarry
LOG=/var/log/kubecarry.log
LOG_SINK=/dev/null # $LOG once it is open
CHILD='' # pid of the long command that runs, ended with us
STARTED=0
STEP=''     # the step that runs
REPORTED='' # whether the reason of a failure was told already

# Exit codes, one table for bundler, installer and deploy.sh (docs/formats.md).
readonly E_UNEXPECTED=1 E_USAGE=2 E_FETCH=5 E_INTEGRITY=6 E_ENVIRONMENT=7

# clock: sets NOW to hundredths of a second since boot (no fork; bash 4.2 has no EPOCHREALTIME).
clock() {
  local up rest
  read -r up rest </proc/uptime
  NOW=$((10#${up/./}))
}

# redact: masks bootstrap tokens and certificate keys on their way from stdin to stdout.
redact() {
  sed -E -u -e 's/[a-z0-9]{6}\.[a-z0-9]{16}/******.****************/g' \
    -e 's/(certificate-key[ =:]+)[0-9a-f]{64}/\1********/g'
}

# open_log: from here on messages are kept in $LOG, readable by root alone.
open_log() {
  if [ ! -e "$LOG" ]; then (umask 077 && : >"$LOG"); fi
  chmod 0600 "$LOG"
  LOG_SINK=$LOG
  printf '%s deploy.sh %s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${VERB:-}" "from $SERVER" >>"$LOG"
}

# note TEXT: into the log only.
note() {
  printf '%s\n' "$*" | redact >>"$LOG_SINK"
}

# say TEXT: a line of progress.
say() {
  clock
  local t=$((NOW - STARTED))
  printf '[%3d.%d s] %s\n' $((t / 100)) $((t % 100 / 10)) "$*" >&2
  note "$*"
}

# warn TEXT: goes on, but must be seen.
warn() {
  printf 'warning: %s\n' "$*" >&2
  note "warning: $*"
}

# die CODE WHAT [NEXT]: what happened, what to do next; ends the run.
die() {
  local code=$1
  printf 'error: %s\n' "$2" >&2
  [ -z "${3:-}" ] || printf '       %s\n' "$3" >&2
  note "error: $2 ${3:-}"
  report failed "$2" "${3:-}"
  REPORTED=1
  exit "$code"
}

# step NAME FUNCTION [ARG…]: runs one step and prints the seconds it took.
step() {
  local name=$1 begun
  shift
  clock
  begun=$NOW
  STEP=$name
  note "== $name"
  report started
  "$@"
  STEP=''
  clock
  begun=$((NOW - begun))
  say "$name: done ($((begun / 100)).$((begun % 100 / 10)) s)"
}

# logged COMMAND…: runs it with its output in the log alone.
logged() {
  note "+ $*"
  "$@" </dev/null 2>&1 | redact >>"$LOG_SINK"
}

# wait_for SECONDS WHAT COMMAND…: polls until COMMAND succeeds; says every 5 s what is being waited for; 1 when time is up.
wait_for() {
  local limit=$1 what=$2 begun told=5 waited
  shift 2
  clock
  begun=$NOW
  until "$@" >/dev/null 2>&1 </dev/null; do
    clock
    waited=$(((NOW - begun) / 100))
    [ $waited -lt "$limit" ] || return 1
    if [ $waited -ge $told ]; then
      say "waiting for $what ($waited s, at most $limit s)"
      told=$((waited + 5))
    fi
    sleep 0.2
  done
}

# supervise SECONDS WHAT COMMAND…: runs a long command bounded, its output in the log, a line of progress every 5 s,
# and its last lines on stderr when it fails. Returns the command's code, 124 when time is up.
supervise() {
  local limit=$1 what=$2 out=$STATE/tmp/output pid rc=0 begun told=5 waited
  shift 2
  note "+ $*"
  : >"$out"
  timeout -k 5 "$limit" "$@" </dev/null >"$out" 2>&1 &
  pid=$!
  CHILD=$pid
  clock
  begun=$NOW
  while kill -0 $pid 2>/dev/null; do
    sleep 0.1
    clock
    waited=$(((NOW - begun) / 100))
    if [ $waited -ge $told ]; then
      say "$what ($waited s): $(last_lines 1 "$out")"
      told=$((waited + 5))
    fi
  done
  wait $pid || rc=$?
  CHILD=''
  redact <"$out" >>"$LOG_SINK"
  if [ $rc -ne 0 ]; then
    printf '%s failed (code %s); its last lines:\n' "$what" $rc >&2
    last_lines 12 "$out" >&2
  fi
  rm -f "$out"
  return $rc
}

# last_lines N FILE: the last N lines that say something.
last_lines() {
  grep -v '^[[:space:]]*$' "$2" 2>/dev/null | redact | tail -n "$1" || true
}
