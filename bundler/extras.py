"""The user's own things beside a release: images, charts, manifests, packages and files (``extras.lock``).

``lock`` records what was asked for, its digest and the images found inside; ``build`` carries what is recorded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bundler.charts import Chart
from bundler.discover import images_in
from bundler.errors import FetchError, HostError, LockError, ManifestError
from bundler.fetch.http import Client
from bundler.fetch.registry import Reference
from bundler.fields import Fields, read_documents
from bundler.lock import DIGEST, write_stream
from bundler.locked import LockedFile, file_name
from bundler.manifest import FILE_NAME, IMAGE, ROLES, SPEC, Image, Release
from bundler.store import CHUNK, Store

FILE = "extras.lock"
FOLDERS = {"chart": "charts", "manifest": "manifests/own", "file": "files"}
LOCAL = "file:"
_URL = re.compile(r"https?://\S+")


@dataclass(frozen=True)
class Item:
    """A chart, manifest or file: ``origin`` is a URL or a path as the user gave it, ``size`` in bytes.

    ``images`` are those found inside, fully spelled; ``declared`` those that the user named for a chart.
    """

    kind: str
    origin: str
    name: str
    sha256: str
    size: int
    images: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Where it lies in a bundle."""
        return f"{FOLDERS[self.kind]}/{self.name}"

    @property
    def locked(self) -> LockedFile:
        """The same as an entry of a lock; one without a URL has ``file:`` and its path."""
        url = self.origin if _URL.fullmatch(self.origin) else LOCAL + self.origin
        return LockedFile(url, self.sha256, self.size, "the user")


@dataclass(frozen=True)
class Extras:
    """What is carried beyond a release, sorted."""

    images: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()

    def lock_images(self) -> list[Image]:
        """Return the images, also those found in charts and manifests, by the references they are locked under."""
        found = [*self.images, *(image for item in self.items for image in item.images)]
        return [Image(ref, ROLES) for ref in dict.fromkeys(lock_reference(Reference.parse(text)) for text in found)]

    def applied(self, release: Release) -> Release:
        """Return the release with these images and packages, the latter for every role of every host."""
        have = {image.ref for image in release.images}
        images = (*release.images, *(image for image in self.lock_images() if image.ref not in have))
        hosts = {
            name: replace(host, roles={r: tuple(dict.fromkeys([*s, *self.packages])) for r, s in host.roles.items()})
            for name, host in release.hosts.items()
        }
        return replace(release, images=images, hosts=hosts)


@dataclass(frozen=True)
class Requests:
    """What the command line asks for; charts, manifests and files are URLs or paths, ``chart_images`` CHART=IMAGE."""

    images: Sequence[str] = ()
    charts: Sequence[str] = ()
    manifests: Sequence[str] = ()
    packages: Sequence[str] = ()
    files: Sequence[str] = ()
    chart_images: Sequence[str] = ()
    drop: Sequence[str] = field(default=())


def lock_reference(image: Reference) -> str:
    """Return ``repository:tag``; an image by digest gets the tag ``sha256-<hex>``, as tags may have moved since.

    ManifestError where the locks cannot hold it.
    """
    text = f"{image.name}:{image.digest.replace(':', '-') if image.digest else image.tag}"
    if not re.fullmatch(IMAGE, text):
        raise ManifestError(f"{image}: its registry must have a dot or a port", "Spell the image's name in full.")
    return text


def extend(extras: Extras, asked: Requests, store: Store, client: Client) -> Extras:
    """Return ``extras`` without what is dropped and with what is asked for, which is read, searched, and kept in store.

    ManifestError where something is not what it should be, FetchError and HostError where it cannot be read.
    """
    items = {item.path: item for item in extras.items}
    images, packages = dict.fromkeys(extras.images), dict.fromkeys(extras.packages)
    for name in asked.drop:
        _drop(name, items, images, packages)
    images.update(dict.fromkeys(str(Reference.parse(text)) for text in asked.images))
    for spec in asked.packages:
        if not re.fullmatch(SPEC, spec):
            raise ManifestError(f"{spec}: no name of a package", "Give NAME, NAME-VERSION or NAME-VERSION-RELEASE.")
        packages[spec] = None
    declared = _declared(asked.chart_images)
    for kind, origins in (("chart", asked.charts), ("manifest", asked.manifests), ("file", asked.files)):
        for origin in origins:
            item = _item(kind, origin, declared, store, client)
            items = {path: old for path, old in items.items() if (old.kind, old.origin) != (kind, origin)}
            items[item.path] = item
    used = {image for item in items.values() for image in item.declared}
    if unused := [chart for chart, named in declared.items() if not used.issuperset(named)]:
        raise ManifestError(f"--chart-image: no chart {', '.join(unused)} is asked for", "Give --chart with it.")
    found = Extras(tuple(sorted(images)), tuple(sorted(packages)), tuple(items[path] for path in sorted(items)))
    found.lock_images()
    return found


