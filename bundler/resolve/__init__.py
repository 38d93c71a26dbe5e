"""From manifests to locks: the only step that chooses versions and digests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from bundler.errors import ResolveError
from bundler.fetch.http import Client
from bundler.fetch.registry import Registry
from bundler.lock import wanted_images
from bundler.locked import ArchLock, HostLock, LockedFile, LockedImage, LockedPackage, Locks
from bundler.manifest import Addon, Host, Release, rpm_arch
from bundler.resolve.binary import resolve_binary, resolve_file
from bundler.resolve.image import resolve_image
from bundler.resolve.rpm import compare_evr, resolve_arch

T = TypeVar("T")
R = TypeVar("R")
WORKERS = 8


@dataclass(frozen=True)
class Resolution:
    """New locks, and what they change: lines such as ``changed package kubelet 1.20.1-0 -> 1.20.2-0 (el7 x86_64)``."""

    locks: Locks
    changes: tuple[str, ...]


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
) -> Resolution:
    """Choose anew what one release needs, and leave every other entry of ``locks`` as it is.

    ``os_names`` are keys of ``release.hosts``, ``arches`` Go names. ResolveError where something cannot be satisfied,
    or where a package would become older without ``allow_downgrade``; FetchError and IntegrityError from upstream.
    """
    found = _map(lambda ref: _image(ref, arches, registry), wanted_images(release, addons))
    images = {image.ref: image for image in found}
    files = {file.url: file for file in _files(release, addons, arches, client)}
    hosts = {}
    for name in os_names:
        old = locks.hosts.get((release.release, name), HostLock(release.release, name, {}))
        hosts[release.release, name] = _host(old, release.hosts[name], arches, client)
        if not allow_downgrade:
            _refuse_downgrade(release.release, old, hosts[release.release, name])
    new = Locks({**locks.images, **images}, {**locks.files, **files}, {**locks.hosts, **hosts})
    return Resolution(new, tuple(changes(locks, new)))


def changes(old: Locks, new: Locks) -> list[str]:
    """Return what differs between two locks, a line each: ``added``, ``changed`` or ``removed``, and what."""
    return [
        *_compare("image", _digests(old.images), _digests(new.images)),
        *_compare("file", _sums(old.files.values()), _sums(new.files.values())),
        *_compare("key", _keys(old), _keys(new)),
        *_compare("package", _packages(old), _packages(new)),
    ]


def _image(ref: str, arches: Sequence[str], registry: Registry) -> LockedImage:
    image = resolve_image(ref, registry)
    for arch in arches:
        if not image.offers(arch):
            raise ResolveError(
                f"{ref}: not made for linux/{arch}, only for {', '.join(image.platforms)}",
                "Ask for fewer architectures, or for another tag in the manifest.",
            )
    return image


def _files(release: Release, addons: Sequence[Addon], arches: Sequence[str], client: Client) -> list[LockedFile]:
    binaries = [binary.for_arch(arch) for arch in arches for binary in release.binaries]
    urls = [file.url for addon in addons for file in addon.manifests if file.url]
    return [
        *_map(lambda binary: resolve_binary(binary.url, binary.checksum, client), binaries),
        *_map(lambda url: resolve_file(url, client), urls),
    ]


def _host(old: HostLock, host: Host, arches: Sequence[str], client: Client) -> HostLock:
    """Return the lock of one operating system; architectures that were not asked for stay."""
    new = {rpm_arch(arch): resolve_arch(host, arch, client) for arch in arches}
    keys = tuple(_map(lambda url: resolve_file(url, client), host.keys))
    return HostLock(old.release, old.os, {**old.arches, **new}, keys)


def _refuse_downgrade(release: str, old: HostLock, new: HostLock) -> None:
    before = {name: package for arch in old.arches.values() for name, package in _by_name(arch).items()}
    for arch in new.arches.values():
        for (name, where), package in _by_name(arch).items():
            known = before.get((name, where))
            if known and compare_evr(package.evr, known.evr) < 0:
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
