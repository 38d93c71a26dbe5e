"""Caches on file systems that are really full, or really read-only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.faults import Upstream, sha256

pytestmark = pytest.mark.root

DATA = bytes(range(256)) * 20_000
FETCH = """
import sys
from pathlib import Path
from bundler.errors import BundlerError
from bundler.fetch.http import Blob, Client
from bundler.fetch.mirrors import Mirrors
from bundler.fetch.pool import blob_jobs, fetch_all
from bundler.progress import Progress
from bundler.store import Store
root, url, sha256, size = sys.argv[1:]
try:
    client, store = Client(Mirrors.parse()), Store(Path(root))
    jobs = blob_jobs([Blob("file", url, sha256, int(size) or None)], client, store)
    with Progress(quiet=True) as progress:
        fetch_all(jobs, 2, progress)
except BundlerError as error:
    print(error.message, "|", error.hint)
    sys.exit(error.exit_code)
"""


def fetch(folder: Path, options: str, size: int) -> subprocess.CompletedProcess[str]:
    """Fetch 5 MB into a tmpfs mounted with ``options``, in a mount namespace that ends with the process."""
    mount = f'mount -t tmpfs -o {options} none {folder} && exec "$@"'
    with Upstream({"/file": DATA}) as upstream:
        command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", FETCH]
        arguments = [folder, f"{upstream.url}/file", sha256(DATA), size]
        done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done


def test_room_enough(tmp_path: Path) -> None:
    assert fetch(tmp_path, "size=16m", len(DATA)).returncode == 0


def test_a_small_disk_is_noticed_before_the_start(tmp_path: Path) -> None:
    done = fetch(tmp_path, "size=2m", len(DATA))
    assert done.returncode == 7
    assert done.stdout.startswith(f"{tmp_path}: {len(DATA)} bytes are needed, ") and "--cache-dir" in done.stdout


def test_a_disk_that_runs_full_names_the_folder(tmp_path: Path) -> None:
    done = fetch(tmp_path, "size=2m", 0)
    assert done.returncode == 7
    assert done.stdout.startswith(f"{tmp_path}/partial: no space left (") and "--cache-dir" in done.stdout


def test_a_read_only_cache_is_named(tmp_path: Path) -> None:
    done = fetch(tmp_path, "ro", len(DATA))
    assert done.returncode == 7
    assert done.stdout.startswith(f"{tmp_path}") and "Read-only file system" in done.stdout
