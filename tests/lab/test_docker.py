"""Docker as the runtime, by the kubelet's dockershim; both cgroup drivers, with Docker and with containerd."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import cluster, net
from tests.lab.lab import Lab
from tests.lab.node import Node, boot_all
from tests.lab.snapshot import Snapshot, difference, snapshot
from tests.lab.teardown import down
from tests.lab.upstream import driver, servers
from tests.lab.upstream.home import home

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

LINE = f"curl -fsSL {cluster.URL}/deploy.sh | bash -s "
# The copies that groupadd and groupdel keep of the files before their last change.
OF_GROUPS = ("/etc/group-", "/etc/gshadow-")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a bundle of the release with Docker, served at the switch."""
    place, site = tmp_path_factory.mktemp("docker"), Lab("test-docker")
    ran = all(servers.status().values())
    driver.build()
    shutil.copy(driver.start(), place / "mirrors.yaml")
    bundler = Path(sys.executable).with_name("bundler")
    shared = ["--version", "1.20-docker", "--lock-dir", ".", "--config", "mirrors.yaml", "--cache-dir",
              home() / "store", "-q"]  # fmt: skip
    for words in (["lock", *shared], ["build", *shared, "-o", "bundle.tar"]):
        subprocess.run([bundler, *words], cwd=place, check=True, stdout=subprocess.DEVNULL)
    if not ran:
        servers.stop()
    down(site)
    cluster.unpack_installer(place / "bundle.tar", place / "carried")
    cluster.serve(site, place / "bundle.tar", place / "carried")
    yield site
    down(site)


class Pair:
    """A master and a node with Docker, installed, and how they were before."""

    def __init__(self, lab: Lab) -> None:
        """Boot both and install them by the two lines that a user types."""
        self.master, self.worker = self.nodes = Node(lab, 1), Node(lab, 2)
        boot_all(self.nodes)
        self.before: dict[str, Snapshot] = {node.name: snapshot(node) for node in self.nodes}
        self.printed = cluster.deploy(self.master, "master")
        cluster.install(self.worker, cluster.join_line(self.printed))


@pytest.fixture(scope="module")
def pair(lab: Lab) -> Pair:
    return Pair(lab)


@pytest.fixture
def fresh(lab: Lab) -> Iterator[Node]:
    node = Node(lab, 3)
    node.wipe()
    node.boot()
    yield node
    node.wipe()


