"""Keys and signatures, checked by openssl itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bundler import sign
from bundler.errors import HostError, IntegrityError


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def test_openssl_checks_the_signature(tmp_path: Path) -> None:
    private, public = sign.keygen(tmp_path / "new" / "keys")
    assert private.stat().st_mode & 0o777 == 0o600
    assert public.stat().st_mode & 0o777 == 0o644
    (tmp_path / "SHA256SUMS").write_bytes(b"what is signed")
    signature = sign.sign(sign.load_private(private), b"what is signed")
    (tmp_path / "SHA256SUMS.sig").write_bytes(signature)
    openssl("dgst", "-sha256", "-verify", public, "-signature", tmp_path / "SHA256SUMS.sig", tmp_path / "SHA256SUMS")
    sign.check(sign.load_public(public), signature, b"what is signed")
    with pytest.raises(IntegrityError):
        sign.check(sign.load_public(public), signature, b"what is not")


def test_signatures_are_reproducible(tmp_path: Path) -> None:
    private, _ = sign.keygen(tmp_path)
    assert sign.sign(sign.load_private(private), b"x") == sign.sign(sign.load_private(private), b"x")


def test_keygen_never_overwrites(tmp_path: Path) -> None:
    private, public = sign.keygen(tmp_path)
    before = private.read_bytes()
    with pytest.raises(HostError, match="exists already"):
        sign.keygen(tmp_path)
    public.unlink()
    with pytest.raises(HostError, match="exists already"):
        sign.keygen(tmp_path)
    assert private.read_bytes() == before
    private.unlink()
    public.touch()
    with pytest.raises(HostError, match="exists already"):
        sign.keygen(tmp_path)
    assert not private.exists()


def test_key_made_by_openssl_is_read(tmp_path: Path) -> None:
    key = tmp_path / "k.pem"
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    assert sign.sign(sign.load_private(key), b"x")


def test_unusable_keys_are_named(tmp_path: Path) -> None:
    curve, rsa, locked, text = (tmp_path / name for name in ("p384.pem", "rsa.pem", "locked.pem", "text"))
    openssl("ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", curve)
    openssl("genrsa", "-out", rsa, "2048")
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes128", "-pass", "pass:x",
            "-out", locked)
    text.write_text("no key")
    for path, said in ((curve, "P-256"), (rsa, "P-256"), (locked, "passphrase"), (text, "PEM"),
                       (tmp_path / "none", "No such file")):
        with pytest.raises(HostError, match=said) as caught:
            sign.load_private(path)
        assert str(path) in caught.value.message
        assert caught.value.hint
    with pytest.raises(HostError, match="no public key"):
        sign.load_public(rsa)
