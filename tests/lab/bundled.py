"""A lab with a bundle made from this tree's manifests and node scripts, served at its switch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import cluster
from .lab import Lab
from .teardown import down
from .upstream import driver, servers
from .upstream.home import home, lock


@contextmanager
def served(name: str, place: Path, *options: str) -> Iterator[Lab]:
    """Build the bundle in an empty directory and serve it in the lab, with options of `serve`, while the block runs."""
    site = Lab(name)
    down(site)
    build(place)
    try:
        cluster.serve(site, place / "bundle.tar", place / "carried", *options)
        yield site
    finally:
        down(site)


def build(place: Path, hosts: Sequence[str] = ("el7",)) -> None:
    """Make `bundle.tar` of Kubernetes 1.20 in an empty directory, and the installer that it carries in `carried`."""
    bundler = Path(sys.executable).with_name("bundler")
    shared = ["--version", "1.20", "--lock-dir", ".", "--config", "mirrors.yaml", "--cache-dir", home() / "store", "-q"]
    shared += [word for host in hosts for word in ("--os", host)]
    with lock("upstream-servers"):
        ran = all(servers.status().values())
        driver.build()
        shutil.copy(driver.start(), place / "mirrors.yaml")
        for words in (["lock", *shared], ["build", *shared, "-o", "bundle.tar"]):
            subprocess.run([bundler, *words], cwd=place, check=True, stdout=subprocess.DEVNULL)
        if not ran:
            servers.stop()
    cluster.unpack_installer(place / "bundle.tar", place / "carried")
