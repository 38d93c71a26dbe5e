"""A bundle's members by path, whether it is still planned or lies there finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from bundler import archive
from bundler.archive import Entry, Member
from bundler.bundle import content
from bundler.errors import ResolveError
from bundler.spans import Spans


class Contents(Protocol):
    """What is in a bundle."""

    sizes: Mapping[str, int]

    def read(self, path: str) -> bytes:
        """Return a small member's bytes; ResolveError if there is none of that path."""


class Planned:
    """The members that are about to be written. DamagedSource where a file is not what its member says."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = {member.path: member for member in members}
        self.sizes: Mapping[str, int] = {member.path: member.size for member in members}

    def read(self, path: str) -> bytes:
        """Return a small member's bytes."""
        return content(self._members[_known(path, self.sizes)])


class Finished:
    """The members of a bundle that is open; ``entries`` are its tar's."""

    def __init__(self, fd: Spans, entries: Mapping[str, Entry]) -> None:
        self._fd, self._entries = fd, entries
        self.sizes: Mapping[str, int] = {path: entry.size for path, entry in entries.items()}

    def read(self, path: str) -> bytes:
        """Return a small member's bytes."""
        return archive.content(self._fd, self._entries[_known(path, self.sizes)])


def _known(path: str, sizes: Mapping[str, int]) -> str:
    if path not in sizes:
        raise ResolveError(f"{path} is not in the bundle")
    return path
