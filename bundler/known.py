"""What was hashed since the machine started, so that a build need not hash again what nobody has touched."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
# Time stamps of files move on in steps of up to 10 ms: a file that young may be changed without being seen to change.
YOUNG = 50_000_000

Identity = tuple[int, int, int, int]


def settled(status: os.stat_result) -> bool:
    """Tell whether a change from now on will be seen in the status."""
    return time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > YOUNG


def identity(status: os.stat_result) -> Identity:
    """Return what the kernel changes whenever a file is written: inode, size, and both time stamps in ns."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Known:
    """An append-only index of files by sha256, as git keeps one of its work tree. Threads and processes may share it.

    It ends with the boot that it was written in: after a power cut a file may have kept its time stamps but not all of
    its bytes, and what comes from the disk is read slowly enough to be hashed on the way.
    """

    def __init__(self, path: Path, boot: Path = BOOT) -> None:
        """Read the index at ``path``; where the system does not tell one boot from another, nothing is known."""
        self._path = path
        self._lock = threading.Lock()
        try:
            self._boot = boot.read_text().strip()
        except OSError:
            self._boot = ""
        self._found = self._load()

    def holds(self, sha256: str, status: os.stat_result) -> bool:
        """Tell whether this very file was found to have this digest, and has not changed since."""
        return self._found.get(sha256) == identity(status)

    def note(self, sha256: str, status: os.stat_result) -> None:
        """Remember that the file has this digest, as long as its status is this one."""
        entry = identity(status)
        if not self._boot or self._found.get(sha256) == entry:
            return
        with self._lock, suppress(OSError):  # a lost note costs time alone
            self._found[sha256] = entry
            with self._path.open("a") as file:
                file.write(self._line(sha256, entry))

    def _load(self) -> dict[str, Identity]:
        try:
            lines = self._path.read_text(errors="replace").splitlines(keepends=True)
        except OSError:
            return {}
        found = dict(entry for line in lines if (entry := _parse(line, self._boot)))
        if len(lines) > 2 * len(found) + 100:
            self._shorten(found)
        return found

    def _shorten(self, found: dict[str, Identity]) -> None:
        short = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            short.write_text("".join(self._line(sha256, entry) for sha256, entry in found.items()))
            short.replace(self._path)

    def _line(self, sha256: str, entry: Identity) -> str:
        return " ".join([self._boot, sha256, *map(str, entry)]) + "\n"


def _parse(line: str, boot: str) -> tuple[str, Identity] | None:
    """Read a line; None if it was cut short, or is of another boot."""
    words = line.split(" ")
    if not line.endswith("\n") or len(words) != 6 or words[0] != boot:
        return None
    with suppress(ValueError):
        inode, size, modified, changed = map(int, words[2:])
        return words[1], (inode, size, modified, changed)
    return None
