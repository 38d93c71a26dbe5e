"""Other places that may have a file already: a folder, or a former bundle. Everything is found by its digest."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from pathlib import Path
from typing import BinaryIO

from bundler.errors import HostError, IntegrityError
from bundler.store import CHUNK, Source

HINT = "name a folder or a bundle that `bundler build` wrote with --source"


def open_source(path: Path) -> Source:
    """The source at ``path``. HostError if there is none, IntegrityError if it is a file but no bundle."""
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise HostError(f"{path}: there is no such folder or bundle", HINT)
    return Bundle(path)


class Folder:
    """A folder of files under any names; only files whose size fits are hashed, each once."""

    def __init__(self, root: Path) -> None:
        """Look at the names and sizes below ``root``."""
        self.path = root
        self._lock = threading.Lock()
        self._sizes: dict[int, list[Path]] = {}
        self._digests: dict[Path, str] = {}
        for path in sorted(root.rglob("*")):
            if path.is_file():
                self._sizes.setdefault(path.stat().st_size, []).append(path)

    def open(self, sha256: str, size: int | None) -> BinaryIO | None:
        """Open the file of this digest; None if it is not here."""
        sizes = list(self._sizes) if size is None else [size]
        for path in (path for size in sizes for path in self._sizes.get(size, [])):
            if self._digest(path) == sha256:
                return path.open("rb")
        return None

    def _digest(self, path: Path) -> str:
        with self._lock:
            if path not in self._digests:
                self._digests[path] = _hashed(path)
            return self._digests[path]


class Bundle:
    """A former bundle: a plain tar whose ``bundle.json`` lists every member's digest."""

    def __init__(self, path: Path) -> None:
        """Read the table of contents. IntegrityError if ``path`` is no bundle."""
        self.path = path
        try:
            with tarfile.open(path, "r:") as tar:
                contract = tar.extractfile("bundle.json")
                files = json.load(contract)["files"] if contract else []
                members = {member.name: member for member in tar}
                self._places = {
                    entry["sha256"]: (members[entry["path"]].offset_data, members[entry["path"]].size)
                    for entry in files
                    if entry["path"] in members
                }
        except (tarfile.TarError, KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{path}: not a bundle: {error}", HINT) from error
        except OSError as error:
            raise HostError(f"{path}: {error.strerror or error}", HINT) from error

    def open(self, sha256: str, size: int | None) -> BinaryIO | None:
        """Open the member of this digest; None if there is none."""
        if sha256 not in self._places:
            return None
        offset, length = self._places[sha256]
        return io.BufferedReader(_Section(self.path, offset, length)) if size in (None, length) else None


class _Section(io.RawIOBase):
    """``length`` bytes of a file from ``offset`` on."""

    def __init__(self, path: Path, offset: int, length: int) -> None:
        self._file = path.open("rb")
        self._file.seek(offset)
        self._left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _hashed(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()
