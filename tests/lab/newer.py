"""Bundles of a release and of a newer patch level of it, made as a user would make them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from .rootfs import MANIFEST
from .upstream import driver, servers
from .upstream.home import home

OLD, NEW = "v1.20.2", "v1.20.3"


def old_bundle(place: Path) -> Path:
    """Lock and build this tree's own release in place; return the bundle. Raises LabError, CalledProcessError."""
    ran = all(servers.status().values())
    driver.build()
    try:
        return _bundle(place, driver.start())
    finally:
        if not ran:
            servers.stop()


def new_bundle(place: Path) -> Path:
    """The same of the newer patch level, from a manifest derived from the release's: only the version is another."""
    manifests = place / "manifests.new"
    shutil.copytree(MANIFEST.parent, manifests)
    text = MANIFEST.read_text()
    (manifests / MANIFEST.name).write_text(text.replace(OLD, NEW).replace(f"-{OLD[1:]}", f"-{NEW[1:]}"))
    (place / "upstream").mkdir()
    with driver.beside(NEW, place / "upstream") as mirrors:
        return _bundle(place, mirrors, "--manifests", manifests)


def _bundle(place: Path, mirrors: Path, *more: str | Path) -> Path:
    shared = ["--version", "1.20", "--lock-dir", ".", "--config", mirrors, "--cache-dir", home() / "store", "-q", *more]
    bundler = Path(sys.executable).with_name("bundler")
    for words in (["lock", *shared], ["build", *shared, "-o", "bundle.tar"]):
        subprocess.run([bundler, *words], cwd=place, check=True, stdout=subprocess.DEVNULL)
    return place / "bundle.tar"
