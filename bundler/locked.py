"""What a lock says, as plain data: which bytes stand for a package, a file, an image.

``bundler.lock`` reads, writes and compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class LockedPackage:
    """An RPM or a deb: sha256 in hex, size in bytes (None: no source gives it).

    ``evr`` is rpm's, with an epoch only where it is not 0, or the whole Debian version; no deb has a ``sourcerpm``.
    """

    url: str
    repoid: str
    sha256: str
    size: int | None
    name: str
    evr: str
    sourcerpm: str
    source: str

    @property
    def filename(self) -> str:
        """The last part of the URL; unique within a document."""
        return file_name(self.url)


@dataclass(frozen=True)
class LockedFile:
    """A file by its URL: sha256 in hex, size in bytes (None: no source gives it)."""

    url: str
    sha256: str
    size: int | None
    source: str


@dataclass(frozen=True)
class LockedImage:
    """An image: ``digest`` is ``sha256:<hex>`` of the index where there is one; platforms like ``linux/amd64``."""

    ref: str
    digest: str
    platforms: tuple[str, ...]
    source: str

    def offers(self, arch: str) -> bool:
        """Tell whether it is made for linux on a Go architecture, whatever the variant."""
        return any(platform.split("/")[:2] == ["linux", arch] for platform in self.platforms)


@dataclass(frozen=True)
class LockedMetadata:
    """The modules.yaml of a repository that modular packages come from, as it is published (compressed)."""

    url: str
    repoid: str
    sha256: str
    size: int | None


@dataclass(frozen=True)
class ArchLock:
    """The packages of one architecture (``x86_64``; deb: ``amd64``), and each role's closure as package file names.

    ``given`` are the capabilities that they take from what the declared packages bring along; None: nobody has asked.
    """

    arch: str
    packages: tuple[LockedPackage, ...]
    roles: Mapping[str, tuple[str, ...]]
    given: tuple[str, ...] | None = None
    modules: tuple[LockedMetadata, ...] = ()


@dataclass(frozen=True)
class Unresolved:
    """What the manifest wants and no public digest is known for."""

    name: str
    reason: str


@dataclass(frozen=True)
class HostLock:
    """The packages of a release on one operating system, by architecture, and the keys that sign them."""

    release: str
    os: str
    arches: Mapping[str, ArchLock]
    keys: tuple[LockedFile, ...] = ()
    unresolved: tuple[Unresolved, ...] = ()
    format: str = "rpm"


@dataclass(frozen=True)
class Locks:
    """All that is locked: images by reference, files by URL, hosts by (release, os)."""

    images: Mapping[str, LockedImage] = field(default_factory=dict)
    files: Mapping[str, LockedFile] = field(default_factory=dict)
    hosts: Mapping[tuple[str, str], HostLock] = field(default_factory=dict)


def file_name(url: str) -> str:
    """Return the last part of a URL's path, unquoted."""
    return unquote(urlsplit(url).path.rsplit("/", 1)[-1])
