"""Helm charts as OCI artifacts: each `charts/<name>-<version>.tgz` as tag `<version>` of `/v2/charts/<name>`."""

import json
import re
from typing import Dict

from ..bundle import Bundle
from ..images import Images
from .content import Content, Entity

_CHART = re.compile(r"charts/(?P<name>.+?)-(?P<version>v?[0-9]+\.[0-9]+\.[0-9]+(?:[+-][0-9A-Za-z.+-]+)?)\.tgz")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.cncf.helm.config.v1+json"
_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


def add(bundle: Bundle, images: Images, content: Content) -> Dict[str, Entity]:
    """Add a repository for each chart; digest -> what it stands for, in memory or in the bundle.

    Manifest and config are made of the chart's name, version and digest alone: every server makes the same bytes.
    """
    found: Dict[str, Entity] = {}
    for path, member in bundle.members.items():
        match = _CHART.fullmatch(path)
        if match is None:
            continue
        name, version = match.group("name"), match.group("version")
        config = content.make(_json({"apiVersion": "v2", "name": name, "version": version}), _CONFIG, [])
        layer = Entity(member, bundle.digests[path], _LAYER, [])
        manifest = content.make(_json({
            "schemaVersion": 2, "mediaType": _MANIFEST, "config": _descriptor(config), "layers": [_descriptor(layer)],
            "annotations": {"org.opencontainers.image.title": name, "org.opencontainers.image.version": version},
        }), _MANIFEST, [])
        repository = images.add("charts/" + name)
        repository.tags[version.replace("+", "_")] = "sha256:" + manifest.sha256  # as helm spells it: no + in a tag
        repository.manifests["sha256:" + manifest.sha256] = _MANIFEST
        for entity in (config, layer, manifest):
            repository.blobs["sha256:" + entity.sha256] = entity.media_type
            found["sha256:" + entity.sha256] = entity
    return found


def _json(value: Dict[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("utf-8")


def _descriptor(entity: Entity) -> Dict[str, object]:
    return {"mediaType": entity.media_type, "digest": "sha256:" + entity.sha256, "size": entity.member.size}
