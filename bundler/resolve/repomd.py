"""Yum metadata: repomd.xml, and what it lists, checked by its own checksums and unpacked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin

import createrepo_c

from bundler.errors import FetchError, IntegrityError, ResolveError
from bundler.manifest import Repo
from bundler.resolve.openpgp import verify_detached

HASHES = ("sha224", "sha256", "sha384", "sha512", "sha", "sha1")


class Reader(Protocol):
    """What of ``bundler.fetch.http.Client`` is needed here."""

    def read(self, url: str) -> bytes:
        """Return the bytes at ``url``; FetchError where there are none."""


class Metadata:
    """The metadata of one repository. ``repo`` has its architecture filled in; each part is fetched when asked for.

    ``fetched`` says of each part so far: its URL, the sha256 and the size in bytes of what is published. FetchError
    where an upstream fails, ResolveError where it is no yum metadata, IntegrityError where a part differs from what
    repomd.xml says of it, or where repomd.xml must be signed and is not.
    """

    def __init__(self, repo: Repo, client: Reader, directory: Path) -> None:
        """Fetch repomd.xml; unpacked parts go to ``directory``, which the caller removes."""
        self.repo, self.client, self.directory = repo, client, directory
        self.url = f"{repo.baseurl}/repodata/repomd.xml"
        self.fetched: dict[str, tuple[str, str, int]] = {}
        self.records = {record.type: record for record in self._repomd().records}

    def part(self, kind: str) -> Path:
        """Return the unpacked ``primary``, ``filelists`` or ``modules``."""
        record = self.records.get(kind)
        if record is None:
            raise ResolveError(f"{self.url}: lists no {kind}", "Check the repository's baseurl.")
        url = urljoin(record.location_base or f"{self.repo.baseurl}/", record.location_href)
        data = self.client.read(url)
        _check(url, data, record)
        self.fetched[kind] = (url, hashlib.sha256(data).hexdigest(), len(data))
        return self._unpack(url, data, kind)

    def _repomd(self) -> Any:
        path = self._file("repomd.xml")
        data = self.client.read(self.url)
        if self.repo.signed_metadata:
            self._verify(data)
        path.write_bytes(data)
        try:
            return createrepo_c.Repomd(str(path))
        except createrepo_c.CreaterepoCError as reason:
            raise ResolveError(f"{self.url}: is no repomd.xml: {reason}", "Check the repository's baseurl.") from reason

    def _verify(self, data: bytes) -> None:
        keys = [self.client.read(url) for url in self.repo.keys]
        try:
            signature = self.client.read(f"{self.url}.asc")
        except FetchError as reason:
            raise IntegrityError(
                f"{self.url}: is not signed, and signed_metadata says that it is: {reason.message}",
                "Use a mirror that carries repomd.xml.asc too.",
            ) from reason
        verify_detached(self.url, data, signature, keys)

    def _unpack(self, url: str, data: bytes, kind: str) -> Path:
        packed, plain = self._file(f"{kind}.packed"), self._file(f"{kind}.plain")
        if data.startswith((b"<", b"---")):
            plain.write_bytes(data)
            return plain
        packed.write_bytes(data)
        try:
            # createrepo_c tells gz, xz, zst and bz2 by their first bytes
            createrepo_c.decompress_file(str(packed), str(plain), createrepo_c.AUTO_DETECT_COMPRESSION)
        except createrepo_c.CreaterepoCError as reason:
            raise ResolveError(f"{url}: cannot be unpacked: {reason}") from reason
        return plain

    def _file(self, suffix: str) -> Path:
        return self.directory / f"{self.repo.id}.{suffix}"


def _check(url: str, data: bytes, record: Any) -> None:
    kind = record.checksum_type
    if kind not in HASHES:
        raise ResolveError(f"{url}: repomd.xml gives a checksum of an unknown kind, {kind}")
    digest = hashlib.new("sha1" if kind == "sha" else kind, data, usedforsecurity=False).hexdigest()
    if digest != record.checksum:
        raise IntegrityError(
            f"{url}: {kind} {digest} is not {record.checksum}, which repomd.xml says",
            "The mirror is being updated or damaged: try again, or use another one with --mirror.",
        )
