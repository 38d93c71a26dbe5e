"""One bundle for hosts of two kinds: dnf and apt in one cluster, either as the master, and gone without a trace."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.lab import bundled, cluster, net
from tests.lab.lab import Lab, until
from tests.lab.node import Node, boot_all
from tests.lab.snapshot import difference, snapshot
from tests.lab.teardown import down

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

LINE = f"curl -fsSL {cluster.URL}/deploy.sh | bash -s "
LOCK = "/run/lock/kubecarry.lock"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a bundle for EL7 and Debian 12, served at the switch."""
    place, site = tmp_path_factory.mktemp("mixed"), Lab("test-hosts-mixed")
    down(site)
    bundled.build(place, ("el7", "debian12"))
    cluster.serve(site, place / "bundle.tar", place / "carried")
    try:
        yield site
    finally:
        down(site)


def deploy(node: Node, words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    return node.run(LINE + words, timeout=timeout)


@pytest.mark.parametrize(("first", "second"), [("el7", "debian12"), ("debian12", "el7")])
def test_either_kind_is_master_of_the_other(lab: Lab, first: str, second: str) -> None:
    master, worker = nodes = Node(lab, 1, first), Node(lab, 2, second)
    boot_all(nodes)
    before = {node.name: snapshot(node) for node in nodes}
    printed = cluster.deploy(master, "master", 900)
    cluster.install(worker, cluster.join_line(printed), 900)
    cluster.wait_ready(master, nodes, 300)
    address = cluster.apply_smoke(master)
    assert cluster.ask_service(worker, address, of=master) == "hello from node1"
    assert cluster.ask_service(master, address, of=worker) == "hello from node2"
    for node in nodes:
        told = deploy(node, "status")
        assert told.returncode == 0, told.stdout
        assert "differs" not in told.stdout
    again = deploy(worker, cluster.join_line(printed).split("bash -s ")[1])
    assert again.returncode == 0, again.stderr
    assert "packages are installed" in again.stderr
    assert net.counters(lab).foreign == 0
    for node in (worker, master):
        done = deploy(node, "down")
        assert done.returncode == 0, done.stderr
        assert difference(before[node.name], snapshot(node)) == []
        node.wipe()


def kill_while(node: Node, words: str, sign: str) -> None:
    """Run a verb and kill -9 deploy.sh and dpkg themselves as soon as a command (``sign``) succeeds on the node."""
    run = threading.Thread(target=deploy, args=(node, words))
    run.start()
    assert until(lambda: node.run(sign).returncode == 0, 300, 0.02), f"never seen: {sign}"
    node.run(f"kill -9 $(cat {LOCK}); pkill -9 -x apt-get; pkill -9 -x dpkg")
    run.join()


def test_killed_in_the_middle_of_dpkg_the_same_line_recovers(lab: Lab) -> None:
    node = Node(lab, 3, "debian12")
    node.boot()
    before = snapshot(node)
    for package in ("runc", "kubelet"):  # of the runtime's packages, and of the rest
        begun = f"grep -Eq ' (unpack|half-installed|half-configured) {package}[: ]' /var/log/dpkg.log"
        kill_while(node, "master", begun)
    assert node.run("dpkg --audit").stdout or node.run("ls /var/lib/dpkg/updates").stdout, "nothing was interrupted"
    done = deploy(node, "master")
    assert done.returncode == 0, done.stderr
    assert "finishing that first" in done.stderr
    assert node.run("dpkg --audit").stdout == ""
    assert node.run("test -e /usr/sbin/policy-rc.d").returncode == 1
    assert deploy(node, "status").returncode == 0
    kill_while(node, "down", "grep -Eq ' (remove|purge) (socat|kubelet)[: ]' /var/log/dpkg.log")
    done = deploy(node, "down")
    assert done.returncode == 0, done.stderr
    assert difference(before, snapshot(node)) == []
    node.wipe()


def test_a_lock_that_another_holds_is_waited_for_and_trouble_of_others_is_told(lab: Lab) -> None:
    node = Node(lab, 4, "debian12")
    node.boot()
    hold = ("import fcntl,sys,time; f=open('/var/lib/dpkg/lock-frontend','w'); fcntl.lockf(f, fcntl.LOCK_EX); "
            "print('held', flush=True); time.sleep(600)")  # fmt: skip
    holder = subprocess.Popen(_python_beside(node, hold), stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        run = threading.Thread(target=deploy, args=(node, "master --ignore=memory"))
        run.start()
        waits = "grep -q 'Waiting for cache lock' /var/lib/kubecarry/tmp/output"
        assert until(lambda: node.run(waits).returncode == 0, 120), "apt-get did not wait for the lock"
    finally:
        node.run("pkill -9 -f '[l]ock-frontend'")  # the holder itself: nsenter is only its parent
        holder.wait()
        if holder.stdout:
            holder.stdout.close()
    assert until(lambda: node.run("dpkg-query -W kubelet").returncode == 0, 300)
    node.run(f"kill -9 $(cat {LOCK})")
    run.join()
    assert deploy(node, "down").returncode == 0
    node.run("mkdir -p /tmp/p/DEBIAN && printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@y>\\n"
             "Description: x\\n' >/tmp/p/DEBIAN/control && dpkg-deb -b /tmp/p /tmp/p.deb && dpkg --unpack /tmp/p.deb",
             check=True)  # fmt: skip
    told = deploy(node, "preflight")
    assert told.returncode == 7
    assert "fault   package-db: dpkg has packages that are half installed" in told.stderr
    node.wipe()


def _python_beside(node: Node, text: str) -> list[str]:
    """Return a command of this machine's Python that sees the node's files: the node itself has none."""
    assert node.init
    return ["nsenter", "-t", str(node.init.pid), "-p", "--", sys.executable, "-c",
            text.replace("/var/lib/dpkg", f"/proc/{node.init.pid}/{'root'}/var/lib/dpkg")]  # fmt: skip
