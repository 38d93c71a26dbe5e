"""Yum metadata of a directory of packages, the same bytes whenever and wherever it is made."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import tempfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import pack

import createrepo_c as cr

from bundler.archive import DamagedSource
from bundler.errors import IntegrityError
from bundler.store import Store, host_errors

_SPACE = "http://linux.duke.edu/metadata"
_KINDS = ("primary", "filelists", "other")
_HEADS = {
    "primary": f'<metadata xmlns="{_SPACE}/common" xmlns:rpm="{_SPACE}/rpm" packages="%d">\n',
    "filelists": f'<filelists xmlns="{_SPACE}/filelists" packages="%d">\n',
    "other": f'<otherdata xmlns="{_SPACE}/other" packages="%d">\n',
}
_TAILS = {"primary": "</metadata>\n", "filelists": "</filelists>\n", "other": "</otherdata>\n"}
_CHUNK = re.compile(r"(?s)<package .*?</package>\n")
_LOCATION = re.compile('<location href="([^"]+)"/>')
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


@dataclass(frozen=True)
class Rpm:
    """A package to be listed: its file name in the repository, the file that holds it, its sha256 (hex)."""

    name: str
    path: Path
    sha256: str


def build(rpms: Sequence[Rpm], stamp: int, modules: bytes = b"") -> dict[str, bytes]:
    """Return the files of ``repodata/`` by name, for packages that lie beside it; ``stamp`` is seconds since 1970.

    ``modules`` is a modules.yaml, without which dnf takes no modular package. DamagedSource if a package has another
    digest than it should; IntegrityError if it is no RPM.
    """
    return _assemble([_describe(rpm, stamp) for rpm in sorted(rpms, key=lambda rpm: rpm.name)], stamp, modules)


def subset(files: Mapping[str, bytes], names: Collection[str], stamp: int) -> dict[str, bytes]:
    """Return ``repodata/`` for those packages of another one that have these names, from a directory below them."""
    plain = {kind: _plain(files, kind) for kind in _KINDS}
    chunks = list(zip(*(_CHUNK.findall(plain[kind].decode()) for kind in _KINDS)))
    chosen = []
    for primary, filelists, other in chunks:
        name = _LOCATION.search(primary)
        if name and name[1] in names:
            chosen.append((primary.replace(name[0], f'<location href="../{name[1]}"/>'), filelists, other))
    return _assemble(chosen, stamp, _plain(files, "modules"))


def _plain(files: Mapping[str, bytes], kind: str) -> bytes:
    return b"".join(gzip.decompress(data) for name, data in files.items() if f"-{kind}." in name)


def _assemble(packages: Sequence[tuple[str, str, str]], stamp: int, modules: bytes) -> dict[str, bytes]:
    """Return the files for packages of which each is described by a chunk of each kind."""
    files: dict[str, bytes] = {}
    records = []
    plains = {}
    for at, kind in enumerate(_KINDS):
        head, chunks = _HEADS[kind] % len(packages), (package[at] for package in packages)
        plains[kind] = "".join([_XML, head, *chunks, _TAILS[kind]]).encode()
    for kind, plain in {**plains, **({"modules": modules} if modules else {})}.items():
        packed = gzip_stored(plain)
        name = f"{hashlib.sha256(packed).hexdigest()}-{kind}.{'yaml' if kind == 'modules' else 'xml'}.gz"
        files[name] = packed
        records.append(_record(kind, name, packed, plain, stamp))
    files["repomd.xml"] = (
        f'{_XML}<repomd xmlns="{_SPACE}/repo" xmlns:rpm="{_SPACE}/rpm">\n  <revision>{stamp}</revision>\n'
        + "".join(records)
        + "</repomd>\n"
    ).encode()
    return files


def _describe(rpm: Rpm, stamp: int) -> tuple[str, str, str]:
    try:
        package = cr.package_from_rpm(str(rpm.path), location_href=rpm.name)
        digest = package.pkgId
    except (cr.CreaterepoCError, OSError):
        package, digest = None, hashlib.sha256(rpm.path.read_bytes()).hexdigest()
    if digest != rpm.sha256:
        raise DamagedSource(rpm.name, rpm.path, rpm.sha256)
    if package is None:
        raise IntegrityError(f"{rpm.name}: has the right digest, but is no RPM", "Pin it anew with `bundler lock`.")
    package.time_file = stamp
    return cr.xml_dump_primary(package), cr.xml_dump_filelists(package), cr.xml_dump_other(package)


def _record(kind: str, name: str, packed: bytes, plain: bytes, stamp: int) -> str:
    return (
        f'  <data type="{kind}">\n'
        f'    <checksum type="sha256">{hashlib.sha256(packed).hexdigest()}</checksum>\n'
        f'    <open-checksum type="sha256">{hashlib.sha256(plain).hexdigest()}</open-checksum>\n'
        f'    <location href="repodata/{name}"/>\n'
        f"    <timestamp>{stamp}</timestamp>\n"
        f"    <size>{len(packed)}</size>\n"
        f"    <open-size>{len(plain)}</open-size>\n"
        "  </data>\n"
    )


def gzip_stored(plain: bytes) -> bytes:
    """Return ``plain`` as a gzip file without compression.

    Old yum wants ``.gz``, and how well zlib packs differs between its versions and forks; stored blocks do not.
    """
    out = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff"]
    for start in range(0, max(1, len(plain)), 0xFFFF):
        block = plain[start : start + 0xFFFF]
        last = start + 0xFFFF >= len(plain)
        out.append(pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block)
    return b"".join(out) + pack("<II", zlib.crc32(plain), len(plain) & 0xFFFFFFFF)


def modules(packed: Sequence[Rpm]) -> bytes:
    """Return one modules.yaml out of several as they were published, packed or not.

    DamagedSource or IntegrityError if one cannot be unpacked.
    """
    documents = []
    for one in packed:
        text = _unpacked(one).strip()
        documents.append(text if text.startswith(b"---") else b"---\n" + text)
    return b"".join(document + b"\n" for document in documents)


def _unpacked(packed: Rpm) -> bytes:
    data = packed.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != packed.sha256:
        raise DamagedSource(packed.name, packed.path, packed.sha256)
    if data.startswith(b"---"):
        return data
    with tempfile.TemporaryDirectory(prefix="kubecarry-") as folder:
        plain = Path(folder, "plain")
        try:
            cr.decompress_file(str(packed.path), str(plain), cr.AUTO_DETECT_COMPRESSION)
        except cr.CreaterepoCError as reason:
            raise IntegrityError(f"{packed.name}: cannot be unpacked: {reason}") from reason
        return plain.read_bytes()


def licences(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the licence of each package that has one, by sha256 (hex), out of the files of ``repodata/``."""
    found: dict[str, str] = {}

    def note(package: cr.Package) -> None:
        if package.rpm_license:
            found[package.pkgId] = package.rpm_license

    for name, data in files.items():
        if name.endswith("-primary.xml.gz"):
            text = gzip.decompress(data).decode()
            packages = text[text.find("<package ") : text.rindex("</metadata>")] if "<package " in text else ""
            cr.xml_parse_primary_snippet(packages, pkgcb=note, do_files=False)
    return found


