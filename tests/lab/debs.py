"""Debian packages beyond a node's root file system, which stays free of them."""

from __future__ import annotations

from pathlib import Path

from . import rootfs
from .upstream.home import home, lock, run


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
