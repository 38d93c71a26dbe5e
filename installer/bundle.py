"""An opened bundle: its contract, and where each member lies."""

import hashlib
from typing import Dict, List, Sequence

from .contract import Contract, FileEntry, parse
from .errors import IntegrityError
from .join import DELTA, JoinedSource, require_base
from .pieces import parts
from .source import Source, open_source
from .tarindex import Member

CONTRACT = "bundle.json"
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
SIGSTORE = "SHA256SUMS.sigstore.json"
OUTSIDE = (CONTRACT, SUMS, SIGNATURE, SIGSTORE)  # what bundle.json cannot list
_MAX_OUTSIDE = 64 << 20


class Bundle:
    """`members`: path -> Member; `digests`: path -> sha256 in hex; `info`: bundle.json."""

    def __init__(self, source: Source, info: Contract, digests: Dict[str, str]) -> None:
        self.source = source
        self.members = source.members
        self.info = info
        self.digests = digests

    def read(self, path: str) -> bytes:
        """A whole member, checked. Raises IntegrityError if it is missing or differs from its digest."""
        member = self.members.get(path)
        if member is None:
            raise IntegrityError("the bundle has no {}".format(path))
        data = self.source.read(member)
        if hashlib.sha256(data).hexdigest() != self.digests.get(path):
            raise IntegrityError("{} differs from its digest".format(path))
        return data

    def close(self) -> None:
        """Close the files behind the bundle."""
        self.source.close()


def open_bundle(path: str, more: Sequence[str] = ()) -> Bundle:
    """Open a bundle's tar or unpacked directory; contents are not hashed, but every member is accounted for.

    `more` are the other parts of a tar that was cut, or the deltas to lay over it, oldest first.
    Raises UsageError (no such path), HostError (unreadable), IntegrityError (not a bundle, or members
    missing, extra or of the wrong size; not the base of a delta).
    """
    others = parts(path)
    bundle = _open(open_source(path))
    for delta in (one for one in more if one not in others):
        bundle = _join(bundle, delta)
    return bundle


def _join(base: Bundle, path: str) -> Bundle:
    delta = None
    try:
        delta = open_source(path)
        require_base(base.digests[SUMS], base.source.path, delta)
        joined = JoinedSource(base.source, base.digests, delta)
    except BaseException:
        base.close()
        if delta is not None:
            delta.close()
        raise
    return _open(joined)


def _open(source: Source) -> Bundle:
    path = source.path
    try:
        if DELTA in source.members:
            raise IntegrityError("{}: is a delta, which is no bundle without its base".format(path),
                                 "give the base first: BASE {}".format(path))
        bundle = _describe(source)
        found = structure(bundle)
        if found:
            raise IntegrityError("{}: {}".format(path, "; ".join(found[:10])))
    except BaseException:
        source.close()
        raise
    return bundle


def _describe(source: Source) -> Bundle:
    for path in (CONTRACT, SUMS):
        if path not in source.members:
            raise IntegrityError("{}: not a bundle: it has no {}".format(source.path, path))
    digests: Dict[str, str] = {}
    outside: Dict[str, bytes] = {}
    for path in OUTSIDE:
        member = source.members.get(path)
        if member is not None:
            outside[path] = _read_outside(source, member)
            digests[path] = hashlib.sha256(outside[path]).hexdigest()
    info = parse(outside[CONTRACT])
    if source.created not in (None, info.created):
        raise IntegrityError("{}: `created` in {} is not the members' time stamp".format(source.path, CONTRACT))
    digests.update((entry.path, entry.sha256) for entry in info.files if entry.path not in OUTSIDE)
    return Bundle(source, info, digests)


def _read_outside(source: Source, member: Member) -> bytes:
    if member.size > _MAX_OUTSIDE:
        raise IntegrityError("{}: {} is {} bytes long, too large".format(source.path, member.path, member.size))
    return source.read(member)


def structure(bundle: Bundle) -> List[str]:
    """What bundle.json and the members disagree about, contents apart: a line for each problem."""
    listed: Dict[str, FileEntry] = {entry.path: entry for entry in bundle.info.files}
    problems = ["{}: must not be listed in bundle.json".format(path) for path in sorted(listed) if path in OUTSIDE]
    for path in sorted(set(listed) | set(bundle.members)):
        if path in OUTSIDE:
            continue
        if path not in bundle.members:
            problems.append("{}: missing".format(path))
        elif path not in listed:
            problems.append("{}: extra, bundle.json does not know it".format(path))
        elif listed[path].size != bundle.members[path].size:
            problems.append("{}: {} bytes long, must be {}".format(path, bundle.members[path].size, listed[path].size))
    return problems
