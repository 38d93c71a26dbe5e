"""The one way to write a header of a bundle's tar (docs/formats.md, section 4)."""

import re
from typing import Tuple

BLOCK = 512
_USTAR_MAX = 8 ** 11 - 1
_PART = re.compile(r"[!-\[\]-~]+")  # printable ASCII without blank and backslash: the same for every tool and locale
_NAME_MAX, _PREFIX_MAX = 100, 155


def safe(path: str) -> bool:
    """Whether a path may be a member's: relative, normalised, printable, and not too long for a header."""
    parts = path.split("/")
    return (all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)
            and max(map(len, _split(path))) <= _PREFIX_MAX and len(_split(path)[1]) <= _NAME_MAX)


def header(path: str, size: int, created: int) -> bytes:
    """The header of a member as the bundler writes it (docs/formats.md, section 4)."""
    mode = 0o755 if path.startswith("bin/") or path.endswith(".sh") else 0o644
    if size <= _USTAR_MAX:
        return _block(path, mode, size, created, b"0")
    record = " size={}\n".format(size)
    length = next(n for n in range(len(record), 99) if len(str(n)) + len(record) == n)
    body = (str(length) + record).encode("ascii")
    return (_block("pax", 0o644, len(body), created, b"x") + body + bytes(-len(body) % BLOCK)
            + _block(path, mode, 0, created, b"0"))


def _block(path: str, mode: int, size: int, created: int, kind: bytes) -> bytes:
    prefix, name = _split(path)
    block = b"".join((
        name.encode("ascii").ljust(100, b"\0"), b"%07o\0" % mode, b"0000000\0" * 2, b"%011o\0" % size,
        b"%011o\0" % created, b" " * 8, kind, bytes(100), b"ustar\x0000", bytes(64), b"0000000\0" * 2,
        prefix.encode("ascii").ljust(155, b"\0"), bytes(12)))
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _split(path: str) -> Tuple[str, str]:
    """ustar's prefix, as long as it can be, and name."""
    if len(path) <= _NAME_MAX:
        return "", path
    cut = path.rfind("/", 0, _PREFIX_MAX + 1)
    return ("", path) if cut < 0 else (path[:cut], path[cut + 1:])
