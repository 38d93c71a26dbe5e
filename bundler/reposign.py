"""Repositories signed with OpenPGP, by the gpg of this machine: the same bytes whenever and wherever they are made."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bundler.archive import content
from bundler.bundle import CONTRACT
from bundler.errors import HostError, IntegrityError
from bundler.resolve.openpgp import verify_clear, verify_detached
from bundler.sign import create_pair
from bundler.verify import Bundle

SECRET, PUBLIC = "kubecarry-repo.key", "kubecarry-repo.asc"
RSA = "1"  # RFC 4880, section 9.1
_UNUSABLE = ("d", "e", "i", "n", "r")  # disabled, expired, invalid, never, revoked
_USER = "Kubecarry repository"
_MAKE_ONE = "Make one with: bundler keygen --repo DIR"


class Signer(Protocol):
    """Whoever can sign the metadata of a host's packages."""

    def sign(self, host: str, kind: str, files: Mapping[str, bytes], created: int) -> dict[str, bytes]:
        """Return what makes ``files`` a signed repository: the signature, and the key below ``keys/``.

        Paths are relative to the host's packages; ``kind`` is rpm or deb, ``created`` is in seconds. HostError.
        """


def to_sign(kind: str, files: Mapping[str, bytes]) -> dict[str, str]:
    """Return what is signed in a repository of a kind, each with the path of its signature."""
    if kind == "deb":
        return {"Release": "InRelease"}
    return {path: f"{path}.asc" for path in sorted(files) if path.endswith("repodata/repomd.xml")}


@dataclass(frozen=True)
class GpgKey:
    """A secret key that gpg has: in ``home``, or where gpg looks by itself. ``created`` in seconds since 1970."""

    home: Path | None
    fingerprint: str
    algorithm: str
    created: int

    def sign(self, host: str, kind: str, files: Mapping[str, bytes], created: int) -> dict[str, bytes]:
        """See ``Signer``. A signature is never older than its key: nobody would take it for good."""
        if kind == "rpm" and self.algorithm != RSA:
            raise HostError(f"host {host}: the key {self.fingerprint} is not RSA, and rpm knows no other before EL9",
                            f"Give another --repo-key. {_MAKE_ONE}")
        words = ["--faked-system-time", f"{max(created, self.created)}!", "--digest-algo", "SHA256", "--armor",
                 "--local-user", f"{self.fingerprint}!", "--clearsign" if kind == "deb" else "--detach-sign"]
        signed = {target: self._signature(words, files[source]) for source, target in to_sign(kind, files).items()}
        return {**signed, f"keys/repository-{self.fingerprint[-16:].lower()}.asc": self.public()}

    def _signature(self, words: Sequence[str], data: bytes) -> bytes:
        signature = _gpg(self.home, words, data)
        if signature != _gpg(self.home, words, data):
            raise HostError(f"the key {self.fingerprint} signs the same bytes differently each time, so no two builds "
                            "would be alike", f"Give --repo-key an RSA or Ed25519 key. {_MAKE_ONE}")
        return signature

    def public(self) -> bytes:
        """Return the public key, armored, without what others have signed of it."""
        return _gpg(self.home, ["--armor", "--export-options", "export-minimal", "--export", self.fingerprint])


@dataclass(frozen=True)
class Carried:
    """The signatures that a bundle carries already, each of them good: nobody needs its secret key to build again."""

    bundle: Bundle

    def sign(self, host: str, kind: str, files: Mapping[str, bytes], created: int) -> dict[str, bytes]:
        """See ``Signer``; nothing where the bundle's repository is not signed. IntegrityError for a bad signature."""
        del created
        place = self.bundle.contract["hosts"][host]
        if "repo_key" not in place:
            return {}
        key = self._read(place["repo_key"])
        found = {place["repo_key"][len(place["path"]) + 1 :]: key}
        for source, target in to_sign(kind, files).items():
            path = f"{place['path']}/{target}"
            found[target] = self._read(path)
            if kind == "rpm":
                verify_detached(path, files[source], found[target], [key])
            elif verify_clear(path, found[target], [key]) != files[source]:
                raise IntegrityError(f"{path}: signs another Release than the locks give")
        return found

    def _read(self, path: str) -> bytes:
        if path not in self.bundle.entries:
            raise IntegrityError(f"{path}: is not in the bundle, whose {CONTRACT} says that its repository is signed")
        return content(self.bundle.fd, self.bundle.entries[path])


