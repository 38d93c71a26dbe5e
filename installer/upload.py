"""Blobs into a registry: in chunks, going on where an earlier run was killed, checked on the way."""

import hashlib
import json
import os
import re
import threading
import time
from typing import Callable, Dict, Optional, Tuple

from .bundle import Bundle
from .errors import HostError, IntegrityError, TransferError
from .images import blob_path
from .remote import TRIES, Answer, Lost, Remote, api, scope

CHUNK = 8 << 20
_BINARY = {"Content-Type": "application/octet-stream"}


class Stopped(Exception):
    """Another thread has failed, or the user wants to stop."""


class State:
    """Where unfinished uploads can be gone on with: a small file of JSON, "<repository>@<digest>" -> URL."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._locations: Dict[str, str] = {}
        try:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
            self._locations = {key: url for key, url in found.items() if isinstance(url, str)}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError) as error:
            raise HostError("{}: {}".format(path, error), "remove it: uploads then begin anew") from None

    def get(self, key: str) -> str:
        """The URL of an unfinished upload, or nothing."""
        return self._locations.get(key, "")

    def put(self, key: str, url: str) -> None:
        """Note an upload's URL; no URL forgets it. Raises HostError."""
        with self._lock:
            if self._locations.get(key, "") == url:
                return
            self._locations[key] = url
            self._locations = {one: kept for one, kept in self._locations.items() if kept}
            try:
                self._write()
            except OSError as error:
                raise HostError("{}: {}".format(self.path, error.strerror), "name another file with --state") from None

    def _write(self) -> None:
        if not self._locations:
            if os.path.exists(self.path):
                os.unlink(self.path)
            return
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        new = self.path + ".new"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self._locations, file)
        os.replace(new, self.path)


