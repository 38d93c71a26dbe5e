"""Proof that a bundle is complete, from its content alone, before it is carried where nothing can be added.

What is wanted comes from the manifests (``wanted``); that all of it is there is seen in the members (``prove``). Both
go into the bundle as ``closure.json``, so that it can be read, and proven again, without either.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from bundler.archive import DamagedSource, Member
from bundler.closure import images
from bundler.closure.contents import Contents, Planned
from bundler.closure.deb import DebRepository
from bundler.closure.repository import Repository
from bundler.closure.rpm import RpmRepository
from bundler.errors import IntegrityError, ResolveError
from bundler.manifest import ROLES, Addon, Image
from bundler.selection import Selection

SCHEMA = 1
PATH = "closure.json"
MENDED = "Lock it anew with `bundler lock`, which finds all of it; or mend the manifest that names what is missing."


def member(selection: Selection, contract: Mapping[str, Any], body: Sequence[Member]) -> Member:
    """Return ``closure.json`` for a bundle of these members.

    ``contract`` is what bundle.json would be without it. ResolveError names each gap and who wants it.
    """
    wishes = wanted(selection)
    proof = prove(wishes, contract, Planned(body))
    document = {"schema": SCHEMA, "wanted": wishes, "proven": proof}
    return Member.of(PATH, (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode())


def wanted(selection: Selection) -> dict[str, Any]:
    """Return what the manifests want, and which of them wants it: ``hosts``, ``images``, ``files``, ``manifests`` and
    ``charts`` of closure.json (docs/formats.md, section 4)."""
    release, extras = f"release {selection.release.release}", selection.extras
    own = {image.ref for image in extras.lock_images()}
    found = [_image(image, "the user" if image.ref in own else release) for image in selection.release.images]
    for addon in selection.addons:
        found += [_image(image, f"add-on {addon.name} {addon.version}") for image in addon.images]
    manifests = [entry for addon in selection.addons for entry in _manifests(addon)]
    manifests += [_manifest(item.path, "the user") for item in extras.items if item.kind == "manifest"]
    return {
        "hosts": {name: _host(selection, name) for name in selection.os_names},
        "images": found,
        "files": [
            {"path": path, "sha256": file.sha256, "by": _owner(path, selection)}
            for path, file in sorted(selection.files().items())
        ],
        "manifests": manifests,
        "charts": [
            {"path": item.path, "by": "the user", "declared": list(item.declared)}
            for item in extras.items
            if item.kind == "chart"
        ],
    }


def prove(wanted: Mapping[str, Any], contract: Mapping[str, Any], contents: Contents) -> dict[str, Any]:
    """Return who wants what of a bundle. ResolveError, naming each, where something wanted is not inside."""
    gaps = list(_file_gaps(wanted, contract, contents))
    roles = {name: _roles(name, host, contract, contents, gaps) for name, host in wanted["hosts"].items()}
    carried = _images(wanted, contract, contents, gaps)
    if gaps:
        count = "1 gap" if len(gaps) == 1 else f"{len(set(gaps))} gaps"
        raise ResolveError("\n  ".join([f"the bundle would not be complete, {count}:", *dict.fromkeys(gaps)]), MENDED)
    return {"roles": roles, "images": [{"ref": str(c.image), "by": c.by} for c in carried]}


def _images(
    wanted: Mapping[str, Any], contract: Mapping[str, Any], contents: Contents, gaps: list[str]
) -> list[images.Carried]:
    try:
        carried = images.carried_images(contract, contents, gaps)
        images.meet(images.wishes_of(wanted, contract, contents), carried, gaps)
    except ResolveError as reason:
        gaps.append(reason.message)
        return []
    images.check_paths(wanted, contract, contents)
    specs = [spec for host in wanted["hosts"].values() for specs in host["roles"].values() for spec in specs]
    if any(spec == "kubeadm" or spec.startswith("kubeadm-") for spec in specs):
        gaps += images.kubeadm_gaps(contract, carried)
    return carried


def _file_gaps(wanted: Mapping[str, Any], contract: Mapping[str, Any], contents: Contents) -> Iterator[str]:
    digests = {entry["path"]: entry["sha256"] for entry in contract["files"]}
    for entry in wanted["files"]:
        if digests.get(entry["path"]) != entry["sha256"]:
            yield f"{entry['path']}: wanted by {entry['by']}, not in the bundle with sha256 {entry['sha256']}"
    charts = [("charts/index.yaml", "helm")] if wanted["charts"] else []
    for path, by in [*fetched(contract), *charts]:
        if path not in contents.sizes:
            yield f"{path}: fetched by {by}, not in the bundle"


def fetched(contract: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return every member path that a node asks for by a fixed name or by its settings, and who asks.

    What the lists name beyond these (packages, images) is proven by role and by image.
    """
    settings = contract["node"]
    found = [(f"lists/{name}", "every node") for name in ("images", "layers")]
    found += [(f"images/{name}", "the server") for name in ("index.json", "oci-layout")]
    for name, host in contract["hosts"].items():
        found += [(path, f"nodes of {name}") for path in [*host["keys"], *host["roles"].values()]]
    for setting in ("NETWORK_MANIFESTS", "ADDON_MANIFESTS"):
        found += [(path, f"the master ({setting})") for path in settings[setting].split("\n") if path]
    for addon in contract["addons"]:
        found += [(path, f"add-on {addon['name']}") for path in addon["manifests"]]
    return found


# Packages


