"""Reading a bundle as somebody who trusts nothing in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundler import archive, selfrun
from bundler.archive import Entry
from bundler.bundle import CONTRACT, SCHEMA, SIGNATURE, SIGSTORE, SUMS, sums_bytes
from bundler.errors import HostError, IntegrityError
from bundler.progress import Progress
from bundler.sign import check, load_public, sigstore
from bundler.spans import Spans

HINT = "Copy or build the bundle again; do not use this one."
DELTA = "delta.json"
_HEX = re.compile(r"[0-9a-f]{64}")
_SUM = re.compile(r"([0-9a-f]{64})  (\S+)\n")
_NAMED = 10  # how many bad members a message lists


@dataclass(frozen=True)
class Bundle:
    """An open bundle whose structure was checked, its members' contents not yet. ``files`` is sha256 by path.

    ``base`` is the sha256 of SHA256SUMS of the bundle that a delta builds on; what is there need not be here.
    """

    path: Path
    fd: Spans
    size: int
    entries: Mapping[str, Entry]
    contract: Mapping[str, Any]
    files: Mapping[str, str]
    sums: bytes
    signature: bytes | None
    contract_sha256: str
    base: str = ""


@dataclass(frozen=True)
class Verified:
    """A bundle that is whole; ``trusted`` if its signature was checked with a key, too; ``base``: see ``Bundle``."""

    members: int
    size: int
    signed: bool
    trusted: bool
    sums_sha256: str
    base: str = ""


def verify(path: Path, key: Path | None, progress: Progress, jobs: int | None = None) -> Verified:
    """Check every byte of a bundle, and its signature where a public key is given.

    IntegrityError names each member that is changed, missing, extra or unsafe; HostError if it cannot be read.
    """
    public = load_public(key) if key else None
    with open_bundle(path) as bundle, errors_of(path):
        if public:
            if bundle.signature is None:
                raise IntegrityError("not signed", "Verify without --key, or ask the builder for a signed one.")
            check(public, bundle.signature, bundle.sums)
        _check_contents(bundle, progress, jobs or os.cpu_count() or 1)
        sums = hashlib.sha256(bundle.sums).hexdigest()
        return Verified(len(bundle.entries), bundle.size, bundle.signature is not None, public is not None, sums,
                        bundle.base)


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open a bundle and check all but the contents of its members: the tar, the names, what it says of itself."""
    with ExitStack() as stack:
        with errors_of(path):
            fds = [stack.enter_context(part.open("rb")).fileno() for part in parts(path)]
            start = selfrun.SIZE if os.pread(fds[0], 2, 0) == b"#!" else 0
            limit = os.fstat(fds[0]).st_size if len(fds) > 1 else 0
            bundle = _read(path, Spans(fds, limit, start))
        yield bundle


