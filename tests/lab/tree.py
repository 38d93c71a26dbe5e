"""A bundle of this tree's manifests and node scripts, served in a lab of its own while tests run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import cluster
from .lab import Lab
from .teardown import down
from .upstream import driver, servers
from .upstream.home import home


def build(place: Path, release: str = "1.20") -> Path:
    """Lock and build a bundle below place, from the lab's upstream; return it."""
    ran = all(servers.status().values())
    driver.build()
    shutil.copy(driver.start(), place / "mirrors.yaml")
    bundler = Path(sys.executable).with_name("bundler")
    shared = ["--version", release, "--lock-dir", ".", "--config", "mirrors.yaml", "--cache-dir", home() / "store"]
    for words in (["lock", *shared], ["build", *shared, "-o", "bundle.tar"]):
        subprocess.run([bundler, *words, "-q"], cwd=place, check=True, stdout=subprocess.DEVNULL)
    if not ran:
        servers.stop()
    cluster.unpack_installer(place / "bundle.tar", place / "carried")
    return place / "bundle.tar"


@contextmanager
def served(lab: Lab, place: Path, *options: str) -> Iterator[Lab]:
    """Have an empty lab with such a bundle served at its switch, with these options; all of it is gone afterwards."""
    bundle = build(place)
    down(lab)
    try:
        cluster.serve(lab, bundle, place / "carried", *options)
        yield lab
    finally:
        down(lab)
