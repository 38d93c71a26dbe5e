"""Container images written by hand: layers, configurations, manifests and indexes of an OCI image layout."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .home import EPOCH

CREATED = "2021-01-13T00:00:00Z"
TYPE = "application/vnd.oci.image."


@dataclass(frozen=True)
class Layer:
    """One layer: a tar.gz file and the sha256 hex of its uncompressed bytes."""

    path: Path
    diff_id: str

    @classmethod
    def load(cls, directory: Path) -> Layer:
        """Return the layer that write_layer left in directory."""
        return cls(directory / "layer.tar.gz", (directory / "diff_id").read_text())


def write_layer(directory: Path, entries: Mapping[str, object]) -> None:
    """Write layer.tar.gz and diff_id: path -> Path (a file), str (a link's target), bytes, or None (a directory).

    The same entries give the same bytes: sorted, owned by root, of the lab's fixed time.
    """
    plain = directory / "layer.tar"
    with tarfile.open(plain, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(_with_parents(entries)):
            _add(tar, path, entries.get(path))
    with plain.open("rb") as file:
        (directory / "diff_id").write_text(hashlib.file_digest(file, "sha256").hexdigest())
        file.seek(0)
        with (directory / "layer.tar.gz").open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, 0) as packed:
            shutil.copyfileobj(file, packed, 1 << 20)
    plain.unlink()


def _with_parents(entries: Mapping[str, object]) -> set[str]:
    paths = set(entries)
    for path in entries:
        paths.update(str(p) for p in Path(path).parents if str(p) != ".")
    return paths


def _add(tar: tarfile.TarFile, path: str, entry: object) -> None:
    info = tarfile.TarInfo(path)
    info.mtime, info.mode = int(EPOCH), 0o755
    if entry is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755
        tar.addfile(info)
    elif isinstance(entry, str):
        info.type, info.linkname = tarfile.SYMTYPE, entry
        tar.addfile(info)
    elif isinstance(entry, bytes):
        info.size, info.mode = len(entry), 0o644
        tar.addfile(info, io.BytesIO(entry))
    else:
        assert isinstance(entry, Path)
        with entry.open("rb") as file:
            size = os.fstat(file.fileno())
            info.size, info.mode = size.st_size, 0o755 if size.st_mode & 0o100 else 0o644
            tar.addfile(info, file)


class Layout:
    """An OCI image layout on disk, to which images are added under a name."""

    def __init__(self, root: Path) -> None:
        """Begin an empty layout at root, an existing directory."""
        self.root = root
        self.index: list[dict[str, object]] = []
        (root / "blobs/sha256").mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def add(self, name: str, descriptor: dict[str, object]) -> None:
        """Give the manifest or index of descriptor a name in the layout."""
        self.index.append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}})
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.index}))

    def image(self, layers: Sequence[Layer], config: Mapping[str, object], arch: str = "amd64") -> dict[str, object]:
        """Write one platform's image (config: Entrypoint, Env, Labels …) and return its descriptor."""
        platform = {"architecture": arch, "os": "linux", **({"variant": "v8"} if arch == "arm64" else {})}
        about = {
            **platform,
            "created": CREATED,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{one.diff_id}" for one in layers]},
            "history": [{"created": CREATED, "created_by": "kubecarry lab"} for _ in layers],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": TYPE + "manifest.v1+json",
            "config": self._blob(TYPE + "config.v1+json", json.dumps(about).encode()),
            "layers": [self._file(TYPE + "layer.v1.tar+gzip", one.path) for one in layers],
        }
        return {**self._blob(TYPE + "manifest.v1+json", json.dumps(manifest).encode()), "platform": platform}

    def list(self, manifests: Sequence[Mapping[str, object]]) -> dict[str, object]:
        """Write an index of one image for each platform and return its descriptor."""
        index = {"schemaVersion": 2, "mediaType": TYPE + "index.v1+json", "manifests": manifests}
        return self._blob(TYPE + "index.v1+json", json.dumps(index).encode())

    def _blob(self, kind: str, data: bytes) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (self.root / "blobs/sha256" / name).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}

    def _file(self, kind: str, path: Path) -> dict[str, object]:
        with path.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()
        blob = self.root / "blobs/sha256" / name
        if not blob.exists():
            os.link(path, blob)
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": path.stat().st_size}
