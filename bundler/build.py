"""From a lock to a bundle: fetch what is missing, describe it, write it. Nothing is chosen here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from bundler import bundle, charts, closure, data, debrepo, extras, output, repodata
from bundler.archive import DamagedSource, Member, total_size
from bundler.bundle import CarriedImage
from bundler.delta import Base
from bundler.errors import LockError
from bundler.fetch.http import Blob
from bundler.fetch.images import image_content
from bundler.fetch.pool import BlobJob, Job, blob_jobs, fetch_all, image_jobs
from bundler.fetch.registry import Registry
from bundler.lock import missing
from bundler.locked import LockedFile, LockedMetadata, LockedPackage, file_name
from bundler.manifest import ROLES
from bundler.output import WHOLE, Shape
from bundler.progress import Progress
from bundler.reposign import Signer
from bundler.selection import Selection
from bundler.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Workshop:
    """What a build works with: the cache, the way to every upstream, the display, and how many workers."""

    store: Store
    registry: Registry
    progress: Progress
    jobs: int


@dataclass(frozen=True)
class Order:
    """What a build makes: of which installer files (by member path), stamped when, signed by whom, written where.

    With a ``base``, only what that bundle lacks; ``shape`` is how it lies on the disk; ``repo_signer`` signs the
    metadata of packages.
    """

    selection: Selection
    installer: Mapping[str, Path]
    created: int
    key: ec.EllipticCurvePrivateKey | None
    output: Path
    base: Base | None = None
    shape: Shape = WHOLE
    repo_signer: Signer | None = None


@dataclass(frozen=True)
class Built:
    """A finished bundle: its size in bytes; ``changed`` is false if it was there already, byte for byte."""

    path: Path
    size: int
    members: int
    sums_sha256: str
    changed: bool


def require_complete(selection: Selection) -> None:
    """Return if the locks pin all that the selection wants; LockError naming each entry otherwise."""
    lacking = missing(
        selection.release, selection.addons, selection.locks, selection.os_names, selection.arches
    )
    if lacking:
        options = [f"--version {selection.release.release}"]
        options += [f"--os {name}" for name in selection.os_names]
        options += [f"--arch {arch}" for arch in selection.arches]
        options += [f"--with {a.name}" for a in selection.addons if a.name not in selection.release.addons]
        raise LockError(
            "\n  ".join([f"release {selection.release.release} has {len(lacking)} unresolved entries:", *lacking]),
            f"Resolve them on a connected machine with: bundler lock {' '.join(options)}",
        )


def build(order: Order, workshop: Workshop) -> Built:
    """Make the bundle, and give it its name once it is whole. All errors of the package may come.

    What is damaged in the cache is thrown away and fetched anew, once.
    """
    output.require_place(order.output)
    return _healing(workshop, lambda: _build(order, workshop))


def compose(selection: Selection, created: int, workshop: Workshop, signer: Signer | None) -> list[Member]:
    """Return what the bundle without ``SHA256SUMS.*`` consists of. The same errors as ``build``."""
    installer = data.installer_files()

    def composed() -> list[Member]:
        head, body = _compose(Order(selection, installer, created, None, Path(), repo_signer=signer), workshop)
        return [*head, *body]

    return _healing(workshop, composed)


def _healing(workshop: Workshop, work: Callable[[], T]) -> T:
    """Do ``work``, again after each file of the cache that turns out to be damaged: once for each of them."""
    damaged: set[str] = set()
    while True:
        try:
            return work()
        except DamagedSource as reason:
            if reason.sha256 in damaged or reason.file != workshop.store.path(reason.sha256):
                raise
            damaged.add(reason.sha256)
            reason.file.unlink(missing_ok=True)
            workshop.progress.line(f"{reason.message}; fetching it again")


def _build(order: Order, workshop: Workshop) -> Built:
    head, body = _compose(order, workshop)
    members = [order.base.member(), *head, *order.base.lacking(body)] if order.base else [*head, *body]
    changed = _write(order, workshop, members)
    sums = next(member.sha256 for member in head if member.path == bundle.SUMS)
    return Built(order.output, total_size(members), len(members), sums, changed)


def _compose(order: Order, workshop: Workshop) -> tuple[list[Member], list[Member]]:
    """Fetch, and describe: the members that come first, and all others, sorted by path."""
    selection = order.selection
    _fetch(selection, workshop)
    images = _images(selection, workshop.store)
    metadata = {name: _repository(order, name, workshop.store) for name in selection.os_names}
    repo_keys = {name: f"packages/{name}/{file}" for name, files in metadata.items() for file in files
                 if file.startswith("keys/")}
    body = bundle.members(selection, workshop.store, images, metadata, order.installer, order.created)
    body += _chart_index(selection, workshop.store, order.created)
    body.sort(key=lambda member: member.path)
    body.append(closure.member(selection, bundle.contract(selection, images, body, order.created, repo_keys), body))
    body.sort(key=lambda member: member.path)
    contract = bundle.contract(selection, images, body, order.created, repo_keys)
    return bundle.head(contract, body, order.key), body


def _write(order: Order, workshop: Workshop, members: Sequence[Member]) -> bool:
    """Write the bundle unless it is there; tells whether it was written."""
    progress, hashers = workshop.progress, os.cpu_count() or 1
    content = sum(member.size for member in members)
    if order.shape == WHOLE and order.output.exists():
        progress.stage("compare", content)
        if output.is_current(order.output, members, order.created, hashers, progress.advance):
            return False
    progress.stage("write", content)
    output.write(order.output, members, order.created, hashers, progress.advance, workshop.store.known,
                 order.shape)
    return True


def _fetch(selection: Selection, workshop: Workshop) -> None:
    extras.place(selection.extras, workshop.store)
    workshop.progress.stage("download")
    fetch_all(_jobs(selection, workshop), workshop.jobs, workshop.progress)


def _jobs(selection: Selection, workshop: Workshop) -> list[Job]:
    store, registry = workshop.store, workshop.registry
    jobs = blob_jobs(_blobs(selection), registry.client, store)
    for image, _ in selection.images():
        jobs += image_jobs(image.ref, image.digest, selection.arches, registry, store)
    return jobs


def _blobs(selection: Selection) -> list[Blob]:
    locked: dict[str, LockedFile | LockedPackage | LockedMetadata] = {}
    locked.update((file.url, file) for file in selection.files().values())
    for name in selection.os_names:
        locked.update((package.url, package) for package in selection.packages(name))
        locked.update((metadata.url, metadata) for metadata in selection.modules(name))
    return [Blob(url.rsplit("/", 1)[-1], url, item.sha256, item.size) for url, item in locked.items()
            if not url.startswith(extras.LOCAL)]


def _images(selection: Selection, store: Store) -> list[CarriedImage]:
    return [
        CarriedImage(image_content(store, image.ref, image.digest, selection.arches), roles)
        for image, roles in selection.images()
    ]


def _chart_index(selection: Selection, store: Store, created: int) -> list[Member]:
    packed = {item.name: store.read(item.sha256) for item in selection.extras.items if item.kind == "chart"}
    return [Member.of("charts/index.yaml", charts.index(packed, created))] if packed else []


def _repository(order: Order, name: str, store: Store) -> dict[str, bytes]:
    """Return what makes a host's packages a repository, signed if somebody signs, by path below theirs."""
    files = _metadata(order.selection, name, order.created, store)
    if not order.repo_signer:
        return files
    kind = order.selection.release.hosts[name].format
    return {**files, **order.repo_signer.sign(name, kind, files, order.created)}