def require(extras: Extras, asked: Requests) -> None:
    """Return if all that is asked for is recorded; LockError naming what is not."""
    origins = {(item.kind, item.origin) for item in extras.items}
    lacking = [f"--image {text}" for text in asked.images if str(Reference.parse(text)) not in extras.images]
    lacking += [f"--package {spec}" for spec in asked.packages if spec not in extras.packages]
    for kind, wanted in (("chart", asked.charts), ("manifest", asked.manifests), ("file", asked.files)):
        lacking += [f"--{kind} {origin}" for origin in wanted if (kind, origin) not in origins]
    if lacking:
        raise LockError(f"{FILE} does not have {', '.join(lacking)}",
                        f"Build reads the locks alone: give `bundler lock` the same, {' '.join(lacking)}")


def changes(old: Extras, new: Extras) -> list[str]:
    """Return what differs, a line each: ``added``, ``changed`` or ``removed``, and what."""
    before, after = _entries(old), _entries(new)
    lines = [f"added {name} {digest}".rstrip() for name, digest in after.items() if name not in before]
    lines += [f"removed {name}" for name in before if name not in after]
    lines += [f"changed {n} {before[n]} -> {d}" for n, d in after.items() if n in before and before[n] != d]
    return sorted(lines)


def _entries(extras: Extras) -> dict[str, str]:
    found = {f"own {item.kind} {item.path}": f"sha256:{item.sha256}" for item in extras.items}
    found.update((f"own image {image}", "") for image in extras.images)
    found.update((f"own package {spec}", "") for spec in extras.packages)
    return found


def place(extras: Extras, store: Store) -> None:
    """Bring what came from this machine into the store, by digest. FetchError where it is neither there nor known."""
    for item in extras.items:
        if _URL.fullmatch(item.origin) or store.find(item.sha256, item.size):
            continue
        try:
            same = _take(item.kind, item.origin, store)[0] == item.sha256
            what = "has changed since it was locked"
        except HostError as reason:
            same, what = False, reason.message.rpartition(": ")[2]
        if not same:
            raise FetchError(f"{item.origin}: {what}, and nothing with sha256 {item.sha256} is known",
                             "Put it back, lock it anew, or name a folder or bundle that has it with --source.")


def _drop(name: str, items: dict[str, Item], images: dict[str, None], packages: dict[str, None]) -> None:
    gone = [path for path, item in items.items() if name in (item.origin, item.name, path)]
    for path in gone:
        del items[path]
    known = len(gone)
    for table in (images, packages):
        known += sum(table.pop(key, 0) is None for key in {name, *_spelled(name)})
    if not known:
        raise ManifestError(f"--drop {name}: {FILE} has no such thing for this release", "Look into the file.")


def _spelled(name: str) -> list[str]:
    try:
        return [str(Reference.parse(name))]
    except ManifestError:
        return []


