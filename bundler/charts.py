"""Helm charts without helm: packed, listed, and searched for the images that they would run.

Templates are not rendered. An ``image:`` line is understood where it is text, a path into the values, or the usual
functions of these; or where it hands a mapping with ``repository`` and ``tag`` to a helper. All branches count, so
what a condition would leave out is found too. Any other line is named, and the user says what it stands for.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from bundler.errors import HostError, ManifestError
from bundler.fetch.registry import Reference
from bundler.repodata import gzip_stored
from bundler.templates import Scope, Unresolved, evaluate

LIMIT = 64 << 20
_IMAGE_LINE = re.compile(r"^\s*(?:-\s+)?image:[ \t]*(\S.*?)\s*$", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9A-Za-z.+-]+")


@dataclass(frozen=True)
class Chart:
    """A chart with its vendored sub-charts; ``files`` are the members below the chart's own directory."""

    name: str
    version: str
    meta: Mapping[str, Any]
    files: Mapping[str, bytes]
    where: str

    @classmethod
    def read(cls, data: bytes, where: str) -> Chart:
        """Read a packed chart. ManifestError, naming ``where``, if it is none or lacks a chart that it depends on."""
        try:
            plain = gzip.GzipFile(fileobj=io.BytesIO(data)).read(LIMIT + 1)
            if len(plain) > LIMIT:
                raise ManifestError(f"{where}: larger than {LIMIT} bytes when unpacked", "Is it a chart?")
            with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
                files = {member.name: _member(tar, member) for member in tar if member.isfile()}
        except (OSError, EOFError, tarfile.TarError) as reason:
            raise ManifestError(f"{where}: not a packed chart: {reason}", "Pack it with `helm package`.") from reason
        tops = {name.partition("/")[0] for name in files}
        if len(tops) != 1:
            raise ManifestError(f"{where}: must hold one directory, not {len(tops)}", "Pack it with `helm package`.")
        return cls.of({name.partition("/")[2]: content for name, content in files.items()}, where)

    @classmethod
    def of(cls, files: Mapping[str, bytes], where: str) -> Chart:
        """Return the chart of these files. ManifestError as ``read``."""
        meta = _mapping(files.get("Chart.yaml"), f"{where}: Chart.yaml")
        name, version = str(meta.get("name", "")), str(meta.get("version", ""))
        if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
            raise ManifestError(f"{where}: Chart.yaml names no chart and version", "Is it a chart?")
        chart = cls(name, version, meta, files, where)
        chart.check_dependencies()
        return chart

    @classmethod
    def pack(cls, directory: Path) -> bytes:
        """Return a chart's directory packed, always the same bytes. HostError, or ManifestError as ``read``."""
        try:
            found = sorted(path for path in directory.rglob("*") if path.is_file())
            files = {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}
        except OSError as reason:
            raise HostError(f"{reason.filename}: {reason.strerror}", "Give a readable chart.") from reason
        chart = cls.of(files, str(directory))
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name in sorted(files):
                info = tarfile.TarInfo(f"{chart.name}/{name}")
                info.size = len(files[name])
                tar.addfile(info, io.BytesIO(files[name]))
        return gzip_stored(buffer.getvalue())

    @property
    def file_name(self) -> str:
        """What helm calls the packed chart."""
        return f"{self.name}-{self.version}.tgz"

    def check_dependencies(self) -> None:
        """Return if every chart that this one depends on is inside; ManifestError otherwise."""
        wanted = [*_list(self.meta, "dependencies")]
        if "requirements.yaml" in self.files:
            older = _mapping(self.files["requirements.yaml"], f"{self.where}: requirements.yaml")
            wanted += _list(older, "dependencies")
        have = {chart.name for chart in self.children()}
        for entry in wanted:
            if isinstance(entry, dict) and entry.get("name") not in have:
                raise ManifestError(f"{self.where}: depends on chart {entry.get('name')}, which is not in its charts/",
                                    "Fetch it with `helm dependency build`, and pack the chart again.")

    def children(self) -> list[Chart]:
        """Return the vendored sub-charts, packed ones and directories."""
        groups: dict[str, dict[str, bytes]] = {}
        found = []
        for path, content in self.files.items():
            parts = path.split("/", 2)
            if parts[0] != "charts" or parts[1][:1] in ("_", "."):
                continue
            if len(parts) == 2 and path.endswith(".tgz"):
                found.append(Chart.read(content, f"{self.where}: {path}"))
            elif len(parts) == 3:
                groups.setdefault(parts[1], {})[parts[2]] = content
        found += [Chart.of(files, f"{self.where}: charts/{name}") for name, files in sorted(groups.items())]
        return found

    def images(self, declared: Sequence[str] = ()) -> list[tuple[Reference, str]]:
        """Return the images with the file that names each.

        ManifestError lists the lines that cannot be understood, unless images are ``declared`` for them.
        """
        dark: list[str] = []
        found = [(Reference.parse(ref), "as declared with it") for ref in declared]
        found += self._search(self._values(), dark)
        if dark and not declared:
            raise ManifestError(
                "\n  ".join([f"{self.where}: images that only helm could tell:", *dark]),
                f"Say which they are, each with --chart-image {self.name}=IMAGE "
                "(`helm template` shows them), or give values for them in the chart.",
            )
        return list(dict.fromkeys(found))

    def _values(self) -> dict[str, Any]:
        return _mapping(self.files.get("values.yaml", b"{}"), f"{self.where}: values.yaml")

    def _search(self, values: dict[str, Any], dark: list[str]) -> list[tuple[Reference, str]]:
        found = [(image, "values.yaml") for image in images_of_values(values)]
        scope = Scope(values, self.meta, _defines(self.files))
        for path, content in sorted(self.files.items()):
            if path.startswith("templates/") and path.endswith((".yaml", ".yml", ".tpl")):
                text = content.decode("utf-8", "replace")
                for match in _IMAGE_LINE.finditer(text):
                    line = text.count("\n", 0, match.start(1)) + 1
                    found += self._line(match[1], f"{path}:{line}", scope, dark)
        for child in self.children():
            inherited = values.get(self._alias(child.name))
            below = _merge(child._values(), inherited if isinstance(inherited, dict) else {})
            if isinstance(values.get("global"), dict):
                below = _merge(below, {"global": values["global"]})
            more: list[str] = []
            found += [(image, f"charts/{child.name}/{where}") for image, where in child._search(below, more)]
            dark += [f"charts/{child.name}/{line}" for line in more]
        return found

    def _alias(self, name: str) -> str:
        for entry in _list(self.meta, "dependencies"):
            if isinstance(entry, dict) and entry.get("name") == name and entry.get("alias"):
                return str(entry["alias"])
        return name

    def _line(self, expression: str, where: str, scope: Scope, dark: list[str]) -> list[tuple[Reference, str]]:
        try:
            return [(Reference.parse(text), where) for text in evaluate(expression, scope)]
        except (Unresolved, ManifestError):
            found = [Reference.parse(text) for text in _handed_over(expression, scope)]
        if not found:
            dark.append(f"{where}: image: {expression}")
        return [(image, where) for image in found]


