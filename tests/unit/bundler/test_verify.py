"""Verification: whatever is changed in a bundle is found and named."""

from __future__ import annotations

import io
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.archive import Member
from bundler.bundle import CONTRACT, SIGNATURE, SUMS, sums_bytes
from bundler.errors import BundlerError, HostError, IntegrityError
from bundler.progress import Progress
from bundler.sign import keygen
from bundler.verify import verify
from tests.unit.bundler.conftest import CREATED, bundle_members, write_tar

MakeBundle = Callable[..., Path]


def check(path: Path, key: Path | None = None) -> None:
    verify(path, key, Progress(quiet=True), jobs=2)


def refused(path: Path, key: Path | None = None) -> str:
    with pytest.raises(IntegrityError) as caught:
        check(path, key)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value.message


def test_whole_bundle_passes(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    found = verify(path, None, Progress(quiet=True))
    assert (found.members, found.size) == (6, path.stat().st_size)
    assert not found.signed
    assert not found.trusted


def test_unpacked_bundle_passes_sha256sum(make_bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xf", make_bundle(), "-C", tmp_path / "out"], check=True)
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path / "out", check=True, capture_output=True)


def test_every_flipped_bit_is_found(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    whole = path.read_bytes()
    chosen = random.Random(1)
    headers = [i for i in range(0, len(whole), 512) if whole[i + 257 : i + 262] == b"ustar"]
    offsets = {i + n for i in headers for n in range(0, 512, 3)} | set(chosen.sample(range(len(whole)), 300))
    offsets |= set(range(len(whole) - 1024, len(whole), 7))
    for offset in sorted(offsets):
        flipped = bytearray(whole)
        flipped[offset] ^= 1 << chosen.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(IntegrityError):
            check(path)


def test_changed_member_is_named(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"\x7fELF")] ^= 1
    path.write_bytes(whole)
    assert "changed member: bin/amd64/kubectl" in refused(path)


def test_every_truncation_is_found(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    whole = path.read_bytes()
    for length in [0, 1, *range(512, len(whole), 5120), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path)


def test_extra_member_is_named(tmp_path: Path, body: list[Member]) -> None:
    members = [*bundle_members(body), Member.of("zzz", b"")]
    assert "extra member, not in SHA256SUMS: zzz" in refused(write_tar(tmp_path / "b.tar", members))


def test_missing_member_is_named(tmp_path: Path, body: list[Member]) -> None:
    members = [m for m in bundle_members(body) if m.path != "lists/images"]
    assert "missing member: lists/images" in refused(write_tar(tmp_path / "b.tar", members))


def test_what_tar_itself_adds_or_deletes_is_named(make_bundle: MakeBundle, tmp_path: Path) -> None:
    path = make_bundle()
    subprocess.run(["tar", "--delete", "-f", path, "lists/images"], check=True)
    message = refused(path)
    assert "missing member: " in message
    assert "lists/images" in message
    (tmp_path / "evil").write_text("x")
    path = make_bundle("other.tar")
    subprocess.run(["tar", "-rf", path, "-C", tmp_path, "evil"], check=True)
    assert "evil" in refused(path)


def test_damaged_header_names_the_member(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    whole = path.read_bytes()
    start = whole.index(b"lists/images\0")
    for field in (100, 124, 136, 150, 156, 257, 345):
        flipped = bytearray(whole)
        flipped[start + field] ^= 1
        path.write_bytes(flipped)
        assert "lists/images" in refused(path), field


def test_padding_of_other_tools_is_refused(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    path.write_bytes(path.read_bytes() + bytes(10240))
    assert "trailing bytes" in refused(path)


def test_member_cannot_be_a_directory_too(tmp_path: Path, body: list[Member]) -> None:
    members = bundle_members([*body, Member.of("lists/images/x", b"")])
    assert "unsafe member, a directory of another: lists/images" in refused(write_tar(tmp_path / "b.tar", members))


def test_duplicate_member_is_named(tmp_path: Path, body: list[Member]) -> None:
    assert "duplicate member" in refused(write_tar(tmp_path / "b.tar", [*bundle_members(body), body[-1]]))


def test_order_is_part_of_the_format(tmp_path: Path, body: list[Member]) -> None:
    first, sums, *rest = bundle_members(body)
    swapped = [first, sums, rest[1], rest[0], *rest[2:]]
    assert "out of order" in refused(write_tar(tmp_path / "b.tar", swapped))
    assert "no bundle" in refused(write_tar(tmp_path / "c.tar", [sums, first, *rest]))


def altered(tmp_path: Path, body: list[Member], **change: object) -> Path:
    """A bundle whose contract says something else, with sums that fit."""
    first, *_ = bundle_members(body)
    assert isinstance(first.source, bytes)
    contract = {**json.loads(first.source), **change}
    lying = Member.of(CONTRACT, json.dumps(contract).encode())
    sums = sums_bytes({m.path: m.sha256 for m in [lying, *body]})
    return write_tar(tmp_path / "lie.tar", [lying, Member.of(SUMS, sums), *body])


def test_contract_must_agree_with_the_sums(tmp_path: Path, body: list[Member]) -> None:
    files = [{"path": m.path, "sha256": m.sha256, "size": m.size} for m in body]
    assert "do not both list: zzz" in refused(
        altered(tmp_path, body, files=[*files, {"path": "zzz", "sha256": "0" * 64, "size": 0}])
    )
    wrong = [{**files[0], "sha256": "0" * 64}, *files[1:]]
    assert f"differ on: {body[0].path}" in refused(altered(tmp_path, body, files=wrong))
    wrong = [{**files[0], "size": 1}, *files[1:]]
    assert f"not the size in bundle.json: {body[0].path}" in refused(altered(tmp_path, body, files=wrong))
    assert "malformed" in refused(altered(tmp_path, body, files=[{"path": "a"}]))
    assert "malformed" in refused(altered(tmp_path, body, files=7))
    assert "time stamp" in refused(altered(tmp_path, body, created=CREATED + 1))


def test_unknown_schema_is_refused(tmp_path: Path, body: list[Member]) -> None:
    assert "schema 2 is unknown" in refused(altered(tmp_path, body, schema=2))


def test_sums_must_be_coreutils_lines(tmp_path: Path, body: list[Member]) -> None:
    first, sums, *rest = bundle_members(body)
    assert isinstance(sums.source, bytes)
    for bad in (sums.source[:-1], sums.source + b"\n", sums.source.replace(b"  ", b" *"), b""):
        refused(write_tar(tmp_path / "b.tar", [first, Member.of(SUMS, bad), *rest]))


def test_signature(make_bundle: MakeBundle, tmp_path: Path, body: list[Member]) -> None:
    private, public = keygen(tmp_path / "keys")
    _, other = keygen(tmp_path / "others")
    path = make_bundle(key=private)
    found = verify(path, public, Progress(quiet=True))
    assert (found.signed, found.trusted) == (True, True)
    assert not verify(path, None, Progress(quiet=True)).trusted
    assert "SHA256SUMS.sig: not this key's signature" in refused(path, other)
    assert "not signed" in refused(make_bundle("unsigned.tar"), public)
    first, sums, signature, *rest = bundle_members(body, private)
    assert isinstance(signature.source, bytes)
    for bad in (signature.source[:-1], b"", signature.source[:-1] + bytes([signature.source[-1] ^ 1])):
        refused(write_tar(tmp_path / "b.tar", [first, sums, Member.of(SIGNATURE, bad), *rest]), public)


def test_signed_bundle_flips_are_found(make_bundle: MakeBundle, tmp_path: Path) -> None:
    private, public = keygen(tmp_path / "keys")
    path = make_bundle(key=private)
    whole = path.read_bytes()
    for offset in range(0, len(whole), 997):
        flipped = bytearray(whole)
        flipped[offset] ^= 0x20
        path.write_bytes(flipped)
        with pytest.raises(IntegrityError):
            check(path, public)


def test_what_is_no_bundle_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with pytest.raises(HostError, match="No such file"):
        check(path)
    path.write_bytes(b"PK\x03\x04" * 1000)
    refused(path)
    with pytest.raises(BundlerError):
        check(tmp_path)


def test_progress_counts_every_byte(make_bundle: MakeBundle) -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    verify(make_bundle(), None, progress)
    assert progress.done == progress.total > 0
