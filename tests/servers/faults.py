"""A real HTTP/1.1 server on a loopback port that fails the way upstreams do, on a plan or at random from a seed."""

from __future__ import annotations

import hashlib
import json
import random
import re
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

CHUNK = 64 * 1024
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer; the default is nothing."""

    status: int = 0
    """Answer with this status and no content instead."""
    retry_after: str = ""
    cut: int | None = None
    """Close after so many bytes of the body."""
    reset: bool = False
    """Close by RST, not FIN."""
    stall: float = 0.0
    """Send nothing for so many seconds after the headers."""
    slow: float = 0.0
    """Pause so many seconds after each 64 KiB."""
    flip: bool = False
    """Change one byte of the body."""
    longer: int = 0
    """Declare and send so many bytes more (negative: fewer) than there are."""
    trailing: int = 0
    """Send so many bytes too many, without declaring a length."""
    ignore_range: bool = False
    wrong_range: bool = False
    """Answer a range with other bytes than were asked for."""
    undeclared: bool = False
    """No Content-Length, the end is the end of the connection."""
    redirect: str = ""
    """Redirect to this URL."""
    no_answer: bool = False
    """Close without an answer."""


GOOD = Fault()
Plan = Callable[[str, int], Fault]


@dataclass
class Request:
    """One line of the log, there before the answer is; ``sent`` counts bytes of the body."""

    method: str
    path: str
    status: int
    range: str
    authorization: str
    sent: int


@dataclass
class Chaos:
    """A plan from a seed: of ``share`` of the requests, one of the ``kinds`` of failures befalls each."""

    seed: int
    share: float = 0.4
    kinds: tuple[str, ...] = (
        "cut", "reset", "status", "retry", "date", "slow", "flip", "longer", "shorter", "trailing",
        "ignore", "wrong_range", "undeclared", "no_answer",
    )  # fmt: skip
    size: int = 1

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def __call__(self, path: str, number: int) -> Fault:
        with self._lock:
            if self._random.random() >= self.share:
                return GOOD
            return self._fault(self._random.choice(self.kinds), self._random.randrange(self.size + 1))

    def _fault(self, kind: str, place: int) -> Fault:
        return {
            "cut": Fault(cut=place),
            "reset": Fault(cut=place, reset=True),
            "status": Fault(status=self._random.choice((500, 502, 503, 504))),
            "retry": Fault(status=429, retry_after="0"),
            "date": Fault(status=503, retry_after=formatdate(time.time() - 5, usegmt=True)),
            "slow": Fault(slow=0.005),
            "flip": Fault(flip=True),
            "longer": Fault(longer=7),
            "shorter": Fault(longer=-1),
            "trailing": Fault(trailing=9),
            "ignore": Fault(ignore_range=True),
            "wrong_range": Fault(wrong_range=True),
            "undeclared": Fault(undeclared=True),
            "no_answer": Fault(no_answer=True),
            "missing": Fault(status=404),
        }[kind]


@dataclass
class Upstream:
    """Use in a with block. ``files`` maps a path (``/a/b``) to its bytes, ``types`` to a Content-Type."""

    files: Mapping[str, bytes]
    plan: Plan = lambda path, number: GOOD
    types: Mapping[str, str] = field(default_factory=dict)
    token_uses: int = 0
    """If not 0: /v2/ wants a bearer token from /token, good for so many requests."""
    basic: str = ""
    """If set: the Authorization header that /token (or, without tokens, every path) wants."""
    latency: float = 0.0
    """Seconds before each answer."""
    rate: float = 0.0
    """Bytes per second and connection."""
    etag: bool = True
    tls: ssl.SSLContext | None = None
    log: list[Request] = field(default_factory=list)

    def __enter__(self) -> Upstream:
        self._counts: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"upstream": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        """``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, or https."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def sent(self, path: str) -> int:
        """Bytes of bodies sent for ``path``."""
        return sum(request.sent for request in self.log if request.path == path)

    def requests(self, path: str) -> list[Request]:
        """Log of ``path``."""
        return [request for request in self.log if request.path == path]

    def next_fault(self, path: str) -> Fault:
        with self._lock:
            number = self._counts[path] = self._counts.get(path, -1) + 1
        return self.plan(path, number)

    def record(self, request: Request) -> Request:
        with self._lock:
            self.log.append(request)
        return request

    def new_token(self) -> str:
        with self._lock:
            token = secrets.token_hex(8)
            self._tokens[token] = self.token_uses
            return token

    def spend(self, authorization: str) -> bool:
        """Tell whether a bearer token is still good, and use it up a little."""
        with self._lock:
            token = authorization.removeprefix("Bearer ")
            self._tokens[token] = self._tokens.get(token, 0) - 1
            return self._tokens[token] >= 0


def first(*faults: Fault) -> Plan:
    """Plan: these befall the first requests of each path, then all is well."""
    return lambda path, number: faults[number] if number < len(faults) else GOOD


def always(fault: Fault) -> Plan:
    """Plan: this befalls every request."""
    return lambda path, number: fault


def on(pattern: str, plan: Plan) -> Plan:
    """Plan for the paths that ``pattern`` matches."""
    return lambda path, number: plan(path, number) if re.search(pattern, path) else GOOD


