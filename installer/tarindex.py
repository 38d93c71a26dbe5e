"""Where each member of a bundle lies in its tar: one pass over the headers, no byte of the contents.

Stricter than ``tarfile`` on purpose: what the bundler never writes (directories, links, devices, other
tar dialects, bytes in the padding) is refused, so that no flipped byte outside the contents goes unseen.
"""

import re
from typing import Dict, NamedTuple, Set, Tuple, Union

from .errors import IntegrityError
from .pieces import Pieces

BLOCK = 512
_KINDS = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device", b"4": "a block device",
    b"5": "a directory", b"6": "a named pipe", b"L": "a GNU long name", b"S": "a sparse file", b"g": "a global header",
}
_SIZE = re.compile(rb"[0-7]{11}[\0 ]")
_CHECKSUM = re.compile(rb"[0-7]{6}\0 ")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_MAX_PATH = 1024
_MAX_TRAILER = 1 << 20


class Member(NamedTuple):
    """One file of a bundle: `size` bytes from `offset` (bytes into the tar, or 0 in an unpacked tree)."""

    path: str
    offset: int
    size: int
    mtime_ns: int = 0  # of its own file; 0 inside a tar, which has one time stamp for all
    piece: int = 0  # number of the file, where the tar is cut into several


def check_path(path: str) -> None:
    """Raise IntegrityError unless `path` is a plain relative path that cannot leave the bundle."""
    parts = path.split("/")
    if (not path or len(path) > _MAX_PATH or "\\" in path or _CONTROL.search(path)
            or any(part in ("", ".", "..") for part in parts)):
        raise IntegrityError("unsafe member name: {!r}".format(path))


def check_paths(paths: Set[str]) -> None:
    """Raise IntegrityError if one path of the set would have to be a file and a directory at once."""
    for path in paths:
        parent = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in paths:
                raise IntegrityError("{} is both a file and the directory of {}".format(parent, path))


def scan(fd: Union[int, Pieces], name: str) -> Dict[str, Member]:
    """Index an open tar; `name` is for messages. Keys are member paths, in the order of the file.

    Raises IntegrityError, naming member and offset, for anything but a POSIX tar of regular files.
    """
    file = fd if isinstance(fd, Pieces) else Pieces.of(fd)
    size = file.size
    members: Dict[str, Member] = {}
    pending: Dict[str, str] = {}
    offset, last = 0, ""
    block = _read(file, 0, BLOCK, name, last)
    while block.strip(b"\0"):
        kind, path, length = _header(block, offset, name, last)
        start = offset + BLOCK
        offset = start + length + -length % BLOCK
        if kind == b"x":
            pending = _pax(_read(file, start, length, name, last), path, name)
        else:
            path, length = pending.get("path", path), int(pending.get("size", length))
            offset, pending, last = start + length + -length % BLOCK, {}, path
            check_path(path)
            if path in members:
                raise IntegrityError("{}: {} occurs twice".format(name, path))
            members[path] = Member(path, start, length)
        if offset + BLOCK > size:
            raise _truncated(name, size, last)
        padding = -length % BLOCK
        after = _read(file, offset - padding, padding + BLOCK, name, last)
        if after[:padding].strip(b"\0"):
            raise IntegrityError("{}: bytes that are not zero after the end of {}".format(name, path))
        block = after[padding:]
    _check_end(file, offset, size, name, last)
    check_paths(set(members))
    return members


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
        name, ascii(raw.decode("latin-1"))[1:-1], offset, "after " + last if last else "the first")
    if block[257:265] != b"ustar\x0000":
        raise IntegrityError("{}: not a POSIX tar header".format(where))
    if not _CHECKSUM.fullmatch(block[148:156]) or not _SIZE.fullmatch(block[124:136]):
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


def _pax(body: bytes, path: str, name: str) -> Dict[str, str]:
    """Records of an extended header; only a size or a path that ustar cannot hold may be in it."""
    records: Dict[str, str] = {}
    error = IntegrityError("{}: malformed extended header {}".format(name, path))
    while body:
        match = re.match(rb"([1-9][0-9]{0,4}) (path|size)=", body)
        if not match or len(body) < int(match.group(1)):
            raise error
        length = int(match.group(1))
        value, key = body[match.end():length - 1], match.group(2).decode()
        if body[length - 1:length] != b"\n" or key in records or (key == "size" and not value.isdigit()):
            raise error
        try:
            records[key] = value.decode("utf-8")
        except UnicodeDecodeError:
            raise error from None
        body = body[length:]
    return records


def _check_end(file: Pieces, offset: int, size: int, name: str, last: str) -> None:
    """After the last member: zeros only, at least two blocks of them."""
    if size < offset + 2 * BLOCK:
        raise _truncated(name, size, last)
    if size - offset > _MAX_TRAILER or file.pread(size - offset, offset).strip(b"\0"):
        raise IntegrityError("{}: bytes after the end of the archive, at byte {}".format(name, offset))
