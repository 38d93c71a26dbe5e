"""The lab's upstream by hand: build, start (builds first), stop, status."""

from __future__ import annotations

import argparse
import sys

from . import driver, servers
from .home import LabError


def main(argv: list[str] | None = None) -> int:
    """Run one verb; 0 when it did what it should (for status: when both servers run)."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.upstream", description=__doc__)
    parser.add_argument("verb", choices=("build", "start", "stop", "status"))
    verb = parser.parse_args(argv).verb
    try:
        return _do(verb)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _do(verb: str) -> int:
    if verb == "stop":
        servers.stop()
    elif verb == "status":
        running = servers.status()
        for name, pid in running.items():
            print(f"{name}: {f'pid {pid}' if pid else 'not running'}")
        return 0 if all(running.values()) else 1
    else:
        driver.build()
    if verb == "start":
        print(driver.start())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
