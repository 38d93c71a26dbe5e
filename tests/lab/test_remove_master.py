"""A master of three dies for good: another takes it out of the cluster, with its etcd member, and it comes back new."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.lab import cluster
from tests.lab.bundled import served
from tests.lab.lab import until
from tests.lab.node import Node, boot_all

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

VIP = "10.77.0.100"


@pytest.fixture
def masters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    with served("test-remove", tmp_path_factory.mktemp("remove")) as lab:
        nodes = [Node(lab, number) for number in (1, 2, 3)]
        boot_all(nodes)
        printed = cluster.deploy(nodes[0], f"master --vip {VIP} --sealed")
        for node in nodes[1:]:
            cluster.install(node, f"{replica_line(printed)} --sealed", seconds=900)
        yield nodes


def replica_line(printed: str) -> str:
    return next(line.strip() for line in printed.splitlines() if "deploy.sh" in line and " replica " in line)


def deploy(node: Node, words: str) -> subprocess.CompletedProcess[str]:
    return node.run(f"curl -fsSL {cluster.URL}/deploy.sh | bash -s {words}", timeout=900)


def members(of: Node) -> str:
    pki = "/etc/kubernetes/pki/etcd"
    words = f"--cacert={pki}/ca.crt --cert={pki}/peer.crt --key={pki}/peer.key member list".split()
    pod = ("-n", "kube-system", "exec", f"etcd-{of.name}", "--", "etcdctl", "--endpoints=https://127.0.0.1:2379")
    return cluster.kubectl(of, *pod, *words)


def test_a_master_that_is_gone_is_taken_out_and_may_come_back(masters: list[Node]) -> None:
    first, second, third = masters
    assert members(first).count("started") == 3
    third.wipe()
    assert until(lambda: third.name not in cluster.ready(first), 180, 0.5)
    done = deploy(first, f"remove {third.name}")
    assert done.returncode == 0, done.stderr
    assert third.name not in members(first)
    assert members(first).count("started") == 2
    nodes = cluster.kubectl(first, "get", "nodes")
    assert third.name not in nodes
    done = deploy(first, f"remove {first.name}")
    assert done.returncode == 7
    assert f"run remove {first.name} on another master ({second.name})" in done.stderr
    third.boot()
    told = deploy(first, "token")
    cluster.install(third, replica_line(told.stdout), seconds=900)
    cluster.wait_ready(first, masters)
    assert members(first).count("started") == 3
    done = deploy(second, f"remove {third.name}")
    assert done.returncode == 0, done.stderr
    assert members(second).count("started") == 2, "a living one goes too"
    assert deploy(third, "down").returncode == 0
    assert cluster.ready(second) == {first.name, second.name}
    assert deploy(first, "status").returncode == 0
