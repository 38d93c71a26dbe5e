"""Release and add-on manifests: what is wanted, by name and version (docs/formats.md, sections 1 and 2).

``manifests/manifest.schema.json`` and ``manifests/addon.schema.json`` say the same for editors; what spans several
keys (the pause image being among the images, subnets that overlap) is checked here only.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from bundler.discover import ImagePath
from bundler.errors import ManifestError
from bundler.fields import Fields, read_documents
from bundler.wanted import (
    RPM_ARCHES,
    Addon,
    AddonFile,
    Binary,
    Host,
    Image,
    Release,
    Replace,
    Repo,
    release_key,
    rpm_arch,
)

__all__ = [
    "Addon",
    "AddonFile",
    "Binary",
    "Host",
    "Image",
    "Release",
    "Replace",
    "Repo",
    "list_addons",
    "load_addons",
    "load_release",
    "release_names",
    "rpm_arch",
]

ROLES = ("master", "node")
KINDS = ("network", "addon", "sample")
RUNTIMES = ("containerd", "docker")
METHODS = ("kubeadm", "packages")
FORMATS = ("rpm", "deb")
RELEASE = r"\d+\.\d+(-[a-z0-9]+)*"

URL = r"https?://[^\s/]+/\S+"
NAME = r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?"
FILE_NAME = r"[A-Za-z0-9_][A-Za-z0-9._+~-]*"
# the registry has a dot or a port, so that no short name slips through
_REGISTRY = r"[a-z0-9-]+(\.[a-z0-9-]+)*(\.[a-z0-9-]+|:[0-9]+)"
REPOSITORY = _REGISTRY + r"(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
IMAGE = REPOSITORY + r":[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
CAPABILITY = r"[^\s]+( (<|<=|=|>=|>) [^\s]+)?"
REPO_ID = r"[A-Za-z0-9._-]+"
MODULE = r"[A-Za-z0-9._+-]+:[A-Za-z0-9._+-]+"
KIND = r"[A-Z][A-Za-z0-9]*"
IMAGE_PATH = r"[A-Za-z0-9_-]+(\[\])?(\.[A-Za-z0-9_-]+(\[\])?)*"
SPEC = r"[A-Za-z0-9][A-Za-z0-9._+:~^-]*"


def release_names(directory: Path) -> list[str]:
    """Return the releases that ``directory`` has a manifest for, oldest first, variants after what they vary."""
    return sorted((p.stem for p in directory.glob("*.yaml") if re.fullmatch(RELEASE, p.stem)), key=release_key)


def load_release(directory: Path, version: str) -> Release:
    """Return the release that ``version`` names: ``1.20``, ``1.20.2``, ``v1.20.2`` or a variant, ``1.20-docker``.

    ManifestError lists the known ones where there is no such release, and names file and key of a malformed one.
    """
    known = release_names(directory)
    match = re.fullmatch(r"v?(\d+\.\d+)(\.\d+)?(-[a-z0-9-]+)?", version)
    name = match[1] + (match[3] or "") if match else ""
    if not match or name not in known:
        raise ManifestError(
            f"{directory}: no manifest for release {version}", f"Known releases: {', '.join(known) or 'none'}."
        )
    release = _read_release(directory / f"{name}.yaml")
    if match[2] and release.kubernetes != f"v{match[1]}{match[2]}":
        raise ManifestError(f"{directory / f'{name}.yaml'}: is {release.kubernetes}, not {version}", f"Ask for {name}.")
    return release


def list_addons(directory: Path) -> tuple[Addon, ...]:
    """Return every add-on manifest below ``directory``, by name and version."""
    return tuple(_read_addon(path) for path in sorted((directory / "addons").glob("*.yaml")))


def load_addons(directory: Path, release: Release, names: Sequence[str]) -> tuple[Addon, ...]:
    """Return the add-ons of a release: those that it includes, then ``names`` (of ``--with``).

    A network add-on among ``names`` takes the place of the release's own. ManifestError if a name is unknown, fits
    another release, or two networks were asked for.
    """
    fitting = [addon for addon in list_addons(directory) if addon.fits(release.release)]
    chosen = [_pick(fitting, name, release.release) for name in dict.fromkeys([*release.addons, *names])]
    asked = [addon for addon in chosen if addon.kind == "network" and addon.name not in release.addons]
    if asked:
        chosen = [addon for addon in chosen if addon.kind != "network" or addon in asked]
    networks = [addon.name for addon in chosen if addon.kind == "network"]
    if len(networks) > 1:
        raise ManifestError(f"release {release.release}: two network add-ons, {' and '.join(networks)}", "Ask for one.")
    return tuple(chosen)


def _pick(addons: Iterable[Addon], name: str, release: str) -> Addon:
    found = [addon for addon in addons if addon.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        versions = " and ".join(addon.version for addon in found)
        raise ManifestError(f"add-on {name}: both {versions} fit release {release}", "Mend `releases` in one of them.")
    known = ", ".join(sorted(addon.name for addon in addons))
    raise ManifestError(f"no add-on {name} for release {release}", f"Known add-ons: {known or 'none'}.")


def _read(path: Path) -> Fields:
    documents = read_documents(path)
    if len(documents) != 1:
        raise ManifestError(f"{path}: must be one YAML document, not {len(documents)}")
    fields = Fields(documents[0], str(path))
    fields.constant("schema", 1)
    return fields


def _read_release(path: Path) -> Release:
    fields = _read(path)
    method = METHODS[0] if fields.get("method") is None else fields.choice("method", METHODS)
    for key in ("kubeadm_api", "image_repository"):
        if method != METHODS[0] and fields.get(key) is not None:
            fields.fail(key, f"has no meaning where method is {method}")
    absent = None if method == METHODS[0] else ""
    release = Release(
        release=fields.text("release", RELEASE),
        kubernetes=fields.text("kubernetes", r"v\d+\.\d+\.\d+"),
        date=_date(fields),
        arches=_arches(fields),
        kubeadm_api=fields.text("kubeadm_api", r"kubeadm\.k8s\.io/v\d+[a-z0-9]*", absent),
        runtime=fields.choice("runtime", RUNTIMES),
        image_repository=fields.text("image_repository", r"[a-z0-9.:-]+(/[a-z0-9._-]+)*", absent),
        pause=fields.text("pause", IMAGE),
        pod_subnet=_subnet(fields, "pod_subnet"),
        service_subnet=_subnet(fields, "service_subnet"),
        images=_images(fields, required=True),
        binaries=_binaries(fields),
        addons=fields.texts("addons", NAME),
        hosts={name: _host(name, host) for name, host in fields.named("hosts").items()},
        method=method,
    )
    fields.done()
    _check_release(path, fields, release)
    return release


def _check_release(path: Path, fields: Fields, release: Release) -> None:
    if release.release != path.stem:
        fields.fail("release", f"{release.release} is not what the file is named after")
    if not release.kubernetes.startswith(f"v{release.release.partition('-')[0]}."):
        fields.fail("kubernetes", f"{release.kubernetes} is not of release {release.release}")
    if release.pause not in [image.ref for image in release.images]:
        fields.fail("pause", f"{release.pause} is not among images")
    if ipaddress.ip_network(release.pod_subnet).overlaps(ipaddress.ip_network(release.service_subnet)):
        fields.fail("pod_subnet", f"{release.pod_subnet} overlaps service_subnet {release.service_subnet}")
    if not release.hosts:
        fields.fail("hosts", "must have at least one entry")
    for number, binary in enumerate(release.binaries):
        if len(release.arches) > 1 and "{arch}" not in binary.url:
            fields.fail(f"binaries[{number}].url", "must hold {arch}, the release has more than one architecture")


def _date(fields: Fields) -> int:
    value = fields.get("date")
    if type(value) is not datetime.date:
        fields.fail("date", f"must be a date like 2021-01-13, not {value!r}")
    return int(datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.timezone.utc).timestamp())


def _arches(fields: Fields) -> tuple[str, ...]:
    arches = fields.texts("arches", required=True)
    for arch in arches:
        if arch not in RPM_ARCHES:
            fields.fail("arches", f"{arch!r} is unknown: must be one of {', '.join(RPM_ARCHES)}")
    return arches


def _subnet(fields: Fields, key: str) -> str:
    value = fields.text(key)
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as reason:
        fields.fail(key, str(reason))


def _images(fields: Fields, required: bool = False) -> tuple[Image, ...]:
    images: list[Image] = []
    for number, item in enumerate(fields.items("images", required)):
        if isinstance(item, str):
            item = {"ref": item, "roles": list(ROLES)}
        entry = fields.below(item, f"images[{number}]")
        image = Image(entry.text("ref", IMAGE), _roles(entry))
        entry.done()
        if image.ref.startswith("docker.io/") and image.ref.count("/") < 2:
            entry.fail("ref", f"{image.ref} lacks library/: docker.io/library/NAME:TAG")
        if image.ref in [other.ref for other in images]:
            entry.fail("ref", f"{image.ref} is given twice")
        images.append(image)
    return tuple(images)


def _roles(fields: Fields) -> tuple[str, ...]:
    roles = fields.texts("roles", required=True)
    for role in roles:
        if role not in ROLES:
            fields.fail("roles", f"{role!r} is unknown: must be one of {', '.join(ROLES)}")
    return tuple(role for role in ROLES if role in roles)


def _binaries(fields: Fields) -> tuple[Binary, ...]:
    binaries: list[Binary] = []
    for entry in fields.children("binaries"):
        binary = Binary(entry.text("name", FILE_NAME), entry.text("url", URL), entry.text("checksum", URL))
        entry.done()
        if binary.name in [other.name for other in binaries]:
            entry.fail("name", f"{binary.name} is given twice")
        binaries.append(binary)
    return tuple(binaries)


def _host(name: str, fields: Fields) -> Host:
    if not re.fullmatch(NAME, name):
        fields.fail("", f"{name!r} is no name for a host: {NAME}")
    roles = fields.child("roles")
    for role in roles.data:
        if role not in ROLES:
            roles.fail(str(role), f"is unknown: must be one of {', '.join(ROLES)}")
    form = fields.choice("format", FORMATS)
    host = Host(
        name=name,
        format=form,
        repos=_repos(fields, form),
        installed=fields.texts("installed", CAPABILITY),
        roles={role: roles.texts(role, SPEC, required=True) for role in ROLES},
        modules=fields.texts("modules", MODULE) if form == "rpm" else (),
    )
    roles.done()
    fields.done()
    return host


def _repos(fields: Fields, form: str) -> tuple[Repo, ...]:
    repos: list[Repo] = []
    for entry in fields.children("repos", required=True):
        repo = _deb_repo(entry) if form == "deb" else _rpm_repo(entry)
        entry.done()
        if repo.id in [other.id for other in repos]:
            entry.fail("id", f"{repo.id} is given twice")
        repos.append(repo)
    return tuple(repos)


def _rpm_repo(entry: Fields) -> Repo:
    repo = Repo(
        id=entry.text("id", REPO_ID),
        baseurl=entry.text("baseurl", URL),
        keys=entry.texts("keys", URL),
        signed_metadata=entry.flag("signed_metadata"),
        module_hotfixes=entry.flag("module_hotfixes"),
    )
    if repo.signed_metadata and not repo.keys:
        entry.fail("keys", "must name the key that signs the metadata")
    return repo


def _deb_repo(entry: Fields) -> Repo:
    suite = entry.text("suite", r"\S+")
    flat = suite.endswith("/")
    if flat and entry.get("components") is not None:
        entry.fail("components", f"a flat repository ({suite}) has none")
    return Repo(
        id=entry.text("id", REPO_ID),
        baseurl=entry.text("baseurl", URL),
        keys=entry.texts("keys", URL, required=True),
        signed_metadata=True,
        suite=suite,
        components=entry.texts("components", r"[A-Za-z0-9][A-Za-z0-9._/-]*", required=not flat),
    )


def _read_addon(path: Path) -> Addon:
    fields = _read(path)
    addon = Addon(
        name=fields.text("addon", NAME),
        version=fields.text("version", r"[A-Za-z0-9][A-Za-z0-9._+-]*"),
        kind=fields.choice("kind", KINDS),
        releases=fields.texts("releases", RELEASE, required=True),
        images=_images(fields),
        manifests=tuple(_addon_file(entry) for entry in fields.children("manifests", required=True)),
        replace=tuple(_replace(entry) for entry in fields.children("replace")),
        directory=path.parent / "files",
        image_paths=tuple(_image_path(entry) for entry in fields.children("image_paths")),
    )
    fields.done()
    if path.stem != f"{addon.name}-{addon.version}":
        fields.fail("version", f"the file must be named {addon.name}-{addon.version}.yaml")
    names = [entry.name for entry in addon.manifests]
    for name in names:
        if names.count(name) > 1:
            fields.fail("manifests", f"two files are named {name}")
    return addon


def _addon_file(fields: Fields) -> AddonFile:
    if (fields.get("url") is None) == (fields.get("file") is None):
        fields.fail("", "must have either url or file")
    url = fields.text("url", URL) if fields.get("url") is not None else None
    file = fields.text("file", FILE_NAME) if fields.get("file") is not None else None
    fields.done()
    entry = AddonFile(url, file)
    if not re.fullmatch(FILE_NAME, entry.name):
        fields.fail("url", "must end in a file name")
    return entry


def _image_path(fields: Fields) -> ImagePath:
    entry = ImagePath(fields.text("kind", KIND), fields.text("path", IMAGE_PATH))
    fields.done()
    return entry


def _replace(fields: Fields) -> Replace:
    entry = Replace(fields.text("from", r"[^\n\t]+"), fields.text("to", r"(?:(?!\\n)[^\t])+"))
    fields.done()
    return entry
