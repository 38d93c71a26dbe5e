"""A backup of a cluster with two masters: one comes back alone, and the other joins it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import bundled, cluster
from tests.lab.lab import Lab
from tests.lab.node import Node, boot_all

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

LINE = f"curl -fsSL {cluster.URL}/deploy.sh | bash -s "
VIP = "10.77.0.100"


class Two:
    """Two masters behind a virtual address, something that must survive, and the backup of it."""

    def __init__(self, lab: Lab, place: Path) -> None:
        """Install both and save."""
        self.first, self.second = self.nodes = Node(lab, 1), Node(lab, 2)
        boot_all(self.nodes)
        self.join(cluster.deploy(self.first, f"master --vip {VIP}"))
        cluster.kubectl(self.first, "create", "configmap", "note", "--from-literal=text=before")
        file = re.findall(r"^file +(\S+)$", deploy(self.first, "backup").stdout, re.M)[0]
        self.saved = place / "saved.tar"
        self.saved.write_bytes((self.first.dir / "upper" / file[1:]).read_bytes())

    def join(self, printed: str) -> None:
        """Make the second a further master by the line that the first printed."""
        line = next(line.strip() for line in printed.splitlines() if "deploy.sh" in line and " replica " in line)
        cluster.install(self.second, line, seconds=900)

    def whole(self) -> None:
        """Both are Ready masters with an etcd of their own, and the note is as it was."""
        cluster.wait_ready(self.first, self.nodes, 300)
        note = cluster.kubectl(self.second, "get", "configmap", "note", "-o", "jsonpath={.data.text}")
        assert note == "before"
        for node in self.nodes:
            assert node.run("pidof etcd").stdout
            status = node.run(LINE + "status", timeout=60)
            assert status.returncode == 0, status.stdout


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with bundled.served("test-etcd-masters", tmp_path_factory.mktemp("masters")) as lab:
        yield Two(lab, tmp_path_factory.mktemp("saved"))


def deploy(node: Node, words: str) -> subprocess.CompletedProcess[str]:
    done = node.run(LINE + words, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def carry(two: Two) -> None:
    """Bring the backup to the first master, as a stick would."""
    two.first.run("cat > /srv/saved.tar", input=two.saved.read_bytes(), check=True)


def test_nothing_is_restored_beside_a_master_that_lives(two: Two) -> None:
    carry(two)
    cluster.kubectl(two.first, "delete", "configmap", "note")
    refused = two.first.run(LINE + "restore /srv/saved.tar", timeout=120)
    assert refused.returncode == 7
    assert f"another master's etcd still runs at {two.second.address}:2380" in refused.stderr
    assert two.first.run("pidof etcd kube-apiserver").returncode == 0


def test_one_is_restored_and_the_other_joins_again(two: Two) -> None:
    deploy(two.second, "down")
    done = deploy(two.first, "restore /srv/saved.tar")
    assert "this is the only master now" in done.stderr
    two.join(deploy(two.first, "token").stdout)
    two.whole()