def images_of_values(node: Any) -> Iterator[Reference]:
    """Find images in values: a mapping with ``repository`` and ``tag`` or ``digest``, or text at ``image``."""
    if isinstance(node, list):
        for item in node:
            yield from images_of_values(item)
    if not isinstance(node, dict):
        return
    text = image_of_mapping(node)
    if not text and isinstance(node.get("image"), str) and re.search(r"[:/]", node["image"]):
        text = node["image"]
    if text:
        # Other things than images have a repository and a tag.
        with contextlib.suppress(ManifestError):
            yield Reference.parse(text)
    for value in node.values():
        yield from images_of_values(value)


def image_of_mapping(node: Mapping[str, Any]) -> str:
    """Return ``registry/repository:tag@digest`` of values that say so, or nothing."""
    repository, tag, digest = (node.get(key) for key in ("repository", "tag", "digest"))
    if not isinstance(repository, str) or not repository or not (tag or digest):
        return ""
    registry = node.get("registry")
    text = f"{registry}/{repository}" if isinstance(registry, str) and registry else repository
    return text + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


def _handed_over(expression: str, scope: Scope) -> list[str]:
    """Return the images of the mappings that an expression gives to a helper: the convention is all there is to go by.

    None where a registry for all images is set, since each helper has its own idea of that.
    """
    if (scope.values.get("global") or {}).get("imageRegistry"):
        return []
    found = []
    for path in re.findall(r"\.Values((?:\.\w+)+)", expression):
        node: Any = scope.values
        for key in path.split(".")[1:]:
            node = node.get(key) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping):
            found.append(image_of_mapping(node))
    return [text for text in found if text]


def index(charts: Mapping[str, bytes], created: int) -> bytes:
    """Return ``index.yaml`` of packed charts by file name; JSON, which every reader of YAML takes.

    ``created`` is in seconds since 1970.
    """
    stamp = datetime.fromtimestamp(created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    entries: dict[str, list[dict[str, Any]]] = {}
    for file_name, data in sorted(charts.items()):
        chart = Chart.read(data, file_name)
        entry = {**chart.meta, "urls": [file_name], "digest": hashlib.sha256(data).hexdigest(), "created": stamp}
        entries.setdefault(chart.name, []).append(entry)
    document = {"apiVersion": "v1", "entries": entries, "generated": stamp}
    return (json.dumps(document, sort_keys=True, indent=1, default=str) + "\n").encode()


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _mapping(data: bytes | None, where: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(data) if data is not None else None
    except yaml.YAMLError as reason:
        raise ManifestError(f"{where}: {reason}", "Mend the YAML.") from reason
    if data is None or not isinstance(found or {}, dict):
        raise ManifestError(f"{where}: is missing or no mapping", "Is it a chart?")
    return found or {}


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    found = data.get(key)
    return found if isinstance(found, list) else []


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _defines(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the bodies of the named templates that have no control structure inside."""
    texts = [c.decode("utf-8", "replace") for path, c in files.items() if path.startswith("templates/")]
    pattern = re.compile(r'\{\{-?\s*define\s+"([^"]+)"\s*-?\}\}(.*?)\{\{-?\s*end\s*-?\}\}', re.DOTALL)
    return {match[1]: match[2] for text in texts for match in pattern.finditer(text)}
