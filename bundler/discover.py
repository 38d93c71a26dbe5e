"""Images that Kubernetes YAML names: in every pod template, whatever kind it is in, and at declared paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from bundler.errors import ManifestError
from bundler.fetch.registry import Reference

CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BaseLoader):  # type: ignore[misc]
    """The safe loader, but a bare ``=`` is text, as it is for kubectl: custom resource definitions list it."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))


@dataclass(frozen=True)
class ImagePath:
    """Where a kind that is no workload names an image: ``spec.image``, ``spec.parts[].image``."""

    kind: str
    path: str


@dataclass(frozen=True)
class Found:
    """An image, and the object that names it: ``DaemonSet kube-flannel-ds``."""

    image: Reference
    where: str


def images_in(text: str, name: str, paths: Sequence[ImagePath] = ()) -> list[Found]:
    """Return the images of a stream of YAML documents, each once per object, in their order.

    Containers are found at any depth, so lists, jobs of jobs and custom resources that hold a pod template are seen.
    ManifestError, naming ``name``, where it is no YAML or an image is no reference.
    """
    try:
        documents = list(yaml.load_all(text, _Loader))
    except yaml.YAMLError as reason:
        mark = getattr(reason, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(reason, "problem", None) or reason
        raise ManifestError(f"{name}: {where}{problem}", "Mend the YAML.") from reason
    found = [
        Found(_reference(image, name, where), where)
        for document in documents
        for image, where in _walk(document, "document", paths)
    ]
    return list(dict.fromkeys(found))


def _walk(node: Any, where: str, paths: Sequence[ImagePath]) -> Iterator[tuple[Any, str]]:
    if isinstance(node, list):
        for item in node:
            yield from _walk(item, where, paths)
    if not isinstance(node, dict):
        return
    where = _title(node) or where
    for declared in paths:
        if node.get("kind") == declared.kind:
            yield from ((image, where) for image in _at(node, declared.path.split(".")))
    for key, value in node.items():
        if key in CONTAINERS and isinstance(value, list):
            images = [item.get("image") for item in value if isinstance(item, dict)]
            yield from ((image, where) for image in images if image)
        yield from _walk(value, where, paths)


def _title(node: dict[Any, Any]) -> str:
    """Return ``Kind name`` of an object, or nothing: a pod template has no kind of its own."""
    metadata = node.get("metadata")
    if not isinstance(node.get("kind"), str) or not isinstance(metadata, dict):
        return ""
    return f"{node['kind']} {metadata.get('name') or metadata.get('generateName') or '(no name)'}"


def _at(node: Any, steps: Sequence[str]) -> Iterator[Any]:
    if not steps:
        if node:
            yield node
        return
    step = steps[0]
    below = node.get(step[:-2] if step.endswith("[]") else step) if isinstance(node, dict) else None
    for item in below if step.endswith("[]") and isinstance(below, list) else [below]:
        yield from _at(item, steps[1:])


def _reference(image: Any, name: str, where: str) -> Reference:
    try:
        return Reference.parse(image if isinstance(image, str) else repr(image))
    except ManifestError as reason:
        raise ManifestError(f"{name}: {where}: {reason.message}", "Mend the image's name.") from reason
