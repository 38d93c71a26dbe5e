"""What a person watches: commands with their output as it comes, and the seconds that each part took."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .upstream.home import LabError


class Phases:
    """Named parts of a run with their seconds; prints each when it starts and when it ends."""

    def __init__(self) -> None:
        """Start the clock of the whole."""
        self.began = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began
        print(f"   done in {self.seconds[name]:.1f} s", flush=True)

    def table(self) -> str:
        """Return the parts, a line each, and the whole."""
        rows = [*self.seconds.items(), ("in all", time.monotonic() - self.began)]
        return "\n".join(f"  {seconds:7.1f} s  {name}" for name, seconds in rows)


def watch(argv: Sequence[str | Path], typed: str, cwd: Path | None = None, seconds: float = 900) -> str:
    """Run a command, showing what a person would have typed and its output line by line; return its stdout.

    Raises LabError with the end of its output when it fails or takes longer than that many seconds.
    """
    print(f"   $ {typed}", flush=True)
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as child:
        late = threading.Timer(seconds, child.kill)
        late.start()
        err: list[str] = []
        out: list[str] = []
        reader = threading.Thread(target=_echo, args=(child.stderr, err))
        reader.start()
        _echo(child.stdout, out)
        reader.join()
        late.cancel()
    if child.returncode:
        raise LabError(f"{typed} ended with {child.returncode}:\n" + "".join([*out, *err][-20:]))
    return "".join(out)


def _echo(source: IO[bytes] | None, lines: list[str]) -> None:
    for raw in source or ():
        line = raw.decode(errors="replace")
        lines.append(line)
        sys.stdout.write(f"   | {line.rstrip()}\n")
        sys.stdout.flush()
