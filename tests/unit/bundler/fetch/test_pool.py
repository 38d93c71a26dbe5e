import io
import random
import threading
import time
from pathlib import Path

import pytest

from bundler.errors import FetchError, HostError, IntegrityError, ResolveError
from bundler.fetch import pool, segments
from bundler.fetch.http import Blob, Client
from bundler.fetch.images import image_content
from bundler.fetch.mirrors import Mirrors
from bundler.fetch.pool import blob_jobs, fetch_all, image_jobs
from bundler.fetch.registry import Registry
from bundler.progress import Progress
from bundler.store import Store
from tests.servers.faults import Fault, Images, Upstream, always, first, on, sha256
from tests.unit.bundler.fetch.conftest import blob_of

DATA = random.Random(3).randbytes(1_000_000)


@pytest.fixture
def progress() -> Progress:
    progress = Progress(io.StringIO())
    progress.stage("download")
    return progress


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LEAST", 200_000)
    monkeypatch.setattr(pool, "SEGMENT", 100_000)


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_every_file_once_and_every_byte_counted(client: Client, store: Store, progress: Progress, workers: int) -> None:
    files = {f"/{number}": random.Random(number).randbytes(number * 3000) for number in range(30)}
    with Upstream(files) as upstream:
        jobs = blob_jobs([blob_of(upstream, path) for path in files], client, store)
        fetch_all(jobs + jobs, workers, progress)
        assert sorted(line.path for line in upstream.log) == sorted(path for path in files if files[path])
        assert progress.done == progress.total == sum(map(len, files.values()))
        fetch_all(jobs, workers, progress)
        assert len(upstream.log) == 29
    for data in files.values():
        assert store.read(sha256(data)) == data


def test_the_largest_goes_first(client: Client, store: Store, progress: Progress) -> None:
    files = {f"/{number}": bytes(number * 1000) for number in (1, 3, 2)}
    with Upstream(files) as upstream:
        fetch_all(blob_jobs([blob_of(upstream, path) for path in files], client, store), 1, progress)
        assert [line.path for line in upstream.log] == ["/3", "/2", "/1"]


def test_the_first_error_ends_the_rest_soon(client: Client, store: Store, progress: Progress) -> None:
    files = {"/gone": DATA, **{f"/{number}": DATA + bytes([number]) for number in range(20)}}
    plan = lambda path, number: Fault(status=404) if path == "/gone" else Fault(slow=0.5)  # noqa: E731
    with Upstream(files, plan) as upstream:
        blobs = [blob_of(upstream, path) for path in files]
        begun = time.monotonic()
        with pytest.raises(FetchError, match="/gone: HTTP status 404"):
            fetch_all(blob_jobs(blobs, client, store), 25, progress)
        assert time.monotonic() - begun < 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch-")]
    assert not store.has(sha256(DATA))


def test_too_little_room_is_said_before_anything_is_fetched(client: Client, store: Store, tmp_path: Path) -> None:
    huge = [
        Blob("one", "http://gone.invalid/1", "1" * 64, 1 << 59),
        Blob("two", "http://gone.invalid/2", "2" * 64, 1 << 59),
    ]
    with pytest.raises(HostError, match=rf"{store.root}: {1 << 60} bytes are needed, \d+ are free"):
        blob_jobs(huge, client, store)


