"""The bill of materials: CycloneDX 1.5, derived from the locks alone."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from bundler import __version__
from bundler.locked import LockedFile, LockedImage, LockedPackage
from bundler.selection import Selection
from bundler.wanted import DEB_ARCHES

_NAMESPACE = uuid.UUID("6f1d9ef6-6a5c-5b1e-9c53-0d7ab7b2f5a4")


def build(selection: Selection, created: int, licences: Mapping[str, str] | None = None) -> bytes:
    """Return the bill of materials of a build; ``created`` is in seconds since 1970, ``licences`` by sha256 (hex)."""
    components = _licensed(_components(selection), licences or {})
    components.sort(key=lambda component: str(component["bom-ref"]))
    identity = json.dumps([selection.release.kubernetes, components], sort_keys=True)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, identity)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [{"type": "application", "name": "kubecarry", "version": __version__}]},
            "component": {
                "type": "application",
                "bom-ref": "bundle",
                "name": "kubernetes",
                "version": selection.release.kubernetes,
            },
        },
        "components": components,
    }
    return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()


def _components(selection: Selection) -> list[dict[str, Any]]:
    found = [_file(path, file) for path, file in selection.files().items()]
    found += [_image(image) for image, _ in selection.images()]
    for os_name in selection.os_names:
        for arch in [selection.release.hosts[os_name].arch(arch) for arch in selection.arches]:
            carried = {package.filename for package in selection.packages(os_name)}
            packages = selection.host(os_name).arches[arch].packages
            found += [_package(os_name, package) for package in packages if package.filename in carried]
    return list({component["bom-ref"]: component for component in found}.values())


def _licensed(components: Sequence[dict[str, Any]], licences: Mapping[str, str]) -> list[dict[str, Any]]:
    """Add the licence, in the words of whoever made the package, to each component that has one."""
    found = []
    for component in components:
        licence = licences.get(component["hashes"][0]["content"])
        found.append({**component, "licenses": [{"license": {"name": licence}}]} if licence else component)
    return found


def _package(os_name: str, package: LockedPackage) -> dict[str, Any]:
    purl = (_deb_purl if package.filename.endswith(".deb") else _rpm_purl)(os_name, package)
    component = _component("library", f"packages/{os_name}/{package.filename}", package.name, package.evr, purl)
    return {**component, **_origin(package.url, package.sha256)}


def _rpm_purl(os_name: str, package: LockedPackage) -> str:
    epoch, _, evr = package.evr.rpartition(":")
    arch = package.filename.rsplit(".", 2)[-2]
    purl = f"pkg:rpm/{quote(package.name)}@{quote(evr, safe='')}?arch={arch}"
    return purl + f"&distro={os_name}" + (f"&epoch={epoch}" if epoch else "")


def _deb_purl(os_name: str, package: LockedPackage) -> str:
    # Some repositories put the sha256 behind it
    arch = re.search(rf"_({'|'.join(['all', *DEB_ARCHES.values()])})(_[0-9a-f]+)?\.deb$", package.filename)
    purl = f"pkg:deb/{quote(package.name)}@{quote(package.evr, safe='')}?"
    return purl + (f"arch={arch[1]}&" if arch else "") + f"distro={os_name}"


def _image(image: LockedImage) -> dict[str, Any]:
    repository, tag = image.ref.rsplit(":", 1)
    name = repository.rsplit("/", 1)[-1]
    purl = f"pkg:oci/{quote(name)}@{quote(image.digest, safe='')}?repository_url={quote(repository, safe='/')}"
    component = _component("container", image.ref, repository, tag, f"{purl}&tag={quote(tag)}")
    return {**component, "hashes": [{"alg": "SHA-256", "content": image.digest.partition(":")[2]}]}


def _file(path: str, file: LockedFile) -> dict[str, Any]:
    purl = f"pkg:generic/{quote(path.rsplit('/', 1)[-1])}?download_url={quote(file.url, safe='')}"
    component = _component("file", path, path, "", f"{purl}&checksum=sha256:{file.sha256}")
    return {**component, **_origin(file.url, file.sha256)}


def _component(kind: str, ref: str, name: str, version: str, purl: str) -> dict[str, Any]:
    component = {"type": kind, "bom-ref": ref, "name": name, "purl": purl}
    return {**component, "version": version} if version else component


def _origin(url: str, sha256: str) -> dict[str, Any]:
    return {
        "hashes": [{"alg": "SHA-256", "content": sha256}],
        "externalReferences": [{"type": "distribution", "url": url}],
    }
