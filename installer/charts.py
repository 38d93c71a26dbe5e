"""Helm charts as OCI artifacts: each `charts/<name>-<version>.tgz` as tag `<version>` of `/v2/charts/<name>`."""

import hashlib
import json
import re
from typing import Dict, Union

from .bundle import Bundle
from .images import Images

_CHART = re.compile(r"charts/(?P<name>.+?)-(?P<version>v?[0-9]+\.[0-9]+\.[0-9]+(?:[+-][0-9A-Za-z.+-]+)?)\.tgz")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.cncf.helm.config.v1+json"
_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


def add(bundle: Bundle, images: Images) -> Dict[str, Union[bytes, str]]:
    """Add a repository for each chart; digest -> bytes that are made here, or the path of the member that has them.

    Manifest and config are made of the chart's name, version and digest alone: every server makes the same bytes.
    """
    found: Dict[str, Union[bytes, str]] = {}
    for path in bundle.members:
        match = _CHART.fullmatch(path)
        if match is None:
            continue
        name, version = match.group("name"), match.group("version")
        config = _json({"apiVersion": "v2", "name": name, "version": version})
        layer = {"mediaType": _LAYER, "digest": "sha256:" + bundle.digests[path], "size": bundle.members[path].size}
        manifest = _json({
            "schemaVersion": 2, "mediaType": _MANIFEST, "config": _descriptor(config, _CONFIG), "layers": [layer],
            "annotations": {"org.opencontainers.image.title": name, "org.opencontainers.image.version": version},
        })
        repository = images.add("charts/" + name)
        repository.tags[version.replace("+", "_")] = _digest(manifest)  # as helm spells it: no + in a tag
        repository.manifests[_digest(manifest)] = _MANIFEST
        found.update({_digest(config): config, _digest(manifest): manifest, str(layer["digest"]): path})
        for digest in (_digest(config), _digest(manifest), str(layer["digest"])):
            repository.blobs[digest] = "application/octet-stream"
    return found


def _json(value: Dict[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("utf-8")


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _descriptor(data: bytes, media_type: str) -> Dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}
