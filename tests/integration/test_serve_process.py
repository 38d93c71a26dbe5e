"""The server as a process: start, stop, crash, a changed bundle, memory that stays flat."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.bundles import complete, make_bundle, unpack, write_tar
from tests.serving import (
    PROJECT,
    Server,
    descriptors,
    free_port,
    installer,
    memory,
    read_all,
    read_reply,
    readable,
    serving,
)

LARGE = os.urandom(30_000_000)
GET = b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n"
GET_LARGE = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b.tar", {"large": LARGE, "small": b"s" * 2048})


def gone(pids: list[int], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def works(server: Server) -> bool:
    return server.ask(GET.replace(b"1.1", b"1.0")).endswith(b"s" * 2048)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_and_lets_transfers_finish(bundle: Path, tmp_path: Path, number: int) -> None:
    with serving(bundle, tmp_path, "--workers", "2") as server, server.connect() as sock, server.connect() as idle:
        workers = server.workers()
        assert len(workers) == 2
        idle.sendall(GET)
        read_reply(idle)
        sock.sendall(GET_LARGE)
        sock.recv(1000, socket.MSG_PEEK)
        server.process.send_signal(number)
        assert read_all(idle) == b""
        assert read_reply(sock)[2] == LARGE
        assert server.process.wait(5) == 0
        assert gone(workers)
        assert "Traceback" not in server.errors.read_text()
        with pytest.raises(ConnectionRefusedError):
            server.connect()


def test_a_second_signal_does_not_wait(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path) as server, server.connect() as sock:
        sock.sendall(GET_LARGE)
        sock.recv(1000)
        workers = server.workers()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert server.process.poll() is None  # a transfer is under way
        assert server.stop(signal.SIGINT, 3) == 0
        assert gone(workers)


def test_hangup_is_harmless(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path) as server:
        for pid in (server.process.pid, *server.workers()):
            os.kill(pid, signal.SIGHUP)
        time.sleep(0.3)
        assert works(server)


def test_a_killed_worker_is_replaced(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, "--workers", "2") as server:
        first = server.workers()
        os.kill(first[0], signal.SIGKILL)
        assert gone(first[:1])
        assert works(server)  # by the other one
        deadline = time.monotonic() + 5
        while len(server.workers()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(set(server.workers()) - {first[0]}) == 2
        assert f"worker {first[0]} was killed by signal 9; starting another one" in server.errors.read_text()


def test_workers_do_not_outlive_their_parent(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, "--workers", "2") as server:
        workers = server.workers()
        server.process.kill()
        server.process.wait()
        assert gone(workers)


def test_a_taken_port_fails_before_the_verification(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = installer("serve", str(bundle), "--bind", "127.0.0.1", "--port", str(port))
    assert done.returncode == 7
    assert done.stderr.splitlines() == [
        f"installer: port {port} on 127.0.0.1 is taken by another program",
        f"hint: `ss -ltnp sport = :{port}` names it; stop it, or serve on another port with --port",
    ]


def test_a_port_can_be_used_again_at_once(bundle: Path, tmp_path: Path) -> None:
    port = free_port()
    for _ in range(2):
        with serving(bundle, tmp_path, port=port) as server:
            assert works(server)


def test_a_damaged_bundle_is_not_served_unless_asked(tmp_path: Path) -> None:
    whole = complete({"small": b"s" * 2048})
    whole["small"] = b"x" * 2048
    bundle = write_tar(tmp_path / "b.tar", whole)
    done = installer("serve", str(bundle), "--bind", "127.0.0.1", "--port", "0")
    assert done.returncode == 6
    assert "small: has sha256" in done.stderr
    with serving(bundle, tmp_path, "--no-verify") as server:
        assert server.ask(GET).startswith(b"HTTP/1.1 503 ")  # small members are checked when they are first read
        assert server.ask(b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"ok\n")


def test_a_replaced_bundle_is_still_the_old_one(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b.tar"
    copy.write_bytes(bundle.read_bytes())
    with serving(copy, tmp_path) as server, server.connect() as sock:
        make_bundle(tmp_path / "new.tar", {"large": b"new"}).replace(copy)
        sock.sendall(GET_LARGE)
        assert read_reply(sock)[2] == LARGE
        deadline = time.monotonic() + 6
        while "was replaced or removed" not in server.errors.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert server.errors.read_text().count("was replaced or removed") == 1


@pytest.mark.parametrize("tree", [False, True])
def test_a_truncated_bundle_gives_no_wrong_byte(bundle: Path, tmp_path: Path, tree: bool) -> None:
    copy = tmp_path / "b.tar"
    copy.write_bytes(bundle.read_bytes())
    served = unpack(copy, tmp_path / "tree") if tree else copy
    with serving(served, tmp_path) as server, server.connect() as sock:
        sock.sendall(GET_LARGE)
        assert readable(sock, 5)
        os.truncate(served / "large" if tree else copy, 1 << 20)
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert len(body) < len(LARGE)
        # Pages already handed to the kernel may lose their end to the truncation: what lies before it is right.
        assert LARGE.startswith(body[: (1 << 20) - 4096])
        reply = server.ask(GET_LARGE)
        assert len(reply) < len(LARGE)
        assert "changed while it was served" in server.errors.read_text()
        assert works(server) or not tree


def test_an_overwritten_bundle_is_cut_off(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b.tar"
    copy.write_bytes(bundle.read_bytes())
    with serving(copy, tmp_path) as server:
        with copy.open("r+b") as file:
            file.seek(20_000_000)
            file.write(b"evil" * 1000)
        head, _, body = server.ask(GET_LARGE).partition(b"\r\n\r\n")
        assert body == b""
        assert b"evil" not in head


def test_running_out_of_descriptors_is_survived(bundle: Path, tmp_path: Path) -> None:
    command = (
        f"ulimit -n 64; exec {sys.executable} -m installer serve {bundle} --bind 127.0.0.1 --port {{}} --workers 1"
    )
    port = free_port()
    process = subprocess.Popen(
        ["bash", "-c", command.format(port)], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout and process.stdout.readline().startswith(b"Serving")
        held = []
        for _ in range(200):  # idle clients make room for new ones
            held.append(socket.create_connection(("127.0.0.1", port), 5))
            held[-1].sendall(GET)
            assert read_reply(held[-1])[0] == 200
        for sock in held:
            sock.close()
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_memory_and_descriptors_stay_flat(bundle: Path, tmp_path: Path) -> None:
    """Two rounds of everything a client can do; the second may not add to what the first took."""
    with serving(bundle, tmp_path, "--workers", "2", "--access-log", str(tmp_path / "log")) as server:
        _round(server, 1)
        time.sleep(0.5)
        before, files = memory(server.workers()), descriptors(server.workers())
        for number in range(2, 5):
            _round(server, number)
        time.sleep(0.5)
        assert memory(server.workers()) - before < 3 << 20
        assert descriptors(server.workers()) == files


def _round(server: Server, seed: int) -> None:
    def client(number: int) -> None:
        for turn in range(60):
            with server.connect() as sock:
                for path in (
                    b"/small",
                    b"/nope%d" % turn,
                    b"/deploy.sh",
                    b"/v2/",
                    b"/small?%d-%d-%d" % (seed, number, turn),
                ):
                    sock.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nX-Turn: %d\r\n\r\n" % (path, turn))
                    read_reply(sock)
                sock.sendall(GET_LARGE[:-2] + b"Range: bytes=%d-,0-9\r\n\r\n" % (turn * 1000))
                if turn % 20 == 0:
                    read_reply(sock)
                else:
                    sock.recv(100)  # and hang up in the middle

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
