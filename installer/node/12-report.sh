# shellcheck shell=bash
# Progress for the server's page: in the background, never waited for, never a reason to fail.

REPORTING='' # the role, in a run that is shown there
REPORT_TIME=0 # the time of the last report, in 1/100 s

# report STATE [MESSAGE [REMEDY]]: STATE is started, done or failed.
report() {
  [ -n "$REPORTING" ] && [ -n "${REPORT_TOKEN:-}" ] || return 0
  local state=$1 message=${2:-} remedy=${3:-}
  clock
  # They may overtake each other on the way, so no two of a run may bear the same time.
  REPORT_TIME=$((NOW > REPORT_TIME ? NOW : REPORT_TIME + 1))
  # By stdin: arguments can be seen by every user of the host. 9 is the lock, which must not outlive the run.
  printf '%s\n' "token=$REPORT_TOKEN" "node=$NODE_NAME" "role=$REPORTING" "step=$STEP" "state=$state" "run=$STARTED" "at=$REPORT_TIME" \
    "message=${message//$'\n'/ }" "remedy=${remedy//$'\n'/ }" | redact |
    curl_server -s -m 5 -o /dev/null -H 'Expect:' --data-binary @- "$SERVER/report" >/dev/null 2>&1 9>&- &
}
