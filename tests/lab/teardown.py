"""The end of a lab."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

from . import cgroup, net
from .lab import Lab, stop_all
from .node import Node, nodes_of


def down(lab: Lab) -> None:
    """Stop what runs in a lab and erase it, by what it recorded; what was built stays cached."""
    stop_all(lab)
    with ThreadPoolExecutor() as pool:
        list(pool.map(Node.wipe, nodes_of(lab)))
    net.down(lab)
    cgroup.remove(lab.id)
    shutil.rmtree(lab.dir, ignore_errors=True)
