import errno
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bundler.errors import HostError
from bundler.store import Store, host_errors

DATA = b"some bytes" * 1000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_bytes_are_found_by_their_digest_alone(store: Store) -> None:
    assert not store.has(SHA)
    assert store.add_bytes(DATA) == SHA
    assert store.has(SHA) and store.has(SHA, len(DATA))
    assert store.path(SHA) == store.root / "sha256" / SHA[:2] / SHA
    assert store.read(SHA) == DATA
    assert list((store.root / "partial").iterdir()) == []


def test_a_file_shortened_by_a_power_cut_is_not_trusted(store: Store) -> None:
    store.add_bytes(DATA)
    os.truncate(store.path(SHA), 0)
    assert not store.has(SHA) and not store.has(SHA, len(DATA))
    store.add_bytes(DATA)
    assert store.read(SHA) == DATA


def test_the_empty_file_is_a_file(store: Store) -> None:
    assert store.has(store.add_bytes(b""), 0)
    assert store.has(hashlib.sha256().hexdigest())


def test_wrong_bytes_never_get_the_final_name(store: Store) -> None:
    with store.partial(SHA) as partial:
        partial.write(DATA[:-1] + b"!")
        assert not partial.finish(len(DATA))
    assert not store.has(SHA)


def test_right_bytes_of_the_wrong_length_are_refused(store: Store) -> None:
    with store.partial(SHA) as partial:
        partial.write(DATA)
        assert not partial.finish(len(DATA) + 1)


def test_bytes_of_an_earlier_run_are_kept_and_hashed(store: Store) -> None:
    with store.partial(SHA) as partial:
        partial.write(DATA[:777])
    with store.partial(SHA) as partial:
        assert partial.resume() == 777
        partial.write(DATA[777:])
        assert partial.finish(len(DATA))
    assert store.read(SHA) == DATA


def test_an_untouched_partial_leaves_nothing_behind(store: Store) -> None:
    with store.partial(SHA):
        pass
    assert list((store.root / "partial").iterdir()) == []


def test_two_threads_never_hold_one_partial(store: Store) -> None:
    holders, most = 0, 0
    lock = threading.Lock()

    def write() -> None:
        nonlocal holders, most
        with store.partial(SHA) as partial:
            with lock:
                holders += 1
                most = max(most, holders)
            missing = not store.has(SHA, len(DATA))
            if missing:
                partial.restart()
                partial.write(DATA)
            with lock:
                holders -= 1
            if missing:
                partial.finish(len(DATA))  # from here on the name is free: the next holder finds the blob

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert store.read(SHA) == DATA


WRITER = """
import sys
from pathlib import Path
from bundler.store import Store
store = Store(Path(sys.argv[1]))
for number in range(40):
    data = str(number).encode() * 50000
    store.add_bytes(data)
"""


def test_processes_that_share_a_cache_do_not_corrupt_it(store: Store) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, store.root]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    for number in range(40):
        data = str(number).encode() * 50000
        assert store.read(hashlib.sha256(data).hexdigest()) == data
    assert list((store.root / "partial").iterdir()) == []


def test_waiting_for_another_process_ends_when_stopped(store: Store) -> None:
    stop = threading.Event()
    stop.set()
    with store.partial(SHA), pytest.raises(HostError, match="another process"), store.partial(SHA, stop):
        pass


def test_a_cache_below_a_file_names_itself_and_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=str(tmp_path)) as caught:
        Store(tmp_path / "file" / "cache")
    assert "--cache-dir" in caught.value.hint


def test_too_little_space_is_said_before_the_start(store: Store) -> None:
    store.require(1)
    with pytest.raises(HostError, match=rf"{store.root}: {1 << 60} bytes are needed, \d+ are free"):
        store.require(1 << 60)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_folder_and_the_bytes(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(HostError, match=rf"{tmp_path}: no space left \(4096 more bytes"),
        host_errors(tmp_path / "x", 4096),
    ):
        raise OSError(number, os.strerror(number))


def test_a_really_full_disk_is_a_host_error(store: Store) -> None:
    partial_path = store.root / "partial" / SHA
    partial_path.symlink_to("/dev/full")
    with pytest.raises(HostError, match="no space left"), store.partial(SHA) as partial:
        partial.write(DATA)
