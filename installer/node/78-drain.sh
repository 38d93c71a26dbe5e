# shellcheck shell=bash
# Draining: a node takes no new pods, and those it has are evicted, so that disruption budgets hold. A master drains any
# node. A node drains itself with its kubelet's credentials, which may cordon that node and evict its pods, but no others.

UNMOVED=''  # pods that are to move and are still there: "namespace/name (why)" a line
REFUSAL=''  # why the last eviction was refused

# A pod a line: namespace, name, uid, kind of its controller (or -), emptyDir (or -), leaving (or -), the controller's uid
# (or -), Ready (True, False, Unknown).
# shellcheck disable=SC2016 # they are Go's variables
POD_LINES='{{range .items}}{{if not (or (eq .status.phase "Succeeded") (eq .status.phase "Failed"))}}{{$owner := "-"}}{{$by := "-"}}{{$local := "-"}}{{$ready := "Unknown"}}
{{- range .metadata.ownerReferences}}{{if .controller}}{{$owner = .kind}}{{$by = .uid}}{{end}}{{end}}
{{- range .status.conditions}}{{if eq .type "Ready"}}{{$ready = .status}}{{end}}{{end}}
{{- range .spec.volumes}}{{range $kind, $_ := .}}{{if eq $kind "emptyDir"}}{{$local = "emptyDir"}}{{end}}{{end}}{{end}}
{{- .metadata.namespace}} {{.metadata.name}} {{.metadata.uid}} {{$owner}} {{$local}} {{if .metadata.deletionTimestamp}}leaving{{else}}-{{end}} {{$by}} {{$ready}}
{{end}}{{end}}'

# pods_to_move NODE: its running pods but those that belong to it: static ones, and those of DaemonSets.
pods_to_move() {
  kube get pods --all-namespaces --field-selector "spec.nodeName=$1" -o "go-template=$POD_LINES" | awk '$4 != "Node" && $4 != "DaemonSet" && NF'
}

is_cordoned() { [ "$(kube get node "$1" -o 'jsonpath={.spec.unschedulable}' 2>/dev/null)" = true ]; }

# hold_node NODE: no new pods come to it; release_node undoes that, but only where it was us.
hold_node() {
  if is_cordoned "$1"; then return 0; fi
  state_set cordoned "$1"
  logged kube cordon "$1" || die $E_ENVIRONMENT "$1 could not be cordoned: $(tail -n 1 "$LOG")" 'see that the API server answers, then run the same line again'
}

release_node() {
  [ "$(state_get cordoned)" = "$1" ] || return 0
  logged kube uncordon "$1" || return 1
  state_set cordoned ''
}

# refuse_loss NODE: kubectl drain's own rules: what an eviction would lose for good is not evicted unasked.
refuse_loss() {
  local list lost
  list=$(pods_to_move "$1") || die $E_ENVIRONMENT "the pods of $1 could not be listed" 'see that the API server answers, then run the same line again'
  lost=$(awk 'NF && $4 == "-" { print $1 "/" $2 }' <<<"$list" | tr '\n' ' ')
  [ -z "$lost" ] || [ -n "$OPT_FORCE" ] ||
    die $E_ENVIRONMENT "pods of $1 that no controller would make again: $lost" 'delete them yourself, or pass --force: they are lost'
  lost=$(awk 'NF && $5 != "-" { print $1 "/" $2 }' <<<"$list" | tr '\n' ' ')
  [ -z "$lost" ] || [ -n "$OPT_DELETE_EMPTYDIR" ] ||
    die $E_ENVIRONMENT "pods of $1 keep data in emptyDir volumes: $lost" 'pass --delete-emptydir-data: the data is lost, the pods are made again elsewhere'
}

# eviction_api: the version of Eviction that the API server knows.
eviction_api() {
  if grep -q '"policy/v1"' <<<"$(kube get --raw=/apis/policy 2>/dev/null)"; then printf policy/v1; else printf policy/v1beta1; fi
}

