"""Request heads: what is understood, and that everything else is refused."""

from __future__ import annotations

import random

import pytest

from installer.server.request import MAX_FIELDS, PLAIN, Request, RequestError, check_partial, parse

HOST = b"\r\nHost: x"


def get(target: bytes, *fields: bytes) -> Request:
    return parse(b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: x", *fields]))


def refusal(head: bytes) -> int:
    with pytest.raises(RequestError) as caught:
        parse(head)
    return caught.value.status


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a/b", "/a/b", b""),
        (b"/a?x=1&y=%20", "/a", b"x=1&y=%20"),
        (b"/%61%2Fb%25", "/a/b%", b""),
        (b"http://evil:1/a?b", "/a", b"b"),
        (b"HTTPS://h", "/", b""),
        (b"http://h?q", "/", b"q"),
        ("/\u00e9".encode(), "/\u00e9", b""),
        (b"/%C3%A9", "/\u00e9", b""),
        (b"/%FF", None, b""),
        (b"*", "*", b""),
        (b"/..%2f..%2fetc/passwd", "/../../etc/passwd", b""),
        (b"/%00", "/\0", b""),
    ],
)
def test_targets(target: bytes, path: str | None, query: bytes) -> None:
    request = get(target)
    assert (request.path, request.query) == (path, query)


@pytest.mark.parametrize("target", [b"/%", b"/%4", b"/%zz", b"a/b", b"ftp://x/y", b"host:443", b"?q", b"http:///x"])
def test_wrong_targets(target: bytes) -> None:
    assert refusal(b"GET " + target + b" HTTP/1.1" + HOST) == 400


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/2.0",
        b"GET / HTTP/1.2",
        b"GET / HTTP/1.1 ",
        b"GET  / HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /",
        b"",
        b"GET\t/ HTTP/1.1",
        b"G{T / HTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET / http/1.1",
        b" GET / HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"\x16\x03\x01",
    ],
)
def test_wrong_request_lines(line: bytes) -> None:
    assert refusal(line + HOST) == 400


@pytest.mark.parametrize(
    "field",
    [
        b"No colon",
        b"Bad name: x",
        b"Name : x",
        b": x",
        b" folded: x",
        b"\tfolded",
        b"Name: a\x00b",
        b"Name: a\rb",
        b"Name: a\nb: c",
        b"Name: \x7f",
        b"Host: again",
        b"Content-Length: -1",
        b"Content-Length: 1, 1",
        b"Content-Length: 1\r\nContent-Length: 1",
        b"Content-Length: +1",
        b"Content-Length: 0x1",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"Content-Length: " + b"1" * 30,
    ],
)
def test_wrong_fields(field: bytes) -> None:
    assert refusal(b"GET / HTTP/1.1" + HOST + b"\r\n" + field) == 400


def test_host_is_needed_by_1_1_alone() -> None:
    assert refusal(b"GET / HTTP/1.1") == 400
    assert parse(b"GET / HTTP/1.0").minor == 0


def test_fields_are_joined_and_trimmed() -> None:
    request = get(b"/", b"accept: a", b"ACCEPT:\tb \t", b"Empty:")
    assert request.get(b"accept") == "a, b"
    assert request.get(b"empty") == ""
    assert request.get(b"other") is None


@pytest.mark.parametrize(
    ("minor", "connection", "expected"),
    [
        (1, None, True),
        (1, b"close", False),
        (1, b"Keep-Alive, CLOSE", False),
        (1, b"keep-alive", True),
        (1, b"TE", True),
        (0, None, False),
        (0, b"Keep-Alive", True),
        (0, b"keep-alive, close", False),
    ],
)
def test_keep_alive(minor: int, connection: bytes | None, expected: bool) -> None:
    head = b"GET / HTTP/1." + str(minor).encode() + HOST
    assert parse(head + (b"\r\nConnection: " + connection if connection else b"")).keep_alive is expected


def test_bodies_are_seen() -> None:
    assert not get(b"/").has_body
    assert not get(b"/", b"Content-Length: 0").has_body
    assert get(b"/", b"Content-Length: 5").has_body
    assert get(b"/", b"Transfer-Encoding: chunked").has_body


def test_limits() -> None:
    assert refusal(b"GET / HTTP/1.1" + HOST + b"\r\nA: b" * MAX_FIELDS) == 431
    for data, status in (
        (b"GET /" + b"a" * 9000, 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 4000, 431),
        (b"GET / HTTP/1.1\n", 400),
        (b"\x16\x03\x01\x02", 400),
        (b"(GET", 400),
    ):
        with pytest.raises(RequestError) as caught:
            check_partial(data)
        assert caught.value.status == status
    for data in (b"G", b"GET", b"GET ", b"GET /a HTTP/1.1\r\nHo"):
        check_partial(data)


def test_random_heads_give_a_request_or_a_refusal() -> None:
    chance = random.Random(11)
    seed = b"GET /v2/a/manifests/1?ns=x HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\nContent-Length: 0"
    understood = 0
    for _ in range(5000):
        head = bytearray(seed)
        for _ in range(chance.randrange(4)):
            head[chance.randrange(len(head))] = chance.randrange(256)
        try:
            understood += bool(parse(bytes(head)).method)
        except RequestError as error:
            assert error.status in (400, 431)
    assert 0 < understood < 5000


@pytest.mark.parametrize(
    ("fields", "plain"),
    [
        (b"Host: x", True),
        (b"User-Agent: a\r\nhOST: x\r\nX-Any: \xff", True),
        (b"User-Agent: a", False),
        (b"Host: x\r\nHost: y", False),
        (b"Host: x\r\nRange: bytes=0-1", False),
        (b"rANGE: bytes=0-1\r\nHost: x", False),
        (b"Host: x\r\nIf-None-Match: *", False),
        (b"Host: x\r\nAccept-Encoding: gzip", False),
        (b"Host: x\r\nConnection: close", False),
        (b"Host: x\r\nContent-Length: 5", False),
        (b"Host: x\r\nTransfer-Encoding: chunked", False),
        (b"Host: x\r\n folded", False),
        (b"Host: x\r\nbad field: 1", False),
        (b"Host: x\nRange: bytes=0-1", False),
        (b"Host: x\r\nX: \x00", False),
    ],
)
def test_a_plain_head_is_one_whose_line_says_all(fields: bytes, plain: bool) -> None:
    head = b"GET /a HTTP/1.1\r\n" + fields + b"\r\n\r\n"
    match = PLAIN.fullmatch(head)
    assert (match is not None) is plain
    if match:
        assert match.group(1) == b"GET /a HTTP/1.1"
        assert parse(head[:-4]).keep_alive
    assert PLAIN.fullmatch(head.replace(b"GET", b"HEAD")) is None
    assert PLAIN.fullmatch(head.replace(b"1.1", b"1.0")) is None
