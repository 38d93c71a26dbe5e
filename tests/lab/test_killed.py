"""kill -9 of deploy.sh at random moments, again and again: the same line goes on, and down leaves no trace."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.lab import cluster
from tests.lab.bundled import served
from tests.lab.lab import Lab
from tests.lab.node import Node, boot_all
from tests.lab.snapshot import difference, snapshot

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

KILLS = 30
SEED = int(os.environ.get("KILL_SEED") or random.randrange(1 << 20))
# How long after its start a run is killed at most, in seconds: most of what it takes, since later runs resume.
REACH = {"master": 14, "join": 9, "down": 5}
LOCK = "/run/lock/kubecarry.lock"
STREAM = "'^bash -s '"
# What dies: the script alone, so that what it started lives on, or all that hold its lock, as with its control group.
# Before it has taken the lock, there is nothing but the script.
DEATHS = {
    "script": f"pid=$(cat {LOCK}); grep -qs bash /proc/${{pid:-x}}/comm && kill -9 $pid || pkill -9 -f {STREAM}",
    "all": f"for fd in /proc/[0-9]*/fd/9; do case $(readlink $fd) in {LOCK}) echo $fd | cut -d/ -f3 ;; esac; done | "
           f"xargs -r kill -9; pkill -9 -f {STREAM}",
}  # fmt: skip


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with served("test-killed", tmp_path_factory.mktemp("killed")) as site:
        yield site


class Killer:
    """Runs lines and kills them, at moments that depend on the seed and on how fast the machine is."""

    def __init__(self) -> None:
        self.random = random.Random(SEED)
        self.kills: list[str] = []

    def insist(self, node: Node, verb: str, line: str, times: int) -> str:
        """Run a line until it was killed so often, or ended before it could be; then run it to its end."""
        begun: list[threading.Thread] = []
        while len(begun) < times and self._kill(node, verb, line, begun):
            pass
        done = node.run(line, timeout=900)
        assert done.returncode == 0, f"seed {SEED}, after {self.kills[-times:]}:\n{done.stderr}"
        for run in begun:  # what a run left behind holds its output open, and must have ended by now
            run.join(120)
            assert not run.is_alive(), f"seed {SEED}: something of a {verb} outlives it, after {self.kills}"
        return done.stdout

    def _kill(self, node: Node, verb: str, line: str, begun: list[threading.Thread]) -> bool:
        after, what = self.random.uniform(0.1, REACH[verb]), self.random.choice(sorted(DEATHS))
        ended: list[subprocess.CompletedProcess[str]] = []
        run = threading.Thread(target=lambda: ended.append(node.run(line, timeout=900)))
        run.start()
        run.join(after)
        if not run.is_alive():
            assert ended[0].returncode == 0, f"seed {SEED}, {verb} after {self.kills}:\n{ended[0].stderr}"
            return False
        begun.append(run)
        where = node.run("grep step- /var/lib/kubecarry/state | tail -n 1; tail -n 1 /var/log/kubecarry.log").stdout
        node.run(DEATHS[what])
        self.kills.append(f"{node.name} {verb}, {what}, after {after:.1f} s: {' | '.join(where.split(chr(10)))[:100]}")
        print(f"kill {len(self.kills)}: {self.kills[-1]}", flush=True)
        return True


def deploy(words: str) -> str:
    return f"curl -fsSL {cluster.URL}/deploy.sh | bash -s {words}"


def test_killed_anywhere_the_same_line_goes_on_and_down_leaves_no_trace(lab: Lab) -> None:
    print(f"KILL_SEED={SEED}")
    nodes = master, worker = Node(lab, 1), Node(lab, 2)
    boot_all(nodes)
    before = {node.name: snapshot(node) for node in nodes}
    killer, began = Killer(), time.monotonic()
    while len(killer.kills) < KILLS:
        printed = killer.insist(master, "master", deploy("master --sealed"), 7)
        killer.insist(worker, "join", cluster.join_line(printed), 5)
        cluster.wait_ready(master, nodes)
        address = cluster.apply_smoke(master)
        cluster.ask_service(worker, address, of=master)
        for node in nodes:
            assert node.run(deploy("status")).returncode == 0
        for node in (worker, master):
            killer.insist(node, "down", deploy("down"), 3)
            assert difference(before[node.name], snapshot(node)) == [], f"seed {SEED}, after {killer.kills}"
        print(f"{len(killer.kills)} kills, {time.monotonic() - began:.0f} s", flush=True)
