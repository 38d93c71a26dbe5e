"""The gzip form of the metadata, which needs no packages; the rest is tested with real ones in a build."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest

from bundler import repodata
from bundler.archive import DamagedSource, Member
from bundler.errors import IntegrityError
from bundler.repodata import Rpm
from bundler.store import Store


@pytest.mark.parametrize("size", [0, 1, 0xFFFF, 0x10000, 200_001])
def test_stored_gzip_is_read_by_gzip(size: int) -> None:
    plain = bytes(range(256)) * (size // 256) + bytes(size % 256)
    packed = repodata.gzip_stored(plain)
    assert gzip.decompress(packed) == plain
    assert subprocess.run(["gzip", "-dc"], input=packed, capture_output=True, check=True).stdout == plain
    assert packed == repodata.gzip_stored(plain)


def test_no_packages_are_still_a_repository() -> None:
    files = repodata.build([], 86400)
    assert len(files) == 4
    assert b"<timestamp>86400</timestamp>" in files["repomd.xml"]
    for name in files:
        assert name == "repomd.xml" or f'href="repodata/{name}"'.encode() in files["repomd.xml"]


def test_what_is_no_package_is_named(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"not an rpm")
    right = Member.of("", b"not an rpm").sha256
    with pytest.raises(IntegrityError, match=r"x\.rpm: has the right digest, but is no RPM"):
        repodata.build([Rpm("x.rpm", path, right)], 0)
    with pytest.raises(DamagedSource, match=r"x\.rpm"):
        repodata.build([Rpm("x.rpm", path, "0" * 64)], 0)


def test_description_is_remembered_but_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    first = repodata.describe([], 1, store)
    built: list[int] = []

    def count(_: object, stamp: int, _modules: bytes) -> dict[str, bytes]:
        built.append(stamp)
        return first

    monkeypatch.setattr(repodata, "build", count)
    assert repodata.describe([], 1, store) == first
    assert not built
    repodata.describe([], 2, store)
    assert built == [2]
    (note,) = [path for path in (tmp_path / "repodata").iterdir() if path.name == repodata._key([], 1)]
    lines = note.read_text().splitlines(keepends=True)
    for bad in ("", "nonsense", "".join(lines[:-1]), "".join(lines).replace("a", "b")):
        note.write_text(bad)
        assert repodata.describe([], 1, store) == first
    assert built == [2, 1, 1, 1, 1]
    kept = store.path(note.read_text().split()[1])
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    assert repodata.describe([], 1, store) == first
    assert len(built) == 6


STREAM = b"document: modulemd\nversion: 2\ndata: {name: tools, stream: '4.0', summary: s, description: d}\n"


@pytest.mark.parametrize("packer", ["gzip", "xz", "cat"])
def test_modules_become_a_part_of_the_metadata(tmp_path: Path, packer: str) -> None:
    plain = b"---\n" + STREAM if packer == "cat" else STREAM
    data = subprocess.run([packer], input=plain, capture_output=True, check=True).stdout
    path = tmp_path / "blob"
    path.write_bytes(data)
    packed = Rpm("modules.yaml", path, Member.of("", data).sha256)
    files = repodata.describe([], 5, Store(tmp_path / "cache"), [packed, packed])
    (name,) = [name for name in files if name.endswith("-modules.yaml.gz")]
    assert gzip.decompress(files[name]) == (b"---\n" + STREAM) * 2
    assert b'<data type="modules">' in files["repomd.xml"]
    assert f'href="repodata/{name}"'.encode() in files["repomd.xml"]
    path.write_bytes(data + b"x")
    with pytest.raises(DamagedSource):
        repodata.modules([packed])
