"""The content-addressed cache: ``<root>/sha256/<aa>/<hex>``, and what is still arriving in ``<root>/partial/``.

A file gets its final name only after its bytes were checked, so whatever is there may be used as it is.
A partial file is its own lock: whoever holds ``flock`` on it is the only one who writes it, in any process.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from bundler.archive import DamagedSource
from bundler.errors import HostError
from bundler.known import Known

CHUNK = 256 * 1024
EMPTY = hashlib.sha256().hexdigest()
CACHE_HINT = "choose another folder with --cache-dir"
LOCK_POLL = 0.1


class Source(Protocol):
    """Somewhere files can be copied from; the store checks their digests."""

    path: Path

    def open(self, sha256: str, size: int | None) -> BinaryIO | None:
        """Open the file of this digest (and size, where known); None if it is not there."""


class Store:
    """Verified files by sha256 (64 lower-case hex digits), safe for several threads and processes at once."""

    def __init__(self, root: Path, sources: Sequence[Source] = ()) -> None:
        """Create the folders. HostError if ``root`` cannot be written. ``sources`` may lend what is not here yet."""
        self.root = root
        self.known = Known(root / "known")
        self._sources = sources
        self._partials = root / "partial"
        with host_errors(root):
            (root / "sha256").mkdir(parents=True, exist_ok=True)
            self._partials.mkdir(exist_ok=True)
        for folder in (root / "sha256", self._partials):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise HostError(f"{folder}: cannot be written", CACHE_HINT)

    def path(self, sha256: str) -> Path:
        """Where the file with this digest lies, or would lie."""
        return self.root / "sha256" / sha256[:2] / sha256

    def has(self, sha256: str, size: int | None = None) -> bool:
        """Tell whether the file is here, with ``size`` bytes where that is known.

        The size is compared because a power cut may leave a renamed file shorter than it was written.
        """
        try:
            found = self.path(sha256).stat().st_size
        except FileNotFoundError:
            return False
        return found == size if size is not None else found > 0 or sha256 == EMPTY

    def read(self, sha256: str) -> bytes:
        """Whole content of a small file. HostError if it is not here, DamagedSource if it is not what it was."""
        path = self.path(sha256)
        with host_errors(path):
            data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedSource("cache", path, sha256)
        return data

    def add_bytes(self, data: bytes) -> str:
        """Keep ``data``; returns its sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.has(sha256, len(data)):
            with self.partial(sha256) as partial:
                partial.restart()
                partial.write(data)
                partial.finish(len(data))
        return sha256

    def find(self, sha256: str, size: int | None = None) -> bool:
        """Tell whether the file is here, or could be copied from a source."""
        if self.has(sha256, size) or not self._sources:
            return self.has(sha256, size)
        with self.partial(sha256) as partial:
            return self.has(sha256, size) or self.take(partial, size)

    def take(self, partial: Partial, size: int | None) -> bool:
        """Copy the file of the locked ``partial`` from the first source that has it and does not lie."""
        for source in self._sources:
            reader = source.open(partial.sha256, size)
            if reader is None:
                continue
            partial.restart()
            with reader, host_errors(source.path):
                while data := reader.read(CHUNK):
                    partial.write(data)
            if partial.finish(size):
                return True
            partial.restart()
        return False

    def lacks(self, sha256: str, size: int) -> int:
        """How many bytes of disk this file still needs, beside what has arrived of it."""
        if self.has(sha256, size):
            return 0
        try:
            # Blocks, not length: a file that arrives in segments has holes.
            arrived = (self._partials / sha256).stat().st_blocks * 512
        except FileNotFoundError:
            arrived = 0
        return max(size - arrived, 0)

    def require(self, needed: int) -> None:
        """Raise HostError unless the cache's file system has ``needed`` bytes free."""
        with host_errors(self.root):
            free = shutil.disk_usage(self.root).free
        if free < needed:
            raise HostError(f"{self.root}: {needed} bytes are needed, {free} are free", CACHE_HINT)

    @contextmanager
    def partial(self, sha256: str, stop: threading.Event | None = None) -> Iterator[Partial]:
        """Lock the arriving file of this digest, and wait while another process has it (until ``stop`` is set)."""
        partial = Partial(self, sha256, self._lock(self._partials / sha256, stop or threading.Event()))
        try:
            yield partial
        finally:
            partial.close()

    def _lock(self, path: Path, stop: threading.Event) -> BinaryIO:
        """Open ``path`` for reading and writing, and lock it."""
        while True:
            with host_errors(path):
                file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The one who held it may have renamed or removed the file that was just locked.
                if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                    return file
            except BlockingIOError:
                stop.wait(LOCK_POLL)
            except FileNotFoundError:
                pass
            except BaseException:
                file.close()
                raise
            file.close()
            if stop.is_set():
                raise HostError(f"{path}: stopped while another process was writing it")


