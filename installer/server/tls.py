"""TLS for the epoll loop: a socket that says `BlockingIOError` where TLS waits, and sends files by itself."""

import contextlib
import os
import select
import socket
import ssl
from typing import Any, Tuple

_PIECE = 256 << 10  # of a file, read and encrypted at one go
_DRAIN = 64 << 10
_WAITS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
_PLAIN = (b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
          b"Content-Length: 41\r\n\r\nThis server speaks TLS: ask for https://\n")


class TlsSocket:
    """A non-blocking server socket under TLS, with the methods of `socket.socket` that a Connection uses."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """Take over an accepted socket. Raises OSError if its client has gone."""
        self._tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def handshake(self) -> int:
        """Go on with the handshake: the epoll event that it waits for, 0 once it is done. Raises OSError."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return select.EPOLLIN
        except ssl.SSLWantWriteError:
            return select.EPOLLOUT
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                self._tell_plain_client()
            raise
        return 0

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end. 16 KiB or more: what TLS holds back, epoll knows nothing of."""
        try:
            return self._tls.recv(size)
        except _WAITS:
            raise BlockingIOError from None

    def send(self, data: bytes, _flags: int = 0) -> int:
        """Send as much as the socket takes. Raises BlockingIOError if that is nothing."""
        view, sent = memoryview(data), 0
        try:
            while sent < len(view):  # TLS takes a record of 16 KiB at a time
                sent += self._tls.send(view[sent:])
        except _WAITS:
            if not sent:
                raise BlockingIOError from None
        return sent

    def send_file(self, fd: int, offset: int, size: int) -> int:
        """Send up to `size` bytes of a file; 0 at its end. Raises BlockingIOError."""
        data = os.pread(fd, min(size, _PIECE), offset)
        return self.send(data) if data else 0

    def shutdown(self, how: int) -> None:
        """Say that nothing more is coming."""
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()
        socket.socket.shutdown(self._tls, how)

    def close(self) -> None:
        """Say so, and close."""
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()
        self._tls.close()

    def fileno(self) -> int:
        """The descriptor."""
        return self._tls.fileno()

    def getsockname(self) -> Tuple[Any, ...]:
        """The server's own address, as this client reached it."""
        return tuple(self._tls.getsockname())

    def _tell_plain_client(self) -> None:
        with contextlib.suppress(OSError):
            socket.socket.recv(self._tls, _DRAIN)  # unread input would turn the close into a reset
            socket.socket.send(self._tls, _PLAIN)
