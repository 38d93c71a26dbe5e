"""Release and add-on manifests: what is wanted, by name and version (docs/formats.md, sections 1 and 2).

``manifests/manifest.schema.json`` and ``manifests/addon.schema.json`` say the same for editors; what spans several
keys (the pause image being among the images, subnets that overlap) is checked here only.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bundler.errors import ManifestError
from bundler.fields import Fields, read_documents

ROLES = ("master", "node")
KINDS = ("network", "addon", "sample")
RUNTIMES = ("containerd", "docker")
FORMATS = ("rpm",)
RPM_ARCHES = {"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x"}

URL = r"https?://[^\s/]+/\S+"
NAME = r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?"
FILE_NAME = r"[A-Za-z0-9_][A-Za-z0-9._+~-]*"
# the registry has a dot or a port, so that no short name slips through
_REGISTRY = r"[a-z0-9-]+(\.[a-z0-9-]+)*(\.[a-z0-9-]+|:[0-9]+)"
REPOSITORY = _REGISTRY + r"(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
IMAGE = REPOSITORY + r":[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
CAPABILITY = r"[^\s]+( (<|<=|=|>=|>) [^\s]+)?"
SPEC = r"[A-Za-z0-9][A-Za-z0-9._+:~^-]*"


@dataclass(frozen=True)
class Image:
    """An image by its full reference (``docker.io/library/busybox:1.33``) and the roles that run it."""

    ref: str
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Binary:
    """An executable that lands at ``bin/<arch>/<name>``; url and checksum file still hold ``{arch}``."""

    name: str
    url: str
    checksum: str

    def for_arch(self, arch: str) -> Binary:
        """Return this binary with ``{arch}`` filled in (``amd64``)."""
        return Binary(self.name, fill(self.url, arch), fill(self.checksum, arch))


@dataclass(frozen=True)
class Repo:
    """A yum repository: ``baseurl`` is a directory with repodata/, still with ``{rpmarch}``; keys are URLs."""

    id: str
    baseurl: str
    keys: tuple[str, ...]

    def for_arch(self, arch: str) -> Repo:
        """Return this repository with ``{arch}`` and ``{rpmarch}`` filled in; no slash at the end."""
        return Repo(self.id, fill(self.baseurl, arch).rstrip("/"), self.keys)


@dataclass(frozen=True)
class Host:
    """An operating system: where its packages come from, what a minimal one has, what each role wants."""

    name: str
    format: str
    repos: tuple[Repo, ...]
    installed: tuple[str, ...]
    roles: Mapping[str, tuple[str, ...]]

    @property
    def keys(self) -> tuple[str, ...]:
        """The URLs of all repositories' keys, each once, sorted."""
        return tuple(sorted({key for repo in self.repos for key in repo.keys}))


@dataclass(frozen=True)
class Replace:
    """A literal replacement in an add-on's manifests."""

    old: str
    new: str


@dataclass(frozen=True)
class AddonFile:
    """A Kubernetes manifest of an add-on: either at ``url``, or ``file`` in ``Addon.directory``."""

    url: str | None
    file: str | None

    @property
    def name(self) -> str:
        """The file name in the bundle, under ``manifests/<addon>/``."""
        return urlsplit(self.url).path.rsplit("/", 1)[-1] if self.url else str(self.file)


@dataclass(frozen=True)
class Addon:
    """An add-on manifest. Own files lie in ``directory``."""

    name: str
    version: str
    kind: str
    releases: tuple[str, ...]
    images: tuple[Image, ...]
    manifests: tuple[AddonFile, ...]
    replace: tuple[Replace, ...]
    directory: Path


@dataclass(frozen=True)
class Release:
    """A release manifest. ``date`` is UTC midnight in seconds since the epoch; ``hosts`` keeps the file's order."""

    release: str
    kubernetes: str
    date: int
    arches: tuple[str, ...]
    kubeadm_api: str
    runtime: str
    image_repository: str
    pause: str
    pod_subnet: str
    service_subnet: str
    images: tuple[Image, ...]
    binaries: tuple[Binary, ...]
    addons: tuple[str, ...]
    hosts: Mapping[str, Host]


