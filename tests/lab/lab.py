"""One lab: its name, its places, and the processes that it started."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .upstream.home import LabError, home

# Labs share no network at all, so every one of them may use the same addresses.
SWITCH_ADDRESS = "10.77.0.1"
NETWORK = "10.77.0.0/24"


def _id_from_env() -> str:
    return os.environ.get("LAB_ID") or "lab"


@dataclass(frozen=True)
class Lab:
    """An isolated data centre; id (LAB_ID, default `lab`) lets several exist on one machine at a time."""

    id: str = field(default_factory=_id_from_env)

    def __post_init__(self) -> None:
        """Refuse an id that would not do as part of file and namespace names."""
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", self.id):
            raise LabError(f"LAB_ID {self.id!r}: use lower case letters, digits and dashes, at most 31")

    @property
    def dir(self) -> Path:
        """Where this lab keeps its state."""
        return home() / "labs" / self.id

    @property
    def switch(self) -> str:
        """Name of the network namespace that holds the bridge."""
        return f"{self.id}-sw"


@dataclass(frozen=True)
class Process:
    """A process by its pid and start time (clock ticks since boot), so that a reused pid is never taken for it."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process that has this pid now, or None; a zombie counts as gone."""
        try:
            state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if state in "ZX" else cls(pid, int(rest[18]))

    @classmethod
    def load(cls, path: Path) -> Process | None:
        """Return the process recorded in a file while it still runs, else None."""
        try:
            recorded = cls(*json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        return recorded if recorded.alive() else None

    def save(self, path: Path) -> None:
        """Record it in a file."""
        path.write_text(json.dumps([self.pid, self.start]))

    def alive(self) -> bool:
        """Say whether this very process still runs."""
        return Process.of(self.pid) == self

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, unless it is gone."""
        if self.alive():
            os.kill(self.pid, sign)

    def ended(self, seconds: float) -> bool:
        """Wait until it is gone; False when it still runs after that many seconds."""
        return until(lambda: not self.alive(), seconds)


def until(condition: Callable[[], object], seconds: float, pause: float = 0.05) -> bool:
    """Ask condition again and again until it holds (True) or the seconds are over (False)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def launch(argv: Sequence[str | Path], log: Path, cwd: Path | None = None) -> Process:
    """Start a process that outlives this program, in a session of its own, with its output appended to log.

    Raises LabError with the log's end when it is gone at once.
    """
    orphan = 'log=$1; shift; exec "$@" </dev/null >>"$log" 2>&1 & echo $!'
    pid = subprocess.run(
        ["sh", "-c", orphan, "launch", log, *argv], cwd=cwd, stdout=subprocess.PIPE, start_new_session=True, check=True
    ).stdout
    process = Process.of(int(pid))
    if process is None:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise LabError(f"{argv[0]} ended at once, see {log}:\n{tail}")
    return process


def start(lab: Lab, name: str, argv: Sequence[str | Path], cwd: Path | None = None) -> Process:
    """Start a server of the lab: its output goes to NAME.log, its pid to NAME.pid in the lab's directory.

    Raises LabError when one of that name runs already.
    """
    if Process.load(lab.dir / f"{name}.pid"):
        raise LabError(f"{name} of lab {lab.id} runs already: python -m tests.lab down")
    lab.dir.mkdir(parents=True, exist_ok=True)
    process = launch(argv, lab.dir / f"{name}.log", cwd)
    process.save(lab.dir / f"{name}.pid")
    return process


def stop(lab: Lab, name: str) -> None:
    """Stop a server that start started, if it runs."""
    end(lab.dir / f"{name}.pid")


def end(path: Path) -> None:
    """Stop the process that a file records, if it runs, and remove the file."""
    process = Process.load(path)
    if process:
        process.kill(signal.SIGTERM)
        if not process.ended(5):
            process.kill()
            process.ended(5)
    path.unlink(missing_ok=True)


def stop_all(lab: Lab) -> None:
    """Stop every server of the lab."""
    for path in lab.dir.glob("*.pid"):
        stop(lab, path.stem)
