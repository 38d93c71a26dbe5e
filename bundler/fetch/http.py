"""Getting bytes by URL: whole and small (``read``), or large, checked and resumed (``download``)."""

from __future__ import annotations

import email.utils
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bundler.errors import FetchError, IntegrityError
from bundler.fetch.hosts import Hosts
from bundler.fetch.mirrors import Mirrors
from bundler.fetch.sinks import Journal, Sink, Whole
from bundler.fetch.wire import Answer, Auth, Cancelled, Transient, Wanted, Wire, shown
from bundler.store import Partial, Store

T = TypeVar("T")
READ_LIMIT = 256 * 1024 * 1024
# A transfer that got so far since its last failure may fail as often again.
ENOUGH = 1024 * 1024
LONGEST_PAUSE = 20.0
LONGEST_WAIT = 300.0
PASSING = (408, 425, 429)
RETRY_HINT = "run the same command again: it goes on from here"
MISSING_HINT = "if it has moved, name another source with --mirror FROM=TO, or pin it anew with `bundler lock`"
LOGIN_HINT = "it wants other credentials: log in with `docker login` or `skopeo login`"
FORGED_HINT = "a mirror or proxy may have changed it, or upstream has replaced it: never use it unchecked"


class Mismatch(Exception):
    """What came cannot be what was asked for; the text says why."""


class RangeIgnored(Exception):
    """The server answered a segment's request with something else than this segment."""


@dataclass(frozen=True)
class Blob:
    """One file to fetch: ``name`` for people, ``sha256`` as 64 hex digits, ``size`` in bytes where known."""

    name: str
    url: str
    sha256: str
    size: int | None = None
    auth: Auth | None = field(default=None, compare=False, repr=False)
    mirrored: bool = field(default=False, compare=False)
    """``url`` is already the place to ask."""


@dataclass(frozen=True)
class Page:
    """A whole small answer with status 2xx."""

    headers: Mapping[str, str]
    body: bytes


