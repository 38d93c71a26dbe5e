"""The canonical tar: its bytes, that tar itself reads it, and that nothing else passes for it."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from bundler import archive
from bundler.archive import DamagedSource, Member
from bundler.errors import IntegrityError
from tests.unit.bundler.conftest import CREATED, write_tar


def read(path: Path) -> list[str]:
    fd = os.open(path, os.O_RDONLY)
    try:
        entries, _ = archive.read(fd)
        archive.check_end(fd, entries[-1])
        return [entry.path for entry in entries]
    finally:
        os.close(fd)


def test_tar_extracts_what_was_written(tmp_path: Path) -> None:
    source = tmp_path / "blob"
    source.write_bytes(os.urandom(3 * archive.CHUNK + 5))
    deep = "packages/" + "d" * 120 + "/x.rpm"
    members = [
        Member.of("a/empty", b""),
        Member.of("bin/amd64/tool", b"x" * 512),
        Member("images/blob", source.stat().st_size, Member.of("", source.read_bytes()).sha256, source),
        Member.of(deep, b"y"),
    ]
    tar = write_tar(tmp_path / "b.tar", members)
    assert tar.stat().st_size == archive.total_size(members)
    subprocess.run(["tar", "xf", tar, "-C", tmp_path], check=True)
    assert (tmp_path / "images/blob").read_bytes() == source.read_bytes()
    assert (tmp_path / deep).read_bytes() == b"y"
    listed = subprocess.run(
        ["tar", "--full-time", "--utc", "--numeric-owner", "-tvf", tar], check=True, capture_output=True, text=True
    )
    first, second = listed.stdout.splitlines()[:2]
    assert first.split() == ["-rw-r--r--", "0/0", "0", "2021-01-13", "00:00:00", "a/empty"]
    assert second.startswith("-rwxr-xr-x")
    assert read(tar) == [member.path for member in members]


def test_headers_agree_with_tarfile() -> None:
    for path, size in (("a", 0), ("p" * 90 + "/" + "n" * 90, 7), ("x" * 100, 8**11 - 1)):
        info = tarfile.TarInfo(path)
        info.size, info.mtime = size, CREATED
        parsed = tarfile.TarInfo.frombuf(archive.header(path, size, CREATED), "ascii", "strict")
        assert (parsed.name, parsed.size, parsed.mtime, parsed.mode) == (path, size, CREATED, 0o644)


def test_member_above_8_gib_is_read_by_tar(tmp_path: Path) -> None:
    size = 8**11 + 3
    head = archive.header("images/big", size, CREATED)
    tar = tmp_path / "big.tar"
    with tar.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size + archive.padding(size) + len(archive.END))
    listed = subprocess.run(["tar", "-tvf", tar], check=True, capture_output=True, text=True).stdout
    assert f" {size} " in listed
    fd = os.open(tar, os.O_RDONLY)
    try:
        entries, _ = archive.read(fd)
    finally:
        os.close(fd)
    assert [(entry.path, entry.size) for entry in entries] == [("images/big", size)]


@pytest.mark.parametrize(
    "path", ["", "/a", "../a", "a/../b", "a//b", "./a", "a/", "a\\b", "a\nb", "ä", "n" * 101, "a b", "p" * 156 + "/n"]
)
def test_unsafe_paths_are_refused(path: str) -> None:
    assert not archive.safe_path(path)
    with pytest.raises(ValueError, match="safe"):
        archive.header(path, 0, 0)


def test_damaged_source_is_named(tmp_path: Path) -> None:
    source = tmp_path / "blob"
    source.write_bytes(b"good")
    member = Member("x", 4, Member.of("", b"good").sha256, source)
    source.write_bytes(b"evil")
    with pytest.raises(DamagedSource) as caught:
        write_tar(tmp_path / "b.tar", [member, Member.of("y", b"")])
    assert (caught.value.file, caught.value.sha256) == (source, member.sha256)
    assert str(source) in caught.value.message
    source.write_bytes(b"short")
    with pytest.raises(DamagedSource):
        write_tar(tmp_path / "b.tar", [member])


def foreign(tmp_path: Path, info: tarfile.TarInfo, content: bytes = b"") -> Path:
    """A tar with one member of tarfile's making, after one of ours."""
    path = tmp_path / "foreign.tar"
    ours = archive.header("a", 0, CREATED)
    info.mtime, info.size = CREATED, len(content)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(content))
    path.write_bytes(ours + buffer.getvalue())
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [(tarfile.SYMTYPE, "symbolic link"), (tarfile.LNKTYPE, "hard link"), (tarfile.DIRTYPE, "directory"),
     (tarfile.CHRTYPE, "device"), (tarfile.BLKTYPE, "device"), (tarfile.FIFOTYPE, "pipe")],
)
def test_only_files_are_members(tmp_path: Path, kind: bytes, said: str) -> None:
    info = tarfile.TarInfo("etc/passwd")
    info.type, info.linkname = kind, "target"
    with pytest.raises(IntegrityError, match=rf"unsafe member: 'etc/passwd/?' is a {said}"):
        read(foreign(tmp_path, info))


@pytest.mark.parametrize("name", ["/etc/passwd", "../escape", "a/../../b", "a/./b", "a//b"])
def test_unsafe_member_names_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match="unsafe member") as caught:
        read(foreign(tmp_path, tarfile.TarInfo(name)))
    assert repr(name) in caught.value.message


def test_foreign_header_fields_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("b")
    info.uid = 1000
    with pytest.raises(IntegrityError, match="header of member b"):
        read(foreign(tmp_path, info))


def test_duplicate_member_is_named(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="duplicate member: a"):
        read(write_tar(tmp_path / "b.tar", [Member.of("a", b"1"), Member.of("a", b"2")]))


def test_every_truncation_is_found(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "b.tar", [Member.of("a", b"1" * 700), Member.of("b", b"")])
    whole = tar.read_bytes()
    for length in [*range(0, len(whole), 100), len(whole) - 1]:
        tar.write_bytes(whole[:length])
        with pytest.raises(IntegrityError, match=r"truncated|no tar header"):
            read(tar)


@pytest.mark.parametrize("tail", [b"\0", b"x" * 512, bytes(10240)])
def test_bytes_after_the_end_are_found(tmp_path: Path, tail: bytes) -> None:
    tar = write_tar(tmp_path / "b.tar", [Member.of("a", b"1")])
    tar.write_bytes(tar.read_bytes() + tail)
    with pytest.raises(IntegrityError, match="trailing"):
        read(tar)