class Uploader:
    """Sends blobs of one bundle to one registry; `advance` is told of bytes that have arrived."""

    def __init__(self, remote: Remote, bundle: Bundle, state: State, advance: Callable[[int], None],
                 stop: threading.Event, chunk: int = CHUNK) -> None:
        self._remote, self._bundle, self._state = remote, bundle, state
        self._advance, self._stop, self._chunk = advance, stop, chunk

    def mount(self, digest: str, name: str, source: str) -> bool:
        """Take over a blob from another repository of the registry; False if it must be sent after all."""
        path = api(name, "blobs", "uploads/") + "?mount={}&from={}".format(digest, source)
        answer = self._remote.ask("POST", path, (scope(name), scope(source, "pull")), b"")
        if answer.status not in (201, 202):
            raise _unexpected(answer, "mounting {} into {}".format(digest, name))
        if answer.status == 202:
            self._cancel(name, answer)
        return answer.status == 201

    def send(self, digest: str, name: str) -> None:
        """Upload a blob. Raises TransferError, IntegrityError if the bundle's differs from its digest, Stopped."""
        size = self._bundle.members[blob_path(digest)].size
        told, reason = 0, ""

        def reached(offset: int) -> None:
            nonlocal told
            if offset > told:
                self._advance(offset - told)
                told = offset

        for attempt in range(TRIES):
            if attempt:
                time.sleep(min(0.25 * 2 ** attempt, 8))
            try:
                self._attempt(digest, name, size, reached)
                return
            except Lost as error:
                reason = str(error)
        raise TransferError("{}/{}: uploading {}: {}".format(self._remote.base, name, digest, reason),
                            "check the registry and the network, then run the same line again: it goes on from there")

    def _attempt(self, digest: str, name: str, size: int, reached: Callable[[int], None]) -> None:
        key = "{}@{}".format(name, digest)
        location, offset, chunk = self._resume(name, key, size) or self._begin(name)
        seen = hashlib.sha256()
        self._hash_start(digest, offset, seen.update)
        reached(offset)
        while size - offset > chunk or (offset and offset < size):
            data = self._read(digest, offset, min(chunk, size - offset))
            location = self._patch(name, key, location, data, offset)
            seen.update(data)
            offset += len(data)
            self._state.put(key, location)
            reached(offset)
        rest = self._read(digest, offset, size - offset)
        seen.update(rest)
        if seen.hexdigest() != digest[len("sha256:"):]:
            self._state.put(key, "")
            raise IntegrityError("{}: {} differs from its digest".format(self._bundle.source.path, blob_path(digest)))
        self._finish(digest, name, location, rest)
        self._state.put(key, "")
        reached(size)

    def _begin(self, name: str) -> Tuple[str, int, int]:
        """A new upload: its URL, how far it is, and how large its chunks may be."""
        answer = self._remote.ask_once("POST", api(name, "blobs", "uploads/"), (scope(name),), b"")
        if answer.status != 202 or "Location" not in answer.fields:
            raise _unexpected(answer, "beginning an upload into {}".format(name))
        least = answer.fields.get("OCI-Chunk-Min-Length", "")
        return self._location(answer), 0, max(self._chunk, int(least) if least.isdigit() else 0)

    def _resume(self, name: str, key: str, size: int) -> Optional[Tuple[str, int, int]]:
        """The upload of an earlier run or attempt, as far as the registry has it; None if it is gone."""
        url = self._state.get(key)
        if not url or not url.startswith(self._remote.base + "/"):
            return None
        answer = self._remote.ask_once("GET", url, (scope(name),))
        found = re.fullmatch("(?:bytes=)?0-([0-9]+)", answer.fields.get("Range", ""))
        if answer.status != 204 or found is None or not 0 < int(found.group(1)) < size:
            self._state.put(key, "")
            return None
        location = self._location(answer) if "Location" in answer.fields else url
        return location, int(found.group(1)) + 1, self._chunk

    def _patch(self, name: str, key: str, location: str, data: bytes, offset: int) -> str:
        """Send a chunk; the URL for what follows."""
        fields = dict(_BINARY, **{"Content-Range": "{}-{}".format(offset, offset + len(data) - 1)})
        answer = self._remote.ask_once("PATCH", location, (scope(name),), data, fields)
        if answer.status in (404, 416):  # the registry has lost it, or has another length than we think
            self._state.put(key, "" if answer.status == 404 else location)
            raise Lost(answer.said())
        if answer.status not in (202, 204) or "Location" not in answer.fields:
            raise _unexpected(answer, "uploading into {}".format(name))
        return self._location(answer)

    def _finish(self, digest: str, name: str, location: str, rest: bytes) -> None:
        url = location + ("&" if "?" in location else "?") + "digest=" + digest
        answer = self._remote.ask_once("PUT", url, (scope(name),), rest, _BINARY)
        if answer.status == 404:
            raise Lost(answer.said())
        if answer.status not in (201, 204):
            raise _unexpected(answer, "finishing the upload of {} into {}".format(digest, name))
        stored = answer.fields.get("Docker-Content-Digest", digest)
        if stored != digest:
            raise TransferError("{}: {} was stored as {}".format(name, digest, stored), "check the registry")

    def _read(self, digest: str, offset: int, size: int) -> bytes:
        if self._stop.is_set():
            raise Stopped
        return self._bundle.source.read(self._bundle.members[blob_path(digest)], offset, size)

    def _hash_start(self, digest: str, end: int, update: Callable[[bytes], None]) -> None:
        for offset in range(0, end, CHUNK):
            update(self._read(digest, offset, min(CHUNK, end - offset)))

    def _location(self, answer: Answer) -> str:
        return self._remote.absolute(str(answer.fields["Location"]))

    def _cancel(self, name: str, answer: Answer) -> None:
        if "Location" in answer.fields:
            self._remote.ask("DELETE", self._location(answer), (scope(name),))


def _unexpected(answer: Answer, what: str) -> TransferError:
    hint = "see the registry's log"
    if answer.status == 404 or "NAME_UNKNOWN" in answer.codes():
        hint = "the registry may want the project made first, or another prefix"
    elif answer.status == 405 or "UNSUPPORTED" in answer.codes():
        hint = "this registry is read-only"
    elif answer.status == 413:
        hint = "a proxy before the registry limits bodies: raise it (nginx: client_max_body_size 0), or give --chunk"
    return TransferError("{}: {}".format(what, answer.said()), hint)