@contextmanager
def open_key(given: str) -> Iterator[GpgKey]:
    """Open the key that is in a file, or that gpg finds by what is given. HostError if it cannot sign."""
    if not Path(given).is_file():
        yield _usable(None, given)
        return
    with _home() as home:
        _gpg(home, ["--import", str(Path(given).resolve())])
        yield _usable(home, given)


def keygen(directory: Path) -> tuple[Path, Path]:
    """Write a new secret key (armored, mode 0600) and its public key into ``directory``; returns both paths.

    RSA, since the yum and rpm of EL7 and EL8 know nothing else. HostError as of ``sign.keygen``.
    """
    with _home() as home:
        _gpg(home, ["--passphrase", "", "--quick-generate-key", _USER, "rsa3072", "sign", "never"])
        key = _usable(home, _USER)
        secret = _gpg(home, ["--armor", "--export-secret-keys", key.fingerprint])
        return create_pair(directory, (SECRET, secret), (PUBLIC, key.public()))


@contextmanager
def _home() -> Iterator[Path]:
    """Yield a directory for gpg that is gone afterwards, with the agent that gpg starts for it."""
    with tempfile.TemporaryDirectory(prefix="bundler-") as name:
        try:
            yield Path(name)
        finally:
            if shutil.which("gpgconf"):
                _run(["gpgconf", "--homedir", name, "--kill", "all"])


def _usable(home: Path | None, given: str) -> GpgKey:
    """Return the newest signing key of what is given, as gpg would choose."""
    found, primaries = [], 0
    for kind, fields, fingerprint in _records(home, given):
        primaries += kind == "sec"
        if "s" in fields[11] and fields[1] not in _UNUSABLE and fields[14] != "#":
            found.append((kind == "ssb", int(fields[5]), fingerprint, fields[3]))
    if primaries > 1:
        raise HostError(f"{given}: stands for {primaries} keys", "Give --repo-key the fingerprint of one of them.")
    if not found:
        raise HostError(f"{given}: no secret key that can sign now", _MAKE_ONE)
    _, created, fingerprint, algorithm = max(found)
    return GpgKey(home, fingerprint, algorithm, created)


def _records(home: Path | None, given: str) -> Iterator[tuple[str, Sequence[str], str]]:
    """Yield kind, fields and fingerprint of each secret key, as gpg's doc/DETAILS describes them."""
    words = ["--with-colons", "--with-subkey-fingerprint", "--list-secret-keys"]
    fields: list[str] = []
    for line in _gpg(home, words if home else [*words, "--", given]).decode("utf-8", "replace").splitlines():
        row = line.split(":")
        if row[0] in ("sec", "ssb"):
            fields = row
        elif row[0] == "fpr" and fields:
            yield fields[0], fields, row[9]
            fields = []


def _gpg(home: Path | None, words: Sequence[str], data: bytes = b"") -> bytes:
    """Run gpg without the user's options. It may ask for a passphrase only where it is the user's own."""
    place = ["--homedir", str(home), "--pinentry-mode", "error"] if home else []
    done = _run(["gpg", "--no-options", "--batch", "--quiet", *place, *words], data)
    if done.returncode != 0:
        said = [line.removeprefix("gpg: ") for line in done.stderr.decode("utf-8", "replace").splitlines()
                if line.strip() and "faked system time" not in line]
        raise HostError(f"gpg: {'; '.join(said) or f'exit {done.returncode}'}",
                        f"Give --repo-key a file with a secret key without passphrase, or the fingerprint of a key of "
                        f"your own. {_MAKE_ONE}")
    return done.stdout


def _run(words: Sequence[str], data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(words, input=data, capture_output=True, env={**os.environ, "LC_ALL": "C"}, check=False)
    except FileNotFoundError as reason:
        raise HostError("gpg is not installed, so no repository can be signed",
                        "Install gnupg (Debian) or gnupg2 (EL), or leave out --repo-key.") from reason
