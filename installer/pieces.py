"""A tar that lies in one file, behind the head of a ``.run``, or cut into parts, seen as one row of bytes."""

import os
from typing import List, NamedTuple, Tuple

RUN_HEAD = 16 << 10  # bytes before the tar of a .run


class Piece(NamedTuple):
    """An open file: `size` bytes of the tar, from byte `start` of the file on."""

    path: str
    fd: int
    start: int
    size: int


class Pieces:
    """The pieces of a tar in their order. Threads and processes may share it: all reads name their place."""

    def __init__(self, pieces: List[Piece]) -> None:
        self.pieces = pieces
        self.size = sum(piece.size for piece in pieces)

    @classmethod
    def of(cls, fd: int) -> "Pieces":
        """A tar that is one whole file."""
        return cls([Piece("", fd, 0, os.fstat(fd).st_size)])

    def cut(self, offset: int, size: int) -> List[Tuple[int, int, int]]:
        """Where `size` bytes from `offset` on lie: number of the piece, offset in its file, length."""
        found = []
        begin = 0  # of the piece, in the tar
        for number, piece in enumerate(self.pieces):
            inside, length = offset - begin, min(size, begin + piece.size - offset)
            if length > 0:
                found.append((number, piece.start + inside, length))
                offset, size = offset + length, size - length
            begin += piece.size
        return found

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset` on; fewer only at the end. Raises OSError."""
        return b"".join(os.pread(self.pieces[number].fd, length, inside)
                        for number, inside, length in self.cut(offset, size))

    def close(self) -> None:
        """Close the files."""
        for piece in self.pieces:
            os.close(piece.fd)


def open_pieces(path: str) -> Pieces:
    """Open a tar: with all its parts if `path` is the first of them (NAME.001). Raises OSError."""
    pieces: List[Piece] = []
    try:
        for name in parts(path):
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            head = RUN_HEAD if not pieces and os.pread(fd, 2, 0) == b"#!" else 0
            pieces.append(Piece(name, fd, head, max(os.fstat(fd).st_size - head, 0)))
    except OSError:
        Pieces(pieces).close()
        raise
    return Pieces(pieces)


def parts(path: str) -> List[str]:
    """The files of a tar: itself, or all its parts."""
    found = [path]
    if path.endswith(".001"):
        while os.path.isfile("{}.{:03}".format(path[:-4], len(found) + 1)):
            found.append("{}.{:03}".format(path[:-4], len(found) + 1))
    return found
