"""A line to an upstream that is far away: each request waits, each connection has its own rate."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

PIECE = 64 << 10


@contextlib.contextmanager
def far(port: int, delay: float, rate: float) -> Iterator[int]:
    """A port in front of 127.0.0.1:`port`: requests take `delay` s more, answers `rate` bytes/s per connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        threading.Thread(target=_accept, args=(listener, port, delay, rate), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, port: int, delay: float, rate: float) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=_requests, args=(client, server, delay), daemon=True).start()
            threading.Thread(target=_answers, args=(server, client, rate), daemon=True).start()


def _requests(client: socket.socket, server: socket.socket, delay: float) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(PIECE):
            time.sleep(delay)
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)


def _answers(server: socket.socket, client: socket.socket, rate: float) -> None:
    free = 0.0
    with contextlib.suppress(OSError):
        while data := server.recv(PIECE):
            client.sendall(data)
            now = time.monotonic()
            free = max(free, now) + len(data) / rate
            time.sleep(max(0.0, free - now - 0.005))
        client.shutdown(socket.SHUT_WR)
    server.close()
