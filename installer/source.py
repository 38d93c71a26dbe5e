"""Where the bytes of a bundle come from: one tar, or the tree it was unpacked to.

A source hands out file descriptors to read members from by offset, and tells whether what it once
indexed is still what lies on the disk. Descriptors are shared by threads and forked processes, so
only positioned reads (``pread``, ``sendfile``) may be used on them.
"""

import os
import stat
from typing import Dict

from .errors import HostError, IntegrityError, UsageError
from .tarindex import Member, check_path, check_paths, scan


class Source:
    """What both kinds have in common. `members`: path -> Member; `path`: as the user gave it."""

    path: str
    members: Dict[str, Member]
    modified: float  # seconds since the epoch: since when the bundle has lain here

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

    def read(self, member: Member, start: int = 0, size: int = -1) -> bytes:
        """`size` bytes of a member (all by default). Raises OSError; IntegrityError if it is cut short."""
        size = member.size - start if size < 0 else size
        fd = self.acquire(member)
        try:
            data = os.pread(fd, size, member.offset + start)
        finally:
            self.release(fd)
        if len(data) != size:
            raise IntegrityError("{}: cut short while it was read".format(member.path))
        return data


class TarSource(Source):
    """A bundle as one tar file, read in place."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._stat = os.fstat(self._fd)
            self.members = scan(self._fd, path)
        except BaseException:
            os.close(self._fd)
            raise
        self.modified = self._stat.st_ctime

    def acquire(self, member: Member) -> int:  # noqa: ARG002
        """A descriptor of the tar that is the caller's own: the kernel reads ahead for each by itself."""
        try:
            return os.open("/proc/self/fd/{}".format(self._fd), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # no /proc
            return os.dup(self._fd)

    def release(self, fd: int) -> None:
        """Close the descriptor."""
        os.close(fd)

    def intact(self, fd: int, member: Member) -> bool:  # noqa: ARG002
        """Whether the tar has kept its size and time stamp."""
        now = os.fstat(fd)
        return now.st_size == self._stat.st_size and now.st_mtime_ns == self._stat.st_mtime_ns

    def replaced(self) -> bool:
        """Whether the path names another file by now, or none."""
        try:
            now = os.stat(self.path)
        except OSError:
            return True
        return (now.st_dev, now.st_ino) != (self._stat.st_dev, self._stat.st_ino)

    def close(self) -> None:
        """Close the tar."""
        os.close(self._fd)


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
