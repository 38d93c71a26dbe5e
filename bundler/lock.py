"""The locks: which bytes stand for what the manifests name (docs/formats.md, section 3).

``rpms.lock`` is a stream of Konflux RPM lockfiles, ``images.lock`` a Carvel ImagesLock, ``manifests/files.lock`` a list
of URLs. They are read strictly and written sorted, so that the same choice is always the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bundler.complete import missing, satisfies, wanted_files, wanted_images
from bundler.errors import HostError, LockError
from bundler.fields import Fields, read_documents
from bundler.locked import (
    ArchLock,
    HostLock,
    LockedFile,
    LockedImage,
    LockedMetadata,
    LockedPackage,
    Locks,
    Unresolved,
)
from bundler.manifest import FORMATS, IMAGE, RELEASE, REPOSITORY, URL
from bundler.wanted import release_key

__all__ = [
    "ArchLock",
    "HostLock",
    "LockedFile",
    "LockedImage",
    "LockedMetadata",
    "LockedPackage",
    "Locks",
    "Unresolved",
    "missing",
    "read_locks",
    "satisfies",
    "wanted_files",
    "wanted_images",
    "write_locks",
    "write_stream",
]

RPMS, IMAGES, FILES = "rpms.lock", "images.lock", "manifests/files.lock"
ID, PLATFORMS, SOURCE = "kbld.carvel.dev/id", "kubecarry.dev/platforms", "kubecarry.dev/source"
HEX = r"[0-9a-f]{64}"
DIGEST = "sha256:" + HEX
# [epoch:]version-release of rpm; a Debian version may lack the revision
EVR = {"rpm": r"([0-9]+:)?[^:\s-]+-[^:\s-]+", "deb": r"([0-9]+:)?[0-9A-Za-z.+~:-]+"}
HEAD = "# Written by `bundler lock`. Every digest names the source that it was learnt from.\n"


def read_locks(lock_dir: Path) -> Locks:
    """Read the three locks of a directory; one that does not exist is empty.

    LockError names file, entry and key of what is malformed.
    """
    return Locks(
        images={image.ref: image for image in _read_images(lock_dir / IMAGES)},
        files={file.url: file for file in _read_files(lock_dir / FILES)},
        hosts={(host.release, host.os): host for host in _read_hosts(lock_dir / RPMS)},
    )


def write_locks(lock_dir: Path, locks: Locks) -> None:
    """Write the three locks, each at once or not at all. HostError where the directory cannot be written."""
    hosts = sorted(locks.hosts.values(), key=lambda host: (release_key(host.release), host.os))
    write_stream(lock_dir / RPMS, [_host_document(host) for host in hosts])
    write_stream(lock_dir / IMAGES, [_image_document(locks.images)] if locks.images else [])
    files = [_file_entry(file) for _, file in sorted(locks.files.items())]
    write_stream(lock_dir / FILES, [{"files": files}] if files else [])


# Reading


def _documents(path: Path) -> list[Any]:
    if not path.exists():
        return []
    return [document for document in read_documents(path, LockError) if document is not None]


def _one_document(path: Path) -> Fields | None:
    documents = _documents(path)
    if len(documents) > 1:
        raise LockError(f"{path}: must be one YAML document, not {len(documents)}")
    return Fields(documents[0], str(path), error=LockError) if documents else None


def _read_images(path: Path) -> list[LockedImage]:
    fields = _one_document(path)
    if fields is None:
        return []
    fields.constant("apiVersion", "imgpkg.carvel.dev/v1alpha1")
    fields.constant("kind", "ImagesLock")
    images = [_read_image(entry) for entry in fields.children("images")]
    fields.done()
    _unique(fields, "images", [image.ref for image in images])
    return images


def _read_image(entry: Fields) -> LockedImage:
    repository, digest = entry.text("image", f"{REPOSITORY}@{DIGEST}").split("@")
    notes = entry.child("annotations")
    entry.done()
    ref = notes.text(ID, IMAGE)
    if ref.rsplit(":", 1)[0] != repository:
        notes.fail(ID, f"{ref} is not of {repository}")
    platforms = notes.text(PLATFORMS, r"[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?(,[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?)*")
    image = LockedImage(ref, digest, tuple(platforms.split(",")), notes.text(SOURCE))
    notes.done()
    return image


def _read_files(path: Path) -> list[LockedFile]:
    fields = _one_document(path)
    if fields is None:
        return []
    files = [_read_file(entry) for entry in fields.children("files")]
    fields.done()
    _unique(fields, "files", [file.url for file in files])
    return files


def _read_file(entry: Fields) -> LockedFile:
    file = LockedFile(entry.text("url", URL), entry.text("sha256", HEX), entry.size("size"), entry.text("source"))
    entry.done()
    return file


def _read_hosts(path: Path) -> list[HostLock]:
    hosts = [
        _read_host(Fields(document, f"{path}: document {number}", error=LockError))
        for number, document in enumerate(_documents(path), 1)
    ]
    names = [(host.release, host.os) for host in hosts]
    for name in names:
        if names.count(name) > 1:
            raise LockError(f"{path}: two documents for release {name[0]} on {name[1]}", "Remove one of them.")
    return hosts


def _read_host(fields: Fields) -> HostLock:
    fields.constant("lockfileVersion", 1)
    fields.constant("lockfileVendor", "redhat")
    form = FORMATS[0] if fields.get("format") is None else fields.choice("format", FORMATS)
    arches = [_read_arch(entry, form) for entry in fields.children("arches")]
    host = HostLock(
        release=fields.text("release", RELEASE),
        os=fields.text("os"),
        arches={arch.arch: arch for arch in arches},
        keys=tuple(_read_file(entry) for entry in fields.children("keys")),
        unresolved=tuple(_read_unresolved(entry) for entry in fields.children("unresolved")),
        format=form,
    )
    fields.done()
    _unique(fields, "arches", [arch.arch for arch in arches])
    _unique(fields, "keys", [key.url for key in host.keys])
    _check_names(fields, host)
    return host


def _read_arch(entry: Fields, form: str) -> ArchLock:
    packages = tuple(_read_package(package, form) for package in entry.children("packages"))
    names = [package.filename for package in packages]
    _unique(entry, "packages", names)
    roles = entry.child("roles")
    arch = ArchLock(
        arch=entry.text("arch"),
        packages=packages,
        roles={str(role): roles.texts(str(role)) for role in roles.data},
        given=None if entry.get("given") is None else entry.texts("given"),
        modules=tuple(_read_metadata(part) for part in entry.children("module_metadata")),
    )
    for role, carried in arch.roles.items():
        for name in carried:
            if name not in names:
                roles.fail(role, f"{name} is not among packages")
    if entry.items("source"):
        entry.fail("source", "must be empty: source packages are not carried")
    _unique(entry, "module_metadata", [part.url for part in arch.modules])
    entry.done()
    return arch


def _read_metadata(entry: Fields) -> LockedMetadata:
    part = LockedMetadata(
        url=entry.text("url", URL),
        repoid=entry.text("repoid"),
        sha256=entry.text("checksum", DIGEST)[len("sha256:") :],
        size=entry.size("size"),
    )
    entry.done()
    return part


def _read_package(entry: Fields, form: str) -> LockedPackage:
    package = LockedPackage(
        url=entry.text("url", URL),
        repoid=entry.text("repoid"),
        sha256=entry.text("checksum", DIGEST)[len("sha256:") :],
        size=entry.size("size"),
        name=entry.text("name"),
        evr=entry.text("evr", EVR[form]),
        sourcerpm=entry.text("sourcerpm", default=""),
        source=entry.text("source"),
    )
    entry.done()
    return package


def _read_unresolved(entry: Fields) -> Unresolved:
    unresolved = Unresolved(entry.text("name"), entry.text("reason"))
    entry.done()
    return unresolved


def _unique(fields: Fields, key: str, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            fields.fail(f"{key}[{number}]", f"{name} is given twice")


def _check_names(fields: Fields, host: HostLock) -> None:
    """One directory holds all architectures: a name may come again only for the same bytes (noarch)."""
    digests: dict[str, str] = {}
    for package in (package for arch in host.arches.values() for package in arch.packages):
        if digests.setdefault(package.filename, package.sha256) != package.sha256:
            fields.fail("arches", f"two packages are named {package.filename}")


# Writing


def _host_document(host: HostLock) -> dict[str, Any]:
    return {
        "lockfileVersion": 1,
        "lockfileVendor": "redhat",
        "release": host.release,
        "os": host.os,
        **({} if host.format == FORMATS[0] else {"format": host.format}),
        "arches": [_arch_entry(arch) for _, arch in sorted(host.arches.items())],
        "keys": [_file_entry(key) for key in sorted(host.keys, key=lambda key: key.url)],
        "unresolved": [
            {"name": entry.name, "reason": entry.reason}
            for entry in sorted(host.unresolved, key=lambda entry: entry.name)
        ],
    }


def _arch_entry(arch: ArchLock) -> dict[str, Any]:
    return {
        "arch": arch.arch,
        "packages": [_package_entry(package) for package in sorted(arch.packages, key=lambda package: package.url)],
        "source": [],
        "module_metadata": [_metadata_entry(part) for part in sorted(arch.modules, key=lambda part: part.url)],
        "roles": {role: sorted(names) for role, names in sorted(arch.roles.items())},
        **({} if arch.given is None else {"given": sorted(arch.given)}),
    }


def _package_entry(package: LockedPackage) -> dict[str, Any]:
    entry = {**_metadata_entry(package), "name": package.name, "evr": package.evr}
    if package.sourcerpm:
        entry["sourcerpm"] = package.sourcerpm
    entry["source"] = package.source
    return entry


def _metadata_entry(part: LockedPackage | LockedMetadata) -> dict[str, Any]:
    size = {} if part.size is None else {"size": part.size}
    return {"url": part.url, "repoid": part.repoid, **size, "checksum": f"sha256:{part.sha256}"}


def _file_entry(file: LockedFile) -> dict[str, Any]:
    return {"url": file.url, "sha256": file.sha256, "size": file.size, "source": file.source}


def _image_document(images: Mapping[str, LockedImage]) -> dict[str, Any]:
    entries = [
        {
            "image": f"{ref.rsplit(':', 1)[0]}@{image.digest}",
            "annotations": {ID: ref, PLATFORMS: ",".join(image.platforms), SOURCE: image.source},
        }
        for ref, image in sorted(images.items())
    ]
    return {"apiVersion": "imgpkg.carvel.dev/v1alpha1", "kind": "ImagesLock", "images": entries}


def write_stream(path: Path, documents: Iterable[dict[str, Any]]) -> None:
    """Write a lock as a YAML stream, at once or not at all. HostError where the directory cannot be written."""
    # The pure Python dumper: the C one breaks and quotes long lines differently from version to version.
    texts = [
        "---\n" + yaml.dump(d, Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True, width=2**20)
        for d in documents
    ]
    data = (HEAD + "".join(texts)).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)
    except OSError as reason:
        raise HostError(f"{path}: {reason.strerror}", "Give a writable --lock-dir.") from reason


def _replace(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