def test_a_bug_is_not_swallowed(client: Client, store: Store, progress: Progress) -> None:
    class Bad(Progress):
        def advance(self, size: int) -> None:
            raise ZeroDivisionError

    with Upstream({"/f": DATA}) as upstream, pytest.raises(ZeroDivisionError):
        fetch_all(blob_jobs([blob_of(upstream, "/f")], client, store), 2, Bad(io.StringIO()))


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(),
        Fault(cut=50_000),
        Fault(cut=10, reset=True),
        Fault(status=503),
        Fault(wrong_range=True),
        Fault(flip=True),
    ],
)
def test_a_large_file_comes_in_segments(
    client: Client, store: Store, progress: Progress, workers: int, fault: Fault
) -> None:
    with Upstream({"/f": DATA}, first(Fault(), fault)) as upstream:
        fetch_all(blob_jobs([blob_of(upstream, "/f")], client, store), workers, progress)
        assert store.read(sha256(DATA)) == DATA
        assert progress.done == progress.total == len(DATA)
        if fault == Fault():
            assert len(upstream.log) == 10 and upstream.sent("/f") == len(DATA)
        assert {line.status for line in upstream.log} <= {206, 200, 503}
    assert list((store.root / "partial").iterdir()) == []


@pytest.mark.usefixtures("small_segments")
def test_without_ranges_a_large_file_comes_whole(client: Client, store: Store, progress: Progress) -> None:
    with Upstream({"/f": DATA}, always(Fault(ignore_range=True))) as upstream:
        fetch_all(blob_jobs([blob_of(upstream, "/f")], client, store), 4, progress)
        assert store.read(sha256(DATA)) == DATA
        assert progress.done == len(DATA)


@pytest.mark.usefixtures("small_segments")
def test_segments_that_lie_are_an_integrity_error(client: Client, store: Store, progress: Progress) -> None:
    with (
        Upstream({"/f": DATA}, always(Fault(flip=True))) as upstream,
        pytest.raises(IntegrityError, match="has sha256"),
    ):
        fetch_all(blob_jobs([blob_of(upstream, "/f")], client, store), 4, progress)
    assert not store.has(sha256(DATA)) and list((store.root / "partial").iterdir()) == []


@pytest.mark.usefixtures("small_segments")
def test_finished_segments_are_not_fetched_by_a_later_run(store: Store, progress: Progress) -> None:
    plan = lambda path, number: Fault(status=404) if number == 4 else Fault()  # noqa: E731
    with Upstream({"/f": DATA}, plan) as upstream:
        for _ in range(2):
            client = Client(Mirrors.parse())
            try:
                fetch_all(blob_jobs([blob_of(upstream, "/f")], client, store), 1, progress)
            except FetchError:
                assert not store.has(sha256(DATA))
            client.close()
        assert store.read(sha256(DATA)) == DATA
        assert upstream.sent("/f") == len(DATA)


