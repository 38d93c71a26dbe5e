# shellcheck shell=bash
# The control plane's static pods: stopped by holding their manifests back, which outlives an interruption and a reboot.

STATIC_PODS=/etc/kubernetes/manifests
HELD=/etc/kubernetes/kubecarry-held
CONTROL_PLANE='etcd kube-apiserver kube-controller-manager kube-scheduler'

# pod_runs PROGRAM: whether a process of that name runs in a pod (etcd may also be a service of the host).
pod_runs() {
  local file name
  for file in /proc/[0-9]*/comm; do
    name=''
    { read -r name <"$file"; } 2>/dev/null || true
    if [ "$name" = "${1:0:15}" ] && grep -qs kubepods "${file%comm}cgroup"; then return 0; fi
  done
  return 1
}

control_plane_gone() {
  local name
  for name in $CONTROL_PLANE; do ! pod_runs "$name" || return 1; done
}

# stop_control_plane: the kubelet stops what has no manifest any more.
stop_control_plane() {
  local name
  mkdir -p "$HELD"
  for name in $CONTROL_PLANE; do
    [ ! -e "$STATIC_PODS/$name.yaml" ] || mv -f "$STATIC_PODS/$name.yaml" "$HELD/"
  done
  systemctl is-active -q kubelet.service </dev/null || logged systemctl start kubelet.service
  wait_for 180 'the control plane to stop' control_plane_gone ||
    die $E_ENVIRONMENT 'the control plane does not stop' "see journalctl -u kubelet; then run the same line again ($HELD has its manifests)"
}

# release_control_plane: gives the manifests back that a stop held.
release_control_plane() {
  local name
  [ -d "$HELD" ] || return 0
  for name in $CONTROL_PLANE; do
    [ ! -e "$HELD/$name.yaml" ] || mv -f "$HELD/$name.yaml" "$STATIC_PODS/"
  done
  rmdir "$HELD"
}

control_plane_up() {
  local name
  for name in kube-apiserver kube-controller-manager kube-scheduler; do pod_runs $name || return 1; done
  api_healthy && node_ready
}

# start_control_plane: back as it was, by a kubelet that starts anew: what it knew of the cluster may be out of date.
start_control_plane() {
  release_control_plane
  logged systemctl restart kubelet.service || die $E_ENVIRONMENT 'the kubelet does not start' 'see: journalctl -u kubelet'
  wait_for "$OPT_TIMEOUT" 'the control plane' control_plane_up ||
    die $E_ENVIRONMENT 'the control plane does not come back' 'see journalctl -u kubelet and /var/log/pods; then run the same line again'
}
