"""An upstream of paper: everything that releases and their add-ons name, under its true name, with nothing inside.

It needs no program but Python. Its packages and images are well formed, and its packages require what the true ones do
(``paper.yaml``), but install nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import createrepo_c
import yaml

from .paperrpm import rpm

MANIFESTS = Path(__file__).parent.parent.parent / "manifests"
PACKAGES = Path(__file__).with_name("paper.yaml")
RPM_ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}
IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nA key of paper.\n-----END PGP PUBLIC KEY BLOCK-----\n"


@contextmanager
def upstream(root: Path, *releases: str) -> Iterator[Path]:
    """Write and serve the upstream of releases on loopback while the block runs; yields mirrors.yaml."""
    hosts, registries = write(root, *releases)

    class Handler(_Handler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(root))

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        mirrors = {host: f"{here}/{host.partition('://')[2]}" for host in hosts}
        mirrors |= {registry: f"{here}/{registry}" for registry in registries}
        (root / "mirrors.yaml").write_text(yaml.safe_dump({"mirrors": mirrors}))
        yield root / "mirrors.yaml"
        server.shutdown()


def write(root: Path, *releases: str) -> tuple[set[str], set[str]]:
    """Write what releases and all add-ons that fit them name below root; return URLs of file hosts, and registries."""
    site = _Site(root)
    for release in releases:
        site.add(_yaml(MANIFESTS / f"{release}.yaml"))
    return site.hosts, site.write_images()


class _Site:
    """A folder for each host, and ``v2`` for images; what is there already is not written again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hosts: set[str] = set()
        self._images: dict[str, set[str]] = {}
        self._packages = _yaml(PACKAGES)
        self._addons = [_yaml(path) for path in sorted((MANIFESTS / "addons").glob("*.yaml"))]

    def add(self, manifest: dict[str, Any]) -> None:
        """Add a release, for all its architectures and hosts, with every add-on that fits it."""
        for arch in manifest["arches"]:
            for binary in manifest.get("binaries", ()):
                url, checksum = (binary[key].format(arch=arch) for key in ("url", "checksum"))
                content = f"#!/bin/sh\necho {binary['name']} of paper for {arch}\n".encode()
                self._put(url, content)
                self._put(checksum, hashlib.sha256(content).hexdigest().encode())
        for host in manifest["hosts"].values():
            for repo in host["repos"]:
                self._add_repo(repo, [RPM_ARCHES[arch] for arch in manifest["arches"]])
        images = [i if isinstance(i, str) else i["ref"] for i in manifest["images"]]
        names = {manifest["release"], manifest["release"].partition("-")[0]}
        for addon in (addon for addon in self._addons if names & set(addon["releases"])):
            images += addon["images"]
            self._add_manifests(addon)
        for reference in images:
            self._images.setdefault(reference, set()).update(manifest["arches"])

    def _add_manifests(self, addon: dict[str, Any]) -> None:
        literals = "".join(f" {r['from']}\n" for r in addon.get("replace", ()))  # replaced by several lines, maybe
        for source in addon["manifests"]:
            if "url" in source:
                self._put(source["url"], f"kind: List\ntext: |1\n{literals}".encode())

    def _add_repo(self, repo: dict[str, Any], arches: Sequence[str]) -> None:
        """One repository for each architecture, or one for all if its URL does not tell them apart."""
        for key in repo["keys"]:
            self._put(key, KEY.encode())
        url = repo["baseurl"]
        for base in {url.format(rpmarch=arch) for arch in arches}:
            directory = self._place(base)
            if not (directory / "repodata/repomd.xml").exists():
                directory.mkdir(parents=True, exist_ok=True)
                built = [arch for arch in arches if url.format(rpmarch=arch) == base]
                write_repo(directory, self._packages.get(url, {}), built)

    def write_images(self) -> set[str]:
        """Write each image that was added; returns their registries."""
        for reference, arches in self._images.items():
            _write_image(self.root / "v2" / reference.rpartition(":")[0], reference, sorted(arches))
        return {reference.split("/")[0] for reference in self._images}

    def _place(self, url: str) -> Path:
        self.hosts.add("/".join(url.split("/")[:3]))
        return self.root / url.split("://", 1)[1]

    def _put(self, url: str, content: bytes) -> None:
        path = self._place(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_repo(directory: Path, packages: dict[str, list[str]], arches: Sequence[str]) -> None:
    paths = []
    for nevr, capabilities in packages.items():
        name, evr, release = nevr.removesuffix(".noarch").rsplit("-", 2)
        epoch, _, version = evr.rpartition(":")
        requires = [text for text in capabilities if not text.startswith("provides ")]
        provides = [text.partition(" ")[2] for text in capabilities if text not in requires]
        for arch in ["noarch"] if nevr.endswith(".noarch") else arches:
            paths.append(directory / f"{name}-{version}-{release}.{arch}.rpm")
            paths[-1].write_bytes(rpm(name, version, arch, release, int(epoch or 0), requires, provides))
    with createrepo_c.RepositoryWriter(
        str(directory), num_packages=len(paths), compression=createrepo_c.GZ_COMPRESSION
    ) as writer:
        for path in paths:
            writer.add_pkg(createrepo_c.package_from_rpm(str(path), location_href=path.name))


def _write_image(base: Path, reference: str, arches: Sequence[str]) -> None:
    """Write an image of one small layer into its repository, as an index where it is for several architectures."""
    manifests = [_image_manifest(base, reference, arch) for arch in arches]
    top = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()
    if len(arches) == 1:
        top = (base / "manifests" / str(manifests[0]["digest"])).read_bytes()
    _write(base / "manifests", top)
    (base / "manifests" / reference.rpartition(":")[2]).write_bytes(top)


def _image_manifest(base: Path, reference: str, arch: str) -> dict[str, Any]:
    """Write an image for one architecture; returns its descriptor. Its one file makes each one of its own."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry, text = tarfile.TarInfo("paper"), f"{reference} {arch}\n".encode()
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    layer = {"mediaType": LAYER, **_write(base / "blobs", gzip.compress(tar.getvalue(), mtime=0))}
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar.getvalue()).hexdigest()}"]}
    config = json.dumps({"architecture": arch, "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    described = {"mediaType": CONFIG, **_write(base / "blobs", config)}
    document = {"schemaVersion": 2, "mediaType": IMAGE, "config": described, "layers": [layer]}
    platform = {"os": "linux", "architecture": arch}
    return {"mediaType": IMAGE, **_write(base / "manifests", json.dumps(document).encode()), "platform": platform}


def _write(directory: Path, content: bytes) -> dict[str, object]:
    """Write a blob under its digest; returns digest and size."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / digest).write_bytes(content)
    return {"digest": digest, "size": len(content)}


def _yaml(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def guess_type(self, path: Any) -> str:
        """Manifests by what they say they are; everything else is bytes."""
        if not re.search(r"/v2/.*/manifests/", str(path)):
            return "application/octet-stream"
        found = re.search(rb'"mediaType": "([^"]+)"', Path(path).read_bytes())
        return found[1].decode() if found else IMAGE

    def log_message(self, format: str, *words: Any) -> None:
        """Stay silent: the demo shows the client's side."""
