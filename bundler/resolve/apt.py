"""Apt metadata: InRelease by its signature, the Packages files by the checksums in it."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz

from bundler.errors import FetchError, IntegrityError, ResolveError
from bundler.manifest import Repo
from bundler.resolve.openpgp import verify_clear, verify_detached
from bundler.resolve.repomd import Reader

Stanza = Mapping[str, str]

_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    "": bytes,
}
_RELATIONS = ("Pre-Depends", "Depends", "Conflicts", "Breaks", "Provides")
_FACTS = ("Package", "Version", "Architecture", "Multi-Arch", "Essential", "Priority", "Filename", "Size", "SHA256")
_FIELDS = frozenset(_RELATIONS + _FACTS)
_MIRROR = "The mirror is being updated or damaged: try again, or use another one with --mirror."


@dataclass(frozen=True)
class Index:
    """The packages of one repository; ``source`` is the URL of the signed file that vouches for them.

    ``until`` is when that file says it ends (seconds since the epoch), or None.
    """

    repo: Repo
    source: str
    stanzas: Sequence[Stanza]
    until: float | None = None


def read_index(repo: Repo, arch: str, client: Reader) -> Index:
    """Return the packages of ``repo`` for Debian's name of an architecture (``amd64``), and those for all.

    FetchError where an upstream fails, ResolveError where it is no apt repository or has nothing for ``arch``,
    IntegrityError where a signature or a checksum is wrong.
    """
    source, text = _release(repo, _top(repo), client)
    return _index(repo, arch, client, source, text)


def read_unsigned(repo: Repo, arch: str, client: Reader) -> Index:
    """Return the packages of a flat repository whose Release is vouched for elsewhere, as ``read_index`` does.

    ResolveError and IntegrityError also for a file that Release lists and that is not there, or another.
    """
    source = f"{_top(repo)}/Release"
    text = client.read(source).decode("utf-8", "replace")
    for name, (digest, size) in _sums(text):
        _checked(f"{_top(repo)}/{name}", source, digest, size, client)
    return _index(repo, arch, client, source, text)


def _top(repo: Repo) -> str:
    """Return the URL of the directory that Release is in."""
    if repo.suite.endswith("/"):
        return f"{repo.baseurl}/{repo.suite.strip('/.')}".rstrip("/")
    return f"{repo.baseurl}/dists/{repo.suite}"


def _index(repo: Repo, arch: str, client: Reader, source: str, text: str) -> Index:
    top, flat, sums = _top(repo), repo.suite.endswith("/"), dict(_sums(text))
    if not sums:
        raise ResolveError(f"{source}: lists no SHA256 of any file", "A repository with SHA256 is needed.")
    bases = [""] if flat else [f"{part}/binary-{name}/" for part in repo.components for name in (arch, "all")]
    stanzas: dict[tuple[str, str, str], Stanza] = {}
    for base in bases:
        for stanza in _packages(f"{base}Packages", source, top, sums, client, must=not base.endswith("-all/")):
            name = (stanza.get("Package", ""), stanza.get("Version", ""), stanza.get("Architecture", ""))
            if all(name) and name[2] in (arch, "all"):
                stanzas.setdefault(name, stanza)
    return Index(repo, source, list(stanzas.values()), _until(text))


def parse_stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the paragraphs of a control file, the fields that are needed here; a continued line is joined."""
    stanza: dict[str, str] = {}
    field = ""
    for line in text.splitlines():
        if not line.strip():
            if stanza:
                yield stanza
            stanza, field = {}, ""
        elif line[0] in " \t":
            if field in stanza:
                stanza[field] += " " + line.strip()
        else:
            field, _, value = line.partition(":")
            if field in _FIELDS:
                stanza[field] = value.strip()
    if stanza:
        yield stanza


def _release(repo: Repo, top: str, client: Reader) -> tuple[str, str]:
    """Return the URL and the text of InRelease, or of Release beside Release.gpg where there is none."""
    keys = [client.read(url) for url in repo.keys]
    url = f"{top}/InRelease"
    try:
        signed = client.read(url)
    except FetchError as reason:
        url = f"{top}/Release"
        try:
            plain, signature = client.read(url), client.read(f"{url}.gpg")
        except FetchError:
            raise reason from None
        verify_detached(url, plain, signature, keys)
    else:
        plain = verify_clear(url, signed, keys)
    return url, plain.decode("utf-8", "replace")


def _until(release: str) -> float | None:
    found = re.search(r"^Valid-Until: (.+)$", release, re.MULTILINE)
    date = parsedate_tz(found[1]) if found else None
    return mktime_tz(date) if date else None


def _sums(release: str) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield (path, (sha256, size)) of the files that a Release lists."""
    inside = False
    for line in release.splitlines():
        if not line.startswith(" "):
            inside = line.strip() == "SHA256:"
        elif inside:
            words = line.split()
            if len(words) == 3 and words[1].isdecimal():
                yield words[2], (words[0].lower(), int(words[1]))


def _packages(
    path: str, source: str, top: str, sums: Mapping[str, tuple[str, int]], client: Reader, must: bool
) -> Iterator[dict[str, str]]:
    suffix = next((suffix for suffix in _UNPACK if f"{path}{suffix}" in sums), None)
    if suffix is None:
        if must:
            raise ResolveError(f"{source}: lists no {path}", "Check suite and components, and the architecture.")
        return iter(())
    url = f"{top}/{path}{suffix}"
    data = _checked(url, source, *sums[f"{path}{suffix}"], client)
    try:
        return parse_stanzas(_UNPACK[suffix](data).decode("utf-8", "replace"))
    except (OSError, EOFError, lzma.LZMAError) as reason:
        raise ResolveError(f"{url}: cannot be unpacked: {reason}") from reason


def _checked(url: str, source: str, digest: str, size: int, client: Reader) -> bytes:
    data = client.read(url)
    if (hashlib.sha256(data).hexdigest(), len(data)) != (digest, size):
        raise IntegrityError(f"{url}: is not what {source} says ({size} bytes, sha256 {digest})", _MIRROR)
    return data
