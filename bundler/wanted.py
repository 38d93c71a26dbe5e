"""What the manifests say, as plain data: what is wanted, by name and version, never a digest.

``bundler.manifest`` reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bundler.discover import ImagePath

RPM_ARCHES = {"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x"}
DEB_ARCHES = {"amd64": "amd64", "arm64": "arm64", "ppc64le": "ppc64el", "s390x": "s390x"}


@dataclass(frozen=True)
class Image:
    """An image by its full reference (``docker.io/library/busybox:1.33``) and the roles that run it."""

    ref: str
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Binary:
    """An executable that lands at ``bin/<arch>/<name>``; url and checksum file still hold ``{arch}``."""

    name: str
    url: str
    checksum: str

    def for_arch(self, arch: str) -> Binary:
        """Return this binary with ``{arch}`` filled in (``amd64``)."""
        return Binary(self.name, fill(self.url, arch), fill(self.checksum, arch))


@dataclass(frozen=True)
class Repo:
    """A package repository; ``baseurl`` may hold ``{arch}`` and ``{rpmarch}``, keys are URLs.

    rpm: ``baseurl`` is a directory with repodata/. deb: ``suite`` and ``components`` are as in sources.list.
    """

    id: str
    baseurl: str
    keys: tuple[str, ...]
    signed_metadata: bool = False
    module_hotfixes: bool = False
    suite: str = ""
    components: tuple[str, ...] = ()

    def for_arch(self, arch: str) -> Repo:
        """Return this repository with ``{arch}`` and ``{rpmarch}`` filled in; no slash at the end."""
        url = fill(self.baseurl, arch).rstrip("/")
        return Repo(
            self.id, url, self.keys, self.signed_metadata, self.module_hotfixes, self.suite, self.components
        )


@dataclass(frozen=True)
class Host:
    """An operating system: where its packages come from, what a minimal one has, what each role wants."""

    name: str
    format: str
    repos: tuple[Repo, ...]
    installed: tuple[str, ...]
    roles: Mapping[str, tuple[str, ...]]
    modules: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The URLs of all repositories' keys, each once, sorted."""
        return tuple(sorted({key for repo in self.repos for key in repo.keys}))

    def arch(self, arch: str) -> str:
        """Return what this host's packages call a Go architecture: amd64 is x86_64 in rpm. KeyError if unknown."""
        return (DEB_ARCHES if self.format == "deb" else RPM_ARCHES)[arch]


@dataclass(frozen=True)
class Replace:
    """A literal replacement in an add-on's manifests."""

    old: str
    new: str


@dataclass(frozen=True)
class AddonFile:
    """A Kubernetes manifest of an add-on: either at ``url``, or ``file`` in ``Addon.directory``."""

    url: str | None
    file: str | None

    @property
    def name(self) -> str:
        """The file name in the bundle, under ``manifests/<addon>/``."""
        return urlsplit(self.url).path.rsplit("/", 1)[-1] if self.url else str(self.file)


@dataclass(frozen=True)
class Addon:
    """An add-on manifest. Own files lie in ``directory``."""

    name: str
    version: str
    kind: str
    releases: tuple[str, ...]
    images: tuple[Image, ...]
    manifests: tuple[AddonFile, ...]
    replace: tuple[Replace, ...]
    directory: Path
    image_paths: tuple[ImagePath, ...] = ()

    def fits(self, release: str) -> bool:
        """Tell whether it is for a release, or for the one that this release is a variant of."""
        return release in self.releases or release.partition("-")[0] in self.releases


@dataclass(frozen=True)
class Release:
    """A release manifest. ``date`` is UTC midnight in seconds since the epoch; ``hosts`` keeps the file's order.

    ``kubeadm_api`` and ``image_repository`` are empty where ``method`` is not kubeadm.
    """

    release: str
    kubernetes: str
    date: int
    arches: tuple[str, ...]
    kubeadm_api: str
    runtime: str
    image_repository: str
    pause: str
    pod_subnet: str
    service_subnet: str
    images: tuple[Image, ...]
    binaries: tuple[Binary, ...]
    addons: tuple[str, ...]
    hosts: Mapping[str, Host]
    method: str = "kubeadm"


def rpm_arch(arch: str) -> str:
    """Return RPM's name of a Go architecture: amd64 is x86_64. KeyError if it is none of ours."""
    return RPM_ARCHES[arch]


def fill(url: str, arch: str) -> str:
    """Fill ``{arch}`` and ``{rpmarch}`` into a URL."""
    return url.replace("{arch}", arch).replace("{rpmarch}", rpm_arch(arch))


def release_key(release: str) -> tuple[list[int], str]:
    """Return a sort key: 1.8 before 1.20, and a release before its variants (``1.20-docker``)."""
    numbers, _, variant = release.partition("-")
    return [int(part) for part in re.findall(r"\d+", numbers)], variant