def deploy(node: Node, words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    return node.run(LINE + words, timeout=timeout)


def changes(before: Snapshot, node: Node) -> list[str]:
    return [line for line in difference(before, snapshot(node)) if not any(path in line for path in OF_GROUPS)]


def docker(node: Node, words: str) -> str:
    return node.run(f"docker {words}", check=True).stdout.strip()


def runtimes(master: Node) -> dict[str, str]:
    """The runtime of each node, as its kubelet says."""
    form = r"jsonpath={range .items[*]}{.metadata.name} {.status.nodeInfo.containerRuntimeVersion}{'\n'}{end}"
    lines = cluster.kubectl(master, "get", "nodes", "-o", form).splitlines()
    return {name: runtime.split(":")[0] for name, runtime in map(str.split, lines)}


def drivers(node: Node) -> tuple[str, str]:
    """The cgroup driver that the kubelet was told, and where the containers of its pods are."""
    told = node.run("tr '\\0' '\\n' </proc/$(pgrep -x kubelet)/cmdline | sed -n s/--cgroup-driver=//p", check=True)
    groups = node.run("find /sys/fs/cgroup/systemd -maxdepth 1 -name 'kubepods*' -printf '%f\\n'", check=True)
    return told.stdout.strip(), groups.stdout.strip()


def test_both_nodes_run_docker_and_a_workload_answers_across(lab: Lab, pair: Pair) -> None:
    cluster.wait_ready(pair.master, pair.nodes)
    assert runtimes(pair.master) == {"node1": "docker", "node2": "docker"}
    address = cluster.apply_smoke(pair.master)
    assert cluster.ask_service(pair.worker, address, of=pair.master) == "hello from node1"
    assert cluster.ask_service(pair.master, address, of=pair.worker) == "hello from node2"
    assert cluster.ask_by_name(pair.master, on=pair.worker).startswith("hello from node")
    assert net.counters(lab).foreign == 0
    for node in pair.nodes:
        assert drivers(node) == ("systemd", "kubepods.slice")
        assert docker(node, "info --format '{{.CgroupDriver}} {{.Driver}} {{.LoggingDriver}}'") == (
            "systemd overlay2 json-file"
        )
        assert "docker0" not in node.run("ip -o link").stdout
        told = deploy(node, "status")
        assert (told.returncode, "docker 20.10" in told.stdout) == (0, True), told.stdout


def test_images_are_those_of_the_lock(pair: Pair) -> None:
    """Docker names an image by the digest of its config, which lists/layers gives for the locked digest."""
    fetch = f"curl -fsS {cluster.URL}/lists/"
    listed = dict(line.split(" ")[1::-1] for line in pair.master.run(fetch + "images").stdout.splitlines())
    configs = {line.split(" ")[0]: line.split(" ")[2] for line in pair.master.run(fetch + "layers").stdout.splitlines()
               if line.split(" ")[1] == "amd64"}
    for node, want in ((pair.master, 9), (pair.worker, 5)):
        there = dict(line.split(" ") for line in
                     docker(node, "image ls --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'").splitlines())
        found = [ref for ref in listed if ref.removeprefix("docker.io/library/") in there]
        assert len(found) == len(there) >= want, there
        for ref in found:
            assert there[ref.removeprefix("docker.io/library/")] == configs[listed[ref]]
        assert node.run("ls /var/lib/kubecarry/cache/images").returncode != 0, "no second copy is left"
        assert "insecure" not in node.run("cat /etc/docker/daemon.json", check=True).stdout


@pytest.mark.parametrize("which", ["master", "worker"])
def test_the_same_line_again_changes_nothing(pair: Pair, which: str) -> None:
    node: Node = getattr(pair, which)
    line = LINE + "master" if which == "master" else cluster.join_line(pair.printed)
    look = "cat /var/lib/kubecarry/journal; systemctl show -p MainPID docker containerd kubelet; docker ps -q | sort"
    before = node.run(look).stdout
    done = node.run(line, timeout=120)
    assert done.returncode == 0, done.stderr
    assert node.run(look).stdout == before


def test_after_a_reboot_it_comes_back(pair: Pair) -> None:
    address = cluster.kubectl(pair.master, "get", "service", "smoke", "-o", "jsonpath={.spec.clusterIP}")
    pair.worker.reboot()
    cluster.wait_ready(pair.master, pair.nodes)
    assert cluster.ask_service(pair.master, address, of=pair.worker) == "hello from node2"


def test_containers_of_others_keep_what_they_need(pair: Pair) -> None:
    """Somebody's own container in the Docker that came with us: it runs on, and `down` again takes the rest."""
    node = pair.worker
    docker(node, "run -d --name theirs --network none k8s.gcr.io/pause:3.2")
    done = deploy(node, "down")
    assert (done.returncode, "containers that are not the cluster's" in done.stderr) == (7, True), done.stderr
    assert docker(node, "ps --format '{{.Names}}'") == "theirs"
    docker(node, "rm -f theirs")


def test_down_leaves_nothing(pair: Pair) -> None:
    boot = ("/systemd-private-", "network +eth0@", "network -eth0@", ",upperdir=")  # of the reboot
    for node in (pair.worker, pair.master):
        done = deploy(node, "down")
        assert done.returncode == 0, done.stderr
        left = changes(pair.before[node.name], node)
        assert [line for line in left if not any(of in line for of in boot)] == []


def test_cgroupfs_with_docker_and_with_containerd(lab: Lab, pair: Pair) -> None:
    """One cluster of both runtimes, out of one bundle; the worker by itself has the other driver than the master."""
    master, worker = pair.nodes
    printed = cluster.deploy(master, "master --single-node --cgroup-driver cgroupfs")
    assert drivers(master) == ("cgroupfs", "kubepods")
    join = cluster.join_line(printed)
    cluster.install(worker, f"{join} --runtime containerd --cgroup-driver=cgroupfs")
    cluster.wait_ready(master, pair.nodes)
    assert runtimes(master) == {"node1": "docker", "node2": "containerd"}
    assert drivers(worker) == ("cgroupfs", "kubepods")
    assert worker.run("command -v docker dockerd").stdout == ""
    address = cluster.apply_smoke(master)
    assert cluster.ask_service(worker, address, of=master) == "hello from node1"
    assert cluster.ask_service(master, address, of=worker) == "hello from node2"
    other = deploy(worker, f"{join.split('bash -s ')[1]} --runtime docker")
    assert (other.returncode, "fault   runtime: this host is installed with containerd" in other.stderr) == (7, True)
    for node in (worker, master):
        assert deploy(node, "status").returncode == 0
        assert deploy(node, "down").returncode == 0


def test_killed_anywhere_the_same_line_recovers(fresh: Node) -> None:
    before = snapshot(fresh)
    for seconds in (4, 8, 13, 25):
        kill(fresh, "master", seconds)
    done = deploy(fresh, "master")
    assert done.returncode == 0, done.stderr
    assert cluster.ready(fresh) == {"node3"}
    assert deploy(fresh, "status").returncode == 0
    for seconds in (1.5, 4):
        kill(fresh, "down", seconds)
    done = deploy(fresh, "down")
    assert done.returncode == 0, done.stderr
    assert changes(before, fresh) == []


def kill(node: Node, words: str, after: float) -> None:
    """Run a verb and kill -9 deploy.sh itself after so many seconds; its children live on, as they would."""
    run = threading.Thread(target=deploy, args=(node, words))
    run.start()
    time.sleep(after)
    node.run("kill -9 $(cat /run/lock/kubecarry.lock)")
    run.join()


def test_a_docker_that_runs_already_is_used_as_it_is_and_spared(fresh: Node) -> None:
    """It uses cgroupfs, by its own default: so does the kubelet; its container runs through all of it."""
    repo = f"--repofrompath=bundle,{cluster.URL}/packages/el7 --setopt=bundle.gpgcheck=0"
    fresh.run(f"dnf -yq {repo} install docker-ce && systemctl enable -q --now docker", check=True, timeout=300)
    files = "bin/sleep lib64/ld-linux-x86-64.so.2 lib/x86_64-linux-gnu/libc.so.6"
    fresh.run(f"tar -C / -ch {files} | docker import - theirs:1 && docker tag theirs:1 k8s.gcr.io/pause:3.2 && "
              "docker run -d --name theirs theirs:1 /bin/sleep 100000", check=True)
    names = "docker image ls --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}' | sort"
    look = ("systemctl show -p MainPID docker; docker inspect -f '{{.State.Pid}} {{.State.StartedAt}}' theirs; "
            f"{names}; iptables-save -t nat | grep -i docker | sort; cat /etc/docker/* 2>/dev/null")
    before, was = snapshot(fresh), fresh.run(look, check=True).stdout
    refused = deploy(fresh, "master --cgroup-driver systemd")
    assert (refused.returncode, "fault   runtime: docker of this host uses the cgroup driver cgroupfs" in refused.stderr
            ) == (7, True), refused.stderr
    refused = deploy(fresh, "master --runtime containerd")
    assert "docker runs containers, which end with a restart of containerd" in refused.stderr
    cluster.deploy(fresh, "master --single-node")
    cluster.wait_ready(fresh, [fresh])
    assert runtimes(fresh) == {"node3": "docker"}
    assert drivers(fresh) == ("cgroupfs", "kubepods")
    address = cluster.apply_smoke(fresh)
    assert cluster.ask_service(fresh, address, of=fresh) == "hello from node3"
    assert deploy(fresh, "status").returncode == 0
    done = deploy(fresh, "down")
    assert done.returncode == 0, done.stderr
    assert fresh.run(look, check=True).stdout == was, "as if nothing had been"
    state = ("/var/lib/docker/", "/run/docker", "/run/containerd", "/var/lib/containerd/")
    assert [line for line in changes(before, fresh) if not any(path in line for path in state)] == []
