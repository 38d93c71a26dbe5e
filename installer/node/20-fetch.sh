# shellcheck shell=bash
# Members of the bundle: fetched from $SERVER (or one of $SERVERS where it fails), checked against SHA256SUMS, used
# only afterwards.

FETCH_WORKERS=6
# The server may be restarted while nodes install: this many seconds are waited for it to come back.
FETCH_PATIENCE=60
CACHE=$STATE/cache

# Over https the server is trusted by SERVER_CA (PEM) alone; curl takes it as a file only, made once by trust_server.
CA_FILE=''

trust_server() {
  [ -n "${SERVER_CA:-}" ] || return 0
  CA_FILE=$(mktemp)
  printf '%s' "$SERVER_CA" >"$CA_FILE"
}

# curl_server ARG…: curl for what the server has. It is inside: never by proxy.
curl_server() {
  if [ -n "$CA_FILE" ]; then set -- --cacert "$CA_FILE" --capath /dev/null "$@"; fi
  curl -g --noproxy '*' "$@"
}

# deploy_curl: the words that fetch deploy.sh for a pipe into bash; over https they pin the server's key.
deploy_curl() {
  local pin=''
  [ -z "${SERVER_PIN:-}" ] || pin=" --pinnedpubkey '$SERVER_PIN' -k"
  printf 'curl -fsSL%s %s/deploy.sh' "$pin" "$SERVER"
}

# get URL FILE: one attempt, resuming FILE; sets HTTP_CODE; returns curl's code.
get() {
  HTTP_CODE=$(curl_server -sS -f --connect-timeout 5 --speed-limit 1 --speed-time 20 -C - \
    -w '%{http_code}' -o "$2" -- "$1" 2>>"$LOG_SINK" </dev/null)
}

# all_servers: the server and those that serve the same bundle beside it, a line each.
all_servers() { printf '%s' "$SERVER ${SERVERS:-}" | tr -s ' ' '\n' | awk 'NF && !seen[$0]++'; }

# next_server: lets the one that follows $SERVER take its place, and the old one queue up; 1 if there is no other.
next_server() {
  local all=()
  mapfile -t all <<<"$(all_servers)"
  [ ${#all[@]} -gt 1 ] || return 1
  note "$SERVER fails: going on with ${all[1]}"
  SERVER=${all[1]}
  SERVERS="${all[*]:1} ${all[0]}"
}

# living_server: makes the first of them that answers $SERVER; 1 if none does.
living_server() {
  local left
  left=$(all_servers | wc -l)
  until curl_server -fs --connect-timeout 5 --max-time 10 -o /dev/null "$SERVER/healthz" 2>/dev/null; do
    left=$((left - 1))
    [ $left -gt 0 ] || return 1
    next_server
  done
}

# get_patiently URL FILE SECONDS: retries what may pass (refused, reset, 5xx) at each server in turn; 22 for a 4xx of all.
get_patiently() {
  local url=$1 file=$2 limit=$3 begun rc told=5 refused=0 was
  clock
  begun=$NOW
  while :; do
    rc=0
    get "$url" "$file" || rc=$?
    case $rc:$HTTP_CODE in
      0:*) return 0 ;;
      23:*) return 23 ;; # our own disk: no server is to blame
      33:* | *:416) rm -f "$file" ;; # what is there cannot be resumed
      22:4*)
        refused=$((refused + 1))
        [ $refused -lt "$(all_servers | wc -l)" ] || return 22
        ;;
    esac
    clock
    [ $(((NOW - begun) / 100)) -lt "$limit" ] || return $rc
    if [ $(((NOW - begun) / 100)) -ge $told ]; then
      say "waiting for $SERVER (curl $rc, HTTP ${HTTP_CODE:-000})"
      told=$((told + 5))
    fi
    was=$SERVER
    if next_server; then url=$SERVER${url#"$was"}; fi
    sleep 0.3
  done
}

# no_server CODE URL: says why and what to check.
no_server() {
  die $E_FETCH "$2 could not be fetched (curl code $1, HTTP ${HTTP_CODE:-000})" \
    "check that the server still runs (curl $SERVER/healthz), and the firewall and route between; then run the same line again"
}

# no_room PATH: ends the run; what came so far is kept.
no_room() {
  die $E_ENVIRONMENT "$1 could not be written: $(free_mb "$CACHE") MiB are free there" 'make room, then run the same line again: it resumes'
}

