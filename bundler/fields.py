"""Reading YAML strictly: every key is asked for by type, and a key that nobody asked for is an error.

Messages read ``<file>: <where>: <what>``, so that the line to mend is found without a search.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from bundler.errors import BundlerError, ManifestError

_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BaseLoader):  # type: ignore[misc]
    """The safe loader, but a key given twice is an error: YAML would let the later one win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise yaml.constructor.ConstructorError(None, None, f"key given twice: {', '.join(twice)}", node.start_mark)
        return mapping


def read_documents(path: Path, error: type[BundlerError] = ManifestError) -> list[Any]:
    """Return the documents of a YAML file; ``error`` with file and line where it is no readable YAML."""
    try:
        return list(yaml.load_all(path.read_bytes(), _Loader))
    except OSError as reason:
        raise error(f"{path}: {reason.strerror}") from reason
    except yaml.YAMLError as reason:
        mark = getattr(reason, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(reason, "problem", None) or str(reason)
        raise error(f"{path}: {where}{problem}", "Mend the YAML, or restore the file.") from reason


class Fields:
    """One mapping of a document, and the way to it.

    Ask for each key once by its type, then call ``done()``, which refuses what was not asked for.
    """

    def __init__(self, data: object, file: str, where: str = "", error: type[BundlerError] = ManifestError) -> None:
        """Take ``data``, found in ``file`` at ``where``; every failure is raised as ``error``."""
        self.file, self.where, self.error = file, where, error
        if not isinstance(data, dict):
            self.fail("", "must be a mapping")
        self.data: dict[Any, Any] = data
        self.asked: set[str] = set()

    def fail(self, key: str, what: str, hint: str = "") -> NoReturn:
        """Raise this document's error about ``key`` (empty: about the mapping itself)."""
        way = ".".join(part for part in (self.where, key) if part)
        raise self.error(": ".join(part for part in (self.file, way, what) if part), hint)

    def done(self) -> None:
        """Refuse keys that nobody asked for."""
        for key in self.data:
            if key not in self.asked:
                self.fail(str(key), "unknown key")

    def get(self, key: str) -> Any:
        """Return the value as it is, or None where the key is absent."""
        self.asked.add(key)
        return self.data.get(key)

    def text(self, key: str, pattern: str = ".+", default: str | None = None) -> str:
        """Return text that matches ``pattern`` whole; with a default, an absent key is allowed."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            self.fail(key, "is missing" if value is None else f'must be text: write {key}: "{value}"')
        if not re.fullmatch(pattern, value):
            self.fail(key, f"{value!r} is not of the form {pattern}")
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """Return text that is one of ``allowed``."""
        value = self.text(key)
        if value not in allowed:
            self.fail(key, f"{value!r} is unknown: must be one of {', '.join(allowed)}")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false; an absent key is false."""
        value = self.get(key)
        if value is not None and type(value) is not bool:
            self.fail(key, f"must be true or false, not {value!r}")
        return bool(value)

    def size(self, key: str) -> int | None:
        """Return a size in bytes, or None where it is absent or null."""
        value = self.get(key)
        if value is not None and (type(value) is not int or value < 0):
            self.fail(key, f"must be a size in bytes, not {value!r}")
        return value

    def constant(self, key: str, value: object) -> None:
        """Refuse anything but ``value``."""
        found = self.get(key)
        if type(found) is not type(value) or found != value:
            self.fail(key, f"must be {value!r}, not {found!r}")

    def items(self, key: str, required: bool = False) -> list[Any]:
        """Return a list as it is; an absent one is empty."""
        value = self.get(key)
        if value is None:
            value = []
        if not isinstance(value, list):
            self.fail(key, "must be a list")
        if required and not value:
            self.fail(key, "must have at least one entry")
        return value

    def texts(self, key: str, pattern: str = ".+", required: bool = False) -> tuple[str, ...]:
        """Return a list of texts, each matching ``pattern``, none twice."""
        values = self.items(key, required)
        for number, value in enumerate(values):
            if not isinstance(value, str) or not re.fullmatch(pattern, value):
                self.fail(f"{key}[{number}]", f"{value!r} is not of the form {pattern}")
            if value in values[:number]:
                self.fail(f"{key}[{number}]", f"{value!r} is given twice")
        return tuple(values)

    def child(self, key: str) -> Fields:
        """Return the mapping under ``key``."""
        return self.below(self.get(key), key)

    def children(self, key: str, required: bool = False) -> list[Fields]:
        """Return the mappings of the list under ``key``."""
        return [self.below(item, f"{key}[{number}]") for number, item in enumerate(self.items(key, required))]

    def named(self, key: str) -> dict[str, Fields]:
        """Return the mappings under ``key`` by their names."""
        parent = self.child(key)
        return {str(name): parent.below(parent.get(name), str(name)) for name in parent.data}

    def below(self, data: object, key: str) -> Fields:
        """Return ``data``, found under ``key``, as fields."""
        where = f"{self.where}.{key}" if self.where else key
        return Fields(data, self.file, where, self.error)