# evict API NAMESPACE NAME UID: 1 when it is refused, with the reason in REFUSAL. The uid spares a pod of the same name.
evict() {
  local body=$STATE/tmp/eviction.json reply
  printf '{"apiVersion":"%s","kind":"Eviction","metadata":{"namespace":"%s","name":"%s"},"deleteOptions":{"preconditions":{"uid":"%s"}}}' "$@" >"$body"
  REFUSAL='is ending'
  if reply=$(kube create --raw="/api/v1/namespaces/$2/pods/$3/eviction" -f "$body" -v=8 2>&1); then return 0; fi
  note "$reply"
  # Only the reply's details name the budget, and kubectl shows them in its trace alone.
  REFUSAL=$(grep -oE 'The disruption budget [^"\\]+' <<<"$reply" | tail -n 1) || REFUSAL=$(grep -v '^[IE][0-9]' <<<"$reply" | tail -n 1) || true
  return 1
}

# replaced NAMESPACE CONTROLLER LIST: whether the controller's pods elsewhere are all Ready. Not every workload has a
# budget (the cluster's DNS has none): of pods of one controller the next goes when the last one's successor has come.
replaced() {
  [ "$(grep -cF " $2 " <<<"$3")" -gt 1 ] || return 0
  kube get pods -n "$1" -o "go-template=$POD_LINES" 2>/dev/null | awk -v by="$2" -v here="$3" '
    BEGIN { n = split(here, lines, "\n"); for (i = 1; i <= n; i++) { split(lines[i], one, " "); mine[one[3]] } }
    $7 == by && !($3 in mine) && $6 != "leaving" && $8 != "True" { waits = 1 } END { exit waits }'
}

# evict_all NODE: asks for each pod that is to move, once, but for one pod of each controller at a time; sets UNMOVED.
evict_all() {
  local list api namespace name uid leaving by asked=''
  UNMOVED=''
  if ! list=$(pods_to_move "$1" 2>/dev/null) || ! api=$(eviction_api); then
    UNMOVED='(the API server does not answer)'
    return 0
  fi
  while read -r namespace name uid _ _ leaving by _; do
    [ -n "$namespace" ] || continue
    REFUSAL='is ending'
    if [ "$leaving" = leaving ]; then
      :
    elif [[ $by != - && "$asked " = *" $by "* ]] || ! replaced "$namespace" "$by" "$list"; then
      REFUSAL="waits for its like to be Ready elsewhere"
    else
      asked="$asked $by"
      evict "$api" "$namespace" "$name" "$uid" || true
    fi
    UNMOVED=$UNMOVED${UNMOVED:+, }"$namespace/$name (${REFUSAL:-refused})"
  done <<<"$list"
}

# drain_node NODE SECONDS: cordons it and evicts its pods until none is left. When time is up, it takes pods again (if it
# did before), and exit 7 names what stayed and why.
drain_node() {
  local node=$1 limit=$2 begun told=5 waited
  refuse_loss "$node"
  hold_node "$node"
  clock
  begun=$NOW
  while :; do
    evict_all "$node"
    [ -n "$UNMOVED" ] || return 0
    clock
    waited=$(((NOW - begun) / 100))
    [ $waited -lt "$limit" ] || break
    if [ $waited -ge $told ]; then
      say "draining $node ($waited s, at most $limit s): $UNMOVED"
      told=$((waited + 5))
    fi
    sleep 1
  done
  release_node "$node" || warn "$node stays cordoned: kubectl uncordon $node"
  die $E_ENVIRONMENT "$node could not be drained in $limit s: $UNMOVED" \
    'run more replicas or relax the PodDisruptionBudget, then run the same line again; --timeout SECONDS waits longer'
}

# NAME of a node a line, of those that could take pods over: ready, not cordoned, untainted.
# shellcheck disable=SC2016 # they are Go's variables
HOST_LINES='{{range .items}}{{$ready := false}}{{$shut := false}}{{if .spec.unschedulable}}{{$shut = true}}{{end}}
{{- range .status.conditions}}{{if and (eq .type "Ready") (eq .status "True")}}{{$ready = true}}{{end}}{{end}}
{{- range .spec.taints}}{{if ne .effect "PreferNoSchedule"}}{{$shut = true}}{{end}}{{end}}
{{- if and $ready (not $shut)}}{{.metadata.name}}
{{end}}{{end}}'

# other_hosts NODE: the nodes that could take its pods over.
other_hosts() { kube get nodes -o "go-template=$HOST_LINES" | grep -Fxv -- "$1" || true; }
