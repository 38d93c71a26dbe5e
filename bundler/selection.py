"""What one build carries: a release on some hosts and architectures, with its add-ons, as the locks pin it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bundler.errors import LockError
from bundler.extras import Extras
from bundler.locked import HostLock, LockedFile, LockedImage, LockedMetadata, LockedPackage, Locks
from bundler.manifest import ROLES, Addon, Release


@dataclass(frozen=True)
class Selection:
    """A complete choice: ``os_names`` are keys of the release's hosts, ``arches`` Go names."""

    release: Release
    addons: tuple[Addon, ...]
    os_names: tuple[str, ...]
    arches: tuple[str, ...]
    locks: Locks
    extras: Extras = field(default_factory=Extras)

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms of the images carried: ``linux/amd64``."""
        return tuple(f"linux/{arch}" for arch in self.arches)

    def host(self, os_name: str) -> HostLock:
        """Return the lock of a host."""
        return self.locks.hosts[self.release.release, os_name]

    def role(self, os_name: str, role: str) -> list[LockedPackage]:
        """Return the closure of a role on a host over all architectures, by file name."""
        found: dict[str, LockedPackage] = {}
        for arch in self.arches:
            lock = self.host(os_name).arches[self.release.hosts[os_name].arch(arch)]
            names = set(lock.roles[role])
            found.update((package.filename, package) for package in lock.packages if package.filename in names)
        return [found[name] for name in sorted(found)]

    def packages(self, os_name: str) -> list[LockedPackage]:
        """Return all packages carried for a host, by file name."""
        found = {package.filename: package for role in ROLES for package in self.role(os_name, role)}
        return [found[name] for name in sorted(found)]

    def modules(self, os_name: str) -> list[LockedMetadata]:
        """Return the modules.yaml that go with a host's packages, by URL."""
        arches = [self.release.hosts[os_name].arch(arch) for arch in self.arches]
        found = {item.url: item for arch in arches for item in self.host(os_name).arches[arch].modules}
        return [found[url] for url in sorted(found)]

    def images(self) -> list[tuple[LockedImage, tuple[str, ...]]]:
        """Return the images with the roles that run them, by reference."""
        roles: dict[str, set[str]] = {}
        for image in [*self.release.images, *(image for addon in self.addons for image in addon.images)]:
            roles.setdefault(image.ref, set()).update(image.roles)
        return [(self.locks.images[ref], tuple(r for r in ROLES if r in roles[ref])) for ref in sorted(roles)]

    def files(self) -> Mapping[str, LockedFile]:
        """Return what is fetched by URL, by its path in the bundle: binaries, add-on manifests, package keys,
        and the user's own, whose URL may be ``file:`` and a path."""
        files: dict[str, LockedFile] = {}
        for arch in self.arches:
            for binary in self.release.binaries:
                _put(files, f"bin/{arch}/{binary.name}", self.locks.files[binary.for_arch(arch).url])
        for addon in self.addons:
            for manifest in addon.manifests:
                if manifest.url:
                    _put(files, f"manifests/{addon.name}/{manifest.name}", self.locks.files[manifest.url])
        for os_name in self.os_names:
            for path, key in self.keys(os_name).items():
                _put(files, path, key)
        for item in self.extras.items:
            _put(files, item.path, item.locked)
        return files

    def keys(self, os_name: str) -> Mapping[str, LockedFile]:
        """Return the keys that sign a host's packages, by their paths in the bundle."""
        wanted = self.release.hosts[os_name].keys
        keys: dict[str, LockedFile] = {}
        for key in self.host(os_name).keys:
            if key.url in wanted:
                _put(keys, f"packages/{os_name}/keys/{key.url.rsplit('/', 1)[-1]}", key)
        return keys


def _put(files: dict[str, LockedFile], path: str, file: LockedFile) -> None:
    if path in files and files[path].sha256 != file.sha256:
        raise LockError(
            f"{path}: both {files[path].url} and {file.url} would land there",
            "Two files of one bundle cannot share a name: mend the manifest.",
        )
    files[path] = file
