"""What a bundle holds, as plain data: for `inspect`, the page and the API."""

import json
from typing import Any, Dict, List, Set

from .bundle import SIGNATURE, SUMS, Bundle
from .contract import Host
from .errors import IntegrityError
from .images import blob_path

CLOSURE = "closure.json"
SBOM = "sbom.cdx.json"


def facts(bundle: Bundle) -> Dict[str, Any]:
    """Release, hosts, images, add-ons, charts, proof and sizes (bytes). Raises IntegrityError for a damaged member."""
    info = bundle.info
    return {
        "release": info.release, "kubernetes": info.kubernetes, "created": info.created, "arches": info.arches,
        "files": len(bundle.members), "size": _size(bundle, bundle.members), "signed": SIGNATURE in bundle.members,
        "sums": bundle.digests[SUMS], "sbom": SBOM in bundle.members,
        "hosts": [_host(bundle, host) for host in info.hosts],
        "images": [{"ref": image.ref, "digest": image.digest, "platforms": image.platforms, "roles": image.roles,
                    "size": _size(bundle, _blobs(bundle, image.digest))} for image in info.images],
        "addons": [{"name": addon.name, "version": addon.version, "kind": addon.kind} for addon in info.addons],
        "charts": [path for path in sorted(bundle.members) if path.startswith("charts/") and path.endswith(".tgz")],
        "closure": _closure(bundle),
    }


def _size(bundle: Bundle, paths: Any) -> int:
    return sum(bundle.members[path].size for path in paths if path in bundle.members)


def _host(bundle: Bundle, host: Host) -> Dict[str, Any]:
    roles = {role: bundle.read(path).decode("utf-8", "replace").split() for role, path in host.roles.items()}
    everything: Set[str] = {path for paths in roles.values() for path in paths}
    return {"name": host.name, "format": host.format, "path": host.path, "keys": host.keys,
            "roles": {role: len(paths) for role, paths in roles.items()}, "packages": len(everything),
            "size": _size(bundle, everything)}


def _blobs(bundle: Bundle, digest: str) -> Set[str]:
    """The paths of everything that an image is made of, as far as the bundle has it."""
    path = blob_path(digest)
    if path not in bundle.members:
        return set()
    found = {path}
    try:
        manifest = json.loads(bundle.read(path).decode("utf-8"))
        for child in manifest.get("manifests", []):
            found |= _blobs(bundle, str(child["digest"]))
        for child in [manifest.get("config"), *manifest.get("layers", [])]:
            if child:
                found.add(blob_path(str(child["digest"])))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError("{} is not an image manifest".format(path)) from None
    return found


def _closure(bundle: Bundle) -> Dict[str, Any]:
    """What closure.json proves, in numbers; empty where the bundle has none."""
    if CLOSURE not in bundle.members:
        return {}
    try:
        proven = json.loads(bundle.read(CLOSURE).decode("utf-8"))["proven"]
        roles: List[Dict[str, Any]] = [
            {"host": host, "role": role, "packages": int(proof["packages"]), "assumed": len(proof["assumed"])}
            for host, by_role in sorted(proven["roles"].items()) for role, proof in sorted(by_role.items())]
        return {"roles": roles, "images": len(proven["images"])}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError("{} is not what docs/formats.md says".format(CLOSURE)) from None
