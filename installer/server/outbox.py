"""What is still to be sent to one client: bytes, and slices of members that go from file to socket."""

import collections
import errno
import os
import socket
from typing import Deque, Sequence, Union

from ..source import Source
from .content import Changed
from .reply import Part, Slice
from .tls import TlsSocket

CHUNK = 512 << 10  # of a member at one go, so that no client waits long for its turn
_COPY = 256 << 10  # the same where the kernel cannot send from a file
_QUIET = getattr(socket, "MSG_NOSIGNAL", 0)
_MORE = getattr(socket, "MSG_MORE", 0) | _QUIET
AnySocket = Union[socket.socket, TlsSocket]
_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


class Outbox:
    """Sends its parts in order as far as the socket takes them; `done` once nothing is left."""

    __slots__ = ("_fd", "_left", "_offset", "_parts", "_source", "done")

    def __init__(self, source: Source, parts: Sequence[Part]) -> None:
        self._source = source
        self._parts: Deque[Part] = collections.deque()
        for part in parts:
            if isinstance(part, bytes):
                self._parts.append(part)
            else:
                self._parts.extend(Slice(*cut) for cut in source.cut(part.member, part.start, part.size))
        self._fd = -1
        self._offset = self._left = 0
        self.done = not parts

    def flush(self, sock: AnySocket) -> int:
        """Send until the socket is full or a chunk of a member is out; the number of bytes it took.

        Raises OSError from the socket, Changed if the bundle is no longer what it was.
        """
        total = 0
        try:
            while not self.done:
                part = self._parts[0]
                if isinstance(part, bytes):
                    total += self._send_bytes(sock, part)
                    continue
                total += self._send_slice(sock, part)
                if self._left:
                    break
                self._next()
        except (BlockingIOError, InterruptedError):
            pass
        return total

    def close(self) -> None:
        """Give back the file of an unfinished slice."""
        if self._fd >= 0:
            self._source.release(self._fd)
            self._fd = -1

    def _next(self) -> None:
        self.close()
        self._parts.popleft()
        self.done = not self._parts

    def _send_bytes(self, sock: AnySocket, part: bytes) -> int:
        sent = sock.send(part, _MORE if len(self._parts) > 1 else _QUIET)
        if sent == len(part):
            self._next()
        else:
            self._parts[0] = part[sent:]
        return sent

    def _send_slice(self, sock: AnySocket, part: Slice) -> int:
        if self._fd < 0:
            self._begin(part)
        if not self._source.intact(self._fd, part.member):
            raise Changed(part.member.path)
        sent = _transfer(sock, self._fd, self._offset, min(self._left, CHUNK))
        if sent == 0:
            raise Changed("{} is cut short".format(part.member.path))
        self._offset += sent
        self._left -= sent
        return sent

    def _begin(self, part: Slice) -> None:
        try:
            self._fd = self._source.acquire(part.member)
        except OSError as error:
            raise Changed(str(error)) from None
        self._offset, self._left = part.member.offset + part.start, part.size


def _transfer(sock: AnySocket, fd: int, offset: int, size: int) -> int:
    """Move up to `size` bytes of a file to a socket; 0 at the end of the file. Raises BlockingIOError."""
    if isinstance(sock, TlsSocket):
        return sock.send_file(fd, offset, size)
    try:
        return os.sendfile(sock.fileno(), fd, offset, size)
    except OSError as error:
        if error.errno not in _NO_SENDFILE:
            raise
    data = os.pread(fd, min(size, _COPY), offset)
    return sock.send(data, _QUIET) if data else 0