class Client:
    """Everything a build fetches goes through one of these; threads may share it."""

    def __init__(
        self,
        mirrors: Mirrors,
        *,
        retries: int = 5,
        timeout: float = 20.0,
        ca_file: Path | None = None,
        backoff: float = 0.25,
        hosts: Hosts | None = None,
    ) -> None:
        """Retry ``retries`` times, after ``backoff`` s, then twice as long each time; ``timeout`` s of silence fail."""
        self.mirrors = mirrors
        self._retries = retries
        self._backoff = backoff
        self._wire = Wire(timeout, ca_file, hosts or Hosts())

    def read(self, url: str, limit: int = READ_LIMIT) -> bytes:
        """Body of ``url``, at most ``limit`` bytes. FetchError."""
        return self.page(self.mirrors.url(url), limit=limit).body

    def page(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        auth: Auth | None = None,
        method: str = "GET",
        form: str | None = None,
        limit: int = READ_LIMIT,
        pinned: bool = False,
    ) -> Page:
        """Whole answer of exactly ``url`` (no mirrors), retried. FetchError.

        ``form`` is the body of a POST; ``pinned``: a digest will check the answer.
        """
        wanted = Wanted(method, url, headers or {}, form)

        def attempt() -> Page:
            with self._wire.open(wanted, auth, pinned=pinned) as answer:
                check_status(answer, url)
                body = bytearray()
                while data := answer.read():
                    body += data
                    if len(body) > limit:
                        raise FetchError(f"{shown(url)}: larger than {limit} bytes")
                return Page(answer.headers, bytes(body))

        return self._retried(url, attempt, lambda: 0)

    def download(self, blob: Blob, store: Store, on_bytes: Callable[[int], None]) -> None:
        """Bring ``blob`` into the store; ``on_bytes`` hears of every byte (negative: these come again).

        FetchError if it cannot be had, IntegrityError if it has another digest or size, HostError from the disk.
        """
        with store.partial(blob.sha256, self.stop) as partial:
            if store.has(blob.sha256, blob.size) or store.take(partial, blob.size):
                on_bytes(blob.size or 0)
                return
            store.require(store.lacks(blob.sha256, blob.size or 0))
            self.download_in_order(blob, partial, on_bytes)

    def download_in_order(self, blob: Blob, partial: Partial, on_bytes: Callable[[int], None]) -> None:
        """Fill the locked ``partial`` from its first missing byte on; the same errors as ``download``."""
        journal = Journal(partial)
        if journal.exists():
            partial.restart()
            journal.remove()
        on_bytes(partial.resume())
        reason = ""
        # What an earlier run left gets a try of its own: it may have been begun from another file.
        for _ in range(3 if partial.size else 2):
            reason = self._fetch_and_check(blob, partial, on_bytes)
            if not reason:
                return
            on_bytes(-partial.size)
            partial.restart()
        partial.discard()
        raise IntegrityError(f"{self._asked(blob)}: {reason}", FORGED_HINT)

    def fill(self, blob: Blob, sink: Sink, on_bytes: Callable[[int], None]) -> None:
        """Write the missing bytes of ``blob`` into ``sink``, over as many connections as it takes.

        FetchError; Mismatch if the length is wrong; RangeIgnored if a segment cannot be had by itself.
        """
        url = self.target(blob)
        self._retried(url, lambda: self._transfer(blob, url, sink, on_bytes), lambda: sink.next)

    def target(self, blob: Blob) -> str:
        """URL that is really asked."""
        return blob.url if blob.mirrored else self.mirrors.url(blob.url)

    def cancel(self) -> None:
        """End everything under way, in any thread; the client is of no use afterwards."""
        self._wire.cancel()

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    @property
    def stop(self) -> threading.Event:
        """Set by ``cancel``."""
        return self._wire.stop

    def _fetch_and_check(self, blob: Blob, partial: Partial, on_bytes: Callable[[int], None]) -> str:
        """One try from the bytes that are there; returns what is wrong with the result."""
        try:
            if blob.size is None or partial.size < blob.size:
                self.fill(blob, Whole(partial, blob.size), on_bytes)
        except Mismatch as error:
            return str(error)
        if partial.finish(blob.size):
            return ""
        return f"has sha256 {partial.digest()} ({partial.size} bytes), expected {blob.sha256}"

    def _transfer(self, blob: Blob, url: str, sink: Sink, on_bytes: Callable[[int], None]) -> None:
        headers = {}
        if sink.next or sink.end != blob.size:
            headers["Range"] = f"bytes={sink.next}-{sink.end - 1 if sink.end is not None else ''}"
            if sink.etag:
                headers["If-Range"] = sink.etag
        with self._wire.open(Wanted("GET", url, headers), blob.auth, pinned=True) as answer:
            if answer.status == 416 and sink.next:
                length = complete_length(answer)
                if length == sink.next and not sink.start:
                    return
                if None not in (length, blob.size) and length != blob.size:
                    raise Mismatch(f"is {length} bytes, expected {blob.size}")
                _again(sink, on_bytes)
                raise Transient("its length has changed")
            check_status(answer, url)
            self._begin(blob, answer, sink, on_bytes)
            end = _end(blob, answer, sink)
            while data := answer.read():
                if end is not None and sink.next + len(data) > end:
                    raise Mismatch(f"sends more than its {end} bytes")
                sink.write(data)
                on_bytes(len(data))
        if end is not None and sink.next < end:
            raise Transient(f"the connection was cut after {sink.next} of {end} bytes")

    def _begin(self, blob: Blob, answer: Answer, sink: Sink, on_bytes: Callable[[int], None]) -> None:
        """Make ``sink`` and ``answer`` agree on the next byte."""
        if answer.status == 206:
            first = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if first != str(sink.next):
                _again(sink, on_bytes)
                raise Transient("it answers with other bytes than it was asked for")
        elif sink.start or sink.end != blob.size:
            raise RangeIgnored
        elif sink.next:
            _again(sink, on_bytes)
        etag = answer.headers.get("ETag", "")
        sink.etag = "" if etag.startswith("W/") else etag

    def _retried(self, url: str, attempt: Callable[[], T], position: Callable[[], int]) -> T:
        failures = 0
        while True:
            before = position()
            try:
                return attempt()
            except Transient as error:
                if self.stop.is_set():
                    raise Cancelled(f"{shown(url)}: stopped") from error
                failures = 1 if position() - before >= ENOUGH else failures + 1
                wait = self._pause(failures) if error.wait is None else error.wait
                if failures > self._retries or wait > LONGEST_WAIT:
                    raise FetchError(f"{shown(url)}: {error.reason} ({failures} attempts)", RETRY_HINT) from error
                self.stop.wait(wait)

    def _pause(self, failures: int) -> float:
        pause = min(self._backoff * 2.0 ** (failures - 1), LONGEST_PAUSE)
        # Workers that failed together shall not come back together.
        return pause * random.uniform(0.5, 1.0)  # noqa: S311

    def _asked(self, blob: Blob) -> str:
        target = shown(self.target(blob))
        return target if target == shown(blob.url) else f"{shown(blob.url)} (asked at {target})"


def check_status(answer: Answer, url: str) -> None:
    """Return for 2xx; Transient for what may pass; FetchError for everything else."""
    if answer.status < 300:
        return
    reason = f"HTTP status {answer.status}"
    if answer.status in PASSING or answer.status >= 500:
        raise Transient(reason, _retry_after(answer.headers.get("Retry-After", "")))
    raise FetchError(f"{shown(url)}: {reason}", LOGIN_HINT if answer.status == 401 else MISSING_HINT)


def complete_length(answer: Answer) -> int | None:
    """Length of the whole file, from Content-Range, or None."""
    text = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return int(text) if text.isdecimal() else None


def _end(blob: Blob, answer: Answer, sink: Sink) -> int | None:
    """Where this answer shall end. Mismatch if the server knows of another length than the lock."""
    length = answer.headers.get("Content-Length", "")
    total = complete_length(answer) if answer.status == 206 else int(length) if length.isdecimal() else None
    if None not in (blob.size, total) and blob.size != total:
        raise Mismatch(f"is {total} bytes, expected {blob.size}")
    return sink.end if sink.end is not None else total


def _again(sink: Sink, on_bytes: Callable[[int], None]) -> None:
    before = sink.next
    sink.restart()
    on_bytes(sink.next - before)


def _retry_after(text: str) -> float | None:
    """Seconds that a Retry-After header (seconds or a date) asks for."""
    if text.isdecimal():
        return float(text)
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None
