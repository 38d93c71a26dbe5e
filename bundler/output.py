"""The file that a build writes: under a temporary name beside the final one, which it takes only when it is whole."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bundler import archive
from bundler.archive import Member
from bundler.errors import HostError, IntegrityError
from bundler.known import Known

_HINT = "Choose another place with -o."
_MEANING = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the quota is exhausted",
    errno.EFBIG: "larger than this file system or a limit (ulimit -f) allows; FAT32 holds 4 GiB",
}


def is_current(path: Path, members: Sequence[Member], mtime: int, jobs: int, advance: Callable[[int], None]) -> bool:
    """Tell whether ``path`` is, byte for byte, the tar of these members; every byte of it is read."""
    with _host_errors(path):
        if not path.is_file() or path.stat().st_size != archive.total_size(members):
            return False
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            entries, found = archive.read(fd)
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
) -> None:
    """Write the tar of these members to ``path``: whole and checked, or not at all. ``known``: see ``archive.write``.

    HostError for what the disk refuses, or if another build is writing there; the errors of ``archive.write``.
    """
    with _host_errors(path), _temporary(path) as (temporary, fd):
        _require_space(path, archive.total_size(members))
        archive.write(fd, members, mtime, jobs, advance, known)
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
