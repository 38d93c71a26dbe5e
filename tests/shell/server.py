"""A real HTTP server of a bundle's members whose faults are chosen by the test."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .stream import sha256


class Members(ThreadingHTTPServer):
    """Serves `files` with Range; `cut` ends a path's first reply after so many bytes, `fail` answers 503 that often."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        """Listen on a free port of the loopback."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.sums = "".join(f"{sha256(data)}  {path}\n" for path, data in sorted(files.items()))
        self.files["SHA256SUMS"] = self.sums.encode()
        self.cut: dict[str, int] = {}
        self.fail: Counter[str] = Counter()
        self.asked: list[tuple[str, str]] = []  # path, Range

    @property
    def settings(self) -> dict[str, str]:
        """What the server would put at the head of deploy.sh."""
        return {"SERVER": f"http://127.0.0.1:{self.server_port}", "SUMS_SHA256": sha256(self.sums.encode())}


class _Handler(BaseHTTPRequestHandler):
    server: Members
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, wanted = self.path.lstrip("/"), self.headers.get("Range", "")
        self.server.asked.append((path, wanted))
        data = self.server.files.get(path)
        if data is None or self.server.fail[path] > 0:
            self.server.fail[path] -= 1
            self._head(404 if data is None else 503, 0)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(data) > 0:
            self._head(416, 0)
            return
        self._head(206 if start else 200, len(data) - start, start, len(data))
        stop = self.server.cut.pop(path, None)
        self.wfile.write(data[start:stop])
        if stop is not None:
            self.close_connection = True

    def _head(self, status: int, length: int, start: int = 0, total: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Members]:
    """Serve while the block runs."""
    server = Members(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
