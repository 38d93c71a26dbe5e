"""Where the lab keeps its state, how it runs programs, and the cache of build steps."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
EPOCH = "1610496000"  # 2021-01-13, the day of Kubernetes 1.20.2: every time stamp the lab makes


class LabError(Exception):
    """Something in the lab did not work; the text says what, and what to do."""


def home() -> Path:
    """Return the lab's state directory: LAB_HOME, by default kubecarry-lab in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LAB_HOME") or Path(base) / "kubecarry-lab").absolute()


def say(text: str) -> None:
    """Write one line of progress to stderr."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def run(
    *args: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    given: str | None = None,
) -> str:
    """Run a program to its end and return its stdout; LabError with the tail of its output when it fails.

    env is added to the environment, given is written to its stdin (by default empty).
    """
    words = [str(a) for a in args]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            input=given or "",
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{error.filename} is not on this machine: the lab needs Debian 12 and `make setup`") from error
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise LabError(f"{' '.join(words)[:300]} ended with {done.returncode}:\n{tail}")
    return done.stdout


@dataclass(frozen=True)
class Built:
    """What a step made: a directory, and the key that names its inputs."""

    path: Path
    key: str


def digest_of(inputs: Sequence[object]) -> str:
    """Return one sha256 hex over inputs: a Path counts by its files' names and bytes, Built by its key."""
    total = hashlib.sha256()
    for item in inputs:
        for piece in _pieces(item):
            total.update(f"{len(piece)}:".encode() + piece)
    return total.hexdigest()


def _pieces(item: object) -> Iterator[bytes]:
    if isinstance(item, Built):
        yield item.key.encode()
    elif isinstance(item, Path):
        for path in sorted(p for p in ([item] if item.is_file() else item.rglob("*")) if p.is_file()):
            if "__pycache__" not in path.parts:
                yield path.name.encode()
                yield path.read_bytes()
    else:
        yield repr(item).encode()


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lab's lock of that name: two drivers at once build each thing once."""
    path = home() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def step(name: str, inputs: Sequence[object], make: Callable[[Path], None]) -> Built:
    """Return the directory that make fills, made anew only when the inputs differ from the last time's.

    make gets an empty directory; it takes its final name (home()/name) only after make returned.
    """
    key, final = digest_of([name, *inputs]), home() / name
    stamp, fresh = final.with_name(final.name + ".key"), final.with_name(final.name + ".new")
    if final.is_dir() and stamp.is_file() and stamp.read_text() == key:
        return Built(final, key)
    say(f"building {name} …")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    make(fresh)
    stamp.unlink(missing_ok=True)
    shutil.rmtree(final, ignore_errors=True)
    fresh.rename(final)
    stamp.write_text(key)
    return Built(final, key)


def of_versions(name: str, versions: Sequence[str]) -> str:
    """Return the name of a step that versions of Kubernetes go into: each set has its own, and undoes no other."""
    return name if tuple(versions) == ("v1.20.2",) else f"{name}-{'-'.join(versions)}"


def debian_versions(*packages: str) -> list[str]:
    """Return `name version` of each Debian package, sorted; LabError names those that are not installed."""
    form = "${Package} ${Version} ${db:Status-Status}\n"
    listed = run("dpkg-query", "-W", "-f", form).splitlines()
    versions = dict(line.removesuffix(" installed").split() for line in listed if line.endswith(" installed"))
    missing = sorted(set(packages) - set(versions))
    if missing:
        raise LabError(f"Debian packages are not installed: {', '.join(missing)}: run `make setup`")
    return sorted(f"{name} {versions[name]}" for name in packages)