def describe(rpms: Sequence[Rpm], stamp: int, store: Store, packed: Sequence[Rpm] = ()) -> dict[str, bytes]:
    """Return what ``build`` returns, from the cache if these packages were described before.

    ``packed`` are the modules.yaml that go with them.
    """
    note = store.root / "repodata" / _key([*rpms, *packed], stamp)
    files = _recall(note, store)
    if files is None:
        files = build(rpms, stamp, modules(packed))
        _remember(note, files, store)
    return files


def _key(rpms: Sequence[Rpm], stamp: int) -> str:
    lines = sorted(f"{rpm.name} {rpm.sha256}" for rpm in rpms)
    return hashlib.sha256("\n".join([f"createrepo_c {cr.VERSION}", str(stamp), *lines]).encode()).hexdigest()


def _recall(note: Path, store: Store) -> dict[str, bytes] | None:
    """Return what was noted, or None if it is not there or not whole."""
    try:
        digests = dict(line.split(" ") for line in note.read_text().splitlines())
        files = {name: store.path(digests[name]).read_bytes() for name in digests}
    except (OSError, ValueError):
        return None
    whole = all(hashlib.sha256(data).hexdigest() == digests[name] for name, data in files.items())
    return files if whole and set(files) >= {"repomd.xml"} else None


def _remember(note: Path, files: Mapping[str, bytes], store: Store) -> None:
    lines = [f"{name} {store.add_bytes(data)}\n" for name, data in sorted(files.items())]
    with host_errors(note):
        note.parent.mkdir(exist_ok=True)
        temporary = note.with_name(f".{note.name}.{os.getpid()}")
        temporary.write_text("".join(lines))
        temporary.replace(note)
