"""Whether every image of a bundle is whole, and whether every image that anything in it names is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bundler.archive import DamagedSource
from bundler.charts import Chart
from bundler.closure.contents import Contents
from bundler.discover import ImagePath, images_in
from bundler.errors import IntegrityError, ManifestError, ResolveError
from bundler.fetch.images import choose, parse
from bundler.fetch.registry import Reference

MASTER, BOTH = ("master",), ("master", "node")


@dataclass(frozen=True)
class Wish:
    """An image that something names, and the roles that must have it before anything runs (none: pulled later)."""

    image: Reference
    by: str
    roles: tuple[str, ...] = ()

    def met_by(self, carried: Carried) -> bool:
        """Tell whether a carried image is the one: by digest where there is one, as the kubelet does it."""
        if self.image.name != carried.image.name:
            return False
        return self.image.digest in carried.digests if self.image.digest else self.image.tag == carried.image.tag


@dataclass
class Carried:
    """An image in a bundle, the digests of its manifests, and who wants it."""

    image: Reference
    roles: tuple[str, ...]
    digests: set[str] = field(default_factory=set)
    by: list[str] = field(default_factory=list)
    layers: set[str] = field(default_factory=set)  # its lines of lists/layers


def blob(digest: str) -> str:
    """Return where a blob lies in a bundle."""
    return f"images/blobs/sha256/{digest.partition(':')[2]}"


def carried_images(contract: Mapping[str, Any], contents: Contents, gaps: list[str]) -> list[Carried]:
    """Return the images of a bundle after following each to its last layer; what is lacking goes to ``gaps``."""
    found = []
    for entry in contract["images"]:
        image = Carried(Reference.parse(entry["ref"]), tuple(entry["roles"]))
        _follow(image, entry, contract["arches"], contents, gaps)
        found.append(image)
    wanted = "".join(f"{e['digest']} {e['ref']} {','.join(e['roles'])}\n" for e in contract["images"])
    if contents.read("lists/images") != wanted.encode():
        gaps.append("lists/images does not list the images of bundle.json: wanted by every node")
    lines = {line for image in found for line in image.layers}
    if not gaps and contents.read("lists/layers") != "".join(sorted(lines)).encode():
        gaps.append("lists/layers does not list the parts of each image: wanted by nodes with Docker")
    index = json.loads(contents.read("images/index.json"))["manifests"]
    listed = {(text, entry["digest"]) for entry in index for text in entry.get("annotations", {}).values()}
    for entry in contract["images"]:
        if (entry["ref"], entry["digest"]) not in listed:
            gaps.append(f"image {entry['ref']}: not in images/index.json, by which the server finds it")
    return found


def _follow(
    image: Carried, entry: Mapping[str, Any], arches: Sequence[str], contents: Contents, gaps: list[str]
) -> None:
    name = entry["ref"]
    try:
        top = parse(contents.read(blob(entry["digest"])), name)
        image.digests.add(entry["digest"])
        manifests = [part.digest for part in choose(top, arches, name)] if top.is_index else [entry["digest"]]
        platforms = set()
        for digest in manifests:
            manifest = parse(contents.read(blob(digest)), name)
            image.digests.add(digest)
            for part in manifest.blobs:
                if contents.sizes.get(blob(part.digest)) != part.size:
                    gaps.append(f"{blob(part.digest)} is not in the bundle: wanted by image {name}")
            config = json.loads(contents.read(blob(manifest.blobs[0].digest)))
            platforms.add(f"{config.get('os')}/{config.get('architecture')}")
            if config.get("os") and config.get("architecture"):
                parts = [entry["digest"], config["architecture"], *(part.digest for part in manifest.blobs)]
                image.layers.add(" ".join(parts) + "\n")
        gaps += [f"image {name}: not for linux/{arch}" for arch in arches if f"linux/{arch}" not in platforms]
    except DamagedSource:
        raise
    except (IntegrityError, ResolveError) as reason:
        gaps.append(f"{reason.message}: wanted by image {name}")
    except (ValueError, AttributeError):
        gaps.append(f"image {name}: its config is no JSON object")


def meet(wishes: Iterable[Wish], carried: Sequence[Carried], gaps: list[str]) -> None:
    """Note on each carried image who wants it; a wish that none meets goes to ``gaps``."""
    for wish in wishes:
        found = [image for image in carried if wish.met_by(image)]
        for image in found:
            if wish.by not in image.by:
                image.by.append(wish.by)
        lacking = [role for role in wish.roles if not any(role in image.roles for image in found)]
        if not found:
            gaps.append(f"image {wish.image}: wanted by {wish.by}, not in the bundle")
        elif lacking:
            gaps.append(f"image {wish.image}: wanted by {wish.by} for {' and '.join(lacking)}, not listed for it")


def wishes_of(wanted: Mapping[str, Any], contract: Mapping[str, Any], contents: Contents) -> list[Wish]:
    """Return every image that the release, its add-ons, the carried manifests and charts, and kubeadm name.

    ManifestError where a manifest cannot be read; ResolveError where it is not there.
    """
    settings = contract["node"]
    found = [Wish(Reference.parse(e["image"]), e["by"], tuple(e["roles"])) for e in wanted["images"]]
    found.append(Wish(Reference.parse(settings["PAUSE_IMAGE"]), "the kubelet, as its pause image", BOTH))
    for entry in wanted["manifests"]:
        found += _manifest_wishes(entry, settings, contents)
    for entry in wanted["charts"]:
        chart = Chart.read(contents.read(entry["path"]), entry["path"])
        found += [Wish(image, f"{entry['path']}: {where}") for image, where in chart.images(entry["declared"])]
    return found


def _manifest_wishes(entry: Mapping[str, Any], settings: Mapping[str, str], contents: Contents) -> list[Wish]:
    text = _adapted(entry, settings, contents)
    paths = [ImagePath(path["kind"], path["path"]) for path in entry["image_paths"]]
    return [Wish(found.image, f"{entry['path']}: {found.where}") for found in images_in(text, entry["path"], paths)]


def _adapted(entry: Mapping[str, Any], settings: Mapping[str, str], contents: Contents) -> str:
    """Return a manifest as a node would apply it."""
    text = contents.read(entry["path"]).decode("utf-8", "replace")
    for old, new in entry["replace"]:
        text = text.replace(old, new)
    for name in ("POD_SUBNET", "SERVICE_SUBNET"):
        text = text.replace(f"@{name}@", settings[name])
    return text


def kubeadm_gaps(contract: Mapping[str, Any], carried: Sequence[Carried]) -> list[str]:
    """Return which of the images that kubeadm runs at this release are not carried."""
    return [
        f"image {' or '.join(names)}{tag and f':{tag}'}: wanted by kubeadm for {' and '.join(roles)}, not in the bundle"
        for names, tag, roles in _kubeadm_images(contract)
        if not any(_is_kubeadms(image, names, tag, roles) for image in carried)
    ]


def _is_kubeadms(image: Carried, names: Sequence[str], tag: str, roles: Sequence[str]) -> bool:
    found = image.image.name in names and tag in ("", image.image.tag) and set(roles) <= set(image.roles)
    if found:
        image.by.append("kubeadm")
    return found


def _kubeadm_images(contract: Mapping[str, Any]) -> list[tuple[list[str], str, tuple[str, ...]]]:
    """Return (possible names, tag or nothing where any will do, roles): kubeadm's names by release.

    Up to 1.11 the names end in the architecture. DNS is kube-dns up to 1.10 and CoreDNS since; the tags of etcd and DNS
    are in kubeadm's own code, and taken from the release manifest.
    """
    version, repository = contract["kubernetes"], contract["node"]["IMAGE_REPOSITORY"]
    minor = int(re.sub(r"^v\d+\.(\d+).*", r"\1", version))
    found: list[tuple[list[str], str, tuple[str, ...]]] = []
    for arch in contract["arches"]:
        suffix = f"-{arch}" if minor < 12 else ""
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
            found.append(([f"{repository}/{name}{suffix}"], version, MASTER))
        found.append(([f"{repository}/kube-proxy{suffix}"], version, BOTH))
        found.append(([f"{repository}/etcd{suffix}"], "", MASTER))
        if minor < 11:
            parts = ("kube-dns", "dnsmasq-nanny", "sidecar")
            found += [([f"{repository}/k8s-dns-{part}{suffix}"], "", MASTER) for part in parts]
        else:
            # 1.21 moved it one level down, but only in the default repository
            found.append(([f"{repository}/coredns", f"{repository}/coredns/coredns"], "", MASTER))
    return [entry for number, entry in enumerate(found) if entry not in found[:number]]


def check_paths(wanted: Mapping[str, Any], contract: Mapping[str, Any], contents: Contents) -> None:
    """Return if each declared image path finds an image in some manifest of its add-on; ManifestError otherwise."""
    declared: dict[tuple[str, ImagePath], bool] = {}
    for entry in wanted["manifests"]:
        for fields in entry["image_paths"]:
            path = ImagePath(fields["kind"], fields["path"])
            text = _adapted(entry, contract["node"], contents)
            found = len(images_in(text, entry["path"], [path])) > len(images_in(text, entry["path"]))
            declared[entry["by"], path] = found or declared.get((entry["by"], path), False)
    for (by, path), found in declared.items():
        if not found:
            raise ManifestError(
                f"{by}: image_paths names {path.path} of {path.kind}, where no manifest of it has an image",
                "Mend `image_paths` of the add-on.",
            )
