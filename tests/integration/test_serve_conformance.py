"""What RFC 9110, RFC 9112 and the OCI distribution specification demand of a server, asked over the wire."""

from __future__ import annotations

import email
import hashlib
import json
import os
import re
from collections.abc import Iterator
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.bundles import INDEX, MANIFEST, add_image, make_bundle
from tests.integration.managers import run
from tests.serving import Server, read_reply, serving

LARGE = os.urandom(300_000)
TEXT = b"kind: List\n" * 500
ABSENT = "sha256:" + "0" * 64
DIGEST = "docker-content-digest"
TAGS = ["1.0", "1.1", "2.0", "Latest", "edge"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    members = {"bin/amd64/tool": LARGE, "manifests/a.yaml": TEXT, "empty": b"", "charts/shop-1.2.3.tgz": b"chart"}
    images = [add_image(members, f"quay.io/team/app:{tag}", [os.urandom(5000)], tag == "2.0") for tag in TAGS]
    host = {"format": "rpm", "path": "packages/el7", "keys": [], "roles": {}}
    with serving(make_bundle(folder / "b.tar", members, images, hosts={"el7": host}), folder) as found:
        yield found


def ask(server: Server, path: str, method: str = "GET", **fields: str) -> tuple[int, dict[str, str], bytes]:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{key.replace('_', '-')}: {fields[key]}" for key in fields)]
    with server.connect() as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        return read_reply(sock, method)


def layer(server: Server) -> str:
    manifest = json.loads(ask(server, "/v2/team/app/manifests/1.0")[2])
    return f"/v2/team/app/blobs/{manifest['layers'][0]['digest']}"


# RFC 9110: semantics


@pytest.mark.parametrize("path", [
    "/", "/bin/amd64/tool", "/manifests/a.yaml", "/empty", "/deploy.sh", "/healthz", "/repo/el7.repo", "/nope", "/v2/",
    "/v2/_catalog", "/v2/team/app/manifests/1.0", "/v2/team/app/tags/list", "/v2/team/app/manifests/none", "/v2/x/y",
    f"/v2/team/app/blobs/{ABSENT}", f"/v2/team/app/referrers/{ABSENT}", "/api/bundle", "/metrics", "/v2/Bad/tags/list",
])  # fmt: skip
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_head_says_what_get_would(server: Server, path: str, coding: str) -> None:
    got, head = (ask(server, path, method, Accept_Encoding=coding) for method in ("GET", "HEAD"))
    assert int(got[1]["content-length"]) == len(got[2])
    assert head[2] == b""
    volatile = ("date", "content-length") if path in ("/metrics", "/") else ("date",)
    assert head[0] == got[0]
    assert {k: v for k, v in head[1].items() if k not in volatile} == {
        k: v for k, v in got[1].items() if k not in volatile
    }


def test_dates_are_dates(server: Server) -> None:
    fields = ask(server, "/bin/amd64/tool")[1]
    for name in ("date", "last-modified"):
        stamp = parsedate_to_datetime(fields[name])
        assert formatdate(stamp.timestamp(), usegmt=True) == fields[name]
    assert re.fullmatch('"[!#-~]+"', fields["etag"]), "a strong validator"


def test_a_not_modified_has_the_fields_that_caches_need(server: Server) -> None:
    for coding in ("identity", "gzip"):
        whole = ask(server, "/manifests/a.yaml", Accept_Encoding=coding)
        for condition in (whole[1]["etag"], f'"x", W/{whole[1]["etag"]}', "*"):
            status, fields, body = ask(server, "/manifests/a.yaml", Accept_Encoding=coding, If_None_Match=condition)
            assert (status, body) == (304, b"")
            for name in ("etag", "vary", "last-modified"):
                assert fields[name] == whole[1][name]
            assert "content-length" not in fields or int(fields["content-length"]) == len(whole[2])


def test_conditions_are_weighed_in_their_order(server: Server) -> None:
    path, etag = "/bin/amd64/tool", ask(server, "/bin/amd64/tool")[1]["etag"]
    modified, past = ask(server, path)[1]["last-modified"], "Thu, 01 Jan 1970 00:00:01 GMT"
    assert ask(server, path, If_Match='"other"')[0] == 412
    assert ask(server, path, If_Match=f"W/{etag}")[0] == 412, "strong comparison"
    assert ask(server, path, If_Match=etag, If_Unmodified_Since=past)[0] == 200, "the date does not count then"
    assert ask(server, path, If_Unmodified_Since=past)[0] == 412
    assert ask(server, path, If_Match=etag, If_None_Match=etag)[0] == 304
    assert ask(server, path, If_None_Match='"other"', If_Modified_Since=modified)[0] == 200, "the date does not count"
    assert ask(server, path, If_Modified_Since=modified)[0] == 304
    assert ask(server, path, If_Modified_Since="no date")[0] == 200
    assert ask(server, path, If_Match='"other"', Range="bytes=0-1")[0] == 412, "before the range"
    assert ask(server, path, If_None_Match=etag, Range="bytes=0-1")[0] == 304


@pytest.mark.parametrize(("asked", "wanted"), [
    ("bytes=0-0", [(0, 1)]), ("bytes=299999-", [(299_999, 300_000)]), ("bytes=-7", [(299_993, 300_000)]),
    ("bytes=-999999", [(0, 300_000)]), ("bytes=5-999999", [(5, 300_000)]), ("BYTES=1-2", [(1, 3)]),
    ("bytes=0-1, ,5-6,", [(0, 2), (5, 7)]), ("bytes= 0-1 , 4-4", [(0, 2), (4, 5)]), ("bytes=5-6,0-1", [(5, 7), (0, 2)]),
    ("bytes=0-1,400000-", [(0, 2)]), ("bytes=400000-", []), ("bytes=-0", []), ("bytes=2-1", None), ("lines=0-1", None),
    ("bytes=a-b", None), ("bytes", None), ("bytes=0-200000,0-200000", None),
])  # fmt: skip
def test_ranges(server: Server, asked: str, wanted: list[tuple[int, int]] | None) -> None:
    """None: what is malformed, unknown or an attack is as if it were not there."""
    status, fields, body = ask(server, "/bin/amd64/tool", Range=asked)
    if wanted is None:
        assert (status, body) == (200, LARGE)
    elif not wanted:
        assert (status, fields["content-range"]) == (416, "bytes */300000")
    elif len(wanted) == 1:
        (first, end), = wanted
        assert (status, fields["content-range"], body) == (206, f"bytes {first}-{end - 1}/300000", LARGE[first:end])
    else:
        assert status == 206
        assert "content-range" not in fields
        head = f"Content-Type: {fields['content-type']}\r\n\r\n".encode()
        parts = email.message_from_bytes(head + body).get_payload()
        assert isinstance(parts, list)
        spans = [f"bytes {first}-{end - 1}/300000" for first, end in wanted]
        assert [part["Content-Range"] for part in parts] == spans
        for part, (first, end) in zip(body.split(b"\r\n--")[1:], wanted):
            assert part.partition(b"\r\n\r\n")[2] == LARGE[first:end]


def test_if_range_takes_what_is_strong_and_the_same(server: Server) -> None:
    path, fields = "/bin/amd64/tool", ask(server, "/bin/amd64/tool")[1]
    for given, status in ((fields["etag"], 206), (fields["last-modified"], 206), ('"other"', 200),
                          (f"W/{fields['etag']}", 200), ("Thu, 01 Jan 1970 00:00:01 GMT", 200)):  # fmt: skip
        assert ask(server, path, Range="bytes=0-1", If_Range=given)[0] == status, given
    packed = ask(server, "/manifests/a.yaml", Accept_Encoding="gzip")[1]["etag"]
    status, _, body = ask(server, "/manifests/a.yaml", Range="bytes=3-", If_Range=packed)
    assert (status, body) == (200, TEXT), "a part of the gzip'd one cannot be had, and is not mixed with the other"


def test_curl_resumes_and_takes_parts(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "tool"
    target.write_bytes(LARGE[:1000])
    run("curl", "-fsS", "-C", "-", "-o", target, f"{server.url}/bin/amd64/tool")
    assert target.read_bytes() == LARGE
    run("curl", "-fsS", "--compressed", "-o", target, f"{server.url}/manifests/a.yaml")
    assert target.read_bytes() == TEXT


# RFC 9112: messages


@pytest.mark.parametrize(("request_", "status"), [
    (b"GET http://elsewhere:1/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Empty:\r\n\r\n", 200),
    (b"\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    (b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
    (b"GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /healthz HTTP/1.1\r\nX: y\r\n\r\n", 400),
    (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (b"GET /%6healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
])  # fmt: skip
def test_heads(server: Server, request_: bytes, status: int) -> None:
    with server.connect() as sock:
        sock.sendall(request_)
        found, fields, _ = read_reply(sock)
    assert found == status
    assert found != 405 or fields["allow"] == "GET, HEAD"


# OCI distribution specification


def test_manifests_and_blobs_have_their_digest_and_type(server: Server) -> None:
    for reference in (*TAGS, None):
        path = f"/v2/quay.io/team/app/manifests/{reference or ask(server, '/v2/team/app/manifests/2.0')[1][DIGEST]}"
        status, fields, body = ask(server, path, Accept=f"{INDEX}, {MANIFEST}")
        assert (status, fields[DIGEST]) == (200, "sha256:" + hashlib.sha256(body).hexdigest())
        assert fields["content-type"] == json.loads(body)["mediaType"]
    status, fields, body = ask(server, layer(server))
    assert (status, fields[DIGEST]) == (200, "sha256:" + hashlib.sha256(body).hexdigest())
    assert ask(server, layer(server), Range="bytes=10-19")[::2] == (206, body[10:20])
    assert ask(server, layer(server), Range="bytes=9999-")[0] == 416
    assert ask(server, "/v2/")[0] == 200



@pytest.mark.parametrize(("path", "status", "code"), [
    ("team/app/manifests/none", 404, "MANIFEST_UNKNOWN"), ("team/none/manifests/1.0", 404, "NAME_UNKNOWN"),
    (f"team/app/manifests/{ABSENT}", 404, "MANIFEST_UNKNOWN"), (f"team/app/blobs/{ABSENT}", 404, "BLOB_UNKNOWN"),
    ("team/app/blobs/sha256:short", 400, "DIGEST_INVALID"), ("team/none/tags/list", 404, "NAME_UNKNOWN"),
    ("Team/App/tags/list", 404, "NAME_INVALID"), ("team/app/manifests/.bad", 400, "TAG_INVALID"),
    ("team/app/referrers/x", 400, "DIGEST_INVALID"), ("team/app/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"),
])  # fmt: skip
def test_errors_are_of_the_specification(server: Server, path: str, status: int, code: str) -> None:
    found, fields, body = ask(server, f"/v2/{path}")
    assert (found, fields["content-type"]) == (status, "application/json")
    assert [one["code"] for one in json.loads(body)["errors"]] == [code]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_can_be_pushed(server: Server, method: str) -> None:
    for path in ("/v2/team/app/blobs/uploads/", "/v2/team/app/manifests/1.0", f"/v2/team/app/blobs/{ABSENT}"):
        status, fields, body = ask(server, path, method)
        assert (status, fields["allow"]) == (405, "GET, HEAD")
        assert json.loads(body)["errors"][0]["code"] == "UNSUPPORTED"


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_listings_are_walked_by_their_links(server: Server, count: int) -> None:
    for path, key, wanted in (("/v2/team/app/tags/list", "tags", TAGS),
                              ("/v2/_catalog", "repositories", ["charts/shop", "quay.io/team/app"])):  # fmt: skip
        found, following = [], f"{path}?n={count}"
        while following:
            status, fields, body = ask(server, following)
            page = json.loads(body)[key]
            assert status == 200
            assert 0 < len(page) <= count
            found += page
            link = re.fullmatch(r'<(/v2/[^>]+)>; rel="next"', fields.get("link", ""))
            assert link or "link" not in fields
            following = link[1] if link else ""
            assert not following or f"last={page[-1]}" in unquote(following)
        assert found == sorted(wanted), "in the order of their bytes"
    assert json.loads(ask(server, "/v2/team/app/tags/list?n=0")[2])["tags"] == []
    assert json.loads(ask(server, "/v2/team/app/tags/list?last=1.05")[2])["tags"] == sorted(TAGS)[1:]


def test_nobody_refers_to_what_is_here(server: Server) -> None:
    status, fields, body = ask(server, f"/v2/team/app/referrers/{ABSENT}")
    assert (status, fields["content-type"], json.loads(body)["manifests"]) == (200, INDEX, [])
