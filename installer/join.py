"""A bundle out of its base and a delta: what the delta lacks, the base has, by digest."""

import json
import os
from typing import Any, Dict, List, Tuple

from .contract import parse
from .errors import IntegrityError
from .source import Cut, Source
from .tarindex import Member

DELTA = "delta.json"
_SCHEMA = 1
_CONTRACT = "bundle.json"


class JoinedSource(Source):
    """The members of a delta, and those of its base that it builds on."""

    def __init__(self, base: Source, digests: Dict[str, str], delta: Source) -> None:
        """Lay `delta` over `base`, whose members have these sha256. Raises IntegrityError."""
        self.path = "{} with {}".format(base.path, delta.path)
        self.modified = max(base.modified, delta.modified)
        self.created = delta.created
        self._sources = (base, delta)
        self._places: Dict[str, Tuple[Source, str]] = {path: (delta, path) for path in delta.members if path != DELTA}
        by_digest = {digests[path]: path for path in base.members if path in digests}
        for entry in parse(delta.read(delta.members[_CONTRACT])).files:
            if entry.path not in self._places and entry.sha256 in by_digest:
                self._places[entry.path] = (base, by_digest[entry.sha256])
        self.members = {path: source.members[own]._replace(path=path)
                        for path, (source, own) in sorted(self._places.items())}

    def _own(self, member: Member) -> Tuple[Source, Member]:
        """The source of a member, and the member as that source knows it."""
        source, path = self._places[member.path]
        return source, member._replace(path=path)

    def acquire(self, member: Member) -> int:
        """A descriptor of the file that has the member."""
        source, own = self._own(member)
        return source.acquire(own)

    def release(self, fd: int) -> None:
        """Close the descriptor."""
        os.close(fd)

    def cut(self, member: Member, start: int, size: int) -> List[Cut]:
        """The places of a member's bytes."""
        source, own = self._own(member)
        return [(place._replace(path=member.path), begin, length) for place, begin, length in
                source.cut(own, start, size)]

    def intact(self, fd: int, member: Member) -> bool:
        """Whether the file that has the member is unchanged."""
        source, own = self._own(member)
        return source.intact(fd, own)

    def replaced(self) -> bool:
        """Whether another file has taken the place of either."""
        return any(source.replaced() for source in self._sources)

    def close(self) -> None:
        """Close both."""
        for source in self._sources:
            source.close()


def require_base(sums: str, base: str, delta: Source) -> None:
    """Return if `delta` builds on the bundle `base` whose SHA256SUMS has the sha256 `sums`. Raises IntegrityError."""
    if DELTA not in delta.members:
        raise IntegrityError("{}: not a delta, so it cannot be joined with {}".format(delta.path, base),
                             "give the base first, then its deltas in the order in which they were built")
    if _CONTRACT not in delta.members:
        raise IntegrityError("{}: not a delta: it has no {}".format(delta.path, _CONTRACT))
    found = _read(delta)
    if found["base"] != sums:
        raise IntegrityError(
            "{} is not the base of {}: that is a bundle of release {} whose SHA256SUMS has sha256 {}, not {}".format(
                base, delta.path, found["release"], found["base"], sums),
            "give the bundle that the delta was built with: bundler build --since")


def _read(delta: Source) -> Dict[str, Any]:
    try:
        found = json.loads(delta.read(delta.members[DELTA]).decode("utf-8"))
        if found["schema"] == _SCHEMA and isinstance(found["base"], str) and isinstance(found["release"], str):
            return dict(found)
    except (ValueError, KeyError, TypeError):
        pass
    raise IntegrityError("{}: {} is malformed, or of an unknown schema".format(delta.path, DELTA))
