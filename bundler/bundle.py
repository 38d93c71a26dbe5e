"""What is in a bundle: its members, ``bundle.json`` and ``SHA256SUMS`` (docs/formats.md, section 4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from bundler import debrepo, repodata, sbom
from bundler.archive import DamagedSource, Member
from bundler.errors import ManifestError
from bundler.fetch.images import ImageContent
from bundler.manifest import ROLES, Addon
from bundler.selection import Selection
from bundler.sign import sign, sigstore
from bundler.store import Store

SCHEMA = 1
CONTRACT, SUMS, SIGNATURE = "bundle.json", "SHA256SUMS", "SHA256SUMS.sig"
SIGSTORE = "SHA256SUMS.sigstore.json"
REF_NAME = "org.opencontainers.image.ref.name"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class CarriedImage:
    """An image in the store, and the roles that run it."""

    content: ImageContent
    roles: tuple[str, ...]


def members(
    selection: Selection,
    store: Store,
    images: Sequence[CarriedImage],
    metadata: Mapping[str, Mapping[str, bytes]],
    installer: Mapping[str, Path],
    created: int,
) -> list[Member]:
    """Return every member but those of ``head``, sorted by path. All that is locked must lie in ``store``.

    ``metadata`` is per host and path below its packages, ``installer`` maps member paths to files, ``created`` is in
    seconds.
    """
    found = [
        *(_stored(store, path, file.sha256) for path, file in selection.files().items()),
        *_own_manifests(selection.addons),
        *_packages(selection, store, metadata),
        *_images(store, images),
        *(Member.of(path, source.read_bytes()) for path, source in installer.items()),
        Member.of("lists/images", _image_list(images)),
        Member.of("lists/layers", _layer_list(images)),
        Member.of("sbom.cdx.json", sbom.build(selection, created, _licences(metadata))),
    ]
    return sorted(found, key=lambda member: member.path)


def _licences(metadata: Mapping[str, Mapping[str, bytes]]) -> dict[str, str]:
    found = [licences(files) for files in metadata.values() for licences in (repodata.licences, debrepo.licences)]
    return {sha256: licence for licences in found for sha256, licence in licences.items()}


def head(contract: Mapping[str, Any], body: Sequence[Member], key: ec.EllipticCurvePrivateKey | None) -> list[Member]:
    """Return the members that come first: the contract, the sums and, with a key, the signatures."""
    first = Member.of(CONTRACT, contract_bytes(contract))
    sums = sums_bytes({member.path: member.sha256 for member in [first, *body]})
    if not key:
        return [first, Member.of(SUMS, sums)]
    signature = sign(key, sums)
    return [first, Member.of(SUMS, sums), Member.of(SIGNATURE, signature),
            Member.of(SIGSTORE, sigstore(signature, sums))]


def sums_bytes(digests: Mapping[str, str]) -> bytes:
    """Return SHA256SUMS for sha256 digests (hex) by path."""
    return "".join(f"{digests[path]}  {path}\n" for path in sorted(digests)).encode()


def contract_bytes(contract: Mapping[str, Any]) -> bytes:
    """Return ``bundle.json`` as it is written."""
    return (json.dumps(contract, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def contract(
    selection: Selection, images: Sequence[CarriedImage], body: Sequence[Member], created: int,
    repo_keys: Mapping[str, str],
) -> dict[str, Any]:
    """Return the contents of ``bundle.json``; ``repo_keys`` is by host the path of the key that signs its metadata."""
    return {
        "schema": SCHEMA,
        "release": selection.release.release,
        "kubernetes": selection.release.kubernetes,
        "created": created,
        "arches": list(selection.arches),
        "hosts": {name: _host(selection, name, repo_keys.get(name)) for name in selection.os_names},
        "images": [_image(image) for image in images],
        "addons": [_addon(addon) for addon in selection.addons],
        "node": _node(selection, images, {member.path: member for member in body}),
        "files": [{"path": member.path, "sha256": member.sha256, "size": member.size} for member in body],
    }


def _stored(store: Store, path: str, sha256: str) -> Member:
    source = store.path(sha256)
    return Member(path, source.stat().st_size, sha256, source)


def _own_manifests(addons: Sequence[Addon]) -> list[Member]:
    return [
        Member.of(path, _read_own(addon, manifest.file))
        for addon in addons
        for path, manifest in zip(_manifest_paths(addon), addon.manifests)
        if manifest.file
    ]


def _read_own(addon: Addon, name: str) -> bytes:
    try:
        return (addon.directory / name).read_bytes()
    except OSError as reason:
        raise ManifestError(f"add-on {addon.name}: {addon.directory / name}: {reason.strerror}") from reason


def _packages(selection: Selection, store: Store, metadata: Mapping[str, Mapping[str, bytes]]) -> list[Member]:
    found = []
    for name in selection.os_names:
        top = f"packages/{name}"
        found += [_stored(store, f"{top}/{p.filename}", p.sha256) for p in selection.packages(name)]
        found += [Member.of(f"{top}/{file}", data) for file, data in metadata[name].items()]
        for role in ROLES:
            lines = [f"{top}/{package.filename}\n" for package in selection.role(name, role)]
            found.append(Member.of(f"lists/{name}/{role}.packages", "".join(lines).encode()))
    return found


def _images(store: Store, images: Sequence[CarriedImage]) -> list[Member]:
    blobs = sorted({digest for image in images for digest in image.content.blobs})
    index = {
        "schemaVersion": 2,
        "mediaType": _INDEX_TYPE,
        "manifests": [
            {
                "mediaType": image.content.media_type,
                "digest": image.content.digest,
                "size": image.content.size,
                "annotations": {REF_NAME: image.content.ref},
            }
            for image in images
        ],
    }
    return [
        Member.of("images/oci-layout", b'{"imageLayoutVersion":"1.0.0"}\n'),
        Member.of("images/index.json", contract_bytes(index)),
        *(_stored(store, f"images/blobs/sha256/{digest}", digest) for digest in blobs),
    ]


def _image_list(images: Sequence[CarriedImage]) -> bytes:
    return "".join(f"{i.content.digest} {i.content.ref} {','.join(i.roles)}\n" for i in images).encode()


def _layer_list(images: Sequence[CarriedImage]) -> bytes:
    lines = {" ".join((i.content.digest, *parts)) + "\n" for i in images for parts in i.content.parts}
    return "".join(sorted(lines)).encode()


def _host(selection: Selection, name: str, repo_key: str | None) -> dict[str, Any]:
    own = [repo_key] if repo_key else []
    return {
        "format": selection.release.hosts[name].format,
        "path": f"packages/{name}",
        "keys": sorted([*selection.keys(name), *own]),
        "roles": {role: f"lists/{name}/{role}.packages" for role in ROLES},
        **({"repo_key": repo_key} if repo_key else {}),
    }


def _image(image: CarriedImage) -> dict[str, Any]:
    return {
        "ref": image.content.ref,
        "digest": image.content.digest,
        "mediaType": image.content.media_type,
        "size": image.content.size,
        "platforms": list(image.content.platforms),
        "roles": list(image.roles),
    }


def _addon(addon: Addon) -> dict[str, Any]:
    return {"name": addon.name, "version": addon.version, "kind": addon.kind, "manifests": _manifest_paths(addon)}


def _manifest_paths(addon: Addon) -> list[str]:
    return [f"manifests/{addon.name}/{manifest.name}" for manifest in addon.manifests]


def _node(selection: Selection, images: Sequence[CarriedImage], body: Mapping[str, Member]) -> dict[str, str]:
    release = selection.release
    network = [addon for addon in selection.addons if addon.kind == "network"]
    applied = [addon for addon in selection.addons if addon.kind == "addon"]
    return {
        "RELEASE": release.release,
        "METHOD": release.method,
        "KUBERNETES_VERSION": release.kubernetes,
        "KUBEADM_API": release.kubeadm_api,
        "IMAGE_REPOSITORY": release.image_repository,
        "PAUSE_IMAGE": release.pause,
        "POD_SUBNET": release.pod_subnet,
        "SERVICE_SUBNET": release.service_subnet,
        "RUNTIME": release.runtime,
        "BUNDLE_HOSTS": " ".join(selection.os_names),
        "BUNDLE_ARCHES": " ".join(selection.arches),
        "REGISTRIES": " ".join(sorted({image.content.ref.split("/")[0] for image in images})),
        "NETWORK_ADDON": "".join(addon.name for addon in network),
        "NETWORK_MANIFESTS": "\n".join(path for addon in network for path in _manifest_paths(addon)),
        "ADDON_MANIFESTS": "\n".join(path for addon in applied for path in _manifest_paths(addon)),
        "MANIFEST_REPLACE": "\n".join(line for addon in selection.addons for line in _replacements(addon, body)),
    }


def _replacements(addon: Addon, body: Mapping[str, Member]) -> list[str]:
    texts = {path: content(body[path]).decode("utf-8", "replace") for path in _manifest_paths(addon)}
    lines = []
    for rule in addon.replace:
        found = [path for path, text in texts.items() if rule.old in text]
        if not found:
            raise ManifestError(
                f"add-on {addon.name} {addon.version}: no manifest of it holds {rule.old!r}, which it replaces",
                f"Mend `replace` in {addon.directory.parent / f'{addon.name}-{addon.version}.yaml'}.",
            )
        new = rule.new.replace("\n", "\\n")
        lines += [f"{path}\t{rule.old}\t{new}" for path in found]
    return lines


def content(member: Member) -> bytes:
    """Return a small member's bytes; DamagedSource if they are not those of its digest."""
    data = member.source if isinstance(member.source, bytes) else member.source.read_bytes()
    if hashlib.sha256(data).hexdigest() != member.sha256:
        raise DamagedSource.of(member)
    return data
