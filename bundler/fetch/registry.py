"""Reading from container registries: references, manifests byte for byte, and where blobs are."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from bundler.errors import FetchError, IntegrityError, ManifestError
from bundler.fetch.auth import Credentials, RegistryAuth
from bundler.fetch.http import FORGED_HINT, Blob, Client, Page
from bundler.fetch.wire import shown

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = (OCI_INDEX, DOCKER_LIST)
ACCEPT = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))
MANIFEST_LIMIT = 16 * 1024 * 1024
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """``registry/repository:tag@digest``; tag or digest may be empty, not both."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference the way docker does: ``busybox`` is docker.io/library/busybox:latest. ManifestError."""
        rest, at, digest = text.partition("@")
        name, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:
            name, tag = rest, ""
        first, slash, path = name.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost" or first.startswith("[")):
            registry, repository = first, path
        else:
            registry, repository = "docker.io", name
        if registry == "index.docker.io":
            registry = "docker.io"
        if registry == "docker.io" and "/" not in repository:
            repository = f"library/{repository}"
        found = cls(registry, repository, tag or ("" if digest else "latest"), digest)
        if not found._valid() or (at and not digest) or (colon and not tag and "/" not in rest.rpartition(":")[2]):
            raise ManifestError(f"{text!r}: not an image reference", "write registry/repository:tag or …@sha256:<hex>")
        return found

    def at(self, digest: str) -> Reference:
        """The same repository, by ``digest`` alone."""
        return replace(self, tag="", digest=digest)

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        """Fully spelled, with tag and digest as far as they are known."""
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def _valid(self) -> bool:
        return bool(
            _HOST.fullmatch(self.registry)
            and _PATH.fullmatch(self.repository)
            and (not self.tag or _TAG.fullmatch(self.tag))
            and (not self.digest or DIGEST.fullmatch(self.digest))
        )


@dataclass(frozen=True)
class Manifest:
    """A manifest or index as the registry gave it; ``digest`` is ``sha256:<hex>`` of ``body`` (empty after a HEAD)."""

    body: bytes
    media_type: str
    digest: str


class Registry:
    """Every registry that images come from, with the mirrors and credentials that apply to each."""

    def __init__(self, client: Client, credentials: Credentials | None = None) -> None:
        """Ask through ``client``; without ``credentials`` everything is asked anonymously."""
        self.client = client
        self._credentials = credentials or Credentials()
        self._lock = threading.Lock()
        self._auths: dict[tuple[str, str], RegistryAuth] = {}

    def manifest(self, reference: Reference, *, head: bool = False) -> Manifest:
        """Manifest or index, checked when asked by digest; ``head`` asks for its digest and type alone.

        FetchError if it cannot be had, IntegrityError if the registry gives other bytes than the digest names.
        """
        url, auth = self._place(reference, f"manifests/{reference.digest or reference.tag}")
        if head:
            page = self._page(url, auth, "HEAD", pinned=False)
            digest = page.headers.get("Docker-Content-Digest", "")
            if DIGEST.fullmatch(digest) and reference.digest in ("", digest):
                return Manifest(b"", _media_type(page), digest)
        for last in (False, True):
            page = self._page(url, auth, "GET", pinned=bool(reference.digest))
            digest = "sha256:" + hashlib.sha256(page.body).hexdigest()
            expected = reference.digest or page.headers.get("Docker-Content-Digest") or digest
            if digest == expected:
                return Manifest(page.body, _checked_type(page, url), digest)
            if last:
                raise IntegrityError(
                    f"{reference} ({shown(url)}): has digest {digest}, expected {expected}", FORGED_HINT
                )
        raise AssertionError

    def blob(self, reference: Reference, digest: str, size: int | None, name: str = "") -> Blob:
        """Download job of a config or layer of the image. IntegrityError if ``digest`` is not a sha256."""
        if not DIGEST.fullmatch(digest):
            raise IntegrityError(f"{reference}: names a blob by {digest!r}, which is no sha256 digest")
        url, auth = self._place(reference, f"blobs/{digest}")
        hexdigest = digest.partition(":")[2]
        return Blob(name or f"{reference.name}@{hexdigest[:12]}", url, hexdigest, size, auth=auth, mirrored=True)

    def _place(self, reference: Reference, rest: str) -> tuple[str, RegistryAuth]:
        base, repository = self.client.mirrors.registry(reference.registry, reference.repository)
        with self._lock:
            if (base, repository) not in self._auths:
                # A mirror gets the mirror's own login, never the one of whom it stands for.
                login = self._credentials.find(urlsplit(base).netloc.rpartition("@")[2])
                scope = f"repository:{repository}:pull"
                self._auths[base, repository] = RegistryAuth(self.client, base, scope, login)
            return f"{base}/v2/{repository}/{rest}", self._auths[base, repository]

    def _page(self, url: str, auth: RegistryAuth, method: str, *, pinned: bool) -> Page:
        headers = {"Accept": ACCEPT}
        return self.client.page(url, headers=headers, auth=auth, method=method, limit=MANIFEST_LIMIT, pinned=pinned)


def _media_type(page: Page) -> str:
    return page.headers.get("Content-Type", "").partition(";")[0].strip()


def _checked_type(page: Page, url: str) -> str:
    found = _media_type(page)
    if "manifest.v1+" in found and "docker" in found:
        raise FetchError(f"{shown(url)}: offers only the withdrawn schema 1", "pull it with docker, and push it anew")
    return found
