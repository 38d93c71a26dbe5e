"""Upgrades of clusters that serve: all nodes in turn, and with every step made to fail."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import cluster, newer
from tests.lab.lab import Lab, stop
from tests.lab.newer import NEW, OLD
from tests.lab.node import Node, boot_all
from tests.lab.snapshot import Snapshot, difference, snapshot
from tests.lab.teardown import down
from tests.lab.workload import Client, apply_web

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

LINE = f"curl -fsSL {cluster.URL}/deploy.sh | bash -s "
BACKUPS = "/var/lib/kubecarry-backups"
SHIMS = "/usr/local/sbin"
# A program of the host that, the first time it is called like $2, does $3 to deploy.sh; then, and ever after, itself.
SHIM = """#!/bin/bash
real={real}
if [[ "$*" == {pattern} ]] && rm /run/seed 2>/dev/null; then
  case {how} in
    fail) echo 'made to fail'; exit 1 ;;
    kill) kill -9 "$(cat /run/lock/kubecarry.lock)" ;;
    cut) # with kubeadm itself, as the first component is swapped
      "$real" "$@" & child=$!
      until grep -q {new} /etc/kubernetes/manifests/kube-apiserver.yaml; do sleep 0.05; done
      kill -9 "$(cat /run/lock/kubecarry.lock)" $child; exit 1 ;;
    alone) iptables -I OUTPUT -d 10.77.0.1 -j REJECT ;;
  esac
fi
exec "$real" "$@"
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The places of the old bundle and of the new one, each with the installer that it carries."""
    places = {OLD: tmp_path_factory.mktemp("old"), NEW: tmp_path_factory.mktemp("new")}
    newer.old_bundle(places[OLD])
    newer.new_bundle(places[NEW])
    for place in places.values():
        cluster.unpack_installer(place / "bundle.tar", place / "carried")
    return places


class Trio:
    """A master and two nodes of the old version under load, with the new bundle served."""

    def __init__(self, lab: Lab, bundles: dict[str, Path]) -> None:
        """Boot, install and load them."""
        self.lab, self.bundles = lab, bundles
        self.nodes = self.master, self.second, self.third = [Node(lab, n) for n in (1, 2, 3)]
        self.serve(OLD)
        boot_all(self.nodes)
        self.before: dict[str, Snapshot] = {node.name: snapshot(node) for node in self.nodes}
        join = cluster.join_line(cluster.deploy(self.master, "master"))
        for node in self.nodes[1:]:
            cluster.install(node, join)
        cluster.wait_ready(self.master, self.nodes)
        cluster.apply_smoke(self.master)
        self.client = Client(self.master, apply_web(self.master))
        self.serve(NEW)

    def serve(self, version: str) -> None:
        """Serve one of the bundles, at the same address."""
        stop(self.lab, "installer")
        cluster.serve(self.lab, self.bundles[version] / "bundle.tar", self.bundles[version] / "carried")

    def versions(self) -> dict[str, str]:
        """Kubelet's version of each node, as the cluster has it."""
        items = json.loads(cluster.kubectl(self.master, "get", "nodes", "-o", "json"))["items"]
        return {one["metadata"]["name"]: one["status"]["nodeInfo"]["kubeletVersion"] for one in items}

    def schedulable(self) -> set[str]:
        """Names of the nodes that are not cordoned."""
        items = json.loads(cluster.kubectl(self.master, "get", "nodes", "-o", "json"))["items"]
        return {one["metadata"]["name"] for one in items if not one["spec"].get("unschedulable")}

    def daemons(self) -> dict[str, tuple[str, str, int]]:
        """Uid, container and number of restarts of the sample's pod on each node."""
        items = json.loads(cluster.kubectl(self.master, "get", "pods", "-l", "app=smoke", "-o", "json"))["items"]
        return {
            one["spec"]["nodeName"]: (
                one["metadata"]["uid"],
                one["status"]["containerStatuses"][0]["containerID"],
                one["status"]["containerStatuses"][0]["restartCount"],
            )
            for one in items
        }


@pytest.fixture
def trio(bundles: dict[str, Path]) -> Iterator[Trio]:
    lab = Lab("test-upgrade")
    down(lab)
    yield Trio(lab, bundles)
    down(lab)


