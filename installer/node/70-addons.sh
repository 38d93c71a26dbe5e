# shellcheck shell=bash
# Add-on manifests: fetched, checked, adapted by the bundle's literal replacements, applied.

# replace_literally FROM TO <text: every occurrence; no pattern, no escapes.
replace_literally() {
  FROM=$1 TO=$2 awk '
    BEGIN { from = ENVIRON["FROM"]; to = ENVIRON["TO"] }
    { rest = $0; out = ""
      while (i = index(rest, from)) { out = out substr(rest, 1, i - 1) to; rest = substr(rest, i + length(from)) }
      print out rest }'
}

# adapted PATH: the member as this cluster needs it.
adapted() {
  local path member from to text next
  text=$CACHE/$1
  next=$STATE/tmp/manifest
  cp "$text" "$next"
  while IFS=$'\t' read -r member from to; do
    [ "$member" = "$1" ] || continue
    to=${to//\\n/$'\n'}
    to=$(replace_literally @POD_SUBNET@ "$POD_SUBNET" <<<"$to" | replace_literally @SERVICE_SUBNET@ "$SERVICE_SUBNET")
    replace_literally "$from" "$to" <"$next" >"$next.new"
    mv -f "$next.new" "$next"
  done <<<"$MANIFEST_REPLACE"
  replace_literally @POD_SUBNET@ "$POD_SUBNET" <"$next" | replace_literally @SERVICE_SUBNET@ "$SERVICE_SUBNET"
}

# apply_manifests PATH…: in this order.
apply_manifests() {
  local path
  fetch "$@"
  for path; do
    adapted "$path" >"$STATE/tmp/apply.yaml"
    logged kube apply -f "$STATE/tmp/apply.yaml" ||
      die $E_ENVIRONMENT "$path could not be applied: $(tail -n 1 "$LOG")" "see $LOG, then run the same line again"
  done
}

# apply_listed LINES: the members named a line each; nothing if there are none.
apply_listed() {
  local paths=()
  mapfile -t paths < <(sed '/^$/d' <<<"$1")
  [ ${#paths[@]} -eq 0 ] || apply_manifests "${paths[@]}"
}
