"""Images out of a Docker daemon: a stand-in on a socket, since the one that Debian has keeps no digests."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import socketserver
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import HostError
from bundler.fetch.daemon import CONTAINERD_STORE, Daemon
from bundler.fetch.http import Client
from bundler.fetch.images import image_content
from bundler.fetch.mirrors import Mirrors
from bundler.fetch.pool import fetch_all, image_jobs
from bundler.fetch.registry import Registry
from bundler.progress import Progress
from bundler.store import Store
from tests.servers.faults import Images, Upstream


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """What a daemon answers; ``saved`` are the images that somebody asked for."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.status: list[list[str]] = [CONTAINERD_STORE]
        self.images: dict[str, bytes] = {}
        self.saved: list[str] = []
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        engine: Any = self.server
        name = self.path.split("/images/")[-1].removesuffix("/get").replace("%3A", ":")
        if self.path.endswith("/get"):
            engine.saved.append(name)
            self._answer(engine.images[name], "application/x-tar")
        elif "/images/json" in self.path:
            self._answer([{"Id": image, "RepoDigests": [f"app@{image}"]} for image in engine.images])
        else:
            self._answer({"ApiVersion": "1.44", "DriverStatus": engine.status})

    def _answer(self, content: object, kind: str = "application/json") -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    with Engine(tmp_path / "docker.sock") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
        yield server
        server.shutdown()
        thread.join()


def layout(images: Images, without: str = "-") -> bytes:
    """What `docker save` writes: an OCI layout in a tar."""
    file = io.BytesIO()
    blobs = {path.rpartition("sha256:")[2]: data for path, data in images.files.items() if "sha256:" in path}
    with tarfile.open(fileobj=file, mode="w") as tar:
        for digest, data in blobs.items():
            member = tarfile.TarInfo(f"blobs/sha256/{digest}")
            member.size = len(data)
            if without not in digest:
                tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def images() -> Images:
    return Images()


def app(images: Images) -> str:
    """An image for two platforms; returns its digest."""
    parts = {f"linux/{arch}": images.image("app", [arch.encode() * 5000], arch) for arch in ("amd64", "arm64")}
    return str(images.index("app", parts)["digest"])


def fetch(upstream: Upstream, digest: str, root: Path) -> Store:
    client = Client(Mirrors.parse([f"images.test={upstream.url}"]))
    store = Store(root / "cache", [Daemon(Store(root / "cache"))])
    try:
        with Progress(quiet=True) as progress:
            fetch_all(image_jobs("images.test/app:1", digest, ["amd64", "arm64"], Registry(client), store), 4, progress)
    finally:
        client.close()
    return store


def test_image_that_the_daemon_has_is_not_fetched(engine: Engine, images: Images, tmp_path: Path) -> None:
    digest = app(images)
    engine.images[digest] = layout(images)
    with Upstream(images.files, types=images.types) as upstream:
        store = fetch(upstream, digest, tmp_path)
        assert upstream.log == []
    content = image_content(store, "images.test/app:1", digest, ["amd64", "arm64"])
    assert len(content.blobs) == 7
    assert all(map(store.has, content.blobs))
    assert engine.saved == [digest]


def test_layer_that_the_daemon_lacks_is_fetched(engine: Engine, images: Images, tmp_path: Path) -> None:
    digest = app(images)
    layer = max(images.files, key=lambda path: len(images.files[path]))
    engine.images[digest] = layout(images, without=layer.rpartition(":")[2])
    with Upstream(images.files, types=images.types) as upstream:
        fetch(upstream, digest, tmp_path)
        assert [request.path for request in upstream.log] == [layer]


def test_image_of_another_digest_is_left_alone(engine: Engine, images: Images, tmp_path: Path) -> None:
    engine.images["sha256:" + "1" * 64] = b"of no use"
    digest = app(images)
    with Upstream(images.files, types=images.types) as upstream:
        fetch(upstream, digest, tmp_path)
        assert len(upstream.log) == 7
    assert engine.saved == []


def test_classic_store_is_told(engine: Engine, tmp_path: Path) -> None:
    engine.status = [["Backing Filesystem", "extfs"]]
    with pytest.raises(HostError, match="classic store") as caught:
        Daemon(Store(tmp_path))
    assert "containerd-snapshotter" in caught.value.hint


def test_damaged_export_is_told(engine: Engine, images: Images, tmp_path: Path) -> None:
    digest = app(images)
    engine.images[digest] = layout(images)[:700]
    with pytest.raises(HostError, match=f"cannot save {digest}"):
        Daemon(Store(tmp_path)).open(digest.partition(":")[2], None)


def test_daemon_that_lies_is_not_believed(engine: Engine, images: Images, tmp_path: Path) -> None:
    digest = app(images)
    engine.images[digest] = layout(images).replace(b"amd64" * 9, b"AMD64" * 9)
    with Upstream(images.files, types=images.types) as upstream:
        store = fetch(upstream, digest, tmp_path)
        assert len(upstream.log) == 1
    content = image_content(store, "images.test/app:1", digest, ["amd64", "arm64"])
    assert all(hashlib.sha256(store.path(blob).read_bytes()).hexdigest() == blob for blob in content.blobs)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the SDK's own, of the socket that it cannot connect
def test_no_daemon_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(HostError, match="the Docker daemon does not answer"):
        Daemon(Store(tmp_path))
    gc.collect()
