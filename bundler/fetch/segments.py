"""A large file over several connections: pays where one connection is slower than the line.

The segments lie at multiples of ``SEGMENT`` and are written in place; a journal tells which are complete, so that a
killed build goes on from there. The whole is hashed once all are there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from bundler.fetch.http import Blob, Client, Mismatch, RangeIgnored
from bundler.fetch.sinks import Journal, Segment
from bundler.store import Partial, Store

SEGMENT = 16 * 1024 * 1024
LEAST = 2 * SEGMENT


class Segmented:
    """One download in segments; whoever finishes the last one checks the file and gives it its name."""

    def __init__(self, client: Client, blob: Blob, store: Store, segment: int = SEGMENT) -> None:
        """Prepare; nothing is opened before ``begin``. The size of ``blob`` must be known."""
        self._client = client
        self._blob = blob
        self._size = blob.size or 0
        self._store = store
        self._segment = segment
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._partial: Partial | None = None
        self._in_order = False
        self._left = 0
        self._active = 0
        self._abandoned = False

    def begin(self, on_bytes: Callable[[int], None]) -> list[int]:
        """Lock the file; returns where its missing segments begin. None missing: the file is complete.

        The same errors as ``Client.download``.
        """
        with self._use():
            return self._begin(on_bytes)

    def fetch(self, start: int, on_bytes: Callable[[int], None]) -> None:
        """Bring one segment; the last one completes the file. The same errors as ``Client.download``."""
        with self._use():
            partial = self._partial
            if partial is None:
                return
            if not self._in_order:
                self._fill(Segment(partial, start, self._end(start)), Journal(partial), on_bytes)
            with self._lock:
                self._left -= 1
                last = self._left == 0
            if last:
                self._finish(on_bytes)

    def abandon(self) -> None:
        """Let go of the file, once no thread writes it any more."""
        with self._lock:
            self._abandoned = True
            idle = self._active == 0
        if idle:
            self._close()

    @contextmanager
    def _use(self) -> Iterator[None]:
        with self._lock:
            self._active += 1
        try:
            yield
        except BaseException:
            self._abandoned = True
            raise
        finally:
            with self._lock:
                self._active -= 1
                idle = self._abandoned and self._active == 0
            if idle:
                self._close()

    def _begin(self, on_bytes: Callable[[int], None]) -> list[int]:
        blob = self._blob
        partial = self._stack.enter_context(self._store.partial(blob.sha256, self._client.stop))
        self._partial = partial
        journal = Journal(partial)
        if self._store.has(blob.sha256, blob.size) or self._store.take(partial, blob.size):
            on_bytes(self._size)
            self._close()
            return []
        self._store.require(self._store.lacks(blob.sha256, self._size))
        if partial.length() and not journal.exists():
            self._finish_in_order(on_bytes)
            return []
        if not partial.length():
            journal.begin()
        complete = journal.read()
        missing = [start for start in range(0, self._size, self._segment) if start not in complete]
        on_bytes(sum(self._end(start) - start for start in complete))
        self._left = len(missing)
        if not missing:
            self._finish(on_bytes)
        return missing

    def _fill(self, segment: Segment, journal: Journal, on_bytes: Callable[[int], None]) -> None:
        try:
            self._client.fill(self._blob, segment, on_bytes)
        except (RangeIgnored, Mismatch):
            on_bytes(segment.start - segment.next)
            self._in_order = True
        else:
            with self._lock:
                journal.add(segment.start)

    def _close(self) -> None:
        self._stack.close()
        self._partial = None

    def _end(self, start: int) -> int:
        return min(start + self._segment, self._size)

    def _finish(self, on_bytes: Callable[[int], None]) -> None:
        partial = self._partial
        if partial is None:
            return
        if self._in_order or partial.resume() != self._size or not partial.finish(self._size):
            on_bytes(-sum(self._end(start) - start for start in Journal(partial).read()))
            partial.restart()
            self._finish_in_order(on_bytes)
        else:
            Journal(partial).remove()
            self._close()

    def _finish_in_order(self, on_bytes: Callable[[int], None]) -> None:
        """The plain way: for servers without ranges, and to see whether it was the segments that went wrong."""
        if self._partial is not None:
            self._client.download_in_order(self._blob, self._partial, on_bytes)
            self._close()
