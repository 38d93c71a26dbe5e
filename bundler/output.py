"""The files that a build writes: under temporary names beside the final ones, taken only when all is whole."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundler import archive, selfrun
from bundler.archive import Member
from bundler.errors import HostError, IntegrityError
from bundler.known import Known
from bundler.spans import Spans

MOST_PARTS = 999
_HINT = "Choose another place with -o."
_MEANING = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the quota is exhausted",
    errno.EFBIG: "larger than this file system or a limit (ulimit -f) allows; FAT32 holds 4 GiB",
}


@dataclass(frozen=True)
class Shape:
    """How a bundle lies on the disk: in parts of at most ``split`` bytes (0: not split), or as a ``.run``."""

    split: int = 0
    run: bool = False

    def names(self, path: Path, total: int) -> list[Path]:
        """Return the files of a tar of ``total`` bytes. HostError if there would be too many."""
        if not self.split:
            return [path]
        count = -(-total // self.split)
        if count > MOST_PARTS:
            raise HostError(f"{path}: would have {count} parts", "Give --split a larger size.")
        return [path.with_name(f"{path.name}.{number:03}") for number in range(1, count + 1)]


WHOLE = Shape()


def require_place(path: Path) -> None:
    """Raise HostError where no bundle can be written: asked before anything is fetched for it."""
    with _host_errors(path):
        if path.is_dir():
            raise HostError(f"{path}: is a directory", "Name the file to write with -o.")
        if not path.parent.is_dir():
            raise HostError(f"{path.parent}: no such directory", _HINT)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise HostError(f"{path.parent}: cannot be written to", _HINT)


def is_current(path: Path, members: Sequence[Member], mtime: int, jobs: int, advance: Callable[[int], None]) -> bool:
    """Tell whether ``path`` is, byte for byte, the tar of these members; every byte of it is read."""
    with _host_errors(path):
        if not path.is_file() or path.stat().st_size != archive.total_size(members):
            return False
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            entries, found = archive.read(fd)
            archive.check_end(fd, entries[-1])
            if found != mtime or [(e.path, e.size) for e in entries] != [(m.path, m.size) for m in members]:
                return False
            digests = archive.hash_entries(fd, entries, jobs, advance)
            return all(digests[member.path] == member.sha256 for member in members)
        except IntegrityError:
            return False
        finally:
            os.close(fd)


def write(
    path: Path,
    members: Sequence[Member],
    mtime: int,
    jobs: int,
    advance: Callable[[int], None],
    known: Known | None = None,
    shape: Shape = WHOLE,
) -> None:
    """Write the tar of these members to ``path``: whole and checked, or not at all. ``known``: see ``archive.write``.

    HostError for what the disk refuses, or if another build is writing there; the errors of ``archive.write``.
    """
    total = archive.total_size(members)
    names = shape.names(path, total)
    with _host_errors(path), ExitStack() as stack:
        opened = [stack.enter_context(_temporary(name)) for name in names]
        _require_space(path, total)
        start = selfrun.SIZE if shape.run else 0
        archive.write(Spans([fd for _, fd in opened], shape.split, start), members, mtime, jobs, advance, known)
        if shape.run:
            _write_head(opened[0][1], total, archive.layout(members))
        if shape != WHOLE:
            digests = archive.hash_files([fd for _, fd in opened], jobs)
            sums = "".join(f"{digest}  {name.name}\n" for name, digest in zip(names, digests))
            _replace(path.with_name(f"{path.name}.sha256"), sums.encode())
        # The first part comes last: it is what is opened.
        for (temporary, _), name in reversed(list(zip(opened, names))):
            temporary.replace(name)
        for stale in _parts_beyond(path, len(names)) if shape.split else []:
            stale.unlink()


def _write_head(fd: int, size: int, entries: Sequence[archive.Entry]) -> None:
    payload = archive.hash_file(fd, selfrun.SIZE)
    Spans([fd]).pwrite(selfrun.head(size, payload, entries), 0)
    os.fchmod(fd, os.fstat(fd).st_mode | 0o111)


def _parts_beyond(path: Path, count: int) -> Iterator[Path]:
    """Parts that an earlier, larger bundle left."""
    for number in range(count + 1, MOST_PARTS + 1):
        part = path.with_name(f"{path.name}.{number:03}")
        if not part.is_file():
            return
        yield part


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(content)
    temporary.replace(path)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, int]]:
    """Lock and empty the temporary file, whose name is always the same: what a killed run left is used again."""
    temporary = path.with_name(f".{path.name}.partial")
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        if not _lock(temporary, fd):
            raise HostError(f"{path}: another build is writing it", "Wait for it, or choose another -o.")
        try:
            if os.fstat(fd).st_size:
                # Not otherwise: ext4 takes it for an overwrite, and writes the file out when it is closed.
                os.ftruncate(fd, 0)
            yield temporary, fd
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    finally:
        os.close(fd)


def _lock(path: Path, fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it may have renamed it just now: then this is the finished bundle.
        return path.stat().st_ino == os.fstat(fd).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _require_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise HostError(f"{path.parent}: the bundle needs {needed} bytes, {free} are free", _HINT)


@contextmanager
def _host_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as reason:
        meaning = _MEANING.get(reason.errno or 0, reason.strerror)
        raise HostError(f"{reason.filename or path}: {meaning}", _HINT) from reason