def _declared(texts: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        chart, equals, image = text.partition("=")
        if not chart or not equals:
            raise ManifestError(f"--chart-image {text}: must be CHART=IMAGE")
        found.setdefault(chart, []).append(str(Reference.parse(image)))
    return found


def _item(kind: str, origin: str, declared: Mapping[str, Sequence[str]], store: Store, client: Client) -> Item:
    if _URL.fullmatch(origin):
        data = client.read(origin)
        sha256, size = store.add_bytes(data), len(data)
    elif "://" in origin:
        raise ManifestError(f"{origin}: only http and https are spoken", "Download it, and give its path.")
    else:
        sha256, size = _take(kind, origin, store)
    name = file_name(origin) if _URL.fullmatch(origin) else Path(origin).name
    item = Item(kind, origin, name, sha256, size)
    if kind == "chart":
        chart = Chart.read(store.read(sha256), origin)
        named = tuple(declared.get(chart.name, ()))
        images = tuple(sorted({str(image) for image, _ in chart.images(named)}))
        item = replace(item, name=chart.file_name, images=images, declared=named)
    elif kind == "manifest":
        found = images_in(store.read(sha256).decode("utf-8", "replace"), origin)
        item = replace(item, images=tuple(sorted({str(entry.image) for entry in found})))
    if not re.fullmatch(FILE_NAME, item.name):
        raise ManifestError(f"{origin}: {item.name!r} is no name for a file of a bundle", "Rename it.")
    return item


def _take(kind: str, origin: str, store: Store) -> tuple[str, int]:
    """Copy a local file, or a chart's directory packed, into the store; returns its sha256 and size."""
    path = Path(origin)
    if kind == "chart" and path.is_dir():
        data = Chart.pack(path)
        return store.add_bytes(data), len(data)
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                digest.update(data)
                size += len(data)
            file.seek(0)
            with store.partial(digest.hexdigest()) as partial:
                partial.restart()
                while data := file.read(CHUNK):
                    partial.write(data)
                if not store.has(digest.hexdigest(), size) and not partial.finish(size):
                    raise HostError(f"{origin}: changed while it was read", "Run the same command again.")
    except OSError as reason:
        raise HostError(f"{origin}: {reason.strerror}", "Give a readable file.") from reason
    return digest.hexdigest(), size


# The lock


def read_extras(lock_dir: Path) -> dict[str, Extras]:
    """Read ``extras.lock`` of a directory, by release; none without a file. LockError names what is malformed."""
    path = lock_dir / FILE
    documents = read_documents(path, LockError) if path.exists() else []
    found: dict[str, Extras] = {}
    for number, document in enumerate(documents, 1):
        fields = Fields(document, f"{path}: document {number}", error=LockError)
        release = fields.text("release")
        if release in found:
            fields.fail("release", f"{release} is given twice")
        found[release] = _read(fields)
    return found


def write_extras(lock_dir: Path, extras: Mapping[str, Extras]) -> None:
    """Write ``extras.lock``; nothing where there is nothing to write and no file. HostError."""
    documents = [_document(release, entry) for release, entry in sorted(extras.items()) if entry != Extras()]
    if documents or (lock_dir / FILE).exists():
        write_stream(lock_dir / FILE, documents)


def _read(fields: Fields) -> Extras:
    extras = Extras(
        images=fields.texts("images"),
        packages=fields.texts("packages", SPEC),
        items=tuple(
            sorted(
                (_read_item(kind, entry) for kind in FOLDERS for entry in fields.children(f"{kind}s")),
                key=lambda item: item.path,
            )
        ),
    )
    fields.done()
    return extras


def _read_item(kind: str, entry: Fields) -> Item:
    item = Item(
        kind=kind,
        origin=entry.text("from"),
        name=entry.text("name", FILE_NAME),
        sha256=entry.text("checksum", DIGEST)[-len("0" * 64) :],
        size=entry.size("size") or 0,
        images=entry.texts("images") if kind != "file" else (),
        declared=entry.texts("declared") if kind == "chart" else (),
    )
    entry.done()
    return item


def _document(release: str, extras: Extras) -> dict[str, object]:
    document: dict[str, object] = {"release": release}
    if extras.images:
        document["images"] = list(extras.images)
    if extras.packages:
        document["packages"] = list(extras.packages)
    for kind in FOLDERS:
        entries = [_entry(item) for item in extras.items if item.kind == kind]
        if entries:
            document[f"{kind}s"] = entries
    return document


def _entry(item: Item) -> dict[str, object]:
    entry: dict[str, object] = {"from": item.origin, "name": item.name, "checksum": f"sha256:{item.sha256}"}
    entry["size"] = item.size
    if item.images:
        entry["images"] = list(item.images)
    if item.declared:
        entry["declared"] = list(item.declared)
    return entry
