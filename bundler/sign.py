"""Signatures: ECDSA on P-256 over SHA256SUMS, in the form that the openssl of any node checks."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bundler.errors import HostError, IntegrityError

PRIVATE, PUBLIC = "kubecarry.key", "kubecarry.pub"

_MAKE_ONE = "Make a pair of keys with: bundler keygen DIR"


def keygen(directory: Path) -> tuple[Path, Path]:
    """Write a new private key (PKCS#8 PEM, mode 0600) and its public key (PEM) into ``directory``.

    Returns both paths. HostError if either exists already or cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    open_half = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return create_pair(directory, (PRIVATE, secret), (PUBLIC, open_half))


def create_pair(directory: Path, secret: tuple[str, bytes], open_half: tuple[str, bytes]) -> tuple[Path, Path]:
    """Write both halves of a key, each a name and its contents, the secret one with mode 0600. As ``keygen``."""
    private, public = directory / secret[0], directory / open_half[0]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if public.exists():
            raise FileExistsError(17, "exists already", str(public))
        _create(private, secret[1], 0o600)
        _create(public, open_half[1], 0o644)
    except FileExistsError as reason:
        raise HostError(f"{reason.filename}: exists already, not overwritten", "Give another directory.") from reason
    except OSError as reason:
        raise HostError(f"{reason.filename or directory}: {reason.strerror}", "Give a writable directory.") from reason
    return private, public


def _create(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)


def load_private(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the private key of a PEM file; HostError if it is none of P-256."""
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except TypeError as reason:
        raise HostError(f"{path}: the key is protected by a passphrase", "Give a key without one.") from reason
    except (ValueError, UnsupportedAlgorithm) as reason:
        raise HostError(f"{path}: no private key in PEM form", _MAKE_ONE) from reason
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise HostError(f"{path}: not an ECDSA key on P-256", _MAKE_ONE)
    return key


def load_public(path: Path) -> ec.EllipticCurvePublicKey:
    """Return the public key of a PEM file; HostError if it is none of P-256."""
    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as reason:
        raise HostError(f"{path}: no public key in PEM form", _MAKE_ONE) from reason
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise HostError(f"{path}: not an ECDSA key on P-256", _MAKE_ONE)
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as reason:
        raise HostError(f"{path}: {reason.strerror}", _MAKE_ONE) from reason


def sign(key: ec.EllipticCurvePrivateKey, content: bytes) -> bytes:
    """Return the DER signature of ``content``, always the same for the same key (RFC 6979).

    HostError if this machine's cryptography cannot sign so: a random signature would make no two builds alike.
    """
    try:
        return key.sign(content, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    except UnsupportedAlgorithm as reason:
        raise HostError(
            "the OpenSSL that cryptography was built with cannot make deterministic signatures",
            "Install cryptography as a wheel: pip install --force-reinstall cryptography",
        ) from reason


def sigstore(signature: bytes, content: bytes) -> bytes:
    """Return the same signature as a sigstore bundle v0.3, which names no key."""
    digest = hashlib.sha256(content).digest()
    document = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {}},
        "messageSignature": {
            "messageDigest": {"algorithm": "SHA2_256", "digest": base64.b64encode(digest).decode()},
            "signature": base64.b64encode(signature).decode(),
        },
    }
    return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()


def check(key: ec.EllipticCurvePublicKey, signature: bytes, content: bytes) -> None:
    """Return if ``signature`` is this key's over ``content``; IntegrityError otherwise."""
    try:
        key.verify(signature, content, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as reason:
        raise IntegrityError(
            "SHA256SUMS.sig: not this key's signature of SHA256SUMS",
            "Do not use the bundle, unless the key given is the wrong one.",
        ) from reason
