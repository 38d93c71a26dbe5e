"""Small bundles, written by docs/formats.md alone, so that readers are tested against the page and not the writer."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CREATED = 1610496000
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
NODE_SCRIPT = b'main() { printf "%s\\n" "$SERVER" "$@"; }\n'
FIRST = ("bundle.json", "SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.sigstore.json")


def sha256(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def blob(members: dict[str, bytes], data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    """Put a blob into the image layout of `members`; its descriptor."""
    members[f"images/blobs/sha256/{sha256(data)}"] = data
    return {"mediaType": media_type, "digest": f"sha256:{sha256(data)}", "size": len(data), **more}


def add_image(members: dict[str, bytes], ref: str, layers: Sequence[bytes], index: bool = False) -> dict[str, Any]:
    """Put an image into `members`; its entry for bundle.json. With `index`, one that names a platform it lacks."""
    diff = [{"type": "layers", "diff_ids": [f"sha256:{sha256(_plain(layer))}" for layer in layers]}]
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": diff[0], "ref": ref}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(members, config, CONFIG),
        "layers": [blob(members, layer, LAYER) for layer in layers],
    }
    top = blob(members, json.dumps(manifest).encode(), MANIFEST)
    if index:
        here = {**top, "platform": {"os": "linux", "architecture": "amd64"}}
        gone = {
            "mediaType": MANIFEST,
            "digest": "sha256:" + "0" * 64,
            "size": 7,
            "platform": {"os": "linux", "architecture": "s390x"},
        }
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [here, gone]}
        top = blob(members, json.dumps(body).encode(), INDEX)
    return image_entry(ref, top)


def _plain(layer: bytes) -> bytes:
    return gzip.decompress(layer) if layer.startswith(b"\x1f\x8b") else layer


def image_entry(ref: str, descriptor: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `images` in bundle.json for a reference and the descriptor of its manifest."""
    return {
        "ref": ref,
        "digest": descriptor["digest"],
        "mediaType": descriptor["mediaType"],
        "size": descriptor["size"],
        "platforms": ["linux/amd64"],
        "roles": ["master", "node"],
    }


def complete(members: Mapping[str, bytes], images: Sequence[Mapping[str, Any]] = (), **fields: Any) -> dict[str, bytes]:
    """`members` with node scripts (unless there are some), bundle.json and SHA256SUMS; `fields` go into bundle.json."""
    whole = dict(members)
    if not any(path.startswith("installer/node/") for path in whole):
        whole["installer/node/10-main.sh"] = NODE_SCRIPT
    files = [{"path": path, "sha256": sha256(data), "size": len(data)} for path, data in sorted(whole.items())]
    contract = {
        "schema": 1,
        "release": "1.20",
        "kubernetes": "v1.20.2",
        "created": CREATED,
        "arches": ["amd64"],
        "hosts": {},
        "images": list(images),
        "addons": [],
        "node": {"RELEASE": "1.20", "KUBERNETES_VERSION": "v1.20.2"},
        "files": files,
        **fields,
    }
    whole["bundle.json"] = (json.dumps(contract, sort_keys=True, indent=1) + "\n").encode()
    whole["SHA256SUMS"] = "".join(f"{sha256(data)}  {path}\n" for path, data in sorted(whole.items())).encode()
    return whole


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write members as a bundle's tar, as they are."""
    order = [name for name in FIRST if name in members] + sorted(name for name in members if name not in FIRST)
    return write_members(path, [(name, members[name]) for name in order])


def write_members(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """Write a tar of these members, in this order."""
    with path.open("wb") as tar:
        for name, data in members:
            tar.write(header(name, len(data)) + data + bytes(-len(data) % 512))
        tar.write(bytes(1024))
    return path


def header(name: str, size: int, mtime: int = CREATED, uid: int = 0, owner: str = "", kind: bytes = b"0") -> bytes:
    """A ustar header, as docs/formats.md has it; other values are for what must be refused."""
    cut = name.rfind("/", 0, 156) if len(name) > 100 else -1
    prefix, base = name[: max(cut, 0)], name[cut + 1 :] if cut > 0 else name
    mode = 0o755 if name.startswith("bin/") or name.endswith(".sh") else 0o644
    fields = (("100s", base.encode()), ("8s", b"%07o" % mode), ("8s", b"%07o" % uid), ("8s", b"%07o" % 0),
              ("12s", b"%011o" % size), ("12s", b"%011o" % mtime), ("8s", b" " * 8), ("1s", kind), ("100s", b""),
              ("6s", b"ustar"), ("2s", b"00"), ("32s", owner.encode()), ("32s", b""), ("8s", b"%07o" % 0),
              ("8s", b"%07o" % 0), ("155s", prefix.encode()), ("12s", b""))
    block = struct.pack("=" + "".join(form for form, _ in fields), *(value for _, value in fields))
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def make_bundle(
    path: Path, members: Mapping[str, bytes], images: Sequence[Mapping[str, Any]] = (), **fields: Any
) -> Path:
    """A valid bundle at `path` of `members` (path -> contents) and images made by `add_image`."""
    return write_tar(path, complete(members, images, **fields))


def unpack(bundle: Path, folder: Path) -> Path:
    """Unpack a bundle's tar into a new directory, as `tar xf` would."""
    folder.mkdir()
    with tarfile.open(bundle) as tar:
        tar.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else tar.extractall(folder)
    return folder


def sparse_bundle(path: Path, tree: Path, size: int, count: int) -> Path:
    """A bundle at `path` of `count` members of `size` zero bytes each, and its unpacked tree: holes on the disk."""
    digest = hashlib.sha256()
    for _ in range(size >> 20):
        digest.update(bytes(1 << 20))
    holes = [f"files/{number:04}" for number in range(count)]
    whole = complete({})
    contract = json.loads(whole["bundle.json"])
    contract["files"] += [{"path": name, "sha256": digest.hexdigest(), "size": size} for name in holes]
    contract["files"].sort(key=lambda entry: entry["path"])
    whole["bundle.json"] = json.dumps(contract).encode()
    sums = {name: sha256(data) for name, data in whole.items() if name != "SHA256SUMS"}
    sums.update(dict.fromkeys(holes, digest.hexdigest()))
    whole["SHA256SUMS"] = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()
    with path.open("wb") as tar:
        for name in [*FIRST[:2], *sorted({*whole, *holes} - set(FIRST))]:
            data = whole.get(name, b"")
            length = len(data) if name in whole else size
            tar.write(header(name, length) + data)
            tar.seek(-(-length // 512) * 512 - len(data), 1)
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(data)
            os.truncate(tree / name, length)
        tar.write(bytes(1024))
    return path
