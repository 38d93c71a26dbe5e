"""The tar of a bundle in its one canonical form (docs/formats.md, section 4).

Headers are made here rather than by ``tarfile``, whose bytes differ between Python versions. What is read is compared
with what would have been written, so a bundle has no byte that may differ.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bundler.errors import IntegrityError
from bundler.known import Known, identity, settled
from bundler.spans import Spans, spans

BLOCK = 512
END = bytes(2 * BLOCK)
CHUNK = 1 << 20
SMALL = 64 << 20
USTAR_MAX = 0o77777777777  # 8 GiB less one: what a ustar header has room for

# No control characters, no backslash (sha256sum escapes it), ASCII: the same name for every tool and locale.
_PART = re.compile(r"[!-\[\]-~]+")
_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a directory",
          b"6": "a pipe"}
_PAX_NAME = "pax"


@dataclass(frozen=True)
class Member:
    """A file to be written: its bytes, or a file that holds them, ``size`` bytes with this sha256 (hex)."""

    path: str
    size: int
    sha256: str
    source: bytes | Path

    @classmethod
    def of(cls, path: str, content: bytes) -> Member:
        """Return a member with this content."""
        return cls(path, len(content), hashlib.sha256(content).hexdigest(), content)


@dataclass(frozen=True)
class Entry:
    """A file in a tar: where its ``size`` bytes begin."""

    path: str
    offset: int
    size: int


class DamagedSource(IntegrityError):
    """``file`` does not hold what it should: the bytes with this sha256 (hex), for the member ``path``."""

    def __init__(self, path: str, file: Path | None, sha256: str) -> None:
        super().__init__(f"{path}: {file or 'what is in memory'} is damaged, it no longer has sha256 {sha256}")
        self.file = file
        self.sha256 = sha256

    @classmethod
    def of(cls, member: Member) -> DamagedSource:
        """Return the error about a member's source."""
        return cls(member.path, member.source if isinstance(member.source, Path) else None, member.sha256)


def safe_path(path: str) -> bool:
    """Tell whether ``path`` is relative, normalised and printable ASCII."""
    parts = path.split("/")
    return all(_PART.fullmatch(part) and part not in (".", "..") for part in parts) and _split(path) is not None


def mode_of(path: str) -> int:
    """Return a member's mode: executable are binaries and shell scripts."""
    return 0o755 if path.startswith("bin/") or path.endswith(".sh") else 0o644


def padding(size: int) -> int:
    """Return how many zero bytes follow ``size`` bytes of a member."""
    return -size % BLOCK


def total_size(members: Iterable[Member]) -> int:
    """Return the bytes of the whole tar."""
    return sum(len(header(m.path, m.size, 0)) + m.size + padding(m.size) for m in members) + len(END)


def header(path: str, size: int, mtime: int) -> bytes:
    """Return the header blocks of a regular file; ValueError if ``path`` is not safe or too long for ustar."""
    if not safe_path(path):
        raise ValueError(f"not a safe member path: {path!r}")
    if size <= USTAR_MAX:
        return _block(path, mode_of(path), size, mtime, b"0")
    record = _pax_record("size", size)
    extension = _block(_PAX_NAME, 0o644, len(record), mtime, b"x") + record + bytes(padding(len(record)))
    return extension + _block(path, mode_of(path), 0, mtime, b"0")


def _split(path: str) -> tuple[str, str] | None:
    """Cut a path into ustar's prefix and name, the prefix as long as it can be, or None if it does not fit."""
    if len(path) <= 100:
        return "", path
    cut = path.rfind("/", 0, 156)
    return (path[:cut], path[cut + 1 :]) if cut > 0 and len(path) - cut - 1 <= 100 else None