def deploy(node: Node, words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    return node.run(LINE + words, timeout=timeout)


def test_a_cluster_is_upgraded_while_it_serves_and_can_be_taken_down(trio: Trio) -> None:
    daemons = trio.daemons()
    early = deploy(trio.second, "upgrade")
    assert (early.returncode, "fault   upgrade-masters: node1 is v1.20.2" in early.stderr) == (7, True), early.stderr
    again = deploy(trio.master, "master")
    assert (again.returncode, "fault   other-version" in again.stderr) == (7, True), again.stderr
    trio.third.run("echo '# changed' >> /etc/containerd/config.toml", check=True)  # so that containerd is restarted
    containerd = trio.third.run("systemctl show -p MainPID containerd").stdout
    seconds = {}
    for node in trio.nodes:
        began = time.monotonic()
        cluster.deploy(node, "upgrade", 900)
        seconds[node.name] = round(time.monotonic() - began, 1)
    print(f"seconds to upgrade: {seconds}")
    answers = trio.client.stop()
    print(f"the client: {answers}")
    assert answers.asked > 100
    assert answers.lost == 0, answers.told
    assert trio.versions() == dict.fromkeys(("node1", "node2", "node3"), NEW)
    assert trio.schedulable() == {"node1", "node2", "node3"}
    assert trio.third.run("systemctl show -p MainPID containerd").stdout != containerd
    assert trio.daemons() == daemons, "pods of a DaemonSet live through it, and through a restart of containerd"
    for node in trio.nodes:
        told = deploy(node, "status")
        assert (told.returncode, f"Kubernetes {NEW}" in told.stdout) == (0, True), told.stdout
        assert "nothing to do" in deploy(node, "upgrade").stderr
    for node in reversed(trio.nodes):
        done = deploy(node, "down")
        assert done.returncode == 0, done.stderr
        changes = difference(trio.before[node.name], snapshot(node))
        assert [change for change in changes if BACKUPS not in change] == []
    assert trio.master.run(f"ls {BACKUPS}/node1-before-{NEW}-*.tar").returncode == 0, "down leaves backups alone"


def seed(node: Node, program: str, pattern: str, how: str) -> None:
    """Let a program of the host do something to the upgrade, the first time that it is called like the pattern."""
    real = node.run(f"PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v {program}", check=True).stdout.strip()
    text = SHIM.format(real=real, pattern=pattern, how=how, new=NEW)
    node.run(f"cat > {SHIMS}/{program} && chmod 755 {SHIMS}/{program} && touch /run/seed", input=text, check=True)


def failing(node: Node, program: str, pattern: str, how: str) -> subprocess.CompletedProcess[str]:
    """Upgrade a node with a seed, which must have its effect."""
    seed(node, program, pattern, how)
    done = deploy(node, "upgrade")
    print(f"{node.name}, {program} {pattern}: {how}: ended with {done.returncode}")
    assert node.run("test -e /run/seed").returncode == 1, f"{program} was never called like {pattern}: {done.stderr}"
    node.run(f"rm {SHIMS}/{program}", check=True)
    assert done.returncode != 0, done.stderr
    return done


def test_whatever_stops_it_the_same_line_goes_on_and_the_cluster_serves(trio: Trio) -> None:
    master, second, third = trio.nodes
    place = "/var/lib/kubecarry/cache/part"
    master.run(f"mkdir -p {place} && mount -t tmpfs -o size=5m none {place}", check=True)
    full = deploy(master, "upgrade")
    assert (full.returncode, "make room" in full.stderr) == (7, True), full.stderr
    master.run(f"umount {place}", check=True)
    alone = failing(master, "ctr", "*images?pull*", "alone")
    assert (alone.returncode, "check the server" in alone.stderr) == (5, True), alone.stderr
    master.run("iptables -D OUTPUT -d 10.77.0.1 -j REJECT", check=True)
    assert trio.versions() == dict.fromkeys(("node1", "node2", "node3"), OLD)
    failed = False
    for program, pattern, how in (
        ("dnf", "*install*kubeadm*", "kill"),
        ("kubeadm", "upgrade?apply*", "fail"),
        ("kubeadm", "upgrade?apply*", "cut"),
        ("kubectl", "*?cordon?node1*", "kill"),
        ("kubectl", "*--raw=*eviction*", "kill"),
        ("dnf", "*install*kubelet*", "kill"),
        ("systemctl", "restart?kubelet*", "kill"),
        ("kubectl", "*?uncordon?node1*", "kill"),
        ("kubectl", "*?apply*", "kill"),
    ):
        done = failing(master, program, pattern, how)
        if how == "fail":
            failed = True
            assert (done.returncode, "kubeadm upgrade apply did not succeed" in done.stderr) == (7, True)
        told = deploy(master, "status")
        assert f"the upgrade to {NEW} is unfinished" in told.stdout, told.stdout
    assert failed
    cluster.deploy(master, "upgrade", 900)
    for program, pattern, how in (
        ("kubeadm", "upgrade?node*", "fail"),
        ("kubectl", "*?cordon?node2*", "kill"),
        ("kubectl", "*--raw=*eviction*", "kill"),
        ("dnf", "*install*kubelet*", "kill"),
        ("systemctl", "restart?kubelet*", "kill"),
        ("kubectl", "*?uncordon?node2*", "kill"),
    ):
        failing(second, program, pattern, how)
    cluster.deploy(second, "upgrade", 900)
    assert trio.schedulable() == {"node1", "node2", "node3"}
    budget = '{"spec": {"minAvailable": %d}}'
    cluster.kubectl(master, "patch", "pdb", "web", "-p", budget % 2)
    held = deploy(third, "upgrade --timeout 10")
    assert held.returncode == 7
    assert "The disruption budget web needs 2 healthy pods and has 2 currently" in held.stderr, held.stderr
    assert "relax the PodDisruptionBudget" in held.stderr
    assert trio.schedulable() == {"node1", "node2", "node3"}
    cluster.kubectl(master, "patch", "pdb", "web", "-p", budget % 1)
    cluster.deploy(third, "upgrade", 900)
    answers = trio.client.stop()
    print(f"the client: {answers}")
    assert answers.lost == 0, answers.told
    assert trio.versions() == dict.fromkeys(("node1", "node2", "node3"), NEW)
    for node in trio.nodes:
        told = deploy(node, "status")
        assert told.returncode == 0, told.stdout
