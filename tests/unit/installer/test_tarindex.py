"""The index of a tar: where members lie, and that nothing but the bundler's own kind of tar passes."""

from __future__ import annotations

import io
import os
import random
import tarfile
from pathlib import Path

import pytest

from installer.errors import IntegrityError
from installer.tarindex import Member, check_path, check_paths, scan
from tests.bundles import header, write_tar


def index(path: Path) -> dict[str, Member]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return scan(fd, path.name).members
    finally:
        os.close(fd)


def tar_of(path: Path, *members: tarfile.TarInfo, form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(b"x" * info.size) if info.isreg() else None)
    return path


def raw(path: Path, *heads: bytes) -> Path:
    path.write_bytes(b"".join(heads) + bytes(1024))
    return path


def info(name: str, size: int = 3) -> tarfile.TarInfo:
    one = tarfile.TarInfo(name)
    one.size = size
    return one


def test_offsets_are_those_of_the_bytes(tmp_path: Path) -> None:
    members = {"a/empty": b"", "a/" + "d" * 90 + "/" + "e" * 90: b"long", "b": os.urandom(512), "c": os.urandom(5000)}
    tar = write_tar(tmp_path / "b.tar", members)
    data = tar.read_bytes()
    found = index(tar)
    assert {path: data[one.offset : one.offset + one.size] for path, one in found.items()} == members
    assert list(found) == sorted(members)


def test_a_size_above_8_gib_is_read(tmp_path: Path) -> None:
    size, path = 8**11 + 3, tmp_path / "b.tar"
    record = b"19 size=%d\n" % size
    assert len(record) == 19
    head = header("pax", len(record), kind=b"x") + record.ljust(512, b"\0") + header("images/big", 0)
    with path.open("wb") as tar:
        tar.write(head)
        tar.truncate(len(head) + size + -size % 512 + 1024)
    assert index(path) == {"images/big": Member("images/big", len(head), size)}


def test_a_path_in_an_extended_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="malformed extended header"):
        index(tar_of(tmp_path / "b.tar", info("p/" * 150 + "file", 7), form=tarfile.PAX_FORMAT))


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../up", "a/../../b", "a/./b", "a//b", "a\\b",
     "a\nb", "x\x7f", "", "d" * 101, "a b", "ä", "p" * 156 + "/n"],
)
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(IntegrityError, match="unsafe member name"):
        check_path(name)


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../b"])
def test_unsafe_members_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match="unsafe member name"):
        index(tar_of(tmp_path / "b.tar", info(name)))


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a named pipe"),
        (tarfile.DIRTYPE, "a directory"),
    ],
)
def test_only_regular_files_pass(tmp_path: Path, kind: bytes, what: str) -> None:
    with pytest.raises(IntegrityError, match=f"member/? is {what}"):
        index(raw(tmp_path / "b.tar", header("fine", 0), header("member", 0, kind=kind)))


def test_a_member_may_not_come_twice(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="a/b occurs twice"):
        index(raw(tmp_path / "b.tar", header("a/b", 0), header("c", 0), header("a/b", 0)))


def test_a_file_cannot_be_a_directory_too() -> None:
    with pytest.raises(IntegrityError, match="a is both a file and the directory of a/b/c"):
        check_paths({"a", "a/b/c"})


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT])
def test_other_dialects_are_refused(tmp_path: Path, form: int) -> None:
    with pytest.raises(IntegrityError, match="not a POSIX tar header"):
        index(tar_of(tmp_path / "b.tar", info("a"), form=form))


def test_unknown_pax_records_are_refused(tmp_path: Path) -> None:
    one = info("a")
    one.mtime = 1.5  # makes tarfile write a pax record for it
    with pytest.raises(IntegrityError, match="malformed extended header"):
        index(tar_of(tmp_path / "b.tar", one, form=tarfile.PAX_FORMAT))


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "b.tar", {"a": b"x" * 700, "b": b"y"}).read_bytes()
    cut = tmp_path / "cut.tar"
    for size in range(len(whole)):
        cut.write_bytes(whole[:size])
        with pytest.raises(IntegrityError):
            index(cut)
    cut.write_bytes(whole)
    assert list(index(cut)) == ["a", "b"]


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "b.tar", {"a": b"x"})
    good = tar.read_bytes()
    for tail in (bytes(512) + b"hidden", b"\0", bytes(9216)):
        tar.write_bytes(good + tail)
        with pytest.raises(IntegrityError, match="after the end of the archive"):
            index(tar)


def test_any_flipped_byte_outside_the_contents_is_noticed(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "b.tar", {"a/" + "d" * 60 + "/" + "e" * 60: b"x" * 700, "b": b"y"})
    good = tar.read_bytes()
    before = index(tar)
    contents = {at for one in before.values() for at in range(one.offset, one.offset + one.size)}
    chance = random.Random(1)
    for at in range(len(good)):
        if at in contents:
            continue
        bad = bytearray(good)
        bad[at] ^= 1 << chance.randrange(8)
        tar.write_bytes(bad)
        with pytest.raises(IntegrityError):
            index(tar)


@pytest.mark.parametrize("field", [100, 124, 136, 150, 257, 262, 345])
def test_a_damaged_header_names_its_member(tmp_path: Path, field: int) -> None:
    tar = write_tar(tmp_path / "b.tar", {"a": b"x" * 700, "lists/images": b"y"})
    bad = bytearray(tar.read_bytes())
    bad[bad.index(b"lists/images\0") + field] ^= 1
    tar.write_bytes(bad)
    with pytest.raises(IntegrityError, match="lists/images .*after a"):
        index(tar)


def test_random_bytes_never_crash(tmp_path: Path) -> None:
    chance = random.Random(7)
    good = write_tar(tmp_path / "b.tar", {"a": b"x" * 700, "b": b"y"}).read_bytes()
    path = tmp_path / "fuzz.tar"
    refused = 0
    for _ in range(500):
        bad = bytearray(good)
        for _ in range(chance.randrange(1, 20)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        path.write_bytes(bad[: chance.randrange(len(bad))])
        try:
            index(path)  # what passes was changed in the contents alone
        except IntegrityError:
            refused += 1
    assert refused > 450
