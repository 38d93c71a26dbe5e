"""Only what changed: a bundle without the bytes that a former bundle, its base, has already.

A delta is a bundle whose first member is ``delta.json``, and which lacks members that the base has by digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundler.archive import Member
from bundler.errors import IntegrityError
from bundler.verify import DELTA, open_bundle

SCHEMA = 1
_HINT = "Give --since a bundle, or what `bundler have` wrote of one."
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Base:
    """A former bundle: the sha256 of its SHA256SUMS, its release, and the sha256 of each of its files."""

    sums: str
    release: str
    digests: frozenset[str]

    def member(self) -> Member:
        """Return ``delta.json``, which names it."""
        return Member.of(DELTA, _json({"schema": SCHEMA, "base": self.sums, "release": self.release}))

    def lacking(self, body: Sequence[Member]) -> list[Member]:
        """Return the members that it does not have."""
        return [member for member in body if member.sha256 not in self.digests]

    def document(self) -> bytes:
        """Return ``have.json``: all that a delta has to know of it."""
        return _json({"schema": SCHEMA, "base": self.sums, "release": self.release, "have": sorted(self.digests)})


def read_base(path: Path) -> Base:
    """Read a base from a bundle or from its ``have.json``. IntegrityError if the file is neither."""
    with path.open("rb") as file:
        plain = file.read(1) == b"{"
    return _from_document(path) if plain else _from_bundle(path)


def _from_bundle(path: Path) -> Base:
    with open_bundle(path) as bundle:
        if bundle.base:
            raise IntegrityError(f"{path}: is a delta itself", "Join it with its base first: installer unpack.")
        sums = hashlib.sha256(bundle.sums).hexdigest()
        return Base(sums, str(bundle.contract["release"]), frozenset(bundle.files.values()))


def _from_document(path: Path) -> Base:
    try:
        found = json.loads(path.read_bytes())
        base = Base(str(found["base"]), str(found["release"]), frozenset(map(str, found["have"])))
    except (ValueError, KeyError, TypeError) as reason:
        raise IntegrityError(f"{path}: not what `bundler have` writes", _HINT) from reason
    if found.get("schema") != SCHEMA or not all(map(_HEX.fullmatch, [base.sums, *base.digests])):
        raise IntegrityError(f"{path}: not what `bundler have` writes", _HINT)
    return base


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()
