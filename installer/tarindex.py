"""Where each member of a bundle lies in its tar: one pass over the headers, no byte of the contents.

Stricter than ``tarfile`` on purpose: what the bundler never writes (directories, links, devices, other
tar dialects, bytes in the padding) is refused, so that no flipped byte outside the contents goes unseen.
"""

import re
from typing import Dict, List, NamedTuple, Sequence, Set, Tuple, Union

from .errors import IntegrityError
from .pieces import Pieces
from .tarheader import BLOCK, header, safe

FIRST = ("delta.json", "bundle.json", "SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.sigstore.json")
_KINDS = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device", b"4": "a block device",
    b"5": "a directory", b"6": "a named pipe", b"L": "a GNU long name", b"S": "a sparse file", b"g": "a global header",
}
_OCTAL = re.compile(rb"[0-7]{11}\0")
_CHECKSUM = re.compile(rb"[0-7]{6}\0 ")
_PAX = re.compile(rb"[1-9][0-9]? size=([0-9]{1,18})\n")


class Member(NamedTuple):
    """One file of a bundle: `size` bytes from `offset` (bytes into the tar, or 0 in an unpacked tree)."""

    path: str
    offset: int
    size: int
    mtime_ns: int = 0  # of its own file; 0 inside a tar, which has one time stamp for all
    piece: int = 0  # number of the file, where the tar is cut into several


class Index(NamedTuple):
    """What a tar holds, in the order of the file, and the one time stamp (in seconds) of all of it."""

    members: Dict[str, Member]
    created: int


def check_path(path: str) -> None:
    """Raise IntegrityError unless `path` is a plain relative path that cannot leave the bundle."""
    if not safe(path):
        raise IntegrityError("unsafe member name: {!r}".format(path))


def check_order(paths: Sequence[str], name: str) -> None:
    """Raise IntegrityError unless a bundle's members come in the order in which the bundler writes them."""
    wanted: List[str] = [path for path in FIRST if path in paths] + sorted(set(paths) - set(FIRST))
    for found, expected in zip(paths, wanted):
        if found != expected:
            raise IntegrityError("{}: members out of order: {} where {} belongs".format(name, found, expected))


def check_paths(paths: Set[str]) -> None:
    """Raise IntegrityError if one path of the set would have to be a file and a directory at once."""
    for path in paths:
        parent = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in paths:
                raise IntegrityError("{} is both a file and the directory of {}".format(parent, path))


def scan(fd: Union[int, Pieces], name: str) -> Index:
    """Index an open tar; `name` is for messages.

    Raises IntegrityError, naming member and offset, for any byte outside the contents that the bundler does not write.
    """
    file = fd if isinstance(fd, Pieces) else Pieces.of(fd)
    members: Dict[str, Member] = {}
    offset, last, block = 0, "", _read(file, 0, BLOCK, name, "")
    created = int(block[136:147], 8) if _OCTAL.fullmatch(block[136:148]) else 0
    while block.strip(b"\0"):
        member, heads = _member(file, block, offset, name, last)
        if member.path in members:
            raise IntegrityError("{}: {} occurs twice".format(name, member.path))
        if heads != header(member.path, member.size, created):
            raise IntegrityError("{}: the header of {} (at byte {}, {}) is not as the bundler writes it".format(
                name, member.path, offset, _after(last)))
        last, members[member.path] = member.path, member
        padding = -member.size % BLOCK
        offset = member.offset + member.size + padding
        if offset + BLOCK > file.size:
            raise _truncated(name, file.size, last)
        after = _read(file, offset - padding, padding + BLOCK, name, last)
        if after[:padding].strip(b"\0"):
            raise IntegrityError("{}: bytes that are not zero after the end of {}".format(name, last))
        block = after[padding:]
    _check_end(file, offset, name, last)
    check_paths(set(members))
    return Index(members, created)


def _member(file: Pieces, block: bytes, offset: int, name: str, last: str) -> Tuple[Member, bytes]:
    """The member whose header is `block` at `offset`, and all its header blocks."""
    kind, path, size = _header(block, offset, name, last)
    heads = block
    if kind == b"x":
        found = _PAX.match(_read(file, offset + BLOCK, BLOCK, name, last)) if size <= BLOCK else None
        if found is None:
            raise IntegrityError("{}: malformed extended header {}".format(name, path))
        heads = _read(file, offset, 3 * BLOCK, name, last)
        kind, path, _ = _header(heads[2 * BLOCK:], offset + 2 * BLOCK, name, last)
        if kind == b"x":
            raise IntegrityError("{}: malformed extended header {}".format(name, path))
        size = int(found.group(1))
    check_path(path)
    return Member(path, offset + len(heads), size), heads


def _read(file: Pieces, offset: int, length: int, name: str, last: str) -> bytes:
    data = file.pread(length, offset)
    if len(data) != length:
        raise _truncated(name, offset + len(data), last)
    return data


def _truncated(name: str, size: int, last: str) -> IntegrityError:
    where = "in or after {}".format(last) if last else "before the first member"
    return IntegrityError("{} is cut short: it ends at byte {}, {}".format(name, size, where))


def _header(block: bytes, offset: int, name: str, last: str) -> Tuple[bytes, str, int]:
    """Type flag, path and size of a header block; `last` is the member before it."""
    path, prefix = block[:100].rstrip(b"\0"), block[345:500].rstrip(b"\0")
    raw = prefix + b"/" + path if prefix else path
    where = "{}, header of {} (at byte {}, {})".format(
        name, ascii(raw.decode("latin-1"))[1:-1], offset, _after(last))
    if block[257:265] != b"ustar\x0000":
        raise IntegrityError("{}: not a POSIX tar header".format(where))
    if not _CHECKSUM.fullmatch(block[148:156]) or not _OCTAL.fullmatch(block[124:136]):
        raise IntegrityError("{}: malformed".format(where))
    if sum(block) - sum(block[148:156]) + 8 * 0x20 != int(block[148:154], 8):
        raise IntegrityError("{}: wrong checksum".format(where))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise IntegrityError("{}: the member's name is not UTF-8".format(where)) from None
    kind = block[156:157]
    if kind not in (b"0", b"x"):
        what = _KINDS.get(kind, "of unknown type {!r}".format(kind))
        raise IntegrityError("{}: {} is {}, not a regular file".format(name, text, what))
    return kind, text, int(block[124:135], 8)


def _after(last: str) -> str:
    return "after " + last if last else "the first"


def _check_end(file: Pieces, offset: int, name: str, last: str) -> None:
    """After the last member: two blocks of zeros, and nothing else."""
    if file.size < offset + 2 * BLOCK:
        raise _truncated(name, file.size, last)
    if file.size > offset + 2 * BLOCK or file.pread(2 * BLOCK, offset).strip(b"\0"):
        raise IntegrityError("{}: bytes after the end of the archive, at byte {}".format(name, offset))
