"""HTTP on the wire: what a careful client, a clumsy one and a hostile one get."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles import make_bundle, unpack
from tests.serving import Server, free_port, read_all, read_reply, readable, serving

LARGE = os.urandom(9_000_000)
SMALL = b"s" * 2048
MEMBERS = {"bin/amd64/large": LARGE, "small": SMALL, "packages/el7/repodata/repomd.xml": b"<repomd/>"}
GET = b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n"
GET_LARGE = b"GET /bin/amd64/large HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module", params=["tar", "tree"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    bundle = make_bundle(folder / "b.tar", MEMBERS)
    if request.param == "tree":
        bundle = unpack(bundle, folder / "tree")
    with serving(bundle, folder, "--workers", "2") as found:
        yield found
        assert found.stop() == 0
        assert found.errors.read_text().count("\n") == 1, found.errors.read_text()  # the line of the verification


def test_large_members_arrive_whole(server: Server) -> None:
    with server.connect() as sock:
        for _ in range(3):
            sock.sendall(GET_LARGE)
            status, _, body = read_reply(sock)
            assert (status, body) == (200, LARGE)


def test_many_clients_at_once_get_the_right_bytes(server: Server) -> None:
    socks = [server.connect() for _ in range(40)]
    for number, sock in enumerate(socks):
        start = number * 200_000
        sock.sendall(GET_LARGE[:-2] + b"Range: bytes=%d-%d\r\n\r\n" % (start, start + 999_999))
    for number, sock in enumerate(socks):
        status, fields, body = read_reply(sock)
        assert status == 206
        assert body == LARGE[number * 200_000 :][:1_000_000], fields
        sock.close()


def test_a_connection_is_kept_and_pipelined(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(GET * 50 + GET_LARGE + GET + b"HEAD /small HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        for _ in range(50):
            assert read_reply(sock)[2] == SMALL
        assert read_reply(sock)[2] == LARGE
        assert read_reply(sock)[2] == SMALL
        assert read_reply(sock, "HEAD")[1]["content-length"] == "2048"
        assert read_reply(sock)[2] == SMALL


def test_a_reply_that_is_kept_is_not_given_to_who_asks_for_less(server: Server) -> None:
    """Whatever was kept for a line: other fields, other methods and other versions get their own reply."""
    with server.connect() as sock:
        for number in range(30):
            sock.sendall(b"GET /small HTTP/1.1\r\nX-Number: %d\r\nHost: x\r\n\r\n" % number)
            assert read_reply(sock)[::2] == (200, SMALL)
            sock.sendall(b"GET /small HTTP/1.1\r\nX-Number: %d\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n" % number)
            assert read_reply(sock)[::2] == (206, SMALL[:2])
            sock.sendall(b"HEAD /small HTTP/1.1\r\nX-Number: %d\r\nHost: x\r\n\r\n" % number)
            assert read_reply(sock, "HEAD")[1]["content-length"] == "2048"
        sock.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")
        assert read_reply(sock)[0] == 400


def test_heads_in_single_bytes_are_understood(server: Server) -> None:
    with server.connect() as sock:
        for byte in GET + GET:
            sock.sendall(bytes([byte]))
        assert read_reply(sock)[2] == SMALL
        assert read_reply(sock)[2] == SMALL


@pytest.mark.parametrize(
    ("request_", "kept"),
    [
        (b"GET /small HTTP/1.0\r\n\r\n", False),
        (b"GET /small HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
        (b"GET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False),
        (b"\r\n\r\n" + GET, True),
        (GET, True),
    ],
)
def test_connections_end_when_asked(server: Server, request_: bytes, kept: bool) -> None:
    with server.connect() as sock:
        sock.sendall(request_)
        status, fields, body = read_reply(sock)
        assert (status, body) == (200, SMALL)
        assert readable(sock, 0.3) is not kept
        assert (fields.get("connection") == "close") is not kept


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /small HTTP/1.1\nHost: x\n\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET /" + b"a" * 9000, 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 4000, 431),
        (b"GET /small HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
        (
            b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            405,
        ),
        (b"GET /small HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nGET", 200),
        (b"GET /small HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"PUT /small HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n", 405),
    ],
)
def test_what_cannot_be_answered_ends_the_connection(server: Server, request_: bytes, status: int) -> None:
    with server.connect() as sock:
        sock.sendall(request_ + b"x" * 100_000)  # unread input must not turn the reply into a reset
        found, fields, _ = read_reply(sock)
        assert (found, fields["connection"]) == (status, "close")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""


def test_a_body_is_never_taken_for_a_request(server: Server) -> None:
    inner = b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n"
    smuggled = b"GET /small HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner
    assert server.ask(smuggled).count(b"HTTP/1.1 ") == 1


def test_the_memory_of_requests_does_not_mix_them_up(server: Server) -> None:
    with server.connect() as sock:
        for _ in range(3):
            sock.sendall(GET)
            assert read_reply(sock)[2] == SMALL
            sock.sendall(GET.replace(b"GET", b"HEAD"))
            assert read_reply(sock, "HEAD")[1]["content-length"] == "2048"
            sock.sendall(GET[:-2] + b"Range: bytes=0-1\r\n\r\n")
            assert read_reply(sock)[0] == 206
            sock.sendall(GET[:-2] + b"If-None-Match: *\r\n\r\n")
            assert read_reply(sock)[0] == 304


def test_the_date_is_now(server: Server) -> None:
    with server.connect() as sock:
        dates = set()
        for _ in range(3):
            sock.sendall(GET)
            dates.add(read_reply(sock)[1]["date"])
            time.sleep(1.1)
    assert len(dates) == 3


def test_deploy_names_the_address_that_was_asked(server: Server) -> None:
    reply = server.ask(
        b"GET /deploy.sh HTTP/1.1\r\nHost: evil.example:1\r\nX-Forwarded-Host: evil\r\nConnection: close\r\n\r\n"
    )
    assert f"SERVER='{server.url}'".encode() in reply
    assert b"evil" not in reply


def test_a_slow_head_is_cut(server: Server) -> None:
    with server.connect(30) as sock:
        begun = time.monotonic()
        sock.sendall(b"GET /small HTTP/1.1\r\n")
        while time.monotonic() - begun < 20 and not readable(sock, 1):
            sock.sendall(b"X: y\r\n")
        assert 8 < time.monotonic() - begun < 15
        assert read_all(sock).startswith(b"HTTP/1.1 408 ")


def test_idle_and_stalled_clients_hold_up_nobody(server: Server) -> None:
    stalled = []
    for _ in range(50):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(server.address)
        sock.sendall(GET_LARGE)
        stalled.append(sock)
    idle = [server.connect() for _ in range(200)]
    begun = time.monotonic()
    with server.connect() as sock:
        for _ in range(100):
            sock.sendall(GET)
            assert read_reply(sock)[2] == SMALL
    assert time.monotonic() - begun < 2
    for sock in (*stalled, *idle):
        sock.close()


def test_ipv6_and_ipv4_on_one_port(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b.tar", MEMBERS)
    with serving(bundle, tmp_path, host="::") as server:
        port = server.address[1]
        for host, url in (("::1", f"http://[::1]:{port}"), ("127.0.0.1", f"http://127.0.0.1:{port}")):
            with socket.create_connection((host, port), 5) as sock:
                sock.sendall(b"GET /deploy.sh HTTP/1.0\r\n\r\n")
                assert f"SERVER='{url}'".encode() in read_all(sock)


def test_an_advertised_url_is_the_one_in_deploy(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b.tar", MEMBERS)
    with serving(bundle, tmp_path, "--advertise", "https://mirror.lan/kube/", port=free_port()) as server:
        assert server.url == "https://mirror.lan/kube"
        assert b"SERVER='https://mirror.lan/kube'" in server.ask(b"GET /deploy.sh HTTP/1.0\r\n\r\n")


def test_the_access_log_has_a_line_for_each_reply(tmp_path: Path) -> None:
    bundle, log = make_bundle(tmp_path / "b.tar", MEMBERS), tmp_path / "access"
    with serving(bundle, tmp_path, "--workers", "1", "--access-log", str(log)) as server:
        server.ask(b'GET /bin/amd64/large HTTP/1.1\r\nHost: x\r\nUser-Agent: me "q"\r\nConnection: close\r\n\r\n')
        server.ask(b"bad\r\n\r\n")
        with server.connect() as sock:
            sock.sendall(GET_LARGE)
            sock.recv(1000)
        time.sleep(0.5)
        server.stop()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["method"], line["target"], line["status"]) for line in lines] == [
        ("GET", "/bin/amd64/large", 200),
        (None, None, 400),
        ("GET", "/bin/amd64/large", 200),
    ]
    assert lines[0]["sent"] > len(LARGE) > lines[2]["sent"]
    assert (lines[0]["agent"], lines[0]["client"]) == ('me "q"', "127.0.0.1")
