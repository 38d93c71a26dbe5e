# shellcheck shell=bash
# Checks of the container runtime: whether the one that is wanted can be had, and what is in its way.

check_runtime() {
  local installed fixed
  installed=$(state_get runtime)
  if [ "${OPT_RUNTIME:-$NODE_RUNTIME}" != "$NODE_RUNTIME" ] || [ "${OPT_CGROUP_DRIVER:-$CGROUP_DRIVER}" != "$CGROUP_DRIVER" ]; then
    fault "this host is installed with $installed and the cgroup driver $CGROUP_DRIVER" 'leave the option away, or run the down verb first'
    return 0
  fi
  fixed=$(runtime fixed_driver)
  if [ "${fixed:-$CGROUP_DRIVER}" != "$CGROUP_DRIVER" ] && [ "$NODE_RUNTIME" != containerd ]; then
    fault "$NODE_RUNTIME of this host uses the cgroup driver $fixed, not $CGROUP_DRIVER" \
      "leave --cgroup-driver away, or set native.cgroupdriver=$CGROUP_DRIVER in /etc/docker/daemon.json and restart docker"
  fi
  if ! ours && [ -n "$(runtime containers)" ]; then
    fault "$NODE_RUNTIME has containers of an earlier cluster" 'remove them (crictl rmp -fa, docker rm -f): the kubelet would take them for its own'
  fi
}

check_containerd() {
  local version
  [ "$NODE_RUNTIME" = containerd ] && ! ours || return 0
  command -v containerd >/dev/null 2>&1 || return 0
  recorded packages && return 0
  version=$(containerd --version 2>/dev/null | sed -n 's/.* v\{0,1\}\([0-9]*\.[0-9]*\)\..*/\1/p')
  case $version in
    1.[0-4]) fault "containerd $version is installed; 1.5 or newer is needed for certs.d" 'remove its package: the bundle brings a newer one' ;;
    *) caution "containerd $version is here already" "/etc/containerd/config.toml is replaced (cgroup driver $CGROUP_DRIVER, the bundle as registry); down puts yours back, and spares containers that are not ours" ;;
  esac
}

check_docker() {
  local driver
  if [ "$NODE_RUNTIME" = docker ]; then
    docker_as_runtime
  elif docker_active; then
    caution 'docker runs here' 'the cluster uses containerd beside it; containers of docker are left alone, by down too'
    docker_beside
    driver=$(docker_fixed_driver)
    [ "${driver:-$CGROUP_DRIVER}" = "$CGROUP_DRIVER" ] || caution "docker uses the cgroup driver $driver, the cluster $CGROUP_DRIVER" \
      'pass --cgroup-driver, or set native.cgroupdriver in docker: two managers disagree under memory pressure'
  fi
}

# docker_beside: containerd is restarted with another configuration, and systemd restarts what is bound to it.
docker_beside() {
  ! ours || return 0
  [[ " $(systemctl show -p BindsTo,Requires docker.service 2>/dev/null </dev/null) " == *containerd.service* ]] || return 0
  [ -n "$(docker_ids --filter status=running)" ] && [ "$(docker_says 'Live Restore Enabled')" != true ] || return 0
  fault 'docker runs containers, which end with a restart of containerd' 'pass --runtime docker where the release knows it, end them, or set "live-restore": true in /etc/docker/daemon.json and reload docker'
}

# docker_as_runtime: as the runtime.
docker_as_runtime() {
  has_dockershim || fault "the kubelet of $KUBERNETES_VERSION has no dockershim any more: it cannot use Docker" 'pass --runtime containerd'
  ! ours || return 0
  if [ "$(docker_owner)" = ours ]; then
    [ "${RUNTIME:-}" = docker ] || fault 'the bundle carries no Docker, and this host has none' 'pass --runtime containerd, or build the bundle of a release with Docker'
    [ ! -e /etc/docker/daemon.json ] || caution '/etc/docker/daemon.json is here already' "Docker is started with it as it is (cgroup driver $CGROUP_DRIVER); see that it rotates logs"
  elif ! recorded packages; then
    caution 'docker is here already' "the cluster uses it as it is configured (cgroup driver $CGROUP_DRIVER); containers and images that are not ours are left alone, by down too"
  fi
  if docker_active && [[ $(docker_says driver-type) == io.containerd.snapshotter* ]]; then
    fault 'docker keeps its images in the store of containerd, which no dockershim knows' 'set "features": {"containerd-snapshotter": false} in /etc/docker/daemon.json and restart docker'
  fi
}
