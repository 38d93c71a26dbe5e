"""The bundle's server dies while a node installs: it comes back, or another takes over; nothing is fetched twice."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.lab import cluster, net
from tests.lab.bundled import build
from tests.lab.lab import SWITCH_ADDRESS, Lab, Process, until
from tests.lab.node import Node
from tests.lab.teardown import down
from tests.lab.upstream.home import run

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

OUTAGE = 10  # seconds
SECOND = "10.77.0.2"
# So that an outage falls into the transfer: a bundle of 290 MB takes some 12 s. A burst of 1 MB is what TBF wants here.
SLOWLY = "root tbf rate 200mbit burst 1mb latency 200ms"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gone")
    build(path)
    return path


@pytest.fixture
def lab() -> Iterator[Lab]:
    site = Lab("test-gone")
    down(site)
    net.up(site)
    run("ip", "-n", site.switch, "addr", "add", f"{SECOND}/24", "dev", "br0")
    yield site
    down(site)


@pytest.fixture
def node(lab: Lab) -> Node:
    fresh = Node(lab, 1)
    fresh.boot()
    run(*net.within(lab.switch), "tc", "qdisc", "add", "dev", f"v-{fresh.name}", *SLOWLY.split())
    return fresh


def serve(lab: Lab, place: Path, *options: str, at: str = SWITCH_ADDRESS) -> None:
    log = str(place / f"access-{at}.log")
    cluster.serve(lab, place / "bundle.tar", place / "carried", "--access-log", log, *options, at=at)


def replies(place: Path, at: str = SWITCH_ADDRESS) -> list[dict[str, object]]:
    """The access log's lines, but for one that a killed server did not finish."""
    found = []
    for line in (place / f"access-{at}.log").read_text().splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def kill(lab: Lab, name: str = "installer") -> None:
    """As if the machine had lost its power: the server and its workers, at once."""
    process = Process.load(lab.dir / f"{name}.pid")
    assert process is not None
    group = [process, *(child for pid in _children(process.pid) if (child := Process.of(pid)))]
    for each in group:
        each.kill()
    assert all(each.ended(10) for each in group)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Install(threading.Thread):
    """`deploy.sh master` on a node, on the side."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node
        self.done: subprocess.CompletedProcess[str] | None = None
        self.start()

    def run(self) -> None:
        self.done = self.node.run(f"curl -fsSL {cluster.URL}/deploy.sh | bash -s master", timeout=900)

    def reached(self, condition: str) -> None:
        """Wait until a line of shell on the node holds."""
        assert until(lambda: self.node.run(condition).returncode == 0 or not self.is_alive(), 300)
        assert self.is_alive(), self.done and self.done.stderr

    def ended_well(self) -> str:
        """Wait for the end; what it said."""
        self.join(900)
        assert self.done is not None
        assert self.done.returncode == 0, self.done.stderr
        return self.done.stderr


def assert_nothing_was_fetched_twice(place: Path, *servers: str) -> None:
    """No package and no blob of an image was sent more often than once, in bytes; a head is less than 1 KiB."""
    sent: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for at in servers:
        for reply in replies(place, at):
            target = str(reply["target"]).partition("?")[0]
            if reply["method"] == "GET" and reply["status"] in (200, 206) and (".rpm" in target or "/blobs/" in target):
                sent[target.rpartition("/")[2]] += int(str(reply["sent"]))
                parts[target.rpartition("/")[2]] += 1
    sizes = {
        name.split("/")[-1]: int(size)
        for size, name in (
            (line.split()[2], line.split()[5]) for line in run("tar", "-tvf", place / "bundle.tar").splitlines()
        )
    }
    assert len(sent) > 20, "the log says nothing"
    for name, count in sent.items():
        assert count <= sizes[name.removeprefix("sha256:")] + 1024 * parts[name], f"{name}: {count} bytes"


def test_an_install_goes_on_by_itself_when_the_server_comes_back(lab: Lab, node: Node, place: Path) -> None:
    serve(lab, place)
    install = Install(node)
    for phase, condition in (
        ("packages", "ls /var/lib/kubecarry/cache/part/* | grep -q ."),
        ("images", "ls -d /var/lib/containerd/io.containerd.content.v1.content/ingest/*"),
        ("kubeadm", "grep -q step-kubeadm=started /var/lib/kubecarry/state"),
    ):
        install.reached(condition)
        kill(lab)
        print(f"{phase}: killed at {time.monotonic():.1f}")
        time.sleep(OUTAGE)
        serve(lab, place)
    told = install.ended_well()
    assert "waiting for http://10.77.0.1:8000" in told
    assert cluster.ready(node) == {node.name}
    assert_nothing_was_fetched_twice(place, SWITCH_ADDRESS)


def test_the_second_server_takes_over_for_good(lab: Lab, node: Node, place: Path) -> None:
    for log in place.glob("access-*"):
        log.unlink()
    serve(lab, place, "--also", f"http://{SECOND}:{cluster.PORT}")
    serve(lab, place, "--also", cluster.URL, at=SECOND)
    install = Install(node)
    install.reached("ls -d /var/lib/containerd/io.containerd.content.v1.content/ingest/*")
    kill(lab)
    install.ended_well()
    assert cluster.ready(node) == {node.name}
    assert any("/blobs/" in str(reply["target"]) for reply in replies(place, SECOND)), "containerd turned to it too"
    assert_nothing_was_fetched_twice(place, SWITCH_ADDRESS, SECOND)
    line = cluster.join_line(install.done.stdout if install.done else "")
    assert SECOND in line, "the line for the next node names the server that lives"