def _metadata(selection: Selection, name: str, created: int, store: Store) -> dict[str, bytes]:
    """Return what makes a host's packages a repository, by path below theirs."""
    packages = selection.packages(name)
    if selection.release.hosts[name].format == "deb":
        debs = [debrepo.Deb(package.filename, store.path(package.sha256), package.sha256) for package in packages]
        return debrepo.build(debs, name, created)
    rpms = [repodata.Rpm(package.filename, store.path(package.sha256), package.sha256) for package in packages]
    packed = [repodata.Rpm(file_name(m.url), store.path(m.sha256), m.sha256) for m in selection.modules(name)]
    whole = repodata.describe(rpms, created, store, packed)
    found = {f"repodata/{file}": content for file, content in whole.items()}
    for role in ROLES:
        names = {package.filename for package in selection.role(name, role)}
        found.update((f"{role}/repodata/{file}", content)
                     for file, content in repodata.subset(whole, names, created).items())
    return found


@dataclass(frozen=True)
class Item:
    """A file that a build takes: its name, its size in bytes (None: unknown), whether the cache has it."""

    name: str
    size: int | None
    cached: bool


def plan(selection: Selection, workshop: Workshop) -> list[Item]:
    """Return every file that a build would take, the largest first.

    Image manifests are fetched, since they alone tell what an image consists of; nothing else is.
    """
    items: dict[str, Item] = {}
    waiting = _jobs(selection, workshop)
    while waiting:
        job = waiting.pop()
        if isinstance(job, BlobJob):
            items[job.key] = Item(job.name, job.blob.size, job.cached())
        else:
            waiting += job.run(workshop.progress.advance)
    return sorted(items.values(), key=lambda item: (-(item.size or 0), item.name))
