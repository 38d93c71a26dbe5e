"""Debian packages beyond a node's root file system, which stays free of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from . import rootfs
from .node import Node
from .upstream.home import home, lock, run


def furnish(node: Node, *packages: str) -> None:
    """Unpack packages, and what the node lacks of their dependencies, in a running node. Raises LabError.

    Their maintainer scripts do not run (the node has no dpkg): the caller does what they would have.
    """
    for deb in fetched(*packages):
        tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE, check=True).stdout
        node.run(["tar", "-C", "/", "-x", "--keep-directory-symlink"], input=tar, check=True)
    node.run("ldconfig; systemctl daemon-reload; systemctl reload dbus", check=True)


def fetched(*packages: str) -> list[Path]:
    """Return the .deb files of packages, and of what nodes lack of their dependencies. Raises LabError."""
    status = rootfs.layers()[1] / "var/lib/dpkg/status"
    options = [f"-oDir::State::status={status}", "-oDebug::NoLocking=1", "--no-install-recommends", "-qq", "-y"]
    place = home() / "debs"
    with lock("debs"):
        (place / "partial").mkdir(parents=True, exist_ok=True)
        run("apt-get", *options, f"-oDir::Cache::archives={place}", "--download-only", "install", *packages)
        wanted = run("apt-get", *options, "--print-uris", f"-oDir::Cache::archives={place}/none", "install", *packages)
    return [place / line.split()[1] for line in wanted.splitlines() if line.startswith("'")]
