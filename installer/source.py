"""Where the bytes of a bundle come from: one tar, or the tree it was unpacked to.

A source hands out file descriptors to read members from by offset, and tells whether what it once
indexed is still what lies on the disk. Descriptors are shared by threads and forked processes, so
only positioned reads (``pread``, ``sendfile``) may be used on them.
"""

import os
import stat
from typing import Dict, Iterator, List, Optional, Tuple

from .errors import HostError, IntegrityError, UsageError
from .pieces import open_pieces
from .tarindex import Member, check_order, check_path, check_paths, scan

Cut = Tuple[Member, int, int]  # a place, and what of it: first byte, and length


class Source:
    """What both kinds have in common. `members`: path -> Member; `path`: as the user gave it."""

    path: str
    members: Dict[str, Member]
    modified: float  # seconds since the epoch: since when the bundle has lain here
    created: Optional[int] = None  # time stamp of the members, where they have one

    def acquire(self, member: Member) -> int:
        """A descriptor to read `member` from, to be given back with `release`. Raises OSError."""
        raise NotImplementedError

    def release(self, fd: int) -> None:
        """Give back what `acquire` returned."""

    def intact(self, fd: int, member: Member) -> bool:
        """Whether the file behind `fd` is unchanged since it was indexed."""
        raise NotImplementedError

    def replaced(self) -> bool:
        """Whether another file has taken the bundle's name since it was opened."""
        return False

    def close(self) -> None:
        """Close what the source holds open."""

    def cut(self, member: Member, start: int, size: int) -> List[Cut]:
        """The places that hold `size` bytes of a member from `start` on, each in one file."""
        return [(member, start, size)] if size else []

    def stream(self, member: Member, start: int = 0, size: int = -1, piece: int = 1 << 20) -> Iterator[bytes]:
        """`size` bytes of a member (all by default), at most `piece` at a time. Raises as `read` does."""
        for place, begin, left in self.cut(member, start, member.size - start if size < 0 else size):
            fd = self.acquire(place)
            try:
                offset, end = place.offset + begin, place.offset + begin + left
                while offset < end:
                    data = os.pread(fd, min(end - offset, piece), offset)
                    if not data:
                        raise IntegrityError("{}: cut short while it was read".format(member.path))
                    yield data
                    offset += len(data)
            finally:
                self.release(fd)

    def read(self, member: Member, start: int = 0, size: int = -1) -> bytes:
        """`size` bytes of a member (all by default). Raises OSError; IntegrityError if it is cut short."""
        return b"".join(self.stream(member, start, size))


class TarSource(Source):
    """A bundle as one tar, read in place: a file, a .run, or the parts that it was cut into."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._pieces = open_pieces(path)
        try:
            self._stats = [os.fstat(piece.fd) for piece in self._pieces.pieces]
            self.members, self.created = scan(self._pieces, path)
            check_order(list(self.members), path)
        except BaseException:
            self._pieces.close()
            raise
        if len(self._stats) == 1:
            # Offsets in the file itself, so that nothing has to be cut.
            start = self._pieces.pieces[0].start
            self.members = {name: one._replace(offset=one.offset + start) for name, one in self.members.items()}
        self.modified = max(status.st_ctime for status in self._stats)

    def acquire(self, member: Member) -> int:
        """A descriptor of the tar that is the caller's own: the kernel reads ahead for each by itself."""
        fd = self._pieces.pieces[member.piece].fd
        try:
            return os.open("/proc/self/fd/{}".format(fd), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # no /proc
            return os.dup(fd)

    def release(self, fd: int) -> None:
        """Close the descriptor."""
        os.close(fd)

    def cut(self, member: Member, start: int, size: int) -> List[Cut]:
        """The places of a member's bytes: one for each part that it touches."""
        if len(self._stats) == 1:
            return super().cut(member, start, size)
        return [(member._replace(offset=inside, size=length, piece=number), 0, length)
                for number, inside, length in self._pieces.cut(member.offset + start, size)]

    def intact(self, fd: int, member: Member) -> bool:
        """Whether the tar has kept its size and time stamp."""
        now, before = os.fstat(fd), self._stats[member.piece]
        return now.st_size == before.st_size and now.st_mtime_ns == before.st_mtime_ns

    def replaced(self) -> bool:
        """Whether the path names another file by now, or none."""
        try:
            now = [os.stat(piece.path) for piece in self._pieces.pieces]
        except OSError:
            return True
        return any((a.st_dev, a.st_ino) != (b.st_dev, b.st_ino) for a, b in zip(now, self._stats))

    def close(self) -> None:
        """Close the tar."""
        self._pieces.close()


class TreeSource(Source):
    """A bundle as the directory it was unpacked to."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.members = _walk(path)
        check_paths(set(self.members))
        self.modified = max([os.stat(os.path.join(path, name)).st_ctime for name in self.members] or [0.0])

    def acquire(self, member: Member) -> int:
        """A new descriptor of the member's own file."""
        return os.open(os.path.join(self.path, member.path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def release(self, fd: int) -> None:
        """Close the descriptor."""
        os.close(fd)

    def intact(self, fd: int, member: Member) -> bool:
        """Whether the member's file has kept its size and time stamp."""
        now = os.fstat(fd)
        return now.st_size == member.size and now.st_mtime_ns == member.mtime_ns


def _walk(root: str) -> Dict[str, Member]:
    """Every file below `root`. Raises IntegrityError for anything else than files and directories."""
    members: Dict[str, Member] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(os.path.join(root, folder)) as found:
            entries = list(found)
        for entry in entries:
            path = folder + entry.name
            check_path(path)
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                folders.append(path + "/")
            elif stat.S_ISREG(status.st_mode):
                members[path] = Member(path, 0, status.st_size, status.st_mtime_ns)
            else:
                raise IntegrityError("{}: {} is neither a file nor a directory".format(root, path))
    return {path: members[path] for path in sorted(members)}


def open_source(path: str) -> Source:
    """Open a bundle's tar or directory. Raises UsageError, HostError or IntegrityError."""
    try:
        return TreeSource(path) if os.path.isdir(path) else TarSource(path)
    except FileNotFoundError:
        raise UsageError("{}: no such file or directory".format(path), "give the path of a bundle") from None
    except OSError as error:
        raise HostError("{}: {}".format(path, error.strerror or error), "check the path and its permissions") from None
