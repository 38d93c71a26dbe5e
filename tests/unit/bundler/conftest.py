"""Small bundles to verify, without a manifest, a store or a network behind them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bundler import archive
from bundler.archive import Member
from bundler.bundle import head
from bundler.sign import load_private

CREATED = 1610496000
CONTENT = {
    "bin/amd64/kubectl": b"\x7fELF" + bytes(range(256)) * 700,
    "images/oci-layout": b'{"imageLayoutVersion":"1.0.0"}\n',
    "installer/node/10-host.sh": b"#!/bin/sh\n",
    "lists/images": b"",
}


def write_tar(path: Path, members: Sequence[Member], mtime: int = CREATED) -> Path:
    """Write a tar of these members."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        archive.write(fd, members, mtime, 2, lambda _: None)
    finally:
        os.close(fd)
    return path


def bundle_members(body: Sequence[Member], key: Path | None = None) -> list[Member]:
    """Return a whole bundle's members around ``body``."""
    files = [{"path": m.path, "sha256": m.sha256, "size": m.size} for m in body]
    contract = {"schema": 1, "release": "1.20", "kubernetes": "v1.20.2", "created": CREATED, "arches": ["amd64"],
                "hosts": {}, "images": [], "addons": [], "node": {}, "files": files}
    return [*head(contract, body, load_private(key) if key else None), *body]


@pytest.fixture
def body() -> list[Member]:
    """The members of a small bundle, but its head."""
    return [Member.of(path, content) for path, content in sorted(CONTENT.items())]


@pytest.fixture
def make_bundle(tmp_path: Path, body: list[Member]) -> Callable[..., Path]:
    """A function that writes a small bundle, signed with a key if one is given."""

    def make(name: str = "bundle.tar", key: Path | None = None) -> Path:
        return write_tar(tmp_path / name, bundle_members(body, key))

    return make
