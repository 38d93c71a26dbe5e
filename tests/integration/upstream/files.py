"""A file server with Range, an access log, a speed limit, and faults on demand."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHUNK = 16 << 10


class FileServer(ThreadingHTTPServer):
    """Serves ``root``; ``log`` holds the path of each GET, ``faults`` maps a path to a status to answer with."""

    daemon_threads = True

    def __init__(self, root: Path, rate: float = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.rate = root, rate
        self.log: list[str] = []
        self.faults: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        self.server.log.append(self.path)
        file = self.server.root / self.path.lstrip("/")
        status = self.server.faults.get(self.path, 200 if file.is_file() else 404)
        if status != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        start, end = self._range(len(data))
        partial = (start, end) != (0, len(data))
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{hash(data)}"')
        self.end_headers()
        if self.command == "GET":
            self._send(data[start:end])

    do_HEAD = do_GET

    def _range(self, size: int) -> tuple[int, int]:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found or int(found[1]) >= size:
            return 0, size
        return int(found[1]), min(int(found[2]) + 1 if found[2] else size, size)

    def _send(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK):
            self.wfile.write(data[start : start + CHUNK])
            if self.server.rate:
                time.sleep(CHUNK / self.server.rate)

    def log_message(self, format: str, *args: object) -> None:
        """The log is kept in memory."""


@contextmanager
def serve(root: Path, rate: float = 0) -> Iterator[FileServer]:
    """Serve ``root`` for the length of a with block, at ``rate`` bytes per second and connection (0: no limit)."""
    server = FileServer(root, rate)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
