"""Debian's order of versions (deb-version(7)), and a pool that only knows rpm's made to follow it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PARTS = re.compile(r"(\D*)(\d*)")
_END = 1

Key = tuple[int, tuple[object, ...], tuple[object, ...]]


def version_key(version: str) -> Key:
    """Return a key that sorts ``[epoch:]upstream[-revision]`` as dpkg does."""
    epoch, _, rest = version.rpartition(":")
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch or "0") if (epoch or "0").isdecimal() else 0, _key(upstream), _key(revision)


def compare_versions(one: str, other: str) -> int:
    """Return a negative number where dpkg holds ``one`` for older than ``other``, 0 where they are equal."""
    first, second = version_key(one), version_key(other)
    return (first > second) - (first < second)


def _key(text: str) -> tuple[object, ...]:
    pairs = [(word, number) for word, number in _PARTS.findall(text) if word or number] or [("", "")]
    found: list[object] = []
    for word, number in pairs:
        found += [(*map(_order, word), _END), int(number or "0")]
    # What ends here comes before what goes on, but after what goes on with a tilde
    return (*found, (_END,))


def _order(character: str) -> int:
    if character == "~":
        return 0
    return ord(character) if character.isalpha() else ord(character) + 256


class Ranks:
    """Versions as texts that rpm's order sorts as Debian sorts the versions: ``rank12`` for the thirteenth oldest."""

    def __init__(self, versions: Iterable[str]) -> None:
        """Take every version that is going to be compared."""
        keys = {version: version_key(version) for version in versions}
        places = {key: place for place, key in enumerate(sorted(set(keys.values())))}
        self._ranks = {version: f"rank{places[key]}" for version, key in keys.items()}
        self._versions = {rank: version for version, rank in self._ranks.items()}

    def rank(self, version: str) -> str:
        """Return the rank of a version. KeyError if it was not given at first."""
        return self._ranks[version]

    def text(self, text: str) -> str:
        """Return a text with its ranks turned back into versions."""
        return re.sub(r"rank\d+", lambda match: self._versions.get(match[0], match[0]), text)
