"""Load: many connections from one process. wrk for small replies, an epoll of our own for large ones."""

from __future__ import annotations

import itertools
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence

BUFFER = 1 << 20


VARY = """local n = 0
request = function()
  n = n + 1
  wrk.headers["X-Request"] = tostring(n)
  return wrk.format()
end
"""


def requests_per_second(url: str, connections: int, seconds: float, *fields: str, script: str = "") -> float:
    """Replies a second over kept connections (new ones where the server closes them), by wrk; `script` is a path."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", url]
    command += [word for field in fields for word in ("-H", field)]
    command += ["-s", script] if script else []
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate, bad = re.search(r"Requests/sec:\s+([0-9.]+)", text), re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    assert rate and not bad, text
    return float(rate.group(1))


def bytes_per_second(port: int, path: str, connections: int, transfers: int) -> float:
    """Body bytes a second of `transfers` downloads over `connections` kept connections."""
    waiting = itertools.repeat(_request(path), transfers)
    begun = time.perf_counter()
    total, _ = _download(port, [waiting] * connections)
    return total / (time.perf_counter() - begun)


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def _download(port: int, requests: Sequence[Iterator[bytes]]) -> tuple[int, list[float]]:
    """Send requests over a connection for each iterator, until it ends: bytes of bodies, and when each ended, sorted.

    The bytes are dropped in the kernel (MSG_TRUNC): it is the server that shall be measured, not this loop.
    """
    buffer, epoll, total, begun = bytearray(BUFFER), select.epoll(), 0, time.perf_counter()
    left: dict[int, int] = {}
    socks: dict[int, socket.socket] = {}
    following: dict[int, Iterator[bytes]] = {}
    ends = []
    for one in requests:
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(next(one))
        fd = sock.fileno()
        socks[fd], left[fd], following[fd] = sock, -1, one
        epoll.register(fd, select.EPOLLIN)
    while socks:
        for fd, _ in epoll.poll():
            sock = socks[fd]
            if left[fd] < 0:
                length, early = _head(sock)
                left[fd], total = length - early, total + length
            else:
                count = sock.recv_into(buffer, min(BUFFER, left[fd]), socket.MSG_TRUNC)
                assert count, "the server hung up in the middle of a body"
                left[fd] -= count
            if left[fd]:
                continue
            request = next(following[fd], None)
            if request:
                left[fd] = -1
                sock.sendall(request)
            else:
                ends.append(time.perf_counter() - begun)
                epoll.unregister(fd)
                socks.pop(fd).close()
    epoll.close()
    return total, sorted(ends)


def _head(sock: socket.socket) -> tuple[int, int]:
    """Content-Length of a reply, and how much of its body came with the head."""
    data = sock.recv(2048)
    while b"\r\n\r\n" not in data:
        data += sock.recv(2048)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length, head
    return int(length.group(1)), len(body)


def transfer_rate(url: str, connections: int, seconds: float) -> float:
    """Bytes a second over kept connections, by wrk; for https, where the kernel cannot drop what was encrypted."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", "--timeout", "60s", url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"Transfer/sec:\s+([0-9.]+)([KMG]?)B", text)
    assert found, text
    return float(found.group(1)) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[found.group(2)]


def fleet(port: int, paths: list[str], nodes: int) -> tuple[float, list[float]]:
    """Each of `nodes` fetches all `paths` over a connection of its own: bytes/s, and each node's seconds, sorted."""
    requests = [_request(path) for path in paths]
    turns = [number % len(requests) for number in range(nodes)]  # nodes are never in step
    begun = time.perf_counter()
    total, times = _download(port, [iter(requests[turn:] + requests[:turn]) for turn in turns])
    return total / (time.perf_counter() - begun), times
