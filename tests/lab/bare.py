"""How long the node scripts take, beside kubeadm alone with everything in place."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from . import cluster
from .lab import Process
from .node import Node, boot_all
from .upstream.home import LabError

SCRIPT = Path(__file__).parent / "inside" / "bare.sh"
Seconds = dict[str, float]  # of `master` and of `join`, each until that node is Ready


def bare_kubeadm(master: Node, worker: Node) -> Seconds:
    """Time kubeadm init and join on fresh nodes that have packages, runtime and images already.

    The bundle must be served in the lab; both nodes are wiped first and left running.
    """
    _fresh(master, worker)
    for node, role in ((master, "master"), (worker, "node")):
        _bare(node, "prepare", cluster.URL, role)
    return {
        "master": _timed(master, master, lambda: _bare(master, "init", master.address, cluster.URL)),
        "join": _timed(master, worker, lambda: _bare(worker, "join", worker.address, master.address)),
    }


def measure_deploy(master: Node, worker: Node) -> Seconds:
    """Time the two lines that a user types on fresh nodes, from `curl` until the node is Ready."""
    _fresh(master, worker)
    printed: list[str] = []
    return {
        "master": _timed(master, master, lambda: printed.append(cluster.deploy(master, "master"))),
        "join": _timed(master, worker, lambda: cluster.install(worker, cluster.join_line(printed[0]))),
    }


def compare(master: Node, worker: Node) -> dict[str, Seconds]:
    """Return the seconds of both ways, one after the other on the same nodes, and how many more ours takes.

    Raises LabError when no bundle is served in their lab.
    """
    if not Process.load(master.lab.dir / "installer.pid"):
        raise LabError("no bundle is served in this lab: python -m tests.lab demo")
    bare, ours = bare_kubeadm(master, worker), measure_deploy(master, worker)
    more = {verb: round(ours[verb] - bare[verb], 1) for verb in bare}
    return {"kubeadm alone": bare, "deploy.sh": ours, "difference": more}


def _fresh(*nodes: Node) -> None:
    for node in nodes:
        node.wipe()
    boot_all(nodes)


def _bare(node: Node, *words: str) -> None:
    node.run(["bash", "-s", *words], input=SCRIPT.read_text(), timeout=600, check=True)


def _timed(master: Node, node: Node, act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    cluster.wait_ready(master, [node])
    return round(time.monotonic() - began, 1)
