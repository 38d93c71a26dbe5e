"""An upstream of paper: everything a release names, under its true name, with nothing inside.

For machines that cannot build the real one: it needs no program but Python. Its packages and images are well formed and
install nothing.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import createrepo_c
import yaml

from .paperrpm import rpm

MANIFESTS = Path(__file__).parent.parent.parent / "manifests"
IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nA key of paper.\n-----END PGP PUBLIC KEY BLOCK-----\n"


@contextmanager
def upstream(root: Path, release: str) -> Iterator[Path]:
    """Write and serve the upstream of a release on loopback while the block runs; yields mirrors.yaml."""
    hosts, registries = write(root, release)

    class Handler(_Handler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(root))

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        mirrors = {f"https://{h}": f"{here}/{h}" for h in hosts} | {r: f"{here}/{r}" for r in registries}
        (root / "mirrors.yaml").write_text(yaml.safe_dump({"mirrors": mirrors}))
        yield root / "mirrors.yaml"
        server.shutdown()


def write(root: Path, release: str) -> tuple[set[str], set[str]]:
    """Write what a release and its add-ons name below root; return the hosts of its files and of its images."""
    manifest = yaml.safe_load((MANIFESTS / f"{release}.yaml").read_text())
    addons = [a for a in map(_yaml, sorted((MANIFESTS / "addons").glob("*.yaml"))) if a["addon"] in manifest["addons"]]
    for binary in manifest["binaries"]:
        url, checksum = (binary[k].format(arch=manifest["arches"][0]) for k in ("url", "checksum"))
        content = f"#!/bin/sh\necho {binary['name']} of paper\n".encode()
        _put(root, url, content)
        _put(root, checksum, hashlib.sha256(content).hexdigest().encode())
    for addon in addons:
        literals = "".join(f" {r['from']}\n" for r in addon.get("replace", ()))  # replaced by several lines, maybe
        for source in addon["manifests"]:
            if "url" in source:
                _put(root, source["url"], f"kind: List\ntext: |1\n{literals}".encode())
    for host in manifest["hosts"].values():
        _write_repos(root, host)
    references = [i if isinstance(i, str) else i["ref"] for i in manifest["images"]]
    references += [i for addon in addons for i in addon["images"]]
    for reference in references:
        _write_image(root, reference)
    files = {p.name for p in root.iterdir() if p.name != "v2"}
    return files, {r.split("/")[0] for r in references}


def _write_repos(root: Path, host: dict[str, Any]) -> None:
    """The packages that the roles name lie in the first repository; the others are empty."""
    wanted = sorted({spec for role in host["roles"].values() for spec in role})
    for repo in host["repos"]:
        directory = _place(root, repo["baseurl"].format(rpmarch="x86_64"))
        directory.mkdir(parents=True, exist_ok=True)
        for key in repo["keys"]:
            _put(root, key, KEY.encode())
        packages = []
        for spec in wanted:
            name, _, version = spec.rpartition("-")
            packages.append(directory / f"{name}-{version}-0.x86_64.rpm")
            packages[-1].write_bytes(rpm(name, version))
        with createrepo_c.RepositoryWriter(
            str(directory), num_packages=len(packages), compression=createrepo_c.GZ_COMPRESSION
        ) as writer:
            for path in packages:
                writer.add_pkg(createrepo_c.package_from_rpm(str(path), location_href=path.name))
        wanted = []


def _write_image(root: Path, reference: str) -> None:
    name, tag = reference.rsplit(":", 1)
    base = root / "v2" / name

    def blob(content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (base / "blobs").mkdir(parents=True, exist_ok=True)
        (base / "blobs" / f"sha256:{digest}").write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    rootfs: dict[str, object] = {"type": "layers", "diff_ids": []}
    # The label makes each image one of its own.
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {"Labels": {"paper": reference}}, "rootfs": rootfs}
    ).encode()
    manifest = {"schemaVersion": 2, "mediaType": IMAGE, "config": {"mediaType": CONFIG, **blob(config)}, "layers": []}
    content = json.dumps(manifest).encode()
    (base / "manifests").mkdir(parents=True, exist_ok=True)
    for called in (tag, f"sha256:{hashlib.sha256(content).hexdigest()}"):
        (base / "manifests" / called).write_bytes(content)


def _yaml(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


def _place(root: Path, url: str) -> Path:
    return root / url.split("://", 1)[1]


def _put(root: Path, url: str, content: bytes) -> None:
    path = _place(root, url)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def guess_type(self, path: Any) -> str:
        return IMAGE if "/manifests/" in str(path) and "/v2/" in str(path) else "application/octet-stream"

    def log_message(self, format: str, *words: Any) -> None:
        """Stay silent: the demo shows the client's side."""
