"""Thousands of seeded odd requests: no crash, no 5xx, and not a byte that is not the bundle's."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles import add_image, complete, write_tar
from tests.serving import Server, serving

SEED = 20210113
PAGES = ["/", "/deploy.sh", "/healthz", "/v2/", "/v2/_catalog", "/nope", "/api/bundle", "/api/nodes", "/metrics"]
PAGES += ["/report", "/repo/el7.repo", "/ca.pem"]
API = {"release", "kubernetes", "created", "arches", "files", "size", "signed", "sums", "sbom", "hosts", "images",
       "addons", "charts", "closure"}  # fmt: skip
BATCHES = int(os.environ.get("FUZZ_BATCHES", "10000"))  # of one to six requests each
METHODS = ["GET"] * 30 + ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "G\tT", "", "PROPFIND", "\x00"]
VERSIONS = ["1.1"] * 40 + ["1.0", "2.0", "0.9", ""]
ESCAPES = [
    "/..",
    "/.",
    "//",
    "\\",
    "%2e%2e/",
    "%2f",
    "%5c",
    "%00",
    "%",
    "%zz",
    "%c0%ae",
    "%25",
    "?",
    "#",
    ";",
    "%0d%0a",
    "..%2f",
    "/../../../../etc/passwd",
    "%ff",
    "\u00e9",
    "~",
    "*",
    " ",
    "\t",
    ":",
    "@",
    "http://x/",
    ".",
]
RANGES = [
    "0-",
    "-1",
    "-0",
    "0-0",
    "5-2",
    "x",
    "1-2,3-4",
    "0-99999999999999999999",
    "-",
    ",",
    "9-9, ,",
    "100000-",
    "0-1," * 90,
]
TAGS = ["1", "latest", "sha256:" + "0" * 64, "sha256:", "../..", "sha512:00", "list", "%2e%2e", "a" * 300]


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    chance = random.Random(SEED)
    found = {
        "bin/amd64/tool": chance.randbytes(150_000),
        "small": b"s" * 500,
        "empty": b"",
        "dir/odd+name/%41": b"odd",
    }
    images = [
        add_image(found, "k8s.gcr.io/pause:3.2", [chance.randbytes(90_000)]),
        add_image(found, "docker.io/library/busybox:1", [b"layer"], index=True),
    ]
    return complete(found, images)


@pytest.fixture(scope="module")
def server(members: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fuzz")
    with serving(
        write_tar(folder / "b.tar", members), folder, "--workers", "2", "--access-log", str(folder / "log")
    ) as found:
        yield found


class Generator:
    """Requests that are nearly right."""

    def __init__(self, paths: list[str]) -> None:
        self.chance = random.Random(SEED)
        self.paths = paths

    def target(self) -> str:
        chance = self.chance
        path = chance.choice(self.paths)
        if chance.random() < 0.3:
            path = (
                f"/v2/{chance.choice(['pause', 'busybox', 'k8s.gcr.io/pause', 'x', '..', 'A'])}/"
                f"{chance.choice(['manifests', 'blobs', 'tags', 'referrers', 'uploads'])}/{chance.choice(TAGS)}"
            )
        for _ in range(chance.choice([0, 0, 1, 2])):
            at = chance.randrange(len(path) + 1)
            path = path[:at] + chance.choice(ESCAPES) + path[at:]
        if chance.random() < 0.2:
            path = "".join(f"%{ord(c):02x}" if chance.random() < 0.5 and c != "/" and ord(c) < 128 else c for c in path)
        if chance.random() < 0.2:
            path += "?" + chance.choice(
                ["ns=k8s.gcr.io", "ns=", "n=1", "n=x", "n=1&last=a", "n=" + "9" * 99, "&" * 50, "ns=%ff"]
            )
        return path

    def fields(self) -> list[str]:
        chance = self.chance
        fair = [
            "Range: bytes=" + chance.choice(RANGES),
            "Range: bytes=" + chance.choice(RANGES),
            "If-None-Match: " + chance.choice(["*", '"x"', "W/", ""]),
            "If-Match: " + chance.choice(["*", '"x"']),
            "If-Modified-Since: " + chance.choice(["Wed, 13 Jan 2021 00:00:00 GMT", "never", "-1", "9" * 50]),
            "If-Range: " + chance.choice(['"x"', "Wed, 13 Jan 2021 00:00:00 GMT"]),
            "Connection: " + chance.choice(["close", "keep-alive", "upgrade", ","]),
            *("Accept: */*", "Accept-Encoding: gzip", "Expect: 100-continue", "Content-Length: 0"),
            "Cookie: " + "c" * 3000,
        ]
        foul = [
            "Content-Length: " + chance.choice(["5", "-1", "x"]),
            *("Transfer-Encoding: chunked", "Host: again", "bad", " folded"),
            "X: " + "".join(chance.choice(string.printable) for _ in range(9)),
        ]
        return [chance.choice(foul if chance.random() < 0.05 else fair) for _ in range(chance.choice([0, 0, 1, 2, 4]))]

    def request(self) -> bytes:
        chance = self.chance
        line = f"{chance.choice(METHODS)} {self.target()} HTTP/{chance.choice(VERSIONS)}"
        head = "\r\n".join([line, "Host: x", *self.fields(), "", ""]).encode("utf-8", "replace")
        if chance.random() < 0.05:
            head = bytearray(head)
            head[chance.randrange(len(head))] = chance.randrange(256)
        if chance.random() < 0.05:
            head = head[: chance.randrange(len(head))]
        return bytes(head)

    def batch(self) -> bytes:
        chance = self.chance
        requests = [self.request() for _ in range(chance.choice([1, 1, 2, 6]))]
        if chance.random() < 0.1:
            requests.append(f"HEAD {self.target()} HTTP/1.1\r\nHost: x\r\n\r\n".encode("utf-8", "replace"))
        return b"".join(requests)


def replies(data: bytes) -> Iterator[tuple[int, dict[str, str], bytes]]:
    """Split a stream of replies; the body of a last one may be missing, as after HEAD."""
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z -]+", lines[0])
        assert match, lines[0]
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        length = int(fields.get("content-length", "0")) if match.group(1) != "304" else 0
        assert len(data) >= length or not data, head
        yield int(match.group(1)), fields, data[:length]
        data = data[length:]


def test_fuzz(server: Server, members: dict[str, bytes]) -> None:
    known = set(members.values())
    generator = Generator(
        ["/" + path for path in members] + PAGES
    )
    workers, seen = server.workers(), dict.fromkeys(range(100, 600), 0)
    for number in range(BATCHES):
        batch = generator.batch()
        answer = server.ask(batch)
        assert answer or b"\r\n\r\n" not in batch, batch
        for status, fields, body in replies(answer):
            seen[status] += 1
            assert status < 500, (number, batch)
            if fields.get("content-encoding") == "gzip" and body:
                body = gzip.decompress(body)
            if status == 200 and body:
                assert body in known or _ours(body), (number, batch, body[:200])
            if status == 206 and body:
                assert _part_of(members, fields, body), (number, batch)
    assert all(seen[status] for status in (200, 206, 304, 400, 404, 405, 412, 416)), {
        k: v for k, v in seen.items() if v
    }
    assert server.workers() == workers
    assert "unexpected" not in server.errors.read_text()


def _ours(body: bytes) -> bool:
    """Whether a body is one that the server makes by itself."""
    if body == b"ok\n" or (body.startswith(b"#!/usr/bin/env bash\n{\nSERVER=") and body.endswith(b"\n}\n")):
        return True
    if body.startswith((b"<!doctype html>\n", b"# HELP kubecarry_")):
        return True
    if set(json.loads(body)) in ({"nodes"}, API):
        return True
    return set(json.loads(body)) <= {"name", "tags", "repositories", "schemaVersion", "mediaType", "manifests"}


def _part_of(members: dict[str, bytes], fields: dict[str, str], body: bytes) -> bool:
    """Whether a 206 holds bytes of a member, where it says that they lie."""
    if fields["content-type"].startswith("multipart/byteranges"):
        boundary = fields["content-type"].partition("=")[2].encode()
        parts = body.split(b"\r\n--" + boundary)[1:-1]
        spans = [part.partition(b"Content-Range: ")[2].partition(b"\r\n\r\n") for part in parts]
    else:
        spans = [(fields["content-range"].encode(), b"", body)]
    for span, _, data in spans:
        match = re.fullmatch(rb"bytes (\d+)-(\d+)/(\d+)", span)
        assert match
        first, last, size = (int(number) for number in match.groups())
        if not any(len(one) == size and one[first : last + 1] == data for one in members.values()):
            return False
    return bool(spans)


def test_secrets_beside_the_bundle_stay_there(server: Server, tmp_path: Path) -> None:
    folder = server.output.parent
    (folder / "secret").write_text("S3CRET")
    for path in (
        f"{folder}/secret",
        "../secret",
        "..%2fsecret",
        "secret",
        f"bin/../../{folder}/secret",
        "b.tar",
        "b.tar/../secret",
    ):
        reply = server.ask(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
        assert reply.startswith(b"HTTP/1.1 404 "), path
        assert b"S3CRET" not in reply
