"""The lab by hand: up [N], run NODE COMMAND..., counters, down, demo, compare."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys

from . import net
from .bare import compare
from .demo import demo
from .lab import Lab
from .node import Node, boot_all
from .teardown import down
from .upstream import servers
from .upstream.home import LabError


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="boot N nodes").add_argument("count", type=int, nargs="?", default=2)
    inside = verbs.add_parser("run", help="run a command in a node")
    inside.add_argument("node")
    inside.add_argument("command", nargs=argparse.REMAINDER)
    verbs.add_parser("counters", help="frames at the switch, by where they were going")
    verbs.add_parser("down", help="power everything off and erase the nodes")
    verbs.add_parser("demo", help="from a manifest to a cluster that answers")
    verbs.add_parser(
        "compare", help="time of the node scripts beside kubeadm alone, as JSON (after demo, on its nodes)"
    )
    options = parser.parse_args(argv)
    try:
        if os.geteuid() != 0 and options.verb != "demo":
            raise LabError("nodes are made by root only")
        return _do(Lab(), options)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; take down what runs: make down", file=sys.stderr)
        return 130


def _do(lab: Lab, options: argparse.Namespace) -> int:
    if options.verb == "up":
        nodes = [Node(lab, n) for n in range(1, options.count + 1)]
        boot_all(nodes)
        for node in nodes:
            print(node.name, node.address)
    elif options.verb == "run":
        words = Node(lab, int(options.node.removeprefix("node"))).entering(options.command or ["bash", "-l"])
        os.execvp(words[0], words)
    elif options.verb == "counters":
        print(net.counters(lab))
    elif options.verb == "down":
        down(lab)
        if lab == Lab("lab"):  # the one that belongs to nobody in particular takes the shared servers along
            servers.stop()
    elif options.verb == "demo":
        demo(lab)
    elif options.verb == "compare":
        with contextlib.redirect_stdout(sys.stderr):
            found = compare(Node(lab, 1), Node(lab, 2))
        print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
