"""A tar that lies in one file, behind a head, or cut into parts, seen as one row of bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spans:
    """Open files that hold it, one after another: each but the last ``limit`` bytes long (0: there is one file).

    The first ``start`` bytes of the first file do not belong to it.
    """

    fds: Sequence[int]
    limit: int = 0
    start: int = 0

    def size(self) -> int:
        """Return its length in bytes."""
        return sum(os.fstat(fd).st_size for fd in self.fds) - self.start

    def at(self, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Yield where ``size`` bytes from ``offset`` on lie: descriptor, offset in that file, and length."""
        position, end = offset + self.start, offset + self.start + size
        while position < end:
            index, inside = divmod(position, self.limit) if self.limit else (0, position)
            length = min(end - position, self.limit - inside) if self.limit else end - position
            if index >= len(self.fds):
                return
            yield self.fds[index], inside, length
            position += length

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to ``size`` bytes from ``offset`` on; fewer only at the end."""
        return b"".join(os.pread(fd, length, inside) for fd, inside, length in self.at(offset, size))

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        for fd, inside, length in self.at(offset, len(data)):
            piece, view = view[:length], view[length:]
            while piece:
                count = os.pwrite(fd, piece, inside)
                piece, inside = piece[count:], inside + count


def spans(file: int | Spans) -> Spans:
    """Return a whole file as one span."""
    return file if isinstance(file, Spans) else Spans([file])
