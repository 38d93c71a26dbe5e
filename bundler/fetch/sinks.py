"""Where the bytes of a download go: a whole file in order, or one segment of a large file."""

from __future__ import annotations

from typing import Protocol

from bundler.store import Partial, host_errors


class Sink(Protocol):
    """Takes the bytes ``start`` to ``end`` (exclusive; None: to the end) of one file; ``next`` is still to come."""

    start: int
    next: int
    etag: str
    """Strong ETag of the bytes so far, or empty."""

    @property
    def end(self) -> int | None:
        """Where to stop."""

    def write(self, data: bytes) -> None:
        """Append ``data``."""

    def restart(self) -> None:
        """Forget every byte."""


class Whole:
    """A file that is written from its first byte on."""

    def __init__(self, partial: Partial, size: int | None) -> None:
        """Go on after what ``partial`` has; ``size`` bytes are wanted, where that is known."""
        self._partial = partial
        self.start = 0
        self.end = size
        self.etag = ""
        self.next = partial.size

    def write(self, data: bytes) -> None:
        """Append ``data``. HostError if the disk is full."""
        self._partial.write(data)
        self.next += len(data)

    def restart(self) -> None:
        """Forget every byte."""
        self._partial.restart()
        self.next, self.etag = 0, ""


class Segment:
    """The bytes ``start`` to ``end`` of a file, written in place."""

    def __init__(self, partial: Partial, start: int, end: int) -> None:
        """Begin at ``start``."""
        self._partial = partial
        self.start = self.next = start
        self.end = end
        self.etag = ""

    def write(self, data: bytes) -> None:
        """Append ``data``. HostError if the disk is full."""
        self._partial.write_at(data, self.next)
        self.next += len(data)

    def restart(self) -> None:
        """Forget every byte."""
        self.next, self.etag = self.start, ""


class Journal:
    """Which segments of a partial file are complete: a line with the first byte of each, in a file beside it.

    The partial file itself cannot tell: it has holes, and its length is that of its last segment.
    """

    def __init__(self, partial: Partial) -> None:
        """Look for the journal of ``partial``."""
        self._path = partial.path.with_suffix(".segments")

    def exists(self) -> bool:
        """Tell whether the partial file has holes."""
        return self._path.exists()

    def read(self) -> set[int]:
        """First bytes of the complete segments."""
        with host_errors(self._path):
            lines = self._path.read_text().split("\n") if self._path.exists() else []
        # The last line counts only with its end: a number cut short is another number.
        return {int(line) for line in lines[:-1]}

    def begin(self) -> None:
        """Start afresh: no segment is complete."""
        with host_errors(self._path):
            self._path.write_text("")

    def add(self, start: int) -> None:
        """Note one complete segment."""
        with host_errors(self._path), self._path.open("a") as file:
            file.write(f"{start}\n")

    def remove(self) -> None:
        """The file is complete, or begun again in order."""
        with host_errors(self._path):
            self._path.unlink(missing_ok=True)
