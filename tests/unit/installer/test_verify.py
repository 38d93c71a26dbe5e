"""Strict verification: each way to change a bundle is noticed, and the member named."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from installer.bundle import open_bundle
from installer.errors import HostError, InstallerError, IntegrityError
from installer.verify import Result, verify
from tests.bundles import complete, make_bundle, unpack, write_tar

MEMBERS = {"bin/amd64/tool": b"tool" * 300, "big": os.urandom(3 << 20), "empty": b""}


def check(path: Path, key: Path | None = None) -> Result:
    bundle = open_bundle(str(path))
    try:
        return verify(bundle, str(key) if key else "")
    finally:
        bundle.close()


def openssl(*arguments: str | Path, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=data, check=True, capture_output=True).stdout


def signed(folder: Path) -> tuple[Path, Path]:
    """A signed bundle and the public key to it."""
    key, public = folder / "key.pem", folder / "pub.pem"
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    openssl("ec", "-in", key, "-pubout", "-out", public)
    whole = complete(MEMBERS)
    (folder / "sums").write_bytes(whole["SHA256SUMS"])
    whole["SHA256SUMS.sig"] = openssl("dgst", "-sha256", "-sign", key, folder / "sums")
    return write_tar(folder / "signed.tar", whole), public


@pytest.mark.parametrize("tree", [False, True])
def test_a_good_bundle_passes(tmp_path: Path, tree: bool) -> None:
    path = make_bundle(tmp_path / "b.tar", MEMBERS)
    result = check(unpack(path, tmp_path / "tree") if tree else path)
    assert result.files == len(complete(MEMBERS)) - 1
    assert result.size > 3 << 20
    assert not result.signed


def test_coreutils_agrees(tmp_path: Path) -> None:
    tree = unpack(make_bundle(tmp_path / "b.tar", MEMBERS), tmp_path / "tree")
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tree, check=True)


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    seen: list[int] = []
    bundle = open_bundle(str(make_bundle(tmp_path / "b.tar", MEMBERS)))
    result = verify(bundle, advance=seen.append, workers=3)
    assert sum(seen) == result.size
    bundle.close()


def test_any_flipped_byte_fails(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b.tar", {"a": b"x" * 600, "b/c": b"y"})
    good = path.read_bytes()
    chance = random.Random(3)
    end = len(good.rstrip(b"\0"))
    for at in [*range(0, end, 7), *(chance.randrange(len(good)) for _ in range(300))]:
        bad = bytearray(good)
        bad[at] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(IntegrityError):
            check(path)


@pytest.mark.parametrize("tree", [False, True])
def test_the_changed_members_are_named(tmp_path: Path, tree: bool) -> None:
    whole = complete(MEMBERS)
    whole["big"] = whole["big"][:-1] + bytes([whole["big"][-1] ^ 1])
    whole["bin/amd64/tool"] = b"TOOL" * 300
    path = write_tar(tmp_path / "b.tar", whole)
    with pytest.raises(IntegrityError, match=r"big: has sha256 .*; bin/amd64/tool: has sha256 "):
        check(unpack(path, tmp_path / "tree") if tree else path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sums: sums.replace(b"  big", b" *big"), "malformed in line"),
        (lambda sums: sums[:-1], "does not end with a line end"),
        (
            lambda sums: b"".join(line for line in sums.splitlines(True) if b"empty" not in line),
            "empty: not in SHA256SUMS",
        ),
        (lambda sums: sums + b"0" * 64 + b"  zzz\n", "zzz: in SHA256SUMS, but not in the bundle"),
        (lambda sums: b"".join(sorted(sums.splitlines(True))), "not sorted by path"),
        (lambda sums: sums + sums.splitlines(True)[0], "malformed in line"),
        (lambda sums: b"0" * 64 + sums[64:], "SHA256SUMS and bundle.json disagree"),
    ],
)
def test_wrong_sums_fail(tmp_path: Path, change: object, message: str) -> None:
    whole = complete(MEMBERS)
    whole["SHA256SUMS"] = change(whole["SHA256SUMS"])  # type: ignore[operator]
    with pytest.raises(IntegrityError, match=message):
        check(write_tar(tmp_path / "b.tar", whole))


def test_a_changed_contract_is_named(tmp_path: Path) -> None:
    whole = complete(MEMBERS)
    whole["bundle.json"] = whole["bundle.json"].replace(b"v1.20.2", b"v1.20.3")
    with pytest.raises(IntegrityError, match=r"bundle\.json: SHA256SUMS and bundle\.json disagree"):
        check(write_tar(tmp_path / "b.tar", whole))


def test_truncation_while_reading_is_noticed(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b.tar", MEMBERS)
    bundle = open_bundle(str(path))
    os.truncate(path, 1 << 20)
    with pytest.raises(IntegrityError, match="cut short"):
        verify(bundle)
    bundle.close()


def test_a_signature_is_checked(tmp_path: Path) -> None:
    path, public = signed(tmp_path)
    assert check(path).signed
    assert check(path, public).checked


def test_every_flipped_byte_of_a_signature_fails(tmp_path: Path) -> None:
    path, public = signed(tmp_path)
    member = open_bundle(str(path)).members["SHA256SUMS.sig"]
    good = path.read_bytes()
    for at in range(member.offset, member.offset + member.size, 9):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(IntegrityError, match="signature does not match"):
            check(path, public)


def test_signatures_that_cannot_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, public = signed(tmp_path)
    with pytest.raises(IntegrityError, match="is not signed"):
        check(make_bundle(tmp_path / "plain.tar", MEMBERS), public)
    with pytest.raises(HostError, match="cannot be read"):
        check(path, tmp_path / "none.pem")
    with pytest.raises(HostError, match="no public key in PEM form"):
        check(path, tmp_path / "key.pem")  # the private one
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="openssl is not installed"):
        check(path, public)


def test_another_key_does_not_match(tmp_path: Path) -> None:
    path, _ = signed(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = signed(tmp_path / "other")
    with pytest.raises(InstallerError) as caught:
        check(path, other)
    assert caught.value.exit_code == 6
