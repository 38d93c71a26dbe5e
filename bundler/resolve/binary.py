"""Files by URL: a binary's digest from its published checksum file, an add-on manifest's from the file itself."""

from __future__ import annotations

import hashlib
import re

from bundler.errors import FetchError, ResolveError
from bundler.fetch.http import Client
from bundler.locked import LockedFile, file_name

READ = "read from its url when it was locked"
_BARE = re.compile(r"([0-9a-fA-F]{64})")
_COREUTILS = re.compile(r"\\?([0-9a-fA-F]{64})(?: [ *]|\s+)(.+)")
_BSD = re.compile(r"SHA2?-?256 ?\((.+)\) ?= ?([0-9a-fA-F]{64})")


def resolve_binary(url: str, checksum: str, client: Client) -> LockedFile:
    """Return a binary's digest as the checksum file at ``checksum`` gives it; the binary itself is not fetched.

    ResolveError where the file says nothing, or two things, of it; FetchError where it cannot be had.
    """
    text = client.read(checksum).decode("utf-8", "replace")
    return LockedFile(url, find_digest(text, file_name(url), checksum), _size(url, client), checksum)


def resolve_file(url: str, client: Client) -> LockedFile:
    """Return the digest and size of what is at ``url`` now: trusted on first sight, checked ever after."""
    data = client.read(url)
    return LockedFile(url, hashlib.sha256(data).hexdigest(), len(data), READ)


def find_digest(text: str, name: str, where: str) -> str:
    """Return the sha256 (64 lower case hex digits) that a checksum file gives for ``name``.

    Known forms: the bare digest, ``DIGEST  NAME`` (``SHA256SUMS``) and ``SHA256 (NAME) = DIGEST``.
    """
    found = {digest.lower() for digest, of in _entries(text) if of in ("", name)}
    if len(found) == 1:
        return found.pop()
    what = f"gives {len(found)} different sha256 of {name}" if found else f"gives no sha256 of {name}"
    raise ResolveError(f"{where}: {what}", "Check `checksum` of this binary in the release manifest.")


def _entries(text: str) -> list[tuple[str, str]]:
    """Return (digest, file name) pairs; the name is empty where the file is nothing but one digest."""
    bare = _BARE.fullmatch(text.strip("\ufeff\r\n\t "))
    if bare:
        return [(bare[1], "")]
    entries = []
    for line in text.splitlines():
        if match := _COREUTILS.fullmatch(line.strip()):
            entries.append((match[1], match[2]))
        elif match := _BSD.fullmatch(line.strip()):
            entries.append((match[2], match[1]))
    return [(digest, name.rsplit("/", 1)[-1]) for digest, name in entries]


def _size(url: str, client: Client) -> int | None:
    """Return what a HEAD request says; a size is welcome, but none is worth failing for."""
    try:
        length = client.page(client.mirrors.url(url), method="HEAD").headers.get("Content-Length", "")
    except FetchError:
        return None
    return int(length) if length.isdecimal() else None
