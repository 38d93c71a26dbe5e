"""The bundler and the installer read bundles with code of their own; they must refuse the same ones."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler import archive
from bundler.archive import Member
from bundler.errors import BundlerError
from bundler.progress import Progress
from bundler.sign import keygen
from bundler.verify import verify
from installer import errors as installer_errors
from installer.bundle import open_bundle
from installer.tarheader import header as installer_header
from installer.verify import verify as verify_inside
from tests.bundles import CREATED, header
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


@pytest.mark.parametrize("size", [0, 5, 8**11 - 1, 8**11, 10**15])
@pytest.mark.parametrize("path", ["a", "bin/amd64/x", "x/" * 60 + "n" * 90, "p" * 155 + "/" + "n" * 100])
def test_both_know_one_header(path: str, size: int) -> None:
    assert installer_header(path, size, CREATED) == archive.header(path, size, CREATED)
    assert size >= 8**11 or header(path, size) == archive.header(path, size, CREATED)


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
    path.write_bytes(path.read_bytes()[:-1024] + header(name, 0, kind=kind) + bytes(1024))
    assert verdicts(path) == (6, 6)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 2), (2, 3), (0, -1), (-2, -1)])
def test_both_refuse_members_out_of_order(tmp_path: Path, members: list[Member], first: int, second: int) -> None:
    members[first], members[second] = members[second], members[first]
    assert verdicts(write_tar(tmp_path / "b.tar", members)) == (6, 6)


@pytest.mark.parametrize("tail", [b"\0", bytes(512), bytes(9216), b"x"])
def test_both_refuse_what_follows_the_end(tmp_path: Path, members: list[Member], tail: bytes) -> None:
    path = write_tar(tmp_path / "b.tar", members)
    path.write_bytes(path.read_bytes() + tail)
    assert verdicts(path) == (6, 6)


@pytest.mark.parametrize(
    "fields", [{"uid": 1000}, {"owner": "root"}, {"mtime": CREATED + 1}, {"kind": b"\0"}, {"kind": b"7"}], ids=str
)
def test_both_refuse_other_headers(tmp_path: Path, members: list[Member], fields: dict[str, Any]) -> None:
    """Each sound by itself, with a checksum that fits."""
    path = write_tar(tmp_path / "b.tar", members)
    size = members[-1].size
    ours, other = header(members[-1].path, size), header(members[-1].path, size, **fields)
    assert path.read_bytes().count(ours) == 1
    path.write_bytes(path.read_bytes().replace(ours, other))
    assert verdicts(path) == (6, 6)


def test_both_refuse_another_time_stamp_than_the_contract_s(tmp_path: Path, members: list[Member]) -> None:
    assert verdicts(write_tar(tmp_path / "b.tar", members, CREATED + 1)) == (6, 6)


def test_both_refuse_a_path_cut_elsewhere(tmp_path: Path) -> None:
    """ustar can hold a long path in several ways; the bundler writes one."""
    name = "/".join(["manifests", "a" * 60, "b" * 40, "c" * 30])
    path = write_tar(tmp_path / "b.tar", bundle_members([Member.of(name, b"")]))
    assert verdicts(path) == (0, 0)
    ours = header(name, 0)
    cut = name.index("/b")
    fields = bytearray(ours)
    fields[:100], fields[345:500] = name[cut + 1 :].encode().ljust(100, b"\0"), name[:cut].encode().ljust(155, b"\0")
    fields[148:156] = b" " * 8
    fields[148:156] = b"%06o\0 " % sum(fields)
    path.write_bytes(path.read_bytes().replace(ours, bytes(fields)))
    assert verdicts(path) == (6, 6)

