"""A push that is killed, cut off or told to stop, and the one that goes on after it."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles import add_image, make_bundle
from tests.integration.test_push import Registry, push, raw, registry
from tests.lab.lab import until
from tests.serving import PROJECT, PYTHON

LAYER = os.urandom(20 << 20)
MIB = 1 << 20


class Wire:
    """A TCP relay to a registry that counts bytes to it, and can hold them back after so many chunks have arrived."""

    def __init__(self, address: str) -> None:
        host, _, port = address.partition(":")
        self._upstream = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.passed = 0
        self.chunks = 1 << 40  # what follows them is held back
        self.held = False  # whether there is something that is
        self.cut_at = 1 << 40  # where connections are closed, once
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no longer."""
        self._open = False
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while self._open:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(self._upstream) as server:
            while self._open:
                for ready in select.select([server, client], [], [], 0.05)[0]:
                    if ready is client and self.chunks <= 0:
                        self.held = True
                        until(lambda: _hung_up(client), 60)
                        return
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is server:
                        self.chunks -= len(re.findall(rb"HTTP/1.1 202[^$]*\r\nRange: 0-[1-9]", data))
                    else:
                        self.passed += len(data)
                    (server if ready is client else client).sendall(data)
                    if self.passed >= self.cut_at:
                        self.cut_at = 1 << 40
                        return


def _hung_up(sock: socket.socket) -> bool:
    """Whether the other side is gone, whatever it has sent before."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    members: dict[str, bytes] = {}
    image = add_image(members, "k8s.gcr.io/etcd:3.4.13-0", [gzip.compress(LAYER, 0, mtime=0)])
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b.tar", members, [image])


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "r") as found:
        yield found


@pytest.fixture
def wire(there: Registry) -> Iterator[Wire]:
    found = Wire(there.address)
    yield found
    found.close()


def start(bundle: Path, wire: Wire, state: Path) -> subprocess.Popen[str]:
    words = ["push", str(bundle), wire.address, "--plain-http", "--chunk=4", f"--state={state}"]
    return subprocess.Popen([PYTHON, "-m", "installer", *words], cwd=PROJECT, text=True, stderr=subprocess.PIPE,
                            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"})


def finish(bundle: Path, wire: Wire, state: Path) -> int:
    """Push to the end; the bytes that it took."""
    before = wire.passed
    done = push(bundle, wire.address, "--plain-http", "--chunk=4", f"--state={state}")
    assert done.returncode == 0, done.stderr
    return wire.passed - before


def whole(there: Registry, tmp_path: Path) -> bool:
    """Whether the registry gives the image, with every digest right."""
    copied = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{there.address}/k8s.gcr.io/etcd:3.4.13-0",
              f"dir:{tmp_path}/image"]
    return subprocess.run(copied, timeout=60).returncode == 0 and bool(raw(there.address, "k8s.gcr.io/etcd:3.4.13-0"))


def test_killed_between_two_chunks_it_goes_on_from_there(
    bundle: Path, there: Registry, wire: Wire, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    wire.chunks = 2
    process = start(bundle, wire, state)
    assert until(lambda: wire.held, 30)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert state.stat().st_mode & 0o777 == 0o600
    assert len(json.loads(state.read_text())) == 1
    wire.chunks = 1 << 40
    assert 12 * MIB < finish(bundle, wire, state) < 12 * MIB + 200_000, "the third chunk of five comes next"
    assert whole(there, tmp_path)
    assert not state.exists(), "nothing is unfinished"


def test_killed_in_the_middle_of_a_chunk_the_blob_still_arrives(
    bundle: Path, there: Registry, wire: Wire, tmp_path: Path
) -> None:
    """Distribution 2 drops an upload whose last chunk was cut, so that blob begins anew; no other does."""
    state = tmp_path / "state.json"
    process = start(bundle, wire, state)
    assert until(lambda: wire.passed > 6 * MIB, 30, 0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    finish(bundle, wire, state)
    assert whole(there, tmp_path)
    assert not state.exists()


def test_told_to_stop_it_ends_after_a_chunk_and_sends_none_twice(
    bundle: Path, there: Registry, wire: Wire, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    process = start(bundle, wire, state)
    assert until(state.exists, 30)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    first = wire.passed
    assert 4 * MIB <= first < 20 * MIB
    again = finish(bundle, wire, state)
    assert first + again < 20 * MIB + 200_000, "no chunk was sent twice"
    assert whole(there, tmp_path)


def test_a_broken_connection_is_no_failure(bundle: Path, there: Registry, wire: Wire, tmp_path: Path) -> None:
    wire.cut_at = 10 * MIB
    finish(bundle, wire, tmp_path / "state.json")
    assert whole(there, tmp_path)


def test_an_upload_that_the_registry_forgot_begins_anew(
    bundle: Path, there: Registry, wire: Wire, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    process = start(bundle, wire, state)
    assert until(state.exists, 30)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    for upload in (tmp_path / "r/data").rglob("_uploads"):
        subprocess.run(["rm", "-r", upload], check=True)
    assert finish(bundle, wire, state) > 20 * MIB
    assert whole(there, tmp_path)


def test_a_damaged_state_file_is_named(bundle: Path, there: Registry, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    done = push(bundle, there.address, "--plain-http", f"--state={tmp_path}/state.json")
    assert done.returncode == 7
    assert "state.json" in done.stderr
    assert "remove it" in done.stderr
