"""Debian's docker-registry, with small images pushed by skopeo."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:0", secret: test}}
log: {{accesslog: {{disabled: false}}}}
"""
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Registry:
    """A running registry: its address, and what it was asked for."""

    def __init__(self, address: str, log: Path) -> None:
        self.address, self._log = address, log

    @property
    def blobs(self) -> list[str]:
        """The sha256 of each blob that was asked for, in order."""
        return re.findall(r'"GET /v2/\S+/blobs/sha256:([0-9a-f]{64}) HTTP/1.1" 20[06]', self._log.read_text())

    def push(self, repository: str, tag: str, layers: Sequence[int], work: Path) -> str:
        """Push an image for two platforms, with layers of these sizes; returns the digest of its index."""
        layout = work / f"{repository.replace('/', '_')}-{tag}"
        digest = make_layout(layout, layers, seed=repository)
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "--all", "--quiet", "--dest-tls-verify=false", f"oci:{layout}",
             f"docker://{self.address}/{repository}:{tag}"], check=True, capture_output=True,
        )
        return f"sha256:{digest}"


@contextmanager
def serve(root: Path) -> Iterator[Registry]:
    """Run a registry on a free port for the length of a with block; its data lie below ``root``."""
    root.mkdir(parents=True)
    config, log = root / "config.yml", root / "log"
    config.write_text(CONFIG.format(root=root / "data"))
    with log.open("wb") as output:
        process = subprocess.Popen(["docker-registry", "serve", config], stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Registry(_address(process, log), log)
    finally:
        process.terminate()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(200):
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the registry did not start: {log.read_text()}")


def make_layout(root: Path, layers: Sequence[int], seed: str) -> str:
    """Write an OCI layout of one image for amd64 and arm64; returns the sha256 of its index."""
    blobs = root / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    def put_json(document: object) -> dict[str, object]:
        return put(json.dumps(document).encode())

    manifests = []
    for arch in ("amd64", "arm64"):
        contents = [_layer(f"{seed} {arch} {number}", size) for number, size in enumerate(layers)]
        diffs = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in contents]
        config = {"architecture": arch, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diffs}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put_json(config)},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **put(layer)} for layer in contents],
        }
        platform = {"architecture": arch, "os": "linux"}
        manifests.append({"mediaType": MANIFEST, **put_json(manifest), "platform": platform})
    index = put_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
    (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [{"mediaType": INDEX, **index}]}))
    return str(index["digest"])[len("sha256:") :]


def _layer(seed: str, size: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("payload")
        info.size = size
        tar.addfile(info, io.BytesIO(random.Random(seed).randbytes(size)))
    return buffer.getvalue()
