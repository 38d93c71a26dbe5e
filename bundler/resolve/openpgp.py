"""Signatures of repository metadata, checked by gpgv: no library that the bundler may use knows OpenPGP."""

from __future__ import annotations

import base64
import binascii
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bundler.errors import HostError, IntegrityError, ResolveError

HINT = "The mirror lies or is being updated, or the key has changed: compare `keys` in the manifest with upstream's."
_BEGIN, _END = b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"-----END PGP PUBLIC KEY BLOCK-----"


def verify_detached(url: str, data: bytes, signature: bytes, keys: Sequence[bytes]) -> None:
    """Return if ``signature`` (armored or binary) over ``data`` is good and by one of ``keys``; else IntegrityError."""
    with tempfile.TemporaryDirectory(prefix="bundler-") as folder:
        signed, mark = Path(folder, "data"), Path(folder, "data.sig")
        signed.write_bytes(data)
        mark.write_bytes(signature)
        _gpgv(url, Path(folder), keys, [str(mark), str(signed)])


def verify_clear(url: str, text: bytes, keys: Sequence[bytes]) -> bytes:
    """Return what a clear-signed text says, exactly the bytes that the good signature covers; else IntegrityError."""
    with tempfile.TemporaryDirectory(prefix="bundler-") as folder:
        signed, plain = Path(folder, "text"), Path(folder, "plain")
        signed.write_bytes(text)
        _gpgv(url, Path(folder), keys, ["--output", str(plain), str(signed)])
        return plain.read_bytes()


def _gpgv(url: str, folder: Path, keys: Sequence[bytes], arguments: Sequence[str]) -> None:
    tool = shutil.which("gpgv")
    if tool is None:
        raise HostError(f"{url}: no gpgv to check its signature with", "Install gpgv (Debian) or gnupg2 (EL).")
    ring = folder / "keys.gpg"
    ring.write_bytes(b"".join(dearmor(key) for key in keys))
    done = subprocess.run(
        [tool, "--homedir", str(folder), "--keyring", str(ring), "--status-fd", "1", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}, check=False,
    )  # fmt: skip
    if done.returncode != 0 and not _one_of_several(done.stdout):
        said = [line.removeprefix("gpgv: ") for line in done.stderr.splitlines() if line.strip()]
        raise IntegrityError(f"{url}: its signature is not good: {'; '.join(said) or 'gpgv says no more'}", HINT)


def _one_of_several(status: str) -> bool:
    """Tell whether a signature is good, and others are only by keys that nobody asked for: Debian signs with several,
    and with that of its next release before anybody has it."""
    words = [line.split()[1:] for line in status.splitlines() if line.startswith("[GNUPG:] ")]
    bad = {w[0] for w in words} & {"BADSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NODATA", "UNEXPECTED", "FAILURE"}
    unknown = [w for w in words if w[0] == "ERRSIG" and w[6:7] != ["9"]]
    return any(w[0] == "VALIDSIG" for w in words) and not bad and not unknown


def dearmor(key: bytes) -> bytes:
    """Return an OpenPGP key, or several in one file, in binary form. ResolveError where it is neither form."""
    if _BEGIN not in key:
        if key[:1] and key[0] & 0x80:
            return key
        raise ResolveError("a key of a repository is no OpenPGP key", "Check `keys` in the release manifest.")
    return b"".join(_block(part.partition(_END)[0]) for part in key.split(_BEGIN)[1:])


def _block(text: bytes) -> bytes:
    # Headers hold a colon, the checksum's line begins with =
    lines = [line.strip() for line in text.splitlines() if b":" not in line and not line.startswith(b"=")]
    try:
        return base64.b64decode(b"".join(lines), validate=True)
    except binascii.Error as reason:
        raise ResolveError("a key of a repository is damaged", "Check `keys` in the release manifest.") from reason
