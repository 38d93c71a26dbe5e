# shellcheck shell=bash
# The container runtime: which one, with which cgroup driver, and the words by which every other part speaks to it.

NODE_RUNTIME=containerd # or docker, by the dockershim of a kubelet that has one
CGROUP_DRIVER=systemd   # or cgroupfs: the runtime's and the kubelet's

# runtime WORD [ARG…]: calls containerd_WORD or docker_WORD. The words:
#   programs                  what it is made of, each started by the unit of its name; the one that is spoken to is last
#   packages                  which packages to install first: an extended regular expression of names
#   left_out                  which packages of the role not to install; empty if none
#   version                   name and version
#   socket                    of the CRI
#   endpoint                  the same as kubeadm wants it
#   store                     the directory of its images
#   fixed_driver              the cgroup driver that the host's own configuration asks for; empty if none does
#   note_host                 remembers, before packages, what of it is here
#   configure                 configures and starts it
#   answers                   whether it does
#   stale                     whether the one that runs is not the one that is installed
#   complete_images           "reference digest" of the role's images that are here, whole
#   fetch_images LINE…        "digest reference" lines: what can be fetched for all of them together
#   get_image DIGEST REF      brings one; says why and returns 1 if it cannot
#   record_images             for down: what of the images is not ours
#   containers                ids of the cluster's containers, those of another cluster included
#   remove_containers ID…     with force
#   foreign                   what else uses it, if it came with us; empty if nothing
runtime() {
  local word=$1
  shift
  "${NODE_RUNTIME}_$word" "$@"
}

# recall_runtime: as it was installed.
recall_runtime() {
  NODE_RUNTIME=$(state_get runtime)
  CGROUP_DRIVER=$(state_get cgroup-driver)
  NODE_RUNTIME=${NODE_RUNTIME:-containerd} CGROUP_DRIVER=${CGROUP_DRIVER:-systemd}
}

# choose_runtime: as it was installed, or as the options say, or what the host runs already, or what the bundle brings.
choose_runtime() {
  NODE_RUNTIME=$(state_get runtime)
  NODE_RUNTIME=${NODE_RUNTIME:-${OPT_RUNTIME:-$(likely_runtime)}}
  CGROUP_DRIVER=$(state_get cgroup-driver)
  CGROUP_DRIVER=${CGROUP_DRIVER:-${OPT_CGROUP_DRIVER:-$(runtime fixed_driver)}}
  CGROUP_DRIVER=${CGROUP_DRIVER:-systemd}
}

likely_runtime() {
  if has_dockershim && systemctl is-active -q docker 2>/dev/null; then
    printf 'docker'
  elif systemctl is-active -q containerd 2>/dev/null; then
    printf 'containerd'
  else
    printf '%s' "${RUNTIME:-containerd}"
  fi
}

# has_dockershim: whether the kubelet can use Docker by itself: up to 1.23.
has_dockershim() {
  local minor=${KUBERNETES_VERSION#v1.}
  [ "${minor%%.*}" -le 23 ]
}

# is_ours PROGRAM: whether containerd or docker came with this installation (decided at the first run, before packages).
is_ours() { [ "$(state_get "$1")" = ours ]; }

# own_runtime: before anything of it appears: what it leaves is ours to remove, unless it was here.
own_runtime() {
  local program path
  runtime note_host
  for program in $(runtime programs); do
    [ -n "$(state_get "$program")" ] || state_set "$program" "$("${program}_owner")"
    is_ours "$program" || continue
    for path in $("${program}_trees"); do own_tree "$path"; done
  done
}

# start_unit UNIT 0|1 FILE: enabled and running; restarted for 1, if its configuration changed, or if it was not started
# by us with this one: a run may have been killed between the two.
start_unit() {
  local sum
  sum=$(sha256sum 2>/dev/null <"$3") || sum=none
  enable_unit "$1.service"
  if ! systemctl is-active -q "$1.service" </dev/null; then
    logged systemctl start "$1.service" || die $E_ENVIRONMENT "$1 does not start" "see: journalctl -u $1"
  elif [ "$2" = 1 ] || [ "$(state_get "started-$1")" != "${sum%% *}" ]; then
    logged systemctl restart "$1.service" || die $E_ENVIRONMENT "$1 does not start again" "see: journalctl -u $1"
  fi
  [ "$(state_get "started-$1")" = "${sum%% *}" ] || state_set "started-$1" "${sum%% *}"
}

# configure_crictl: for whoever looks at the node.
configure_crictl() {
  local endpoint
  endpoint=unix://$(runtime socket)
  printf 'runtime-endpoint: %s\nimage-endpoint: %s\ntimeout: 10\n' "$endpoint" "$endpoint" | put_file 0644 /etc/crictl.yaml
}
