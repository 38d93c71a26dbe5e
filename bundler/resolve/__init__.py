"""From manifests to locks: the only step that chooses versions and digests."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from bundler.complete import wanted_images
from bundler.errors import IntegrityError, ResolveError
from bundler.fetch.http import Client
from bundler.fetch.registry import Registry
from bundler.locked import ArchLock, HostLock, LockedFile, LockedImage, LockedPackage, Locks
from bundler.manifest import Addon, Host, Release
from bundler.resolve import deb, rpm
from bundler.resolve.binary import resolve_binary, resolve_file
from bundler.resolve.debver import compare_versions
from bundler.resolve.image import resolve_image
from bundler.resolve.repomd import Reader

T = TypeVar("T")
R = TypeVar("R")
WORKERS = 8


@dataclass(frozen=True)
class Resolution:
    """New locks, what they change (``changed package kubelet (1.20 el7 x86_64) 1.20.1-0 … -> 1.20.2-0 …``), and what
    somebody should look at: a line each.
    """

    locks: Locks
    changes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def resolve(
    release: Release,
    addons: Sequence[Addon],
    os_names: Sequence[str],
    arches: Sequence[str],
    client: Client,
    registry: Registry,
    locks: Locks,
    *,
    allow_downgrade: bool = False,
    upgrade: Sequence[str] = (),
) -> Resolution:
    """Choose what one release lacks, and leave every other entry of ``locks`` as it is.

    ``os_names`` are keys of ``release.hosts``, ``arches`` Go names. What is locked stays where it still serves, but for
    what a pattern of ``upgrade`` names (``*``, ``containerd.io``, ``quay.io/*``: package, image or URL): that is chosen
    anew. ResolveError where something cannot be satisfied, or where a package would become older without
    ``allow_downgrade``; FetchError and IntegrityError from upstream.
    """
    order = _Order(arches, client, registry, locks, upgrade, [])
    images = {image.ref: image for image in _map(order.image, wanted_images(release, addons))}
    files = {file.url: file for file in order.files(release, addons)}
    hosts = {}
    for name in os_names:
        old = locks.hosts.get((release.release, name), HostLock(release.release, name, {}))
        hosts[release.release, name] = order.host(old, release.hosts[name])
        if not allow_downgrade:
            _refuse_downgrade(release.release, old, hosts[release.release, name])
    new = Locks({**locks.images, **images}, {**locks.files, **files}, {**locks.hosts, **hosts})
    return Resolution(new, tuple(changes(locks, new)), tuple(order.warnings))


def changes(old: Locks, new: Locks) -> list[str]:
    """Return what differs between two locks, a line each: ``added``, ``changed`` or ``removed``, and what."""
    return [
        *_compare("image", _digests(old.images), _digests(new.images)),
        *_compare("file", _sums(old.files.values()), _sums(new.files.values())),
        *_compare("key", _keys(old), _keys(new)),
        *_compare("package", _packages(old), _packages(new)),
    ]


@dataclass(frozen=True)
class _Order:
    """What one run of ``lock`` was asked for, and the warnings so far."""

    arches: Sequence[str]
    client: Client
    registry: Registry
    locks: Locks
    upgrade: Sequence[str]
    warnings: list[str]

    def anew(self, name: str) -> bool:
        """Tell whether an entry that is locked already is to be chosen again."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.upgrade)

    def image(self, ref: str) -> LockedImage:
        old = self.locks.images.get(ref)
        if old and not self.anew(ref) and all(old.offers(arch) for arch in self.arches):
            return old
        image = resolve_image(ref, self.registry)
        for arch in self.arches:
            if not image.offers(arch):
                raise ResolveError(
                    f"{ref}: not made for linux/{arch}, only for {', '.join(image.platforms)}",
                    "Ask for fewer architectures, or for another tag in the manifest.",
                )
        return image

    def files(self, release: Release, addons: Sequence[Addon]) -> list[LockedFile]:
        binaries = [binary.for_arch(arch) for arch in self.arches for binary in release.binaries]
        urls = [file.url for addon in addons for file in addon.manifests if file.url]
        old = [url for url in [*(b.url for b in binaries), *urls] if url in self.locks.files and not self.anew(url)]
        return [
            *(self.locks.files[url] for url in old),
            *_map(lambda b: resolve_binary(b.url, b.checksum, self.client), [b for b in binaries if b.url not in old]),
            *_map(lambda url: resolve_file(url, self.client), [url for url in urls if url not in old]),
        ]

    def host(self, old: HostLock, host: Host) -> HostLock:
        """Return the lock of one operating system; architectures that were not asked for stay."""
        known = {key.url: key for key in old.keys if not self.anew(key.url)}
        keys = _map(lambda url: known.get(url) or resolve_file(url, self.client), host.keys)
        reader = _Pinned(self.client, {key.url: key.sha256 for key in keys})
        found = {host.arch(arch): self.arch(old, host, arch, reader) for arch in self.arches}
        return HostLock(old.release, old.os, {**old.arches, **found}, tuple(keys), format=host.format)

    def arch(self, old: HostLock, host: Host, arch: str, reader: Reader) -> ArchLock:
        before = old.arches.get(host.arch(arch), ArchLock(host.arch(arch), (), {})).packages
        keep = {package.sha256 for package in before if not self.anew(package.name)}
        resolve_arch = deb.resolve_arch if host.format == "deb" else rpm.resolve_arch
        lock = resolve_arch(host, arch, reader, keep, self.warnings.append)
        # An entry that stays keeps the source that it was learnt from
        known = {(package.url, package.sha256): package for package in before if package.size is not None}
        packages = tuple(known.get((package.url, package.sha256), package) for package in lock.packages)
        return replace(lock, packages=packages)


@dataclass(frozen=True)
class _Pinned:
    """Reads from upstream, and trusts a key only if it is the one that is locked (sha256 by URL)."""

    client: Reader
    sums: Mapping[str, str]

    def read(self, url: str) -> bytes:
        data = self.client.read(url)
        if hashlib.sha256(data).hexdigest() != self.sums.get(url, hashlib.sha256(data).hexdigest()):
            raise IntegrityError(
                f"{url}: is not the key that is locked",
                f"If upstream has changed its key, take the new one with: bundler lock --upgrade {url}",
            )
        return data


def _refuse_downgrade(release: str, old: HostLock, new: HostLock) -> None:
    compare = compare_versions if new.format == "deb" else rpm.compare_evr
    before = {name: package for arch in old.arches.values() for name, package in _by_name(arch).items()}
    for arch in new.arches.values():
        for (name, where), package in _by_name(arch).items():
            known = before.get((name, where))
            if known and compare(package.evr, known.evr) < 0:
                what = f"{name} would go from {known.evr} back to {package.evr}"
                raise ResolveError(f"{release} {new.os} {where}: {what}", "If that is meant, add --allow-downgrade.")


def _by_name(arch: ArchLock) -> dict[tuple[str, str], LockedPackage]:
    return {(package.name, arch.arch): package for package in arch.packages}


def _map(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(function, items))


def _compare(kind: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    lines = []
    for name in sorted({*old, *new}):
        if name not in old:
            lines.append(f"added {kind} {name} {new[name]}")
        elif name not in new:
            lines.append(f"removed {kind} {name} {old[name]}")
        elif old[name] != new[name]:
            lines.append(f"changed {kind} {name} {old[name]} -> {new[name]}")
    return lines


def _digests(images: Mapping[str, LockedImage]) -> dict[str, str]:
    return {ref: image.digest for ref, image in images.items()}


def _sums(files: Iterable[LockedFile]) -> dict[str, str]:
    return {file.url: f"sha256:{file.sha256}" for file in files}


def _keys(locks: Locks) -> dict[str, str]:
    return _sums(key for host in locks.hosts.values() for key in host.keys)


def _packages(locks: Locks) -> dict[str, str]:
    return {
        f"{package.name} ({host.release} {host.os} {arch.arch})": f"{package.evr} sha256:{package.sha256[:12]}"
        for host in locks.hosts.values()
        for arch in host.arches.values()
        for package in arch.packages
    }
