"""What differs between two bundles: packages, images, binaries, charts and manifests, with their sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bundler import archive
from bundler.errors import IntegrityError
from bundler.progress import amount
from bundler.verify import HINT, Bundle, open_bundle

_RPM = re.compile(r"(?P<name>.+)-(?P<version>[^-]+-[^-]+)\.(?P<arch>[^.]+)\.rpm")
_DEB = re.compile(r"(?P<name>[^_]+)_(?P<version>[^_]+)_(?P<arch>[^_.]+)(_[0-9a-f]{64})?\.deb")
_CHART = re.compile(r"(?P<name>.+?)-(?P<version>v?\d.*)\.tgz")


@dataclass(frozen=True)
class Thing:
    """Something that a bundle carries; ``version`` is empty where it has none, ``size`` is in bytes."""

    kind: str
    name: str
    version: str
    digest: str
    size: int


@dataclass(frozen=True)
class Change:
    """A thing in the first bundle (``old``), in the second (``new``), or in both and not the same."""

    old: Thing | None
    new: Thing | None

    @property
    def verb(self) -> str:
        """``added``, ``removed`` or ``changed``."""
        return "changed" if self.old and self.new else "added" if self.new else "removed"


@dataclass(frozen=True)
class Difference:
    """All changes, sorted by kind and name; ``new_bytes``: how many bytes only the second bundle has."""

    changes: tuple[Change, ...]
    new_bytes: int


def diff(old: Path, new: Path) -> Difference:
    """Compare two bundles. IntegrityError if one is none; contents are not verified."""
    with open_bundle(old) as first, open_bundle(new) as second:
        for bundle in (first, second):
            if bundle.base:
                raise IntegrityError(f"{bundle.path}: is a delta", "Join it with its base first: installer unpack.")
        before, after = _things(first), _things(second)
        known = set(first.files.values())
        fresh = {sha256: second.entries[path].size for path, sha256 in second.files.items() if sha256 not in known}
    changes = [Change(before.get(key), after.get(key)) for key in sorted({*before, *after})]
    return Difference(tuple(c for c in changes if c.old != c.new), sum(fresh.values()))


def _things(bundle: Bundle) -> dict[tuple[str, str], Thing]:
    try:
        found = [*_images(bundle), *_files(bundle)]
    except (KeyError, TypeError, AttributeError, ValueError) as reason:
        raise IntegrityError(f"{bundle.path}: bundle.json is malformed: {reason}", HINT) from reason
    return {(thing.kind, thing.name): thing for thing in found}


def _files(bundle: Bundle) -> Iterator[Thing]:
    for path, sha256 in bundle.files.items():
        top, _, rest = path.partition("/")
        size, name = bundle.entries[path].size, path.rsplit("/", 1)[-1]
        if top == "packages" and (found := _RPM.fullmatch(name) or _DEB.fullmatch(name)):
            host = rest.partition("/")[0]
            yield Thing("package", f"{found['name']}.{found['arch']} ({host})", found["version"], sha256, size)
        elif top == "charts" and (found := _CHART.fullmatch(name)):
            yield Thing("chart", found["name"], found["version"], sha256, size)
        elif top == "bin":
            yield Thing("binary", rest, "", sha256, size)
        elif top == "manifests":
            yield Thing("manifest", rest, "", sha256, size)


def _images(bundle: Bundle) -> Iterator[Thing]:
    tags: dict[str, list[Mapping[str, Any]]] = {}
    for image in bundle.contract["images"]:
        tags.setdefault(image["ref"].rpartition(":")[0], []).append(image)
    for repository, images in tags.items():
        for image in images:
            # A repository with one tag has got another one; with several, each stands for itself.
            name, tag = (repository, image["ref"].rpartition(":")[2]) if len(images) == 1 else (image["ref"], "")
            yield Thing("image", name, tag, image["digest"], _image_size(bundle, image["digest"]))


def _image_size(bundle: Bundle, digest: str) -> int:
    """Return the bytes of all the blobs of an image that are carried."""
    waiting, sizes = [digest], dict[str, int]()
    while waiting:
        path = f"images/blobs/sha256/{waiting.pop().partition(':')[2]}"
        if path in sizes or path not in bundle.entries:
            continue
        sizes[path] = bundle.entries[path].size
        document = json.loads(archive.content(bundle.fd, bundle.entries[path]))
        waiting += [part["digest"] for part in document.get("manifests", [])]
        for part in [*document.get("layers", []), *([document["config"]] if "config" in document else [])]:
            sizes[f"images/blobs/sha256/{part['digest'].partition(':')[2]}"] = part["size"]
    return sum(sizes.values())


def document(found: Difference) -> dict[str, Any]:
    """Return a difference for programs."""
    changes = [
        {"change": c.verb, "old": c.old and asdict(c.old), "new": c.new and asdict(c.new)} for c in found.changes
    ]
    return {"changes": changes, "newBytes": found.new_bytes}


def lines(found: Difference) -> list[str]:
    """Return a difference for people, a line for each change."""
    if not found.changes:
        return ["no package, image, binary, chart or manifest differs"]
    return [_line(change) for change in found.changes] + [f"{amount(found.new_bytes)} of new files"]


def _line(change: Change) -> str:
    mark = {"added": "+", "removed": "-", "changed": "~"}[change.verb]
    sides = [thing for thing in (change.old, change.new) if thing]
    versions = " -> ".join(dict.fromkeys(map(_version, sides)))
    sizes = " -> ".join(amount(thing.size) for thing in sides)
    return f"{mark} {sides[0].kind:<8} {sides[0].name}  {versions}  {sizes}"


def _version(thing: Thing) -> str:
    return thing.version or thing.digest.rpartition(":")[2][:12]