def _block(path: str, mode: int, size: int, mtime: int, kind: bytes) -> bytes:
    prefix, name = _split(path) or ("", "")
    fields = (
        name.encode().ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, b"%011o\0" % size,
        b"%011o\0" % mtime, b" " * 8, kind, bytes(100), b"ustar\x0000", bytes(32), bytes(32), b"%07o\0" % 0,
        b"%07o\0" % 0, prefix.encode().ljust(155, b"\0"), bytes(12),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _pax_record(key: str, value: int) -> bytes:
    body = f" {key}={value}\n"
    length = len(body)
    while length != len(str(length)) + len(body):
        length = len(str(length)) + len(body)
    return f"{length}{body}".encode()


def write(
    file: int | Spans,
    members: Sequence[Member],
    mtime: int,
    jobs: int,
    advance: Callable[[int], None],
    known: Known | None = None,
) -> None:
    """Write a tar to empty files opened for reading and writing.

    One thread copies inside the kernel; ``jobs`` others hash what has landed, so what is checked is the tar itself.
    Files that ``known`` holds are not hashed again, and those that were hashed are noted there. ``advance`` is called
    with each number of bytes done. DamagedSource if a file is not what its member says.
    """
    hashing: list[_Landed] = []
    target = spans(file)
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        try:
            position = 0
            for member in members:
                entry, status = _write_member(target, member, mtime, position)
                if known and status and known.holds(member.sha256, status):
                    advance(member.size)
                else:
                    hashing.append(_Landed(member, status, pool.submit(_hash, target, entry, advance)))
                position = entry.offset + entry.size + padding(entry.size)
                while hashing and hashing[0].digest.done():
                    hashing.pop(0).check(known)
            target.pwrite(END, position)
            for landed in hashing:
                landed.check(known)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Landed:
    """A member that is being hashed in the tar; ``status`` is that of its source, if nobody wrote it meanwhile."""

    member: Member
    status: os.stat_result | None
    digest: Future[str]

    def check(self, known: Known | None) -> None:
        if self.digest.result() != self.member.sha256:
            raise DamagedSource.of(self.member)
        if known and self.status and settled(self.status):
            known.note(self.member.sha256, self.status)


def _write_member(target: Spans, member: Member, mtime: int, position: int) -> tuple[Entry, os.stat_result | None]:
    head = header(member.path, member.size, mtime)
    target.pwrite(head, position)
    entry = Entry(member.path, position + len(head), member.size)
    status = None
    if isinstance(member.source, bytes):
        target.pwrite(member.source, entry.offset)
    else:
        status = _copy_file(member, target, entry.offset)
    target.pwrite(bytes(padding(member.size)), entry.offset + entry.size)
    return entry, status


def _copy_file(member: Member, target: Spans, offset: int) -> os.stat_result | None:
    """Copy a member's file; returns its status, or None if it changed under way."""
    source = os.open(str(member.source), os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = os.fstat(source)
        if before.st_size != member.size:
            raise DamagedSource.of(member)
        done = 0
        for fd, inside, length in target.at(offset, member.size):
            _copy_bytes(source, done, fd, inside, length)
            done += length
        return before if identity(os.fstat(source)) == identity(before) else None
    finally:
        os.close(source)


def _copy_bytes(source: int, begin: int, fd: int, offset: int, size: int) -> None:
    """Copy ``size`` bytes from ``begin`` on, not through this process where the kernel and the file systems can."""
    done = 0
    try:
        while done < size:
            count = os.copy_file_range(source, fd, size - done, begin + done, offset + done)
            if not count:
                break
            done += count
    except OSError as reason:
        if reason.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise
    while done < size:
        chunk = os.pread(source, min(CHUNK, size - done), begin + done)
        if not chunk:
            raise OSError(errno.EIO, "file shrank while it was read")
        Spans([fd]).pwrite(chunk, offset + done)
        done += len(chunk)


def read(fd: int | Spans) -> tuple[list[Entry], int]:
    """Return the entries of a bundle's tar, in order, and the one time stamp that all of them bear.

    IntegrityError naming the member if any byte outside the members' contents is not as ``write`` would write it; what
    follows the last member is left to ``check_end``.
    """
    end = spans(fd).size()
    entries: list[Entry] = []
    names: set[str] = set()
    mtime = _octal(_pread(fd, BLOCK, 0)[136:147], "time stamp of the first member")
    position = 0
    while _pread(fd, BLOCK, position) != END[:BLOCK]:
        entry = _read_entry(fd, position, mtime, entries)
        if entry.path in names:
            raise IntegrityError(f"duplicate member: {entry.path}")
        names.add(entry.path)
        entries.append(entry)
        position = entry.offset + entry.size
        if position + padding(entry.size) > end:
            raise IntegrityError(f"truncated: the file ends inside member {entry.path}")
        if any(_pread(fd, padding(entry.size), position)):
            raise IntegrityError(f"bytes after the end of member {entry.path}")
        position += padding(entry.size)
    return entries, mtime


def check_end(fd: int | Spans, last: Entry) -> None:
    """Return if the tar ends after its ``last`` entry as it should; IntegrityError naming it otherwise."""
    position, end = last.offset + last.size + padding(last.size), spans(fd).size()
    tail = spans(fd).pread(len(END), position)
    if tail != END[: len(tail)] or end > position + len(END):
        raise IntegrityError(f"trailing bytes after the end of the archive, behind {last.path}")
    if len(tail) < len(END):
        raise IntegrityError("truncated: the end of the archive is missing")


def _read_entry(fd: int | Spans, position: int, mtime: int, before: list[Entry]) -> Entry:
    after = f"after {before[-1].path}" if before else "at the beginning"
    block = _pread(fd, BLOCK, position)
    if block[257:263] != b"ustar\0":
        raise IntegrityError(f"no tar header {after}, at offset {position}, where it says {_path(block)[:100]!r}")
    size = None
    start = position
    if block[156:157] == b"x":
        size = _pax_size(_pread(fd, BLOCK, position + BLOCK), after)
        position += 2 * BLOCK
        block = _pread(fd, BLOCK, position)
    path = _path(block)
    kind = block[156:157]
    if kind != b"0":
        raise IntegrityError(f"unsafe member: {path!r} is {_KINDS.get(kind, f'of unknown type {kind!r}')}")
    if not safe_path(path):
        raise IntegrityError(f"unsafe member: {path!r} is no plain relative path")
    if size is None:
        size = _octal(block[124:135], f"size of {path}")
    expected = header(path, size, mtime)
    if _pread(fd, position + BLOCK - start, start) != expected:
        raise IntegrityError(f"header of member {path} is not as the bundler writes it")
    return Entry(path, position + BLOCK, size)


def _path(block: bytes) -> str:
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    return (prefix + b"/" + name if prefix else name).decode("ascii", "backslashreplace")


def _pax_size(block: bytes, after: str) -> int:
    found = re.match(rb"\d+ size=(\d{1,18})\n", block)
    if not found:
        raise IntegrityError(f"unknown extended header {after}")
    return int(found[1])


def _octal(digits: bytes, what: str) -> int:
    if not re.fullmatch(rb"[0-7]{11}", digits):
        raise IntegrityError(f"malformed tar header: {what}")
    return int(digits, 8)


def _pread(fd: int | Spans, size: int, offset: int) -> bytes:
    data = spans(fd).pread(size, offset)
    if len(data) < size:
        raise IntegrityError(f"truncated: the file ends at offset {offset + len(data)}")
    return data


def content(fd: int | Spans, entry: Entry) -> bytes:
    """Return the bytes of a small member; IntegrityError if it is too big to be held in memory."""
    if entry.size > SMALL:
        raise IntegrityError(f"{entry.path}: {entry.size} bytes, which is far too many")
    return _pread(fd, entry.size, entry.offset)


def hash_entries(
    fd: int | Spans, entries: Iterable[Entry], jobs: int, advance: Callable[[int], None]
) -> dict[str, str]:
    """Return the sha256 of each entry by its path, read by ``jobs`` threads, the biggest first."""
    biggest_first = sorted(entries, key=lambda entry: -entry.size)
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        return dict(_hash_all(pool, fd, biggest_first, advance))


def _hash_all(
    pool: Executor, fd: int | Spans, entries: Sequence[Entry], advance: Callable[[int], None]
) -> Iterator[tuple[str, str]]:
    digests = pool.map(lambda entry: _hash(fd, entry, advance), entries)
    for entry, digest in zip(entries, digests):
        yield entry.path, digest


def _hash(fd: int | Spans, entry: Entry, advance: Callable[[int], None]) -> str:
    digest, view = hashlib.sha256(), memoryview(bytearray(min(CHUNK, entry.size) or 1))
    for part, inside, length in spans(fd).at(entry.offset, entry.size):
        done = 0
        while done < length:
            count = os.preadv(part, [view[: length - done]], inside + done)
            if not count:
                raise IntegrityError(f"truncated: the file ends inside member {entry.path}")
            digest.update(view[:count])
            advance(count)
            done += count
    return digest.hexdigest()


def hash_file(fd: int, start: int = 0) -> str:
    """Return the sha256 of a whole file from ``start`` on."""
    return _hash(fd, Entry("", start, os.fstat(fd).st_size - start), lambda _: None)


def hash_files(fds: Sequence[int], jobs: int) -> list[str]:
    """Return the sha256 of each file, read by ``jobs`` threads."""
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        return list(pool.map(hash_file, fds))


def layout(members: Iterable[Member]) -> list[Entry]:
    """Return where ``write`` puts each member."""
    found, position = [], 0
    for member in members:
        entry = Entry(member.path, position + len(header(member.path, member.size, 0)), member.size)
        found.append(entry)
        position = entry.offset + entry.size + padding(entry.size)
    return found
