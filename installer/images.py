"""The images of a bundle as repositories: which tags, manifests and blobs belong to which name."""

import json
import re
from typing import Any, Dict, List, NamedTuple, Optional

from .bundle import Bundle
from .errors import IntegrityError

_BLOBS = "images/blobs/sha256/"
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_DOCKER_HUB = "docker.io"
_DOCKER_HUBS = (_DOCKER_HUB, "index.docker.io", "registry-1.docker.io")


class Reference(NamedTuple):
    """`registry/name:tag`, fully spelled."""

    registry: str
    name: str
    tag: str


class Repository:
    """One `registry/name`: tag -> digest, manifest digest -> media type, and every digest that belongs to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tags: Dict[str, str] = {}
        self.referrers: Dict[str, List[Dict[str, Any]]] = {}  # digest of a manifest -> descriptors of what is about it
        self.manifests: Dict[str, str] = {}
        self.blobs: Dict[str, str] = {}


def split(ref: str) -> Reference:
    """Split a reference, filling in what docker leaves out. Raises IntegrityError without a tag."""
    name, colon, tag = ref.partition("@")[0].rpartition(":")
    if not colon or "/" in tag or not name:
        raise IntegrityError("bundle.json: image reference {!r} has no tag".format(ref))
    registry, slash, rest = name.partition("/")
    if not slash or not ("." in registry or ":" in registry or registry == "localhost"):
        registry, rest = _DOCKER_HUB, name
    return Reference(registry, official(registry, rest), tag)


def official(registry: str, name: str) -> str:
    """A name as its registry knows it: Docker Hub keeps `busybox` as `library/busybox`."""
    return "library/" + name if registry in _DOCKER_HUBS and "/" not in name else name


def blob_path(digest: str) -> str:
    """The member that holds a blob."""
    return _BLOBS + digest[len("sha256:"):]


class Images:
    """Every repository of a bundle, found by any of the names that clients use."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._by_name: Dict[str, Repository] = {}
        bare: Dict[str, List[str]] = {}
        for image in bundle.info.images:
            ref = split(image.ref)
            full = "{}/{}".format(ref.registry, ref.name)
            if full not in self._by_name:
                self._by_name[full] = Repository(full)
                bare.setdefault(ref.name, []).append(full)
            self._by_name[full].tags[ref.tag] = image.digest
            self._add_manifest(self._by_name[full], image.digest, image.media_type)
        self._bare = {name: full[0] for name, full in bare.items() if len(full) == 1}

    @property
    def names(self) -> List[str]:
        """The full name of each repository, sorted."""
        return sorted(self._by_name)

    def add(self, name: str) -> Repository:
        """A repository that holds no image of the bundle; the one there is if it was added before."""
        return self._by_name.setdefault(name, Repository(name))

    def find(self, name: str, registry: str = "") -> Optional[Repository]:
        """The repository that `name` means, asked for as a mirror of `registry` if that is given."""
        for full in self._spellings(name, registry):
            if full in self._by_name:
                return self._by_name[full]
        return None

    def _spellings(self, name: str, registry: str) -> List[str]:
        first, _, rest = name.partition("/")
        if first in _DOCKER_HUBS:
            first = _DOCKER_HUB
        named = "{}/{}".format(first, official(first, rest)) if rest else ""
        if registry:
            hub = _DOCKER_HUB if registry in _DOCKER_HUBS else registry
            return ["{}/{}".format(hub, official(hub, name))] + ([named] if first == hub else [])
        return [named, name, self._bare.get(name, ""), self._bare.get(official(_DOCKER_HUB, name), "")]

    def _add_manifest(self, repository: Repository, digest: str, media_type: str) -> None:
        if digest in repository.manifests:
            return
        path = blob_path(digest)
        try:
            manifest = json.loads(self._bundle.read(path).decode("utf-8"))
            media_type = media_type or str(manifest.get("mediaType", ""))
            repository.manifests[digest] = media_type
            repository.blobs[digest] = media_type
            self._add_children(repository, manifest, media_type in _INDEXES or "manifests" in manifest)
            self._add_referrer(repository, manifest, digest, media_type)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise IntegrityError("{} (of {}) is not an image manifest".format(path, repository.name)) from None

    def _add_children(self, repository: Repository, manifest: Dict[str, Any], is_index: bool) -> None:
        children = manifest["manifests"] if is_index else [manifest["config"]] + manifest["layers"]
        for child in children:
            digest = str(child["digest"])
            # An index may name platforms that the bundle leaves out, a layer may be foreign.
            if not _DIGEST.fullmatch(digest) or blob_path(digest) not in self._bundle.members:
                continue
            if is_index:
                self._add_manifest(repository, digest, str(child.get("mediaType", "")))
            else:
                repository.blobs[digest] = "application/octet-stream"

    def _add_referrer(self, repository: Repository, manifest: Dict[str, Any], digest: str, media_type: str) -> None:
        if "subject" not in manifest:
            return
        config = str(manifest.get("config", {}).get("mediaType", ""))
        found = {"mediaType": media_type, "digest": digest, "size": self._bundle.members[blob_path(digest)].size,
                 "artifactType": manifest.get("artifactType") or config, "annotations": manifest.get("annotations")}
        found = {key: value for key, value in found.items() if value}
        repository.referrers.setdefault(str(manifest["subject"]["digest"]), []).append(found)
