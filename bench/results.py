"""bench/results.json: a list of rows {name, value, unit, peer, ratio}, one for each name and peer."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
PATH = Path(__file__).with_name("results.json")


def row(name: str, value: float, unit: str, peer: str = "", ratio: float | None = None) -> dict[str, Any]:
    """A row; `ratio` is how many times better than `peer`, always above 1 where it is better."""
    return {
        "name": name,
        "value": _rounded(value),
        "unit": unit,
        "peer": peer,
        "ratio": None if ratio is None else _rounded(ratio),
    }


def merge(rows: Sequence[dict[str, Any]], path: Path = PATH) -> None:
    """Write rows into the file, in place of those of the same name and peer; the others stay."""
    old = json.loads(path.read_text()) if path.exists() else []
    kept = {(one["name"], one["peer"]): one for one in [*old, *rows]}
    path.write_text(json.dumps([kept[key] for key in sorted(kept)], indent=1) + "\n")


def rounds(count: int, **contenders: Callable[[], float]) -> dict[str, float]:
    """The median of `count` runs of each contender. They take turns, so that noise hits all alike."""
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(count):
        for name, run in contenders.items():
            seen[name].append(run())
    return {name: statistics.median(values) for name, values in seen.items()}


def seconds(command: Sequence[str], cwd: Path) -> float:
    """How long a command takes, which must succeed; what it says goes to stderr, or nowhere."""
    begun = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def measure(measurements: Sequence[Callable[[T], list[dict[str, Any]]]], bench: T) -> None:
    """Take each measurement, print its rows, and merge them into the file."""
    for one in measurements:
        rows = one(bench)
        for each in rows:
            print("{name:16} {value:>10} {unit:10} {peer:16} {ratio}".format(**each), flush=True)
        merge(rows)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