@pytest.mark.usefixtures("small_segments")
def test_two_builds_that_share_a_cache_do_not_wait_for_ever(store: Store) -> None:
    files = {f"/{number}": random.Random(number).randbytes(500_000) for number in range(6)}
    with Upstream(files) as upstream:

        def build(paths: "list[str]") -> None:
            client = Client(Mirrors.parse())
            with Progress(quiet=True) as quiet:
                fetch_all(blob_jobs([blob_of(upstream, path) for path in paths], client, store), 2, quiet)
            client.close()

        threads = [threading.Thread(target=build, args=(order,)) for order in (list(files), list(files)[::-1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert all(upstream.sent(path) == 500_000 for path in files)


@pytest.fixture
def images() -> Images:
    images = Images()
    shared = b"shared layer" * 5000
    children = {
        f"linux/{arch}": images.image("pause", [shared, arch.encode() * 999], arch.partition("/")[0])
        for arch in ("amd64", "arm64/v8", "s390x")
    }
    children["unknown/unknown"] = images.image("pause", [b"attestation"], "unknown")
    images.index("pause", children, "3.2")
    images.image("solo", [shared], "amd64", "1")
    return images


def digest_of(images: Images, path: str) -> str:
    return f"sha256:{sha256(images.files[path])}"


def registry_for(upstream: Upstream) -> Registry:
    return Registry(Client(Mirrors.parse([f"*={upstream.url}"]), backoff=0.001))


def fetch_image(upstream: Upstream, store: Store, reference: str, digest: str, arches: "list[str]") -> None:
    with Progress(quiet=True) as progress:
        fetch_all(image_jobs(reference, digest, arches, registry_for(upstream), store), 4, progress)


def prefixed(images: Images) -> "tuple[dict[str, bytes], dict[str, str]]":
    """As a mirror of all upstreams names them."""
    return (
        {path.replace("/v2/", "/v2/k8s.gcr.io/"): data for path, data in images.files.items()},
        {path.replace("/v2/", "/v2/k8s.gcr.io/"): text for path, text in images.types.items()},
    )


def test_an_index_stays_whole_and_only_chosen_platforms_are_fetched(images: Images, store: Store) -> None:
    digest = digest_of(images, "/v2/pause/manifests/3.2")
    files, types = prefixed(images)
    with Upstream(files, types=types) as upstream:
        fetch_image(upstream, store, "k8s.gcr.io/pause:3.2", digest, ["amd64", "arm64"])
        content = image_content(store, "k8s.gcr.io/pause:3.2", digest, ["amd64", "arm64"])
        assert content.platforms == ("linux/amd64", "linux/arm64")
        assert content.media_type == "application/vnd.oci.image.index.v1+json"
        assert content.size == len(images.files["/v2/pause/manifests/3.2"])
        # The index, two manifests, two configs, two layers of their own and the one that they share.
        assert len(content.blobs) == 8 and all(map(store.has, content.blobs))
        assert store.read(digest[7:]) == images.files["/v2/pause/manifests/3.2"]
        assert len(upstream.log) == 8
        fetch_image(upstream, store, "k8s.gcr.io/pause:3.2", digest, ["amd64"])
        assert len(upstream.log) == 8
        with pytest.raises(ResolveError, match="not made for linux/ppc64le, only for linux/amd64, linux/arm64"):
            fetch_image(upstream, store, "k8s.gcr.io/pause:3.2", digest, ["ppc64le"])


def test_a_plain_image_says_its_platform_in_its_config(images: Images, store: Store) -> None:
    digest = digest_of(images, "/v2/solo/manifests/1")
    files, types = prefixed(images)
    with Upstream(files, types=types) as upstream:
        fetch_image(upstream, store, "k8s.gcr.io/solo:1", digest, ["amd64"])
    content = image_content(store, "k8s.gcr.io/solo:1", digest, ["amd64"])
    assert content.platforms == ("linux/amd64",) and len(content.blobs) == 3
    with pytest.raises(ResolveError, match="k8s.gcr.io/solo:1: not made for linux/arm64, only for linux/amd64"):
        image_content(store, "k8s.gcr.io/solo:1", digest, ["arm64"])


def test_a_manifest_of_another_digest_is_refused(images: Images, store: Store) -> None:
    digest = digest_of(images, "/v2/solo/manifests/1")
    files, types = prefixed(images)
    with (
        Upstream(files, on("manifests", always(Fault(flip=True))), types) as upstream,
        pytest.raises(IntegrityError, match=f"k8s.gcr.io/solo@{digest}"),
    ):
        fetch_image(upstream, store, "k8s.gcr.io/solo:1", digest, ["amd64"])
    assert not store.has(digest[7:])


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"config": {}, "layers": []}', b'{"manifests": [{"digest": "x", "size": 1}]}']
)
def test_what_is_no_manifest_is_said(images: Images, store: Store, body: bytes) -> None:
    files = {f"/v2/k8s.gcr.io/bad/manifests/sha256:{sha256(body)}": body}
    with Upstream(files) as upstream, pytest.raises(IntegrityError, match="neither an image manifest nor an index"):
        fetch_image(upstream, store, "k8s.gcr.io/bad:1", f"sha256:{sha256(body)}", ["amd64"])


def test_segment_bounds_are_those_measured() -> None:
    assert segments.LEAST >= 2 * segments.SEGMENT


def test_nothing_to_do_needs_no_threads(progress: Progress, tmp_path: Path) -> None:
    fetch_all([], 4, progress)
    assert progress.done == 0
