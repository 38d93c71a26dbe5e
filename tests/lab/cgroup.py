"""Control groups of a lab's nodes, on machines with the v1 hierarchies or the unified one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from .lab import until

ROOT = Path("/sys/fs/cgroup")
# Moves itself into the given groups, then becomes the command after `--`: join DIR... -- COMMAND...
JOIN = 'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit; shift; done; shift; exec "$@"'


def unified() -> bool:
    """Say whether this machine has the one hierarchy of cgroup v2 alone."""
    return (ROOT / "cgroup.controllers").exists()


def joining(groups: list[Path]) -> list[str]:
    """Return the words to put before a command so that it runs in these groups."""
    return ["sh", "-c", JOIN, "join", *map(str, groups), "--"]


def make(name: str) -> list[Path]:
    """Make the group NAME (`lab/node1`) in every hierarchy and return the directories."""
    tops = [ROOT] if unified() else sorted(p for p in ROOT.iterdir() if p.is_dir() and not p.is_symlink())
    return [_made(top, Path(name)) for top in tops]


def groups_of(pid: int) -> list[Path]:
    """Return the directories of the groups a process is in."""
    found = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        hierarchy = controllers.removeprefix("name=") or ("" if unified() else "unified")
        found.append(ROOT / hierarchy / path.lstrip("/"))
    return [g for g in found if g.is_dir()]


def beside(pid: int, name: str) -> list[Path]:
    """Make the group NAME next to the init system that runs as pid, and return the directories."""
    return [_made(g.parent if g.name == "init.scope" else g, Path(name)) for g in groups_of(pid)]


def remove(name: str) -> bool:
    """Remove the group NAME and all below it; False when a process is still inside after 5 s."""
    tops = [ROOT / name] if unified() else list(ROOT.glob(f"*/{name}"))
    return until(lambda: all(_removed(top) for top in tops), 5)


def _made(top: Path, name: Path) -> Path:
    group = top
    for part in name.parts:
        if unified():
            with suppress(OSError):  # a controller that the group above keeps for itself
                controllers = (group / "cgroup.controllers").read_text().split()
                (group / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in controllers))
        group /= part
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # v1: a new group has none, and takes no process
            if not unified() and (group / setting).exists():
                (group / setting).write_text((group.parent / setting).read_text())
    return group


def _removed(top: Path) -> bool:
    if not top.exists():
        return True
    for group in sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True):
        with suppress(OSError):
            group.rmdir()
    with suppress(OSError):
        top.rmdir()
    return not top.exists()
