"""Whole builds' worth of downloads against an upstream that fails at random, and against kill -9."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from bundler.errors import BundlerError
from bundler.fetch import pool
from bundler.fetch.hosts import Hosts
from bundler.fetch.http import Blob, Client
from bundler.fetch.images import image_content
from bundler.fetch.mirrors import Mirrors
from bundler.fetch.pool import blob_jobs, fetch_all, image_jobs
from bundler.fetch.registry import Registry
from bundler.progress import Progress
from bundler.store import Store
from tests.servers.faults import Chaos, Fault, Images, Upstream, always, sha256

RUNS = 200
SIZES = (0, 1, 700, 65_536, 200_000, 450_000)
HONEST = ("cut", "reset", "status", "retry", "date", "slow", "ignore", "wrong_range", "undeclared", "no_answer")


def contents(seed: int) -> tuple[dict[str, bytes], Images, str]:
    """Files, images and the digest of the one index among them."""
    make = random.Random(seed)
    files = {f"/files/{size}": make.randbytes(size) for size in SIZES}
    images = Images()
    children = {f"linux/{arch}": images.image("app", [make.randbytes(300_000)], arch) for arch in ("amd64", "arm64")}
    digest = images.index("app", children)["digest"]
    return {**files, **images.files}, images, digest


def fetch(upstream: Upstream, files: dict[str, bytes], digest: str, root: Path) -> Store:
    """What a build does: files and an image, all at once."""
    client = Client(Mirrors.parse([f"k8s.gcr.io={upstream.url}"]), backoff=0.001, timeout=1, hosts=Hosts(pause=0.01))
    store = Store(root)
    blobs = [
        Blob(path, upstream.url + path, sha256(data), len(data) if len(data) != 700 else None)
        for path, data in files.items()
        if path.startswith("/files/")
    ]
    jobs = [
        *blob_jobs(blobs, client, store),
        *image_jobs("k8s.gcr.io/app:1", digest, ["arm64"], Registry(client), store),
    ]
    try:
        with Progress(quiet=True) as progress:
            fetch_all(jobs, 4, progress)
    finally:
        client.close()
    return store


def check_store(store: Store) -> None:
    """Whatever has a final name has the right bytes."""
    for path in store.root.glob("sha256/*/*"):
        assert sha256(path.read_bytes()) == path.name


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LEAST", 200_000)
    monkeypatch.setattr(pool, "SEGMENT", 70_000)


@pytest.mark.parametrize("batch", range(10))
def test_random_failures_end_well_or_say_so(tmp_path: Path, batch: int) -> None:
    ended = []
    for seed in range(batch * RUNS // 10, (batch + 1) * RUNS // 10):
        files, images, digest = contents(seed)
        chaos = Chaos(seed, share=(0.05, 0.2, 0.5, 0.9)[seed % 4], size=300_000)
        root = tmp_path / str(seed)
        with Upstream(files, chaos, images.types, token_uses=seed % 3 * 5, etag=seed % 2 == 0) as upstream:
            try:
                store = fetch(upstream, files, digest, root)
                ended.append(0)
            except BundlerError as error:
                assert error.exit_code in (5, 6), (seed, error)
                assert upstream.host in error.message or "k8s.gcr.io/app" in error.message, (seed, error)
                ended.append(error.exit_code)
                check_store(Store(root))
                continue
        check_store(store)
        content = image_content(store, "k8s.gcr.io/app:1", digest, ["arm64"])
        assert all(map(store.has, content.blobs)), seed
        assert all(store.has(sha256(data), len(data)) for path, data in files.items() if path.startswith("/files/")), (
            seed
        )
        assert not list((root / "partial").iterdir()), seed
    # Both ends must occur, or the test tests nothing.
    assert 0 in ended and len(set(ended)) > 1


@pytest.mark.parametrize("seed", range(20))
def test_without_lies_the_same_command_again_gets_there(tmp_path: Path, seed: int) -> None:
    files, images, digest = contents(seed)
    with Upstream(files, Chaos(seed, share=0.6, size=300_000, kinds=HONEST), images.types) as upstream:
        for _ in range(50):
            try:
                store = fetch(upstream, files, digest, tmp_path)
                break
            except BundlerError as error:
                assert error.exit_code == 5
        check_store(store)
        log = len(upstream.log)
        fetch(upstream, files, digest, tmp_path)
        assert len(upstream.log) == log


BUILD = """
import sys
from pathlib import Path
from bundler.fetch.http import Blob, Client
from bundler.fetch.mirrors import Mirrors
from bundler.fetch.pool import blob_jobs, fetch_all
from bundler.fetch import pool
from bundler.progress import Progress
from bundler.store import Store
pool.LEAST, pool.SEGMENT = 2000000, 1000000
root, url, *digests = sys.argv[1:]
client, store = Client(Mirrors.parse()), Store(Path(root))
blobs = [Blob(str(n), f"{url}/{n}", d[:64], int(d[65:])) for n, d in enumerate(digests)]
with Progress(quiet=True) as progress:
    fetch_all(blob_jobs(blobs, client, store), 4, progress)
"""


def test_kill_at_any_moment_never_fetches_a_finished_file_twice(tmp_path: Path) -> None:
    sizes = (5_000_000, 900_000, 300_000, 40_000, 7)
    files = {f"/{number}": random.Random(number).randbytes(size) for number, size in enumerate(sizes)}
    digests = {path: sha256(data) for path, data in files.items()}
    moments = random.Random(20)
    with Upstream(files, always(Fault(slow=0.1))) as upstream:
        arguments = [f"{digests[path]}:{len(data)}" for path, data in files.items()]
        command = [sys.executable, "-c", BUILD, str(tmp_path), upstream.url, *arguments]
        done: set[str] = set()
        killed = 0
        while done != set(files):
            seen = len(upstream.log)
            build = subprocess.Popen(command)
            try:
                # The last run is left to its end.
                assert build.wait(moments.uniform(0.3, 0.6) if killed < 8 else 60) == 0
            except subprocess.TimeoutExpired:
                build.kill()
                killed += 1
                build.wait()
            assert not {line.path for line in upstream.log[seen:]} & done
            check_store(Store(tmp_path))
            done = {path for path, data in files.items() if Store(tmp_path).has(digests[path], len(data))}
    assert killed >= 3
    # What a kill costs is the unfinished segment of each of four connections, no more.
    assert sum(line.sent for line in upstream.log) < sum(sizes) + killed * 4 * 1_000_000