def sha256(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass
class Images:
    """Contents of a registry: what ``Upstream`` needs to serve it."""

    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def blob(self, repository: str, data: bytes) -> dict[str, Any]:
        """Add a blob; returns its descriptor."""
        self.files[f"/v2/{repository}/blobs/sha256:{sha256(data)}"] = data
        return {"mediaType": "application/octet-stream", "digest": f"sha256:{sha256(data)}", "size": len(data)}

    def manifest(self, repository: str, body: bytes, media_type: str, tag: str = "") -> dict[str, Any]:
        """Add a manifest, under its digest and ``tag``; returns its descriptor."""
        for name in filter(None, (f"sha256:{sha256(body)}", tag)):
            self.files[f"/v2/{repository}/manifests/{name}"] = body
            self.types[f"/v2/{repository}/manifests/{name}"] = media_type
        return {"mediaType": media_type, "digest": f"sha256:{sha256(body)}", "size": len(body)}

    def image(self, repository: str, layers: Iterable[bytes], arch: str = "amd64", tag: str = "") -> dict[str, Any]:
        """Add an image for one platform; returns the descriptor of its manifest."""
        config = json.dumps({"os": "linux", "architecture": arch, "config": {}}).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.blob(repository, config),
            "layers": [self.blob(repository, layer) for layer in layers],
        }
        return self.manifest(repository, json.dumps(document).encode(), OCI_MANIFEST, tag)

    def index(self, repository: str, children: Mapping[str, dict[str, Any]], tag: str = "") -> dict[str, Any]:
        """Add an index of ``{"linux/arm64": descriptor}``; returns its descriptor."""
        entries = [
            {**child, "platform": dict(zip(("os", "architecture", "variant"), platform.split("/")))}
            for platform, child in children.items()
        ]
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        return self.manifest(repository, body, OCI_INDEX, tag)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    upstream: Upstream
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        time.sleep(self.upstream.latency)
        path = urlsplit(self.path).path
        fault = self.upstream.next_fault(path)
        if fault.no_answer:
            self._note(path, 0)
            self._hang_up(fault.reset)
        elif not self._allowed(path):
            return
        elif fault.status:
            self._plain(path, fault.status, {"Retry-After": fault.retry_after} if fault.retry_after else {})
        elif fault.redirect:
            self._plain(path, 307, {"Location": fault.redirect})
        elif path == "/token":
            self._token(path)
        elif path not in self.upstream.files:
            self._plain(path, 404, {})
        else:
            self._content(path, self.upstream.files[path], fault)

    def _allowed(self, path: str) -> bool:
        upstream, given = self.upstream, self.headers.get("Authorization", "")
        if upstream.token_uses and path.startswith("/v2/"):
            scope = f"repository:{path[4:].rpartition('/')[0].rpartition('/')[0]}:pull"
            if not upstream.spend(given):
                challenge = f'Bearer realm="{upstream.url}/token",service="lab",scope="{scope}"'
                self._plain(path, 401, {"WWW-Authenticate": challenge})
                return False
        elif upstream.basic and given != upstream.basic:
            self._plain(path, 401, {"WWW-Authenticate": 'Basic realm="lab"'})
            return False
        return True

    def _token(self, path: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        assert self.command == "POST" or query["scope"][0].startswith("repository:"), query
        body = json.dumps({"token": self.upstream.new_token()}).encode()
        self._plain(path, 200, {}, body)

    def _plain(self, path: str, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self._note(path, status).sent = len(body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _content(self, path: str, data: bytes, fault: Fault) -> None:
        total = len(data) + fault.longer
        body = data[: fault.longer] if fault.longer < 0 else data + b"x" * fault.longer
        start, end = (0, total) if fault.ignore_range else self._range(total)
        status = 200 if fault.ignore_range or "Range" not in self.headers else 206
        if start >= total and status == 206:
            self._plain(path, 416, {"Content-Range": f"bytes */{total}"})
            return
        request = self._note(path, status)
        self.send_response(status)
        self._headers(path, data, total, (start, end), fault, status)
        if self.command == "HEAD":
            return
        shift = 1 if fault.wrong_range and status == 206 and start else 0
        body = bytearray(body[start - shift : end - shift]) + b"y" * fault.trailing
        if fault.flip and body:
            body[len(body) // 2] ^= 1
        self._send(request, bytes(body), fault)

    def _headers(self, path: str, data: bytes, total: int, span: tuple[int, int], fault: Fault, status: int) -> None:
        start, end = span
        if fault.undeclared or fault.trailing:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(end - start))
        if status == 206:
            shift = 1 if fault.wrong_range and start else 0
            self.send_header("Content-Range", f"bytes {start - shift}-{end - 1 - shift}/{total}")
        if self.upstream.etag:
            self.send_header("ETag", f'"{sha256(data)[:16]}"')
        if "/manifests/" in path:
            self.send_header("Docker-Content-Digest", f"sha256:{sha256(data)}")
        self.send_header("Content-Type", self.upstream.types.get(path, "application/octet-stream"))
        self.end_headers()

    def _range(self, total: int) -> tuple[int, int]:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found:
            return 0, total
        return int(found[1]), min(int(found[2]) + 1, total) if found[2] else total

    def _send(self, request: Request, body: bytes, fault: Fault) -> None:
        time.sleep(fault.stall)
        cut = fault.cut is not None and fault.cut < len(body)
        body = body[: fault.cut] if cut else body
        begun = time.monotonic()
        try:
            for offset in range(0, len(body), CHUNK):
                # Counted first, because the client may be done, and look, as soon as it has the last byte.
                request.sent = min(offset + CHUNK, len(body))
                self.wfile.write(memoryview(body)[offset : offset + CHUNK])
                late = begun + request.sent / self.upstream.rate - time.monotonic() if self.upstream.rate else 0.0
                time.sleep(max(late, fault.slow, 0.0))
        except OSError:
            self.close_connection = True
        if cut:
            self._hang_up(fault.reset)

    def _note(self, path: str, status: int) -> Request:
        bearer, part = self.headers.get("Authorization", ""), self.headers.get("Range", "")
        return self.upstream.record(Request(self.command, path, status, part, bearer, 0))

    def _hang_up(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