# fetch_sums: SHA256SUMS, the list that everything else is checked against; its own digest came inside deploy.sh.
fetch_sums() {
  local new=$CACHE/SHA256SUMS.new rc=0 have
  mkdir -p "$CACHE/part"
  rm -f "$new"
  get_patiently "$SERVER/SHA256SUMS" "$new" 15 || rc=$?
  [ $rc -ne 23 ] || no_room "$new"
  [ $rc -eq 0 ] || no_server $rc "$SERVER/SHA256SUMS"
  have=$(sha256sum "$new")
  if [ "${have%% *}" != "$SUMS_SHA256" ]; then
    rm -f "$new"
    die $E_INTEGRITY "SHA256SUMS: sha256 is ${have%% *}, deploy.sh expects $SUMS_SHA256" \
      "the server serves another bundle by now, or the transfer was tampered with: fetch deploy.sh again"
  fi
  mv -f "$new" "$CACHE/SHA256SUMS"
}

# members PREFIX: paths of the bundle's members below PREFIX.
members() {
  awk -v p="$1" '{ path = substr($0, 67) } index(path, p) == 1 { print path }' "$CACHE/SHA256SUMS"
}

# sum_of PATH: its sha256 by SHA256SUMS; nothing if it is no member.
sum_of() {
  awk -v p="$1" 'substr($0, 67) == p { print substr($0, 1, 64); exit }' "$CACHE/SHA256SUMS"
}

# is_sum SHA256 FILE: whether FILE has that digest.
is_sum() {
  local have
  [ -f "$2" ] || return 1
  have=$(sha256sum <"$2")
  [ "${have%% *}" = "$1" ]
}

# fetch_one PATH: into $CACHE/PATH. The part file is named by the digest, so that another bundle's is never resumed,
# and by the name, since two members of the same content may come at the same time.
# Returns 5 or 6 after saying why, 7 where it cannot be written.
fetch_one() {
  local path=$1 sum part rc=0 try
  sum=$(sum_of "$path")
  if [ -z "$sum" ]; then
    printf 'error: %s is not in SHA256SUMS\n' "$path" >&2
    return $E_INTEGRITY
  fi
  if is_sum "$sum" "$CACHE/$path"; then return 0; fi
  part=$CACHE/part/$sum.${path//\//%}
  for try in 1 2; do # twice: a part left by a power cut may be damaged
    if ! is_sum "$sum" "$part"; then
      get_patiently "$SERVER/$path" "$part" $FETCH_PATIENCE || rc=$?
    fi
    [ $rc -ne 23 ] || return $E_ENVIRONMENT
    if [ $rc -ne 0 ]; then
      printf 'error: %s/%s could not be fetched (curl code %s, HTTP %s)\n' "$SERVER" "$path" $rc "$HTTP_CODE" >&2
      return $E_FETCH
    fi
    if is_sum "$sum" "$part"; then
      mkdir -p "$(dirname "$CACHE/$path")" && mv -f "$part" "$CACHE/$path" || return $E_ENVIRONMENT
      return 0
    fi
    note "$path: digest differs (attempt $try)"
    rm -f "$part"
  done
  printf 'error: %s: its sha256 is not the %s of SHA256SUMS\n' "$path" "$sum" >&2
  return $E_INTEGRITY
}

# fetch PATH…: all of them, several at a time; ends the run on the first kind of failure.
fetch() {
  local worker pids=() pid rc worst=0 paths=("$@")
  for ((worker = 0; worker < FETCH_WORKERS && worker < $#; worker++)); do
    (
      set +e
      for ((i = worker; i < ${#paths[@]}; i += FETCH_WORKERS)); do
        fetch_one "${paths[i]}" || exit $?
      done
    ) </dev/null &
    pids+=($!)
  done
  for pid in ${pids[@]+"${pids[@]}"}; do
    rc=0
    wait "$pid" || rc=$?
    [ $rc -le $worst ] || worst=$rc
  done
  case $worst in
    0) ;;
    "$E_ENVIRONMENT") no_room "$CACHE" ;;
    "$E_INTEGRITY") die $E_INTEGRITY "a member of the bundle is not what SHA256SUMS says (named above)" \
      "verify the bundle on the server (python3 -m installer verify), then run the same line again" ;;
    *) die $E_FETCH "a member of the bundle could not be fetched (named above)" \
      "check the server (curl $SERVER/healthz), then run the same line again: it resumes" ;;
  esac
}
