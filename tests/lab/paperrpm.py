"""An RPM written by hand: a name, a version and what it requires around an empty payload, where rpmbuild is not."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Sequence

INT32, STRING, BINARY, STRINGS, TRANSLATED = 4, 6, 7, 8, 9
COMPARISONS = {"": 0, "<": 2, ">": 4, "=": 8, "<=": 10, ">=": 12}
TRAILER = b"070701" + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B" + b"0" * 8 + b"TRAILER!!!\0"


def rpm(
    name: str,
    version: str,
    arch: str = "x86_64",
    release: str = "0",
    epoch: int = 0,
    requires: Sequence[str] = (),
    provides: Sequence[str] = (),
) -> bytes:
    """Return an installable package that holds no file; it provides its own name, and ``provides``.

    Capabilities are written ``NAME`` or ``NAME OP [EPOCH:]VERSION[-RELEASE]``.
    """
    payload = gzip.compress(TRAILER.ljust(512, b"\0"), mtime=0)
    full = f"{version}-{release}"
    own = f"{name} = {epoch}:{full}" if epoch else f"{name} = {full}"
    main = _header([
        (100, STRINGS, [b"C"]),
        (1000, STRING, name), (1001, STRING, version), (1002, STRING, release),
        *([(1003, INT32, [epoch])] if epoch else []),
        (1004, TRANSLATED, [b"A package of paper"]), (1005, TRANSLATED, [b"The name of a package, nothing inside."]),
        (1006, INT32, [0]), (1009, INT32, [0]), (1014, STRING, "Apache-2.0"), (1016, TRANSLATED, [b"Unspecified"]),
        (1021, STRING, "linux"), (1022, STRING, arch), (1044, STRING, f"{name}-{full}.src.rpm"),
        *_capabilities((1047, 1112, 1113), [own, *provides]), *_capabilities((1049, 1048, 1050), requires),
        (1124, STRING, "cpio"), (1125, STRING, "gzip"), (1126, STRING, "9"),
    ])  # fmt: skip
    signed = main + payload
    signature = _header([
        (269, STRING, hashlib.sha1(main).hexdigest()), (273, STRING, hashlib.sha256(main).hexdigest()),
        (1000, INT32, [len(signed)]), (1004, BINARY, hashlib.md5(signed).digest()),
    ])  # fmt: skip
    lead = struct.pack(">4sBBhh66shh16x", b"\xed\xab\xee\xdb", 3, 0, 0, 1, f"{name}-{full}".encode()[:65], 1, 5)
    return lead + signature.ljust(-(-len(signature) // 8) * 8, b"\0") + signed


Entry = tuple[int, int, "str | bytes | list[bytes] | list[int]"]


def _capabilities(tags: tuple[int, int, int], wanted: Sequence[str]) -> list[Entry]:
    """Return the entries of names, flags and versions under their three tags; none where nothing is wanted."""
    parts = [text.split() + [""] * (3 - len(text.split())) for text in wanted]
    names, flags, versions = tags
    found: list[Entry] = [
        (names, STRINGS, [name.encode() for name, _, _ in parts]),
        (flags, INT32, [COMPARISONS[op] for _, op, _ in parts]),
        (versions, STRINGS, [version.encode() for _, _, version in parts]),
    ]
    return found if parts else []


def _header(entries: list[Entry]) -> bytes:
    """Return an RPM header structure of (tag, type, value)."""
    index, store = b"", b""
    for tag, kind, value in sorted(entries):
        data, count = _value(value)
        if kind == INT32:
            store = store.ljust(-(-len(store) // 4) * 4, b"\0")
        index += struct.pack(">IIII", tag, kind, len(store), count)
        store += data
    return struct.pack(">8sII", b"\x8e\xad\xe8\x01", len(entries), len(store)) + index + store


def _value(value: str | bytes | list[bytes] | list[int]) -> tuple[bytes, int]:
    if isinstance(value, str):
        return value.encode() + b"\0", 1
    if isinstance(value, bytes):
        return value, len(value)
    return b"".join(struct.pack(">I", v) if isinstance(v, int) else v + b"\0" for v in value), len(value)
