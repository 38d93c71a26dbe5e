"""The bundler and the installer read bundles with code of their own; they must refuse the same ones."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from bundler.archive import Member
from bundler.errors import BundlerError
from bundler.progress import Progress
from bundler.sign import keygen
from bundler.verify import verify
from installer import errors as installer_errors
from installer.bundle import open_bundle
from installer.verify import verify as verify_inside
from tests.unit.bundler.conftest import bundle_members, write_tar

CONTENT = {
    "installer/node/10-host.sh": b"#!/bin/sh\n",
    "images/oci-layout": b'{"imageLayoutVersion":"1.0.0"}\n',
    "lists/images": b"",
    "manifests/net/net.yml": b"kind: List\n" * 90,
}


def verdicts(path: Path, key: Path | None = None) -> tuple[int, int]:
    """The exit codes of both halves for a bundle; 0 if it is accepted."""
    outside = inside = 0
    try:
        verify(path, key, Progress(quiet=True), jobs=1)
    except BundlerError as reason:
        outside = reason.exit_code
    try:
        bundle = open_bundle(str(path))
        try:
            verify_inside(bundle, str(key or ""), workers=1)
        finally:
            bundle.close()
    except installer_errors.InstallerError as reason:
        inside = reason.exit_code
    return outside, inside


@pytest.fixture
def members() -> list[Member]:
    return bundle_members([Member.of(path, content) for path, content in sorted(CONTENT.items())])


def test_both_accept_a_whole_bundle(tmp_path: Path, members: list[Member]) -> None:
    assert verdicts(write_tar(tmp_path / "b.tar", members)) == (0, 0)


def test_both_check_the_signature(tmp_path: Path, members: list[Member]) -> None:
    private, public = keygen(tmp_path / "a")
    _, other = keygen(tmp_path / "b")
    signed = write_tar(tmp_path / "b.tar", bundle_members(members[2:], private))
    assert verdicts(signed, public) == (0, 0)
    assert verdicts(signed, other) == (6, 6)
    assert verdicts(write_tar(tmp_path / "c.tar", members), public) == (6, 6)


def test_both_refuse_flips_and_cuts(tmp_path: Path, members: list[Member]) -> None:
    path = write_tar(tmp_path / "b.tar", members)
    whole = path.read_bytes()
    chosen = random.Random(3)
    for offset in chosen.sample(range(len(whole)), 250):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ (1 << chosen.randrange(8))]) + whole[offset + 1 :])
        assert verdicts(path) == (6, 6), offset
    for length in [0, 1, *chosen.sample(range(len(whole)), 40), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert verdicts(path) == (6, 6), length


def test_both_refuse_flips_in_the_signatures_without_a_key(tmp_path: Path, members: list[Member]) -> None:
    private, _ = keygen(tmp_path / "a")
    path = write_tar(tmp_path / "b.tar", bundle_members(members[2:], private))
    whole = path.read_bytes()
    begin, end = whole.index(b"SHA256SUMS.sig\0"), whole.index(b"images/oci-layout\0")
    assert whole[begin:end].count(b"SHA256SUMS.sigstore.json\0") == 1
    for offset in random.Random(4).sample(range(begin, end), 150):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 4]) + whole[offset + 1 :])
        assert verdicts(path) == (6, 6), offset
    alone = [one for one in bundle_members(members[2:], private) if one.path != "SHA256SUMS.sig"]
    assert verdicts(write_tar(path, alone)) == (6, 6)


def without(members: list[Member]) -> list[Member]:
    return members[:-1]


def with_extra(members: list[Member]) -> list[Member]:
    return [*members, Member.of("zzz", b"")]


def with_duplicate(members: list[Member]) -> list[Member]:
    return [*members, members[-1]]


def with_changed(members: list[Member]) -> list[Member]:
    return [*members[:-1], Member.of(members[-1].path, b"k" * members[-1].size)]


@pytest.mark.parametrize("spoil", [without, with_extra, with_duplicate, with_changed])
def test_both_refuse_other_members(
    tmp_path: Path, members: list[Member], spoil: Callable[[list[Member]], list[Member]]
) -> None:
    assert verdicts(write_tar(tmp_path / "b.tar", spoil(members))) == (6, 6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("/etc/passwd", b"0"), ("../up", b"0"), ("a/../b", b"0"), ("a//b", b"0"), ("./a", b"0"), ("link", tarfile.SYMTYPE),
     ("link", tarfile.LNKTYPE), ("dir", tarfile.DIRTYPE), ("dev", tarfile.CHRTYPE), ("pipe", tarfile.FIFOTYPE)],
)
def test_both_refuse_unsafe_members(tmp_path: Path, members: list[Member], name: str, kind: bytes) -> None:
    path = write_tar(tmp_path / "b.tar", members)
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mtime = kind, "/etc/passwd" if kind in (b"1", b"2") else "", 1610496000
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(info)
    path.write_bytes(path.read_bytes()[:-1024] + buffer.getvalue())
    assert verdicts(path) == (6, 6)
