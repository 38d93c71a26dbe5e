"""A lab with a bundle made from this tree's manifests and node scripts, served at its switch."""

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


@contextmanager
def served(site: Lab, place: Path) -> Iterator[Lab]:
    """Build the 1.20 bundle below place and serve it while the block runs, in a fresh lab that is gone afterwards."""
    ran = all(servers.status().values())
    driver.build()
    shutil.copy(driver.start(), place / "mirrors.yaml")
    bundler = Path(sys.executable).with_name("bundler")
    shared = ["--version", "1.20", "--lock-dir", ".", "--config", "mirrors.yaml", "--cache-dir", home() / "store", "-q"]
    for words in (["lock", *shared], ["build", *shared, "-o", "bundle.tar"]):
        subprocess.run([bundler, *words], cwd=place, check=True, stdout=subprocess.DEVNULL)
    if not ran:
        servers.stop()
    down(site)
    cluster.unpack_installer(place / "bundle.tar", place / "carried")
    cluster.serve(site, place / "bundle.tar", place / "carried")
    yield site
    down(site)
