"""Who wanted something to be in a bundle, told from the bundle alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundler.closure import PATH, open_repository
from bundler.closure.contents import Finished
from bundler.closure.images import blob
from bundler.errors import IntegrityError, ResolveError
from bundler.fetch.images import parse
from bundler.verify import HINT, Bundle, open_bundle

BLOBS = "images/blobs/"


@dataclass(frozen=True)
class Answer:
    """``kind`` is package, image or file; ``because`` a way to it per line, or one wanting it per line."""

    kind: str
    name: str
    because: list[str]


def why(path: Path, name: str) -> list[Answer]:
    """Return why everything called ``name`` is in a bundle: a package's name or file, an image with or without its
    registry or tag, a member's path or file name.

    ResolveError where nothing is called so; IntegrityError where the bundle has no proof of closure.
    """
    with open_bundle(path) as bundle:
        contents = Finished(bundle.fd, bundle.entries)
        if PATH not in bundle.entries:
            raise IntegrityError(f"{path}: has no {PATH}, which tells who wants what", "Build it again.")
        closure = json.loads(contents.read(PATH))
        try:
            found = [
                *_packages(bundle.contract, closure, contents, name),
                *_images(closure, name),
                *_files(closure, bundle, contents, name),
            ]
        except (KeyError, TypeError, AttributeError) as reason:
            raise IntegrityError(f"{path}: {PATH} is malformed: {reason}", HINT) from reason
    if not found:
        raise ResolveError(f"{path}: nothing in it is called {name}",
                           "Give a package's name, an image, or a path: `bundler inspect` and `tar tf` list them.")
    return found


def _packages(
    contract: Mapping[str, Any], closure: Mapping[str, Any], contents: Finished, name: str
) -> Iterator[Answer]:
    ways: dict[str, list[str]] = {}
    for os_name, host in closure["wanted"]["hosts"].items():
        for path, way in _ways(os_name, host, contract["hosts"][os_name], contents, name):
            ways.setdefault(path, []).append(way)
    return (Answer("package", path, because) for path, because in sorted(ways.items()))


def _ways(
    os_name: str, host: Mapping[str, Any], place: Mapping[str, Any], contents: Finished, name: str
) -> Iterator[tuple[str, str]]:
    """Return each package of that name by its path, with the chain of requirements that leads to it in a role."""
    for arch in sorted(host["given"]):
        repository = open_repository(contents, place["path"], host, arch)
        for role, specs in host["roles"].items():
            lines = contents.read(place["roles"][role]).decode().splitlines()
            listed = {line.rsplit("/", 1)[-1] for line in lines}
            for file, names in repository.names().items():
                path = f"{place['path']}/{file}"
                steps = repository.chain(specs, listed, file) if name in (path, file, *names) else []
                if steps:
                    yield path, f"{os_name} {role} {arch}: {' -> '.join(steps)}"


def _images(closure: Mapping[str, Any], name: str) -> Iterator[Answer]:
    for image in closure["proven"]["images"]:
        if name in _spellings(image["ref"]):
            yield Answer("image", image["ref"], list(image["by"]))


def _spellings(ref: str) -> set[str]:
    """Return what an image may be called: with or without its registry, its folder, its tag."""
    repository = ref.rsplit(":", 1)[0]
    names = {f"{'/'.join(ref.split('/')[cut:])}" for cut in range(ref.count("/") + 1)}
    return names | {"/".join(repository.split("/")[cut:]) for cut in range(repository.count("/") + 1)}


def _files(closure: Mapping[str, Any], bundle: Bundle, contents: Finished, name: str) -> Iterator[Answer]:
    wanted = closure["wanted"]
    told = {entry["path"]: entry["by"] for key in ("files", "manifests", "charts") for entry in wanted[key]}
    for path in sorted(bundle.entries):
        if name not in (path, path.rsplit("/", 1)[-1]) or path.endswith((".rpm", ".deb")):
            continue
        if path.startswith(BLOBS):
            yield Answer("file", path, [f"image {ref}" for ref in _holders(path, bundle.contract, contents)])
        else:
            yield Answer("file", path, [told.get(path, "every bundle")])


def _holders(path: str, contract: Mapping[str, Any], contents: Finished) -> Iterator[str]:
    """Return the references of the images that a blob belongs to."""
    for image in contract["images"]:
        ahead, seen = [blob(image["digest"])], set()
        while ahead:
            found = ahead.pop()
            seen.add(found)
            if found in contents.sizes:
                document = parse(contents.read(found), image["ref"])
                seen |= {blob(part.digest) for part in document.blobs}
                ahead += [blob(part.digest) for part in document.children]
        if path in seen:
            yield image["ref"]