def parts(path: Path) -> list[Path]:
    """Return the files of a bundle: all its parts if ``path`` is the first of them (``NAME.tar.001``)."""
    found = [path]
    if path.name.endswith(".001"):
        while (after := path.with_name(f"{path.name[:-4]}.{len(found) + 1:03}")).is_file():
            found.append(after)
    return found


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Say which bundle an error is about."""
    try:
        yield
    except IntegrityError as reason:
        raise IntegrityError(f"{path}: {reason.message}", reason.hint or HINT) from reason
    except OSError as reason:
        raise HostError(f"{path}: {reason.strerror}", "Is it readable, and the disk sound?") from reason


def _read(path: Path, fd: Spans) -> Bundle:
    entries, created = archive.read(fd)
    names = [entry.path for entry in entries]
    base = _parse_delta(archive.content(fd, entries[0])) if names[:1] == [DELTA] else ""
    names = names[1:] if base else names
    if names[:2] != [CONTRACT, SUMS]:
        raise IntegrityError(f"no bundle: its first members must be {CONTRACT} and {SUMS}")
    signed = SIGNATURE in names
    first = [name for name in (CONTRACT, SUMS, SIGNATURE, SIGSTORE) if name in names]
    if signed < (SIGSTORE in names) or names[: len(first)] != first:
        raise IntegrityError(f"members out of order: must begin with {', '.join(first)}")
    body = names[len(first) :]
    for before, name in zip(body, body[1:]):
        if name < before:
            raise IntegrityError(f"members out of order: {name} after {before}")
    by_name = {entry.path: entry for entry in entries}
    _none_of({d for name in names for d in _directories(name) if d in by_name}, "unsafe member, a directory of another")
    text = archive.content(fd, by_name[CONTRACT])
    contract = _parse_contract(text)
    if contract.get("created") != created:
        raise IntegrityError(f"{CONTRACT}: `created` is not the members' time stamp")
    files = _parse_files(contract)
    sums = archive.content(fd, by_name[SUMS])
    _check_names({name: by_name[name] for name in names}, files, _parse_sums(sums), whole=not base)
    archive.check_end(fd, entries[-1])
    signature = archive.content(fd, by_name[SIGNATURE]) if signed else None
    if signature is not None and SIGSTORE in names:
        _none_of({SIGSTORE} if archive.content(fd, by_name[SIGSTORE]) != sigstore(signature, sums) else set(),
                 f"changed member, does not fit {SUMS} and {SIGNATURE}")
    digests = {path: sha256 for path, (sha256, _) in files.items()}
    return Bundle(path, fd, fd.size(), by_name, contract, digests, sums, signature,
                  hashlib.sha256(text).hexdigest(), base)


def _directories(path: str) -> Iterator[str]:
    return (path[:end] for end, letter in enumerate(path) if letter == "/")


def _parse_delta(data: bytes) -> str:
    try:
        found = json.loads(data)
        if found["schema"] == SCHEMA and _HEX.fullmatch(found["base"]):
            return str(found["base"])
    except (ValueError, KeyError, TypeError):
        pass
    raise IntegrityError(f"{DELTA}: malformed, or of an unknown schema", "Use the bundler that built it.")


def _parse_contract(data: bytes) -> dict[str, Any]:
    try:
        contract = json.loads(data)
    except ValueError as reason:
        raise IntegrityError(f"{CONTRACT}: not JSON: {reason}") from reason
    if not isinstance(contract, dict):
        raise IntegrityError(f"{CONTRACT}: not a JSON object")
    if contract.get("schema") != SCHEMA:
        raise IntegrityError(
            f"{CONTRACT}: schema {contract.get('schema')!r} is unknown, this bundler reads {SCHEMA}",
            "Use the bundler that built it.",
        )
    return contract


def _parse_files(contract: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    try:
        found = {str(f["path"]): (str(f["sha256"]), int(f["size"])) for f in contract["files"]}
    except (KeyError, TypeError, ValueError) as reason:
        raise IntegrityError(f"{CONTRACT}: `files` is malformed") from reason
    if len(found) != len(contract["files"]) or not all(_HEX.fullmatch(sha256) for sha256, _ in found.values()):
        raise IntegrityError(f"{CONTRACT}: `files` is malformed")
    return found


def _parse_sums(data: bytes) -> dict[str, str]:
    text = data.decode("ascii", "backslashreplace")
    found = {path: sha256 for sha256, path in _SUM.findall(text)}
    if sums_bytes(found) != data:
        raise IntegrityError(f"{SUMS}: not sorted lines of `sha256  path`")
    return found


def _check_names(
    entries: Mapping[str, Entry], files: Mapping[str, tuple[str, int]], sums: Mapping[str, str], *, whole: bool
) -> None:
    """The three lists of members (the tar's, the contract's, the sums') must be one."""
    listed = set(entries) - {SUMS, SIGNATURE, SIGSTORE}
    _none_of(listed - set(sums), f"extra member, not in {SUMS}")
    _none_of(set(sums) - listed if whole else set(), "missing member")
    _none_of(set(sums) ^ {CONTRACT, *files}, f"{CONTRACT} and {SUMS} do not both list")
    _none_of({path for path, (sha256, _) in files.items() if sums[path] != sha256}, f"{CONTRACT} and {SUMS} differ on")
    sizes = {path: size for path, (_, size) in files.items() if path in entries}
    _none_of({path for path, size in sizes.items() if entries[path].size != size}, f"not the size in {CONTRACT}")


def _check_contents(bundle: Bundle, progress: Progress, jobs: int) -> None:
    expected = {path: sha256 for path, sha256 in _parse_sums(bundle.sums).items() if path in bundle.entries}
    entries = [bundle.entries[path] for path in expected]
    progress.stage("verify", sum(entry.size for entry in entries))
    found = archive.hash_entries(bundle.fd, entries, jobs, progress.advance)
    _none_of({path for path in expected if found[path] != expected[path]}, "changed member")


def _none_of(paths: set[str], what: str) -> None:
    if paths:
        names = sorted(paths)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise IntegrityError(f"{what}: {', '.join(names[:_NAMED])}{more}")
