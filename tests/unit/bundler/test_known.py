from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bundler import archive, known
from bundler.archive import DamagedSource, Member
from bundler.known import Known
from bundler.store import Store

DATA = b"some bytes" * 1000
CREATED = 1610496000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def reopened(store: Store) -> Known:
    """What another process finds."""
    return Store(store.root).known


def test_a_fetched_file_is_known_to_later_builds(store: Store) -> None:
    sha256 = store.add_bytes(DATA)
    assert reopened(store).holds(sha256, store.path(sha256).stat())
    assert not reopened(store).holds("0" * 64, store.path(sha256).stat())


def test_any_write_makes_it_unknown_even_if_the_time_is_put_back(store: Store) -> None:
    sha256 = store.add_bytes(DATA)
    path = store.path(sha256)
    before = path.stat()
    time.sleep(0.02)
    with path.open("r+b") as file:
        file.write(b"S")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert not store.known.holds(sha256, path.stat())


def test_a_copy_under_the_same_name_is_unknown(store: Store) -> None:
    sha256 = store.add_bytes(DATA)
    other = store.root / "other"
    other.write_bytes(DATA)
    other.replace(store.path(sha256))
    assert not store.known.holds(sha256, store.path(sha256).stat())


def test_nothing_is_known_after_a_boot_or_without_a_boot_id(store: Store, tmp_path: Path) -> None:
    sha256 = store.add_bytes(DATA)
    status = store.path(sha256).stat()
    (tmp_path / "boot").write_text("another\n")
    assert not Known(tmp_path / "none", tmp_path / "boot").holds(sha256, status)
    assert not Known(store.root / "known", tmp_path / "no-such-file").holds(sha256, status)
    assert not Known(store.root / "known", tmp_path / "boot").holds(sha256, status)


@pytest.mark.parametrize("spoil", [lambda t: t[:-1], lambda t: t.replace(" ", "\t"), lambda t: t[:-5] + "x\n",
                                   lambda t: "\xff\0" + t])
def test_a_spoilt_line_is_not_believed(store: Store, spoil) -> None:  # type: ignore[no-untyped-def]
    sha256 = store.add_bytes(DATA)
    index = store.root / "known"
    index.write_text(spoil(index.read_text()))
    assert not reopened(store).holds(sha256, store.path(sha256).stat())


def test_the_index_does_not_grow_without_end(store: Store) -> None:
    sha256 = store.add_bytes(DATA)
    index = store.root / "known"
    line = index.read_text()
    index.write_text(line.replace(sha256, "1" * 64) * 200 + line)
    assert reopened(store).holds(sha256, store.path(sha256).stat())
    assert len(index.read_text().splitlines()) == 2


def write(path: Path, member: Member, index: Known | None) -> list[int]:
    """Write a tar of one member; the lengths of the pieces that were done."""
    done: list[int] = []
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        archive.write(fd, [member], CREATED, 1, done.append, index)
    finally:
        os.close(fd)
    return done


def test_a_known_file_is_copied_without_being_hashed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = store.add_bytes(DATA)
    member = Member("bin/a", len(DATA), sha256, store.path(sha256))

    def never(*_: object) -> str:
        raise AssertionError("hashed")

    monkeypatch.setattr(archive, "_hash", never)
    write(tmp_path / "a.tar", member, store.known)
    assert DATA in (tmp_path / "a.tar").read_bytes()
    with pytest.raises(AssertionError, match="hashed"):
        write(tmp_path / "b.tar", member, None)


def test_an_unknown_file_is_hashed_once_and_then_known(store: Store, tmp_path: Path) -> None:
    sha256 = store.add_bytes(DATA)
    os.utime(store.path(sha256))
    member = Member("bin/a", len(DATA), sha256, store.path(sha256))
    write(tmp_path / "a.tar", member, store.known)
    assert not store.known.holds(sha256, store.path(sha256).stat())  # too young to be sure
    time.sleep(2 * known.YOUNG / 1e9)
    write(tmp_path / "b.tar", member, store.known)
    assert reopened(store).holds(sha256, store.path(sha256).stat())


def test_a_damaged_file_is_never_noted(store: Store, tmp_path: Path) -> None:
    sha256 = store.add_bytes(DATA)
    store.path(sha256).write_bytes(b"S" + DATA[1:])
    time.sleep(2 * known.YOUNG / 1e9)
    with pytest.raises(DamagedSource):
        write(tmp_path / "a.tar", Member("bin/a", len(DATA), sha256, store.path(sha256)), store.known)
    assert not reopened(store).holds(sha256, store.path(sha256).stat())


def test_reading_checks_the_digest(store: Store) -> None:
    sha256 = store.add_bytes(DATA)
    store.path(sha256).write_bytes(b"S" + DATA[1:])
    with pytest.raises(DamagedSource) as caught:
        store.read(sha256)
    assert caught.value.file == store.path(sha256)