def _roles(
    name: str, host: Mapping[str, Any], contract: Mapping[str, Any], contents: Contents, gaps: list[str]
) -> dict[str, Any]:
    try:
        return _prove_roles(name, host, contract, contents, gaps)
    except DamagedSource:
        raise
    except (IntegrityError, ResolveError) as reason:
        gaps.append(f"{reason.message}: wanted by every role of {name}")
        return {}


def _prove_roles(
    name: str, host: Mapping[str, Any], contract: Mapping[str, Any], contents: Contents, gaps: list[str]
) -> dict[str, Any]:
    """Prove each role of a host with libsolv; returns how many packages it is, and what of it is spare or assumed."""
    place = contract["hosts"][name]
    digests = {entry["path"]: entry["sha256"] for entry in contract["files"]}
    proven: dict[str, Any] = {role: {"packages": 0, "spare": [], "assumed": []} for role in host["roles"]}
    installed: dict[str, set[str]] = {role: set() for role in host["roles"]}
    for arch, given in sorted(host["given"].items()):
        repository = open_repository(contents, place["path"], host, arch)
        gaps += [
            f"{place['path']}/{file}: listed by its metadata, not in the bundle with that digest"
            for file, sha256 in repository.digests().items()
            if digests.get(f"{place['path']}/{file}") != sha256
        ]
        gaps += _role_gaps(contents, place, host, arch, repository)
        for role, specs in host["roles"].items():
            solved = repository.solve(specs, _listed(contents, place, role), assume=given is None)
            gaps += [f"{name} {role} {arch}: {gap}" for gap in solved.gaps]
            installed[role] |= solved.installed
            for key, found in (("spare", solved.spare), ("assumed", solved.assumed)):
                proven[role][key] = sorted({*proven[role][key], *found})
    for role in host["roles"]:
        listed = _listed(contents, place, role)
        proven[role]["packages"] = len(listed)
        if not any(gap.startswith(f"{name} {role} ") for gap in gaps):
            # libsolv may choose otherwise among fewer packages; what only it left out is no fault of the lock
            idle = sorted(listed - installed[role] - set(proven[role]["spare"]))
            gaps += [f"{name} {role}: {file} is carried, but nothing of it needs it" for file in idle]
    return proven


def _role_gaps(
    contents: Contents, place: Mapping[str, Any], host: Mapping[str, Any], arch: str, whole: Repository
) -> Iterator[str]:
    """Yield how the yum repositories of the roles differ from the roles' lists."""
    for role in host["roles"] if host["format"] == "rpm" else ():
        listed = _listed(contents, place, role)
        wanted = {f"../{file}": sha256 for file, sha256 in whole.digests().items() if file in listed}
        found = open_repository(contents, f"{place['path']}/{role}", host, arch).digests()
        for file in sorted({*wanted, *found}):
            if wanted.get(file) != found.get(file):
                yield f"{place['path']}/{role}/{file}: in the role's repository or its list, not in both"


def _listed(contents: Contents, place: Mapping[str, Any], role: str) -> set[str]:
    lines = contents.read(place["roles"][role]).decode().splitlines()
    return {line[len(place["path"]) + 1 :] for line in lines}


REPOSITORIES: Mapping[str, Callable[[Contents, str, str, Iterable[str]], Repository]] = {
    "rpm": RpmRepository, "deb": DebRepository,
}  # fmt: skip


def open_repository(contents: Contents, path: str, host: Mapping[str, Any], arch: str) -> Repository:
    """Return the packages at ``path`` for one architecture, on the minimal host that closure.json's ``host`` declares.

    ResolveError where nobody can read such a repository, or its metadata are missing; IntegrityError for damaged ones.
    """
    if host["format"] not in REPOSITORIES:
        raise ResolveError(f"{path}: nobody can prove packages of format {host['format']}")
    given = host["given"][arch] or ()
    return REPOSITORIES[host["format"]](contents, path, arch, [*host["installed"], *given])


# What is wanted


def _host(selection: Selection, name: str) -> dict[str, Any]:
    host, lock = selection.release.hosts[name], selection.host(name)
    given = {arch: lock.arches[arch].given for arch in map(host.arch, selection.arches)}
    return {
        "format": host.format,
        "installed": list(host.installed),
        "given": {arch: None if found is None else list(found) for arch, found in given.items()},
        "roles": {role: list(host.roles[role]) for role in ROLES},
    }


def _image(image: Image, by: str) -> dict[str, Any]:
    return {"image": image.ref, "roles": list(image.roles), "by": by}


def _manifests(addon: Addon) -> list[dict[str, Any]]:
    by = f"add-on {addon.name} {addon.version}"
    rules = [[rule.old, rule.new] for rule in addon.replace]
    paths = [{"kind": path.kind, "path": path.path} for path in addon.image_paths]
    return [
        {**_manifest(f"manifests/{addon.name}/{file.name}", by), "replace": rules, "image_paths": paths}
        for file in addon.manifests
    ]


def _manifest(path: str, by: str) -> dict[str, Any]:
    return {"path": path, "by": by, "replace": [], "image_paths": []}


def _owner(path: str, selection: Selection) -> str:
    if path in {item.path for item in selection.extras.items}:
        return "the user"
    top, name = path.split("/")[:2]
    if top == "packages":
        return f"{name}, whose packages it signs"
    for addon in selection.addons:
        if (top, name) == ("manifests", addon.name):
            return f"add-on {addon.name} {addon.version}"
    return f"release {selection.release.release}"