def rpm_arch(arch: str) -> str:
    """Return RPM's name of a Go architecture: amd64 is x86_64. KeyError if it is none of ours."""
    return RPM_ARCHES[arch]


def fill(url: str, arch: str) -> str:
    """Fill ``{arch}`` and ``{rpmarch}`` into a URL."""
    return url.replace("{arch}", arch).replace("{rpmarch}", rpm_arch(arch))


def release_names(directory: Path) -> list[str]:
    """Return the releases that ``directory`` has a manifest for, oldest first."""
    names = [path.stem for path in directory.glob("*.yaml") if re.fullmatch(r"\d+\.\d+", path.stem)]
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")])


def load_release(directory: Path, version: str) -> Release:
    """Return the release that ``version`` names: ``1.20``, ``1.20.2`` or ``v1.20.2``.

    ManifestError lists the known ones where there is no such release, and names file and key of a malformed one.
    """
    wanted = version[1:] if version.startswith("v") else version
    known = release_names(directory)
    name = ".".join(wanted.split(".")[:2])
    if name not in known:
        raise ManifestError(
            f"{directory}: no manifest for release {version}", f"Known releases: {', '.join(known) or 'none'}."
        )
    release = _read_release(directory / f"{name}.yaml")
    if wanted not in (name, release.kubernetes[1:]):
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
    fitting = [addon for addon in list_addons(directory) if release.release in addon.releases]
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
    release = Release(
        release=fields.text("release", r"\d+\.\d+"),
        kubernetes=fields.text("kubernetes", r"v\d+\.\d+\.\d+"),
        date=_date(fields),
        arches=_arches(fields),
        kubeadm_api=fields.text("kubeadm_api", r"kubeadm\.k8s\.io/v\d+[a-z0-9]*"),
        runtime=fields.choice("runtime", RUNTIMES),
        image_repository=fields.text("image_repository", r"[a-z0-9.:-]+(/[a-z0-9._-]+)*"),
        pause=fields.text("pause", IMAGE),
        pod_subnet=_subnet(fields, "pod_subnet"),
        service_subnet=_subnet(fields, "service_subnet"),
        images=_images(fields, required=True),
        binaries=_binaries(fields),
        addons=fields.texts("addons", NAME),
        hosts={name: _host(name, host) for name, host in fields.named("hosts").items()},
    )
    fields.done()
    _check_release(path, fields, release)
    return release


def _check_release(path: Path, fields: Fields, release: Release) -> None:
    if release.release != path.stem:
        fields.fail("release", f"{release.release} is not what the file is named after")
    if not release.kubernetes.startswith(f"v{release.release}."):
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
    host = Host(
        name=name,
        format=fields.choice("format", FORMATS),
        repos=_repos(fields),
        installed=fields.texts("installed", CAPABILITY),
        roles={role: roles.texts(role, SPEC, required=True) for role in ROLES},
    )
    roles.done()
    fields.done()
    return host


def _repos(fields: Fields) -> tuple[Repo, ...]:
    repos: list[Repo] = []
    for entry in fields.children("repos", required=True):
        repo = Repo(entry.text("id", r"[A-Za-z0-9._-]+"), entry.text("baseurl", URL), entry.texts("keys", URL))
        entry.done()
        if repo.id in [other.id for other in repos]:
            entry.fail("id", f"{repo.id} is given twice")
        repos.append(repo)
    return tuple(repos)


def _read_addon(path: Path) -> Addon:
    fields = _read(path)
    addon = Addon(
        name=fields.text("addon", NAME),
        version=fields.text("version", r"[A-Za-z0-9][A-Za-z0-9._+-]*"),
        kind=fields.choice("kind", KINDS),
        releases=fields.texts("releases", r"\d+\.\d+", required=True),
        images=_images(fields),
        manifests=tuple(_addon_file(entry) for entry in fields.children("manifests", required=True)),
        replace=tuple(_replace(entry) for entry in fields.children("replace")),
        directory=path.parent / "files",
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


def _replace(fields: Fields) -> Replace:
    entry = Replace(fields.text("from", r"[^\n\t]+"), fields.text("to", r"[^\n\t]+"))
    fields.done()
    return entry
