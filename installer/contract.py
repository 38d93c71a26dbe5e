"""``bundle.json``: what a bundle says about itself, checked before anything relies on it."""

import json
import re
from typing import Any, Dict, List, NamedTuple, Optional, Type, TypeVar, Union

from .errors import IntegrityError
from .tarindex import check_path

SCHEMA = 1
_SHA256 = re.compile("[0-9a-f]{64}")
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_SETTING = re.compile("[A-Z][A-Z0-9_]*")
_T = TypeVar("_T")


class FileEntry(NamedTuple):
    """A member's path, its sha256 (64 hex digits) and its size in bytes."""

    path: str
    sha256: str
    size: int


class Image(NamedTuple):
    """An image: full reference `repo:tag`, digest `sha256:<hex>` and media type of its manifest."""

    ref: str
    digest: str
    media_type: str
    size: int
    platforms: List[str]
    roles: List[str]


class Host(NamedTuple):
    """Packages for one operating system: repository path, key paths, role -> list of packages.

    `repo_key` is the one of `keys` that signs the repository's metadata; empty where nobody does.
    """

    name: str
    format: str
    path: str
    keys: List[str]
    roles: Dict[str, str]
    repo_key: str = ""


class Addon(NamedTuple):
    """An add-on and the paths of its manifests."""

    name: str
    version: str
    kind: str
    manifests: List[str]


class Contract(NamedTuple):
    """``bundle.json`` as a whole; `created` in seconds since the epoch, `node` = settings of deploy.sh."""

    release: str
    kubernetes: str
    created: int
    arches: List[str]
    hosts: List[Host]
    images: List[Image]
    addons: List[Addon]
    node: Dict[str, str]
    files: List[FileEntry]


class _Reader:
    """An object of bundle.json, read field by field; every error names the field."""

    def __init__(self, value: Any, where: str) -> None:
        self.where = where
        if not isinstance(value, dict):
            raise self.error("must be an object")
        self.value: Dict[str, Any] = value

    def error(self, what: str) -> IntegrityError:
        return IntegrityError("bundle.json: {} {}".format(self.where or "it", what))

    def get(self, key: str, kind: Type[_T], pattern: Optional[Any] = None) -> _T:
        found = self.value.get(key)
        where = "{}.{}".format(self.where, key) if self.where else key
        if not isinstance(found, kind) or isinstance(found, bool):
            raise IntegrityError("bundle.json: {} must be of type {}".format(where, kind.__name__))
        if isinstance(found, int) and found < 0:
            raise IntegrityError("bundle.json: {} is negative".format(where))
        if pattern is not None and not pattern.fullmatch(found):
            raise IntegrityError("bundle.json: {} is malformed: {!r}".format(where, found))
        return found

    def strings(self, key: str) -> List[str]:
        found = self.get(key, list)
        if not all(isinstance(item, str) for item in found):
            raise self.error("has a {} that is not a list of strings".format(key))
        return found

    def mapping(self, key: str) -> Dict[str, str]:
        found = self.get(key, dict)
        if not all(isinstance(item, str) for item in found.values()):
            raise self.error("has a {} whose values are not all strings".format(key))
        return found

    def items(self, key: str) -> "List[_Reader]":
        return [_Reader(item, "{}[{}]".format(key, n)) for n, item in enumerate(self.get(key, list))]


def parse(data: Union[bytes, str]) -> Contract:
    """Read ``bundle.json``. Raises IntegrityError for an unknown schema or a field that is wrong."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        top = _Reader(json.loads(text), "")
    except ValueError as error:
        raise IntegrityError("bundle.json is not JSON: {}".format(error)) from None
    schema = top.value.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise IntegrityError("bundle.json has schema {!r}, this installer reads {}".format(schema, SCHEMA),
                             "use the installer that lies in the bundle: tar xf BUNDLE installer")
    hosts = top.get("hosts", dict)
    return Contract(
        release=top.get("release", str), kubernetes=top.get("kubernetes", str), created=top.get("created", int),
        arches=top.strings("arches"), hosts=[_host(name, hosts[name]) for name in sorted(hosts)],
        images=[_image(item) for item in top.items("images")], addons=[_addon(item) for item in top.items("addons")],
        node=_settings(top), files=_files(top))


def _host(name: str, value: Any) -> Host:
    item = _Reader(value, "hosts.{}".format(name))
    signer = item.get("repo_key", str) if "repo_key" in item.value else ""
    if signer and signer not in item.strings("keys"):
        raise item.error("has a repo_key that is not among its keys")
    return Host(name, item.get("format", str), item.get("path", str), item.strings("keys"), item.mapping("roles"),
                signer)


def _image(item: _Reader) -> Image:
    return Image(item.get("ref", str), item.get("digest", str, _DIGEST), item.get("mediaType", str),
                 item.get("size", int), item.strings("platforms"), item.strings("roles"))


def _addon(item: _Reader) -> Addon:
    return Addon(item.get("name", str), item.get("version", str), item.get("kind", str), item.strings("manifests"))


def _settings(top: _Reader) -> Dict[str, str]:
    settings = top.mapping("node")
    for name in settings:
        if not _SETTING.fullmatch(name) or "\0" in settings[name]:
            raise IntegrityError("bundle.json: node.{!r} is not a setting".format(name))
    return settings


def _files(top: _Reader) -> List[FileEntry]:
    files = [FileEntry(item.get("path", str), item.get("sha256", str, _SHA256), item.get("size", int))
             for item in top.items("files")]
    seen = set()
    for entry in files:
        check_path(entry.path)
        if entry.path in seen:
            raise IntegrityError("bundle.json names {} twice".format(entry.path))
        seen.add(entry.path)
    return files
