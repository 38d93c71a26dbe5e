"""What a node is made of at one moment, and what is different at another."""

from __future__ import annotations

from pathlib import Path

from .node import Node

SCRIPT = Path(__file__).parent / "inside" / "snapshot.sh"
Snapshot = dict[str, frozenset[str]]  # section of snapshot.sh -> its lines


def snapshot(node: Node) -> Snapshot:
    """Return files, contents, units, mounts, packages, network, firewall, settings and processes of a node."""
    sections: dict[str, set[str]] = {}
    for line in node.run(["bash", "-s"], input=SCRIPT.read_text(), check=True).stdout.splitlines():
        if line.startswith("== "):
            lines = sections.setdefault(line[3:], set())
        else:
            lines.add(line)
    return {name: frozenset(found) for name, found in sections.items()}


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    """Return what changed, sorted: `section -line` was there before only, `section +line` is there now only."""
    return sorted(
        f"{section} {sign}{line}"
        for section in before.keys() | after.keys()
        for sign, here, there in (("-", before, after), ("+", after, before))
        for line in here.get(section, frozenset()) - there.get(section, frozenset())
    )