class Partial:
    """One arriving file: written in order from ``size`` on, hashed while it is written."""

    def __init__(self, store: Store, sha256: str, file: BinaryIO) -> None:
        """Take over ``file``, already locked; bytes of an earlier run are kept and hashed."""
        self._store = store
        self._file = file
        self.sha256 = sha256
        self.path = store._partials / sha256
        self._hash = hashlib.sha256()
        self.size = 0
        self._gone = False

    def length(self) -> int:
        """Length of the file as it lies there, in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def resume(self) -> int:
        """Hash the bytes that an earlier run left; returns how many there are."""
        self._rehash()
        return self.size

    def write(self, data: bytes) -> None:
        """Append ``data``. HostError if the disk is full."""
        with host_errors(self.path, len(data)):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        self._hash.update(data)
        self.size += len(data)

    def write_at(self, data: bytes, offset: int) -> None:
        """Write ``data`` in place; neither hashed nor counted, see ``resume``. Threads may call it together."""
        with host_errors(self.path, len(data)):
            view = memoryview(data)
            while view:
                written = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[written:], offset + written

    def restart(self) -> None:
        """Forget every byte."""
        with host_errors(self.path):
            self._file.seek(0)
            self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    def digest(self) -> str:
        """Sha256 of the bytes so far, as 64 hex digits."""
        return self._hash.hexdigest()

    def finish(self, size: int | None = None) -> bool:
        """Give the file its final name if its digest (and ``size``) is right; else leave it, and return False."""
        if self.digest() != self.sha256 or size not in (None, self.size):
            return False
        final = self._store.path(self.sha256)
        with host_errors(final):
            final.parent.mkdir(exist_ok=True)
            if size is None:
                # Without a size nobody could tell later that a power cut had shortened the file.
                os.fdatasync(self._file.fileno())
            self.path.replace(final)
            self._gone = True
            # It was locked up to now, and everything that was written to it was hashed.
            self._store.known.note(self.sha256, os.fstat(self._file.fileno()))
        return True

    def discard(self) -> None:
        """Remove the file, if it is still a partial one."""
        with host_errors(self.path):
            self.path.unlink(missing_ok=True)
            self._gone = True

    def close(self) -> None:
        """Let go of the lock; an empty file is removed."""
        try:
            # What is renamed or removed may already have a successor of that name, which is another's.
            if not self._gone and os.fstat(self._file.fileno()).st_size == 0:
                self.path.unlink(missing_ok=True)
        finally:
            self._file.close()

    def _rehash(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0
        with host_errors(self.path):
            self._file.seek(0)
            while data := self._file.read(CHUNK):
                self._hash.update(data)
                self.size += len(data)


@contextmanager
def host_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn what the operating system refuses at ``path`` into a HostError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            missing = f" ({needed} more bytes to write)" if needed else ""
            raise HostError(f"{path.parent}: no space left{missing}", f"free some, or {CACHE_HINT}") from error
        raise HostError(f"{path}: {error.strerror or error}", CACHE_HINT) from error
