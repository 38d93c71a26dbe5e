"""How complete a lock is: what the manifests want, entry by entry, and what of it the locks lack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bundler.locked import ArchLock, HostLock, LockedPackage, Locks
from bundler.wanted import Addon, Host, Release

KINDS = ("image", "file", "key", "package")


@dataclass(frozen=True)
class Need:
    """An entry that a lock must have: ``kind`` is one of KINDS, ``reason`` says why it is lacking, if it is known."""

    kind: str
    name: str
    lacking: bool
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f": {self.reason}" if self.reason else "")


def needs(
    release: Release, addons: Sequence[Addon], locks: Locks, os_names: Sequence[str], arches: Sequence[str]
) -> list[Need]:
    """Return every entry that the manifests want, each once; a package that is unresolved by name counts as wanted.

    ``os_names`` are keys of ``release.hosts``, ``arches`` Go names. A lock made for an earlier state of the manifest
    counts as lacking what was changed since.
    """
    found = [*_images(release, addons, locks, arches), *_files(release, addons, locks, arches)]
    for name in os_names:
        lock = locks.hosts.get((release.release, name), HostLock(release.release, name, {}))
        found += [*_keys(release.hosts[name], lock), *_packages(release.hosts[name], lock, arches)]
    return list(dict.fromkeys(found))


def missing(
    release: Release, addons: Sequence[Addon], locks: Locks, os_names: Sequence[str], arches: Sequence[str]
) -> list[str]:
    """Return what of ``needs`` the locks lack, a line each; empty means complete."""
    return [str(need) for need in needs(release, addons, locks, os_names, arches) if need.lacking]


def counts(found: Sequence[Need]) -> Mapping[str, tuple[int, int]]:
    """Return per kind how many entries are locked, and how many are wanted; a kind that nothing wants is left out."""
    kinds = {kind: [need for need in found if need.kind == kind] for kind in KINDS}
    return {
        kind: (sum(not need.lacking for need in wanted), len(wanted)) for kind, wanted in kinds.items() if wanted
    }


def wanted_files(release: Release, addons: Sequence[Addon], arches: Sequence[str]) -> list[str]:
    """Return the URLs of the binaries and add-on manifests that the manifests name, in their order."""
    binaries = [binary.for_arch(arch).url for arch in arches for binary in release.binaries]
    return list(dict.fromkeys(binaries + [file.url for addon in addons for file in addon.manifests if file.url]))


def wanted_images(release: Release, addons: Sequence[Addon]) -> list[str]:
    """Return the references of the images that the manifests name, in their order."""
    images = [*release.images, *(image for addon in addons for image in addon.images)]
    return list(dict.fromkeys(image.ref for image in images))


def satisfies(spec: str, name: str, evr: str) -> bool:
    """Tell whether a package is what ``spec`` asks for: name, name-version or name-version-release, epoch optional."""
    version_release = evr.split(":", 1)[-1]
    version = version_release.rsplit("-", 1)[0]
    epoch = evr[: len(evr) - len(version_release)]
    return spec in {
        name,
        *(f"{name}-{prefix}{part}" for prefix in ("", epoch) for part in (version, version_release)),
    }


def _images(release: Release, addons: Sequence[Addon], locks: Locks, arches: Sequence[str]) -> Iterator[Need]:
    for ref in wanted_images(release, addons):
        image = locks.images.get(ref)
        foreign = [arch for arch in arches if image and not image.offers(arch)]
        if image is None or not foreign:
            yield Need("image", ref, lacking=image is None)
            continue
        for arch in foreign:
            yield Need("image", f"{ref} for linux/{arch} (offers {', '.join(image.platforms)})", lacking=True)


def _files(release: Release, addons: Sequence[Addon], locks: Locks, arches: Sequence[str]) -> Iterator[Need]:
    return (Need("file", url, url not in locks.files) for url in wanted_files(release, addons, arches))


def _keys(host: Host, lock: HostLock) -> Iterator[Need]:
    known = {key.url for key in lock.keys}
    return (Need("key", f"{url} ({host.name})", url not in known) for url in host.keys)


def _packages(host: Host, lock: HostLock, arches: Sequence[str]) -> Iterator[Need]:
    reasons = {entry.name: entry.reason for entry in lock.unresolved}
    told: set[str] = set()
    for arch in [host.arch(arch) for arch in arches]:
        entry = lock.arches.get(arch, ArchLock(arch, (), {}))
        specs = _specs(host, entry)
        told.update(spec for spec, package in specs.items() if package is None)
        asked = {package.filename for package in specs.values() if package}
        for spec, package in specs.items():
            reason = "" if package else reasons.get(spec, "")
            yield Need("package", f"{spec} ({host.name} {arch})", package is None, reason)
        for package in entry.packages:
            if package.filename not in asked:
                yield Need("package", f"{package.name} {package.evr} ({host.name} {arch})", lacking=False)
    for name, reason in reasons.items():
        if name not in told:
            yield Need("package", f"{name} ({host.name})", lacking=True, reason=reason)


def _specs(host: Host, arch: ArchLock) -> dict[str, LockedPackage | None]:
    """Return what the roles ask for, with the package that stands for it in *every* role that asks."""
    packages = {package.filename: package for package in arch.packages}
    found: dict[str, LockedPackage | None] = {}
    for role, wanted in host.roles.items():
        carried = [packages[name] for name in arch.roles.get(role, ())]
        for spec in wanted:
            package = next((p for p in carried if satisfies(spec, p.name, p.evr)), None)
            found[spec] = package if found.get(spec, package) else None
    return found
