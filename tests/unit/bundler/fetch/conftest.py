"""Clients that lose no time between attempts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.fetch.hosts import Hosts
from bundler.fetch.http import Blob, Client
from bundler.fetch.mirrors import Mirrors
from bundler.store import Store
from tests.servers.faults import Upstream, sha256


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(Mirrors.parse(), backoff=0.001, timeout=1.0, hosts=Hosts(pause=0.01))
    yield client
    client.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def blob_of(upstream: Upstream, path: str, size: int | None = -1) -> Blob:
    """A file of ``upstream`` as a lock would name it; its true size by default."""
    data = upstream.files[path]
    return Blob(path.rpartition("/")[2], upstream.url + path, sha256(data), len(data) if size == -1 else size)
