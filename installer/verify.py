"""Strict verification: every byte of a bundle, and nothing but the bundle."""

import base64
import hashlib
import json
import os
import queue
import re
import subprocess
import tempfile
import threading
from typing import Callable, Dict, List, NamedTuple, Optional

from .bundle import CONTRACT, SIGNATURE, SIGSTORE, SUMS, Bundle
from .errors import HostError, IntegrityError
from .tarindex import Member

_LINE = re.compile("([0-9a-f]{64})  ([^\n]+)")
_UNSUMMED = (SUMS, SIGNATURE, SIGSTORE)


class Result(NamedTuple):
    """What was verified: members and bytes hashed, whether a signature is there, whether it was checked."""

    files: int
    size: int
    signed: bool
    checked: bool


def verify(bundle: Bundle, key: str = "", advance: Optional[Callable[[int], None]] = None,
           workers: int = 0) -> Result:
    """Check sums, contents and, with `key` (path of a PEM public key), the signature.

    `advance` is told of every piece hashed, in bytes. Raises IntegrityError naming each member that is
    wrong; HostError if openssl is missing or the key unreadable.
    """
    problems = compare_sums(bundle) + _compare_signatures(bundle)
    if key:
        check_signature(bundle, key)
    members = [member for path, member in bundle.members.items() if path not in _UNSUMMED]
    digests = hash_members(bundle, members, advance, workers or os.cpu_count() or 1)
    for member in members:
        if digests[member.path] != bundle.digests[member.path]:
            problems.append("{}: {}".format(member.path, _difference(bundle, member, digests[member.path])))
    if problems:
        raise IntegrityError("{}: {}".format(bundle.source.path, "; ".join(_shorten(problems))))
    return Result(len(members), sum(member.size for member in members), SIGNATURE in bundle.members, bool(key))


def hash_members(bundle: Bundle, members: List[Member], advance: Optional[Callable[[int], None]],
                 workers: int) -> Dict[str, str]:
    """Path -> sha256 in hex, over as many threads as `workers`; hashing a large piece frees the interpreter."""
    waiting: "queue.Queue[Member]" = queue.Queue()
    for member in members:
        waiting.put(member)
    digests: Dict[str, str] = {}
    failures: List[BaseException] = []
    lock = threading.Lock()

    def note(size: int) -> None:
        if advance is not None:
            with lock:
                advance(size)

    def work() -> None:
        try:
            while not failures:
                member = waiting.get_nowait()
                digests[member.path] = _hash(bundle, member, note)
        except queue.Empty:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(members)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return digests


def check_signature(bundle: Bundle, key: str) -> None:
    """Check SHA256SUMS.sig with the host's openssl. Raises IntegrityError, HostError."""
    if SIGNATURE not in bundle.members:
        raise IntegrityError("{} is not signed: it has no {}".format(bundle.source.path, SIGNATURE),
                             "get a signed bundle, or leave out --key")
    if not os.access(key, os.R_OK):
        raise HostError("{}: cannot be read".format(key), "give --key the public key of who built the bundle (PEM)")
    with tempfile.TemporaryDirectory(prefix="kubecarry-") as folder:
        paths = {}
        for name in (SUMS, SIGNATURE):
            paths[name] = os.path.join(folder, name)
            with open(paths[name], "wb") as file:
                file.write(bundle.read(name))
        if not _openssl("pkey", "-pubin", "-in", key, "-noout"):
            raise HostError("{}: no public key in PEM form".format(key),
                            "give --key the public key of who built the bundle, not the private one")
        valid = _openssl("dgst", "-sha256", "-verify", key, "-signature", paths[SIGNATURE], paths[SUMS])
    if not valid:
        raise IntegrityError("{}: the signature does not match {}".format(bundle.source.path, key),
                             "check that this is the key of who built the bundle; do not use the bundle")


def _openssl(*words: str) -> bool:
    try:
        done = subprocess.run(("openssl", *words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise HostError("openssl is not installed, so the signature cannot be checked",
                        "install openssl, or leave out --key") from None
    return done.returncode == 0


def _hash(bundle: Bundle, member: Member, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    for piece in bundle.source.stream(member):
        digest.update(piece)
        advance(len(piece))
    return digest.hexdigest()


def compare_sums(bundle: Bundle) -> List[str]:
    """What SHA256SUMS and bundle.json disagree about."""
    sums = _read_sums(bundle)
    expected = {path: bundle.digests[path] for path in bundle.members if path not in _UNSUMMED}
    problems = ["{}: not in {}".format(path, SUMS) for path in sorted(set(expected) - set(sums))]
    problems += ["{}: in {}, but not in the bundle".format(path, SUMS) for path in sorted(set(sums) - set(expected))]
    problems += ["{}: {} and {} disagree".format(path, SUMS, CONTRACT) for path in sorted(sums)
                 if path in expected and sums[path] != expected[path]]
    return problems


def _compare_signatures(bundle: Bundle) -> List[str]:
    """Whether the sigstore bundle says what SHA256SUMS and its signature are."""
    if SIGSTORE not in bundle.members:
        return []
    if SIGNATURE in bundle.members and bundle.read(SIGSTORE) == sigstore(bundle.read(SIGNATURE), bundle.read(SUMS)):
        return []
    return ["{}: does not fit {} and {}".format(SIGSTORE, SIGNATURE, SUMS)]


def sigstore(signature: bytes, sums: bytes) -> bytes:
    """The sigstore bundle of a signature, as the bundler writes it (docs/formats.md, section 4)."""
    digest = base64.b64encode(hashlib.sha256(sums).digest()).decode()
    return (json.dumps({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {}},
        "messageSignature": {"messageDigest": {"algorithm": "SHA2_256", "digest": digest},
                             "signature": base64.b64encode(signature).decode()},
    }, sort_keys=True, indent=1) + "\n").encode("ascii")


def _read_sums(bundle: Bundle) -> Dict[str, str]:
    sums: Dict[str, str] = {}
    text = bundle.read(SUMS).decode("utf-8", "replace")
    lines = text.split("\n")
    if lines.pop() != "":
        raise IntegrityError("{}: {} does not end with a line end".format(bundle.source.path, SUMS))
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or match.group(2) in sums:
            raise IntegrityError("{}: {} is malformed in line {}".format(bundle.source.path, SUMS, number))
        sums[match.group(2)] = match.group(1)
    if sorted(sums) != list(sums):
        raise IntegrityError("{}: {} is not sorted by path".format(bundle.source.path, SUMS))
    return sums


def _difference(bundle: Bundle, member: Member, found: str) -> str:
    return "has sha256 {}, must be {}".format(found, bundle.digests[member.path])


def _shorten(problems: List[str]) -> List[str]:
    return problems[:20] + (["and {} more".format(len(problems) - 20)] if len(problems) > 20 else [])
