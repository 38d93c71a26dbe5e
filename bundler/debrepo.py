"""Apt metadata of a directory of debs (a flat repository), the same bytes whenever and wherever it is made."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import createrepo_c as cr

from bundler.archive import DamagedSource, hash_file
from bundler.errors import IntegrityError
from bundler.repodata import gzip_stored

_HINT = "Pin it anew with `bundler lock`."
_MOST = 16 << 20  # bytes that a package says of itself


@dataclass(frozen=True)
class Deb:
    """A package to be listed: its file name in the repository, the file that holds it, its sha256 (hex)."""

    name: str
    path: Path
    sha256: str


def build(debs: Sequence[Deb], suite: str, stamp: int) -> dict[str, bytes]:
    """Return ``Packages``, ``Packages.gz`` and ``Release``, for debs beside them; ``stamp`` is seconds since 1970.

    DamagedSource if a package has another digest than it should; IntegrityError if it is no deb.
    """
    stanzas = [_stanza(deb) for deb in sorted(debs, key=lambda deb: deb.name)]
    plain = "\n".join(stanzas).encode()
    files = {"Packages": plain, "Packages.gz": gzip_stored(plain)}
    lines = [f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n" for name, data in files.items()]
    head = f"Suite: {suite}\nDate: {formatdate(stamp, usegmt=True)}\nSHA256:\n"
    return {**files, "Release": (head + "".join(lines)).encode()}


def licences(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the licence of each package that names one in its control file, by sha256 (hex), out of ``Packages``."""
    stanzas = files.get("Packages", b"").decode().split("\n\n")
    found = {}
    for fields in (dict(re.findall(r"^(License|SHA256): (.+)$", stanza, re.MULTILINE)) for stanza in stanzas):
        if {"License", "SHA256"} <= set(fields):
            found[fields["SHA256"]] = fields["License"].strip()
    return found


def _stanza(deb: Deb) -> str:
    with deb.path.open("rb") as file:
        digest = hash_file(file.fileno())
    if digest != deb.sha256:
        raise DamagedSource(deb.name, deb.path, deb.sha256)
    try:
        control = _control(deb.path)
    except (ValueError, KeyError, OSError, tarfile.TarError, cr.CreaterepoCError) as reason:
        raise IntegrityError(f"{deb.name}: has the right digest, but is no deb: {reason}", _HINT) from reason
    size = deb.path.stat().st_size
    return f"{control.strip()}\nFilename: ./{deb.name}\nSize: {size}\nSHA256: {deb.sha256}\n"


def _control(path: Path) -> str:
    """Return what a deb says of itself: the file ``control`` in its ``control.tar.*``."""
    for name, data in _members(path):
        if name.startswith("control.tar"):
            with tarfile.open(fileobj=io.BytesIO(_unpacked(data))) as tar:
                entry = {os.path.normpath(member.name): member for member in tar}["control"]
                file = tar.extractfile(entry)
                return file.read(_MOST).decode() if file else ""
    raise ValueError("there is no control.tar in it")


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the small members of an ar archive: those before the data."""
    with path.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError("not an ar archive")
        while len(head := file.read(60)) == 60:
            name, size = head[:16].decode().rstrip(" /"), int(head[48:58])
            if size > _MOST:
                return
            yield name, file.read(size)
            file.seek(size % 2, os.SEEK_CUR)


def _unpacked(data: bytes) -> bytes:
    if not data.startswith(b"\x28\xb5\x2f\xfd"):
        return data  # tarfile knows all but zstd
    with tempfile.TemporaryDirectory(prefix="kubecarry-") as folder:
        packed, plain = Path(folder, "packed"), Path(folder, "plain")
        packed.write_bytes(data)
        cr.decompress_file(str(packed), str(plain), cr.AUTO_DETECT_COMPRESSION)
        return plain.read_bytes()
