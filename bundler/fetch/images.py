"""What an image consists of: which parts of an index belong to a platform, which blobs to a manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bundler.errors import IntegrityError, ResolveError
from bundler.fetch.registry import DIGEST, INDEXES, OCI_INDEX, OCI_MANIFEST
from bundler.store import Store


@dataclass(frozen=True)
class Part:
    """A descriptor: ``digest`` (``sha256:<hex>``), ``size`` in bytes, ``platform`` such as linux/arm64, or empty."""

    digest: str
    size: int
    platform: str = ""

    @property
    def sha256(self) -> str:
        """The digest's 64 hex digits."""
        return self.digest.partition(":")[2]


@dataclass(frozen=True)
class ImageContent:
    """One image in the store: ``size`` is that of its top manifest, ``blobs`` every sha256 of it, sorted.

    ``parts`` is for each platform the architecture, the digest of the config, and those of the layers in their order.
    """

    ref: str
    digest: str
    media_type: str
    size: int
    platforms: tuple[str, ...]
    blobs: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Document:
    """A parsed manifest or index: ``children`` of an index, or config (first) and layers of a manifest."""

    media_type: str
    children: tuple[Part, ...] = ()
    blobs: tuple[Part, ...] = ()

    @property
    def is_index(self) -> bool:
        """Whether it only lists manifests."""
        return self.media_type in INDEXES


def parse(body: bytes, name: str) -> Document:
    """Read a manifest or an index. IntegrityError, naming ``name``, if it is neither."""
    try:
        document = json.loads(body)
        index = "manifests" in document
        media_type = document.get("mediaType") or (OCI_INDEX if index else OCI_MANIFEST)
        if index:
            return Document(media_type, children=tuple(map(_part, document["manifests"])))
        return Document(media_type, blobs=tuple(map(_part, [document["config"], *document["layers"]])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{name}: neither an image manifest nor an index") from error


def choose(document: Document, arches: Iterable[str], name: str) -> list[Part]:
    """Children of an index for linux on each of ``arches`` (Go names). ResolveError if one has none."""
    chosen: list[Part] = []
    for arch in arches:
        fitting = [part for part in document.children if part.platform.split("/")[:2] == ["linux", arch]]
        if not fitting:
            raise _lacks(name, arch, (part.platform for part in document.children))
        chosen += fitting
    return chosen


def image_content(store: Store, reference: str, digest: str, arches: Sequence[str]) -> ImageContent:
    """Describe an image that was fetched, from the store alone.

    ResolveError if it is not made for one of ``arches``; HostError if a part is not in the store.
    """
    top = store.read(digest.partition(":")[2])
    document = parse(top, f"{reference}@{digest}")
    blobs = {digest.partition(":")[2]}
    platforms: dict[str, None] = {}
    parts: list[tuple[str, ...]] = []
    for part in _manifests(document, digest, len(top), arches, reference):
        manifest = parse(store.read(part.sha256), f"{reference}@{part.digest}")
        blobs |= {part.sha256, *(blob.sha256 for blob in manifest.blobs)}
        own = _platform_of(store, manifest)
        platforms[part.platform or own] = None
        parts += [(own.split("/")[1], *(blob.digest for blob in manifest.blobs))] if own else []
    found = tuple(sorted(filter(None, platforms)))
    if found:
        for arch in arches:
            if not any(platform.split("/")[:2] == ["linux", arch] for platform in found):
                raise _lacks(reference, arch, found)
    return ImageContent(reference, digest, document.media_type, len(top), found, tuple(sorted(blobs)), tuple(parts))


def _manifests(document: Document, digest: str, size: int, arches: Sequence[str], reference: str) -> Iterator[Part]:
    """The image manifests below ``document``: its chosen children, or itself."""
    if document.is_index:
        yield from choose(document, arches, reference)
    else:
        yield Part(digest, size)


def _platform_of(store: Store, manifest: Document) -> str:
    """Platform from the image's config; empty for what is no image, such as a chart."""
    try:
        config = json.loads(store.read(manifest.blobs[0].sha256))
    except ValueError:
        return ""
    return _platform(config) if isinstance(config, dict) else ""


def _part(descriptor: Mapping[str, Any]) -> Part:
    digest, size = descriptor["digest"], descriptor["size"]
    if not DIGEST.fullmatch(digest) or not isinstance(size, int) or size < 0:
        raise ValueError(digest)
    return Part(digest, size, _platform(descriptor.get("platform") or {}))


def _platform(fields: Mapping[str, Any]) -> str:
    if not fields.get("os") or not fields.get("architecture"):
        return ""
    name = f"{fields['os']}/{fields['architecture']}"
    variant = fields.get("variant", "")
    # arm64 has one variant only, which some write and some do not.
    return name if not variant or name == "linux/arm64" else f"{name}/{variant}"


def _lacks(name: str, arch: str, offered: Iterable[str]) -> ResolveError:
    known = ", ".join(sorted({platform for platform in offered if platform and "unknown" not in platform}))
    return ResolveError(f"{name}: not made for linux/{arch}, only for {known or 'no known platform'}")
