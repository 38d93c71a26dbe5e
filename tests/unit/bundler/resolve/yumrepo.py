"""Yum repositories of packages that exist only as metadata: enough to resolve, and made in milliseconds."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import createrepo_c as cr

from bundler.errors import FetchError

FLAGS = {"=": "EQ", "<": "LT", "<=": "LE", ">": "GT", ">=": "GE"}


@dataclass
class Pkg:
    nevra: str  # name-[epoch:]version-release.arch
    requires: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    recommends: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    sha: str = "sha256"


class FolderReader:
    """Reads http://HOST/PATH from a folder, and remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

    def read(self, url: str) -> bytes:
        self.asked.append(url)
        path = self.folder / urlsplit(url).path.lstrip("/")
        if not path.is_file():
            raise FetchError(f"{url}: 404")
        return path.read_bytes()


def make_repo(folder: Path, packages: list[Pkg], compression: int = cr.GZ_COMPRESSION) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with cr.RepositoryWriter(str(folder), num_packages=len(packages), compression=compression) as writer:
        for package in packages:
            writer.add_pkg(_package(package))


def _package(package: Pkg) -> cr.Package:
    name, epoch, version, release, arch = re.fullmatch(
        r"(.+)-(?:(\d+):)?([^-:]+)-([^-]+)\.([^.]+)", package.nevra
    ).groups()
    pkg = cr.Package()
    pkg.name, pkg.epoch, pkg.version, pkg.release, pkg.arch = name, epoch or "0", version, release, arch
    pkg.summary = pkg.description = pkg.rpm_license = pkg.rpm_group = name
    pkg.rpm_sourcerpm = f"{name}-{version}-{release}.src.rpm"
    file_name = f"{name}-{version}-{release}.{arch}.rpm"
    pkg.location_href = f"Packages/{file_name}"
    pkg.pkgId = hashlib.new(package.sha, package.nevra.encode()).hexdigest()
    pkg.checksum_type, pkg.size_package = package.sha, 1000 + len(package.nevra)
    own = (name, "EQ", pkg.epoch, version, release, False)
    pkg.provides = [own, *map(_dependency, package.provides)]
    pkg.requires = [_dependency(text) for text in package.requires]
    pkg.conflicts = [_dependency(text) for text in package.conflicts]
    pkg.recommends = [_dependency(text) for text in package.recommends]
    pkg.files = [("", str(Path(file).parent) + "/", Path(file).name) for file in package.files]
    return pkg


def _dependency(text: str) -> tuple:
    if " " not in text or text.startswith("("):
        return (text, None, None, None, None, False)
    name, operator, evr = text.split(" ")
    epoch, _, version_release = evr.rpartition(":")
    version, _, release = version_release.partition("-")
    return (name, FLAGS[operator], epoch or "0", version, release or None, False)
