"""Many downloads at once: the largest first, one display, and the first error ends them all."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bundler.archive import DamagedSource
from bundler.fetch.http import Blob, Client
from bundler.fetch.images import choose, parse
from bundler.fetch.registry import Reference, Registry
from bundler.fetch.segments import LEAST, SEGMENT, Segmented
from bundler.fetch.wire import Cancelled
from bundler.progress import Progress
from bundler.store import Store

# How long workers get to end after an error; they hold nothing that a killed process would not leave in order.
GRACE = 3.0


class Job(Protocol):
    """Something to fetch. ``key``: two jobs of one key are one; ``size``: bytes expected, 0 where unknown."""

    @property
    def key(self) -> str:
        """Identity."""

    @property
    def name(self) -> str:
        """What the display says."""

    @property
    def size(self) -> int:
        """Bytes to come, also the order of work."""

    @property
    def urgent(self) -> bool:
        """Whether it goes before everything that is not, whatever the sizes."""

    def cached(self) -> bool:
        """Tell whether there is nothing to do."""

    def run(self, on_bytes: Callable[[int], None]) -> Iterable[Job]:
        """Do it; gives the jobs that this one led to."""

    def cancel(self) -> None:
        """End it, from another thread."""


@dataclass(frozen=True)
class BlobJob:
    """One file into the store; a large one becomes several segments."""

    blob: Blob
    client: Client
    store: Store
    urgent: bool = False

    @property
    def key(self) -> str:
        """Its digest."""
        return self.blob.sha256

    @property
    def name(self) -> str:
        """Its name."""
        return self.blob.name

    @property
    def size(self) -> int:
        """Its size, 0 if unknown."""
        return self.blob.size or 0

    def cached(self) -> bool:
        """Tell whether it is in the store."""
        return self.store.has(self.blob.sha256, self.blob.size)

    def run(self, on_bytes: Callable[[int], None]) -> Iterable[Job]:
        """Fetch it, or the list of its segments."""
        if self.size < LEAST or self.client.target(self.blob).startswith("file:"):
            self.client.download(self.blob, self.store, on_bytes)
            return []
        download = Segmented(self.client, self.blob, self.store, SEGMENT)
        return [SegmentJob(self, download, start) for start in download.begin(on_bytes)]

    def cancel(self) -> None:
        """End all transfers of its client."""
        self.client.cancel()


@dataclass(frozen=True)
class SegmentJob:
    """One segment of a large file. Urgent, so that a locked file is finished before another one is begun."""

    parent: BlobJob
    download: Segmented
    start: int
    size: int = 0
    urgent: bool = True

    @property
    def key(self) -> str:
        """Digest of the file and place in it."""
        return f"{self.parent.key}+{self.start}"

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.parent.name

    def cached(self) -> bool:
        """Never: the file would not have been split."""
        return False

    def run(self, on_bytes: Callable[[int], None]) -> Iterable[Job]:
        """Fetch it; the last one checks the file."""
        self.download.fetch(self.start, on_bytes)
        return []

    def cancel(self) -> None:
        """End all transfers of its client, and let go of the file."""
        self.parent.cancel()
        self.download.abandon()


@dataclass(frozen=True)
class ManifestJob:
    """A manifest or index, then whatever it lists for ``arches``."""

    reference: Reference
    arches: tuple[str, ...]
    registry: Registry
    store: Store
    size: int = 0
    urgent: bool = True

    @property
    def key(self) -> str:
        """Digest, with what is wanted of it."""
        return f"{self.reference.digest} {self.arches}"

    @property
    def name(self) -> str:
        """Repository."""
        return self.reference.name

    def cached(self) -> bool:
        """Never: what it lists may be missing."""
        return False

    def run(self, on_bytes: Callable[[int], None]) -> Iterable[Job]:  # noqa: ARG002
        """Fetch it unless it is in the store; gives a job for each part."""
        return self._parts(self._stored() or self._fetched())

    def cancel(self) -> None:
        """End all transfers of its client."""
        self.registry.client.cancel()

    def _stored(self) -> bytes | None:
        sha256 = self.reference.digest.partition(":")[2]
        try:
            return self.store.read(sha256) if self.store.find(sha256) else None
        except DamagedSource as reason:
            self.store.path(reason.sha256).unlink(missing_ok=True)
            return None

    def _fetched(self) -> bytes:
        body = self.registry.manifest(self.reference).body
        self.store.add_bytes(body)
        return body

    def _parts(self, body: bytes) -> Iterator[Job]:
        document = parse(body, str(self.reference))
        if document.is_index:
            for part in choose(document, self.arches, str(self.reference)):
                yield ManifestJob(self.reference.at(part.digest), self.arches, self.registry, self.store)
        self.store.require(sum(self.store.lacks(part.sha256, part.size) for part in document.blobs))
        for part in document.blobs:
            yield BlobJob(self.registry.blob(self.reference, part.digest, part.size), self.registry.client, self.store)


def blob_jobs(blobs: Iterable[Blob], client: Client, store: Store) -> list[Job]:
    """A job for each file. HostError if the cache has no room for them all."""
    blobs = list(blobs)
    store.require(sum(store.lacks(blob.sha256, blob.size or 0) for blob in blobs))
    return [BlobJob(blob, client, store) for blob in blobs]


def image_jobs(reference: str, digest: str, arches: Sequence[str], registry: Registry, store: Store) -> list[Job]:
    """What brings an image: ``reference`` names the repository, ``digest`` (``sha256:<hex>``) what to take from it.

    An index is kept byte for byte; below it only linux on ``arches`` (Go names) is fetched. ManifestError.
    """
    return [ManifestJob(Reference.parse(reference).at(digest), tuple(arches), registry, store)]


def fetch_all(jobs: Iterable[Job], workers: int, progress: Progress) -> None:
    """Run ``jobs``, and those that they lead to, in ``workers`` threads. The first error cancels the rest."""
    pool = _Pool(progress)
    for job in jobs:
        pool.add(job)
    threads = [threading.Thread(target=pool.work, name=f"fetch-{n}", daemon=True) for n in range(max(workers, 1))]
    for thread in threads:
        thread.start()
    try:
        pool.wait()
    except BaseException as error:
        pool.fail(error)
    end = time.monotonic() + GRACE
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0.0) if pool.error else None)
    if pool.error:
        raise pool.error


@dataclass
class _Pool:
    progress: Progress
    error: BaseException | None = None
    _left: int = 0
    _seen: set[str] = field(default_factory=set)
    _queue: list[tuple[bool, int, int, Job]] = field(default_factory=list)
    _running: list[Job] = field(default_factory=list)
    _count: Iterator[int] = field(default_factory=itertools.count)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, job: Job) -> None:
        with self._changed:
            if self.error:
                job.cancel()
            if job.key in self._seen or self.error:
                return
            self._seen.add(job.key)
            if job.cached():
                return
            self.progress.expect(job.size)
            heapq.heappush(self._queue, (not job.urgent, -job.size, next(self._count), job))
            self._left += 1
            self._changed.notify()

    def work(self) -> None:
        """Thread: run jobs until there are none left."""
        while (job := self._take()) is not None:
            try:
                with self.progress.task(job.name):
                    for more in job.run(self.progress.advance):
                        self.add(more)
            except BaseException as error:
                self.fail(error)
            with self._changed:
                self._running.remove(job)
                self._left -= 1
                if not self._left:
                    self._changed.notify_all()

    def wait(self) -> None:
        """Return when everything is done, or something failed."""
        with self._changed:
            while self._left and not self.error:
                # With a timeout, because an endless wait would not notice Ctrl-C everywhere.
                self._changed.wait(1.0)

    def fail(self, error: BaseException) -> None:
        """Keep the first error, and cancel what is queued or running."""
        with self._changed:
            if self.error is None or isinstance(self.error, Cancelled):
                self.error = error
            jobs = self._running + [entry[3] for entry in self._queue]
            self._queue.clear()
            self._left = len(self._running)
            self._changed.notify_all()
        for job in jobs:
            job.cancel()

    def _take(self) -> Job | None:
        with self._changed:
            while not self._queue:
                if not self._left or self.error:
                    return None
                self._changed.wait()
            job = heapq.heappop(self._queue)[3]
            self._running.append(job)
            return job
