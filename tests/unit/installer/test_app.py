"""What each URL answers, without a socket."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from installer.bundle import open_bundle
from installer.nodescript import NodeScript
from installer.server.app import App
from installer.server.reply import Reply, Slice
from installer.server.request import parse
from tests.bundles import INDEX, MANIFEST, add_image, blob, image_entry, make_bundle, sha256, unpack

ORIGIN = "http://10.77.0.1:8000"
LARGE = os.urandom(200_000)


@pytest.fixture
def members() -> dict[str, bytes]:
    return {
        "bin/amd64/tool": LARGE,
        "packages/el7/repodata/repomd.xml": b"<repomd/>",
        "empty": b"",
        "lists/images": b"x\n",
    }


@pytest.fixture
def images(members: dict[str, bytes]) -> list[dict[str, Any]]:
    return [
        add_image(members, "k8s.gcr.io/pause:3.2", [b"p" * 100_000]),
        add_image(members, "docker.io/library/busybox:1.33", [b"b"], index=True),
        add_image(members, "docker.io/library/busybox:1.34", [b"c"]),
    ]


@pytest.fixture
def app(tmp_path: Path, members: dict[str, bytes], images: list[dict[str, Any]]) -> App:
    return app_of(make_bundle(tmp_path / "b.tar", members, images), [])


def app_of(path: Path, said: list[str]) -> App:
    bundle = open_bundle(str(path))
    return App(bundle, NodeScript(bundle), said.append)


def ask(app: App, target: str, method: str = "GET", **fields: str) -> Reply:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return app.answer(
        parse("\r\n".join([f"{method} {target} HTTP/1.1", "Host: evil", *lines]).encode()), lambda: ORIGIN
    )


def field(reply: Reply, name: str) -> str | None:
    found = re.search(rf"(?im)^{name}: (.*)\r$", reply.head.decode())
    return found.group(1) if found else None


def body(reply: Reply) -> bytes:
    assert all(isinstance(part, bytes) for part in reply.body)
    return b"".join(part for part in reply.body if isinstance(part, bytes))


def errors(reply: Reply) -> str:
    (one,) = json.loads(body(reply))["errors"]
    assert set(one) == {"code", "message", "detail"}
    assert field(reply, "Docker-Distribution-Api-Version") == "registry/2.0"
    return str(one["code"])


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/packages/el7/repodata/repomd.xml", "application/xml"),
        ("/bundle.json", "application/json"),
        ("/SHA256SUMS", "text/plain; charset=utf-8"),
        ("/lists/images", "text/plain; charset=utf-8"),
        ("/installer/node/10-main.sh", "text/plain; charset=utf-8"),
        ("/empty", "application/octet-stream"),
    ],
)
def test_members(app: App, tmp_path: Path, path: str, media_type: str) -> None:
    reply = ask(app, path)
    expected = (unpack(tmp_path / "b.tar", tmp_path / "tree") / path[1:]).read_bytes()
    assert (reply.status, body(reply), field(reply, "Content-Type")) == (200, expected, media_type)
    assert field(reply, "Content-Length") == str(len(expected))


def test_large_members_are_slices_of_the_tar(app: App, tmp_path: Path) -> None:
    reply = ask(app, "/bin/amd64/tool")
    (part,) = reply.body
    assert isinstance(part, Slice)
    assert (tmp_path / "b.tar").read_bytes()[part.member.offset :][: part.size] == LARGE
    assert re.fullmatch('"sha256:[0-9a-f]{64}"', field(reply, "ETag") or "")


def test_head_has_the_fields_of_get_and_no_body(app: App) -> None:
    for path in ("/bin/amd64/tool", "/bundle.json", "/deploy.sh", "/nope", "/v2/pause/manifests/3.2"):
        got, head = ask(app, path), ask(app, path, "HEAD")
        assert (head.status, head.head, head.body) == (got.status, got.head, [])


def test_conditions_and_ranges(app: App) -> None:
    etag = field(ask(app, "/bin/amd64/tool"), "ETag") or ""
    assert ask(app, "/bin/amd64/tool", if_none_match=etag).status == 304
    assert field(ask(app, "/bin/amd64/tool", if_none_match=etag), "Content-Length") is None
    assert ask(app, "/bin/amd64/tool", if_match='"x"').status == 412
    reply = ask(app, "/bin/amd64/tool", range="bytes=10-19")
    assert (reply.status, field(reply, "Content-Range")) == (206, "bytes 10-19/200000")
    assert (reply.body[0].start, reply.body[0].size) == (10, 10)  # type: ignore[union-attr]
    reply = ask(app, "/bin/amd64/tool", range="bytes=200000-")
    assert (reply.status, field(reply, "Content-Range")) == (416, "bytes */200000")


def test_several_ranges_make_a_multipart_body(app: App) -> None:
    reply = ask(app, "/packages/el7/repodata/repomd.xml", range="bytes=0-2,-3")
    boundary = (field(reply, "Content-Type") or "").partition("boundary=")[2]
    parts = body(reply).split(f"--{boundary}".encode())
    assert len(parts) == 4
    assert parts[1].endswith(b"Content-Range: bytes 0-2/9\r\n\r\n<re\r\n")
    assert parts[2].endswith(b"Content-Range: bytes 6-8/9\r\n\r\nd/>\r\n")
    assert parts[3] == b"--\r\n"
    assert field(reply, "Content-Length") == str(len(body(reply)))


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/bin",
        "/bin/amd64/",
        "/packages/el7/",
        "/../etc/passwd",
        "/bin/../bundle.json",
        "/%2e%2e/etc/passwd",
        "/%00",
        "/%FF",
        "/bundle.json/",
        "/v3/",
        "/bundle.json%00",
        "//etc/passwd",
        "/..bundle.json",
        "/./",
    ],
)
def test_everything_else_is_not_found(app: App, path: str) -> None:
    reply = ask(app, path)
    assert reply.status == 404
    assert b"/deploy.sh" in body(reply)


def test_empty_and_dot_segments_and_queries_are_forgiven(app: App) -> None:
    assert ask(app, "//packages//el7/repodata/repomd.xml?x=1").status == 200
    assert ask(app, "/packages/el7/./repodata/repomd.xml").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "get"])
def test_only_get_and_head_are_answered(app: App, method: str) -> None:
    reply = ask(app, "/bundle.json", method)
    assert (reply.status, field(reply, "Allow")) == (405, "GET, HEAD")
    reply = ask(app, "/v2/pause/blobs/uploads/", method)
    assert (reply.status, field(reply, "Allow"), errors(reply)) == (405, "GET, HEAD", "UNSUPPORTED")


def test_deploy_takes_the_server_from_the_connection(app: App) -> None:
    text = body(ask(app, "/deploy.sh")).decode()
    assert f"SERVER='{ORIGIN}'" in text
    assert "evil" not in text
    assert body(ask(app, "/healthz")) == b"ok\n"


def test_the_registry_answers_its_base(app: App) -> None:
    for path in ("/v2/", "/v2"):
        reply = ask(app, path)
        assert (reply.status, body(reply)) == (200, b"{}")
        assert field(reply, "Docker-Distribution-Api-Version") == "registry/2.0"


def test_manifests_by_tag_and_digest(app: App, images: list[dict[str, Any]], members: dict[str, bytes]) -> None:
    for image, name, media_type in zip(
        images, ("pause/manifests/3.2?ns=k8s.gcr.io", "library/busybox/manifests/1.33"), (MANIFEST, INDEX)
    ):
        reply = ask(app, "/v2/" + name)
        assert (reply.status, field(reply, "Content-Type")) == (200, media_type)
        assert field(reply, "Docker-Content-Digest") == image["digest"]
        assert body(reply) == members["images/blobs/sha256/" + image["digest"][7:]]
        repository = name.partition("/manifests/")[0]
        assert body(ask(app, f"/v2/{repository}/manifests/{image['digest']}")) == body(reply)


def test_children_of_an_index_by_digest(app: App) -> None:
    index = json.loads(body(ask(app, "/v2/busybox/manifests/1.33")))
    here, gone = (child["digest"] for child in index["manifests"])
    reply = ask(app, f"/v2/busybox/manifests/{here}")
    assert (reply.status, field(reply, "Content-Type")) == (200, MANIFEST)
    manifest = json.loads(body(reply))
    for child in (manifest["config"], *manifest["layers"]):
        assert len(body(ask(app, f"/v2/busybox/blobs/{child['digest']}"))) == child["size"]
    assert errors(ask(app, f"/v2/busybox/manifests/{gone}")) == "MANIFEST_UNKNOWN"


def test_blobs_have_ranges(app: App) -> None:
    manifest = json.loads(body(ask(app, "/v2/pause/manifests/3.2")))
    reply = ask(app, f"/v2/pause/blobs/{manifest['layers'][0]['digest']}", range="bytes=99999-")
    assert (reply.status, field(reply, "Content-Range")) == (206, "bytes 99999-99999/100000")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/nope/manifests/1", 404, "NAME_UNKNOWN"),
        ("/v2/pause/manifests/3.2?ns=quay.io", 404, "NAME_UNKNOWN"),
        ("/v2/pause/manifests/9", 404, "MANIFEST_UNKNOWN"),
        ("/v2/pause/manifests/sha256:" + "0" * 64, 404, "MANIFEST_UNKNOWN"),
        ("/v2/pause/manifests/sha256:zz", 400, "DIGEST_INVALID"),
        ("/v2/pause/manifests/.x", 400, "TAG_INVALID"),
        ("/v2/pause/blobs/sha256:" + "0" * 64, 404, "BLOB_UNKNOWN"),
        ("/v2/pause/blobs/3.2", 400, "DIGEST_INVALID"),
        ("/v2/pause/blobs/sha512:" + "0" * 128, 404, "BLOB_UNKNOWN"),
        ("/v2/pause/tags/other", 404, "NAME_INVALID"),
        ("/v2/UPPER/tags/list", 404, "NAME_INVALID"),
        ("/v2/../../etc/passwd", 404, "NAME_INVALID"),
        ("/v2/pause/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/_catalog?n=-1", 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/pause/referrers/x", 400, "DIGEST_INVALID"),
        ("/v2/nope/referrers/sha256:" + "0" * 64, 404, "NAME_UNKNOWN"),
    ],
)
def test_registry_errors(app: App, path: str, status: int, code: str) -> None:
    reply = ask(app, path)
    assert (reply.status, errors(reply)) == (status, code)


def test_a_blob_of_another_repository_is_unknown(app: App) -> None:
    manifest = json.loads(body(ask(app, "/v2/pause/manifests/3.2")))
    assert errors(ask(app, f"/v2/busybox/blobs/{manifest['layers'][0]['digest']}")) == "BLOB_UNKNOWN"


def test_tags_come_in_pages(app: App) -> None:
    assert json.loads(body(ask(app, "/v2/busybox/tags/list"))) == {"name": "busybox", "tags": ["1.33", "1.34"]}
    reply = ask(app, "/v2/library/busybox/tags/list?n=1&ns=docker.io")
    assert json.loads(body(reply))["tags"] == ["1.33"]
    assert field(reply, "Link") == '</v2/library/busybox/tags/list?n=1&last=1.33&ns=docker.io>; rel="next"'
    reply = ask(app, "/v2/library/busybox/tags/list?n=1&last=1.33&ns=docker.io")
    assert (json.loads(body(reply))["tags"], field(reply, "Link")) == (["1.34"], None)
    assert json.loads(body(ask(app, "/v2/busybox/tags/list?n=0")))["tags"] == []
    assert json.loads(body(ask(app, "/v2/_catalog?n=1")))["repositories"] == ["docker.io/library/busybox"]


def test_texts_are_gzipped_for_who_takes_it(app: App, members: dict[str, bytes], tmp_path: Path) -> None:
    text = b"<package/>" * 10_000
    app = app_of(make_bundle(tmp_path / "z.tar", {**members, "a.xml": text, "tiny.xml": b"<x/>"}), [])
    plain, packed = ask(app, "/a.xml"), ask(app, "/a.xml", accept_encoding="deflate, gzip;q=0.5")
    assert (field(packed, "Content-Encoding"), gzip.decompress(body(packed))) == ("gzip", text)
    assert field(packed, "Vary") == field(plain, "Vary") == "Accept-Encoding"
    etag = field(packed, "ETag") or ""
    assert etag != field(plain, "ETag")
    assert ask(app, "/a.xml", accept_encoding="gzip", if_none_match=etag).status == 304
    assert ask(app, "/a.xml", if_none_match=etag).status == 200
    assert ask(app, "/a.xml", "HEAD", accept_encoding="gzip").head == packed.head
    for accepted in ("identity", "gzip;q=0", "deflate, gzip;q=0.0, br", "xgzip"):
        assert field(ask(app, "/a.xml", accept_encoding=accepted), "Content-Encoding") is None, accepted
    ranged = ask(app, "/a.xml", accept_encoding="gzip", range="bytes=0-3")
    assert (ranged.status, field(ranged, "ETag")) == (206, field(plain, "ETag"))
    for path in ("/tiny.xml", "/bin/amd64/tool"):
        assert field(ask(app, path, accept_encoding="gzip"), "Content-Encoding") is None


def test_manifests_are_never_gzipped(app: App) -> None:
    reply = ask(app, "/v2/pause/manifests/3.2", accept_encoding="gzip")
    assert field(reply, "Content-Encoding") is None


def test_referrers(tmp_path: Path) -> None:
    found: dict[str, bytes] = {}
    subject = add_image(found, "quay.io/a/app:1", [b"layer"])
    kinds = ("application/vnd.example.sbom", "application/vnd.example.sig")
    entries = [subject]
    for kind in kinds:
        config = blob(found, b"{}", "application/vnd.oci.empty.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": config, "layers": [],
                    "subject": {"mediaType": MANIFEST, "digest": subject["digest"], "size": subject["size"]}}
        top = blob(found, json.dumps(manifest).encode(), MANIFEST)
        entries.append(image_entry(f"quay.io/a/app:{kind[-4:].strip('.')}", top))
    app = app_of(make_bundle(tmp_path / "r.tar", found, entries), [])
    path = f"/v2/quay.io/a/app/referrers/{subject['digest']}"
    reply = ask(app, path)
    assert field(reply, "Content-Type") == INDEX
    assert [one["artifactType"] for one in json.loads(body(reply))["manifests"]] == list(kinds)
    assert json.loads(body(reply))["manifests"][0]["digest"] == entries[1]["digest"]
    reply = ask(app, f"{path}?artifactType={kinds[1]}")
    assert [one["artifactType"] for one in json.loads(body(reply))["manifests"]] == [kinds[1]]
    assert field(reply, "OCI-Filters-Applied") == "artifactType"
    nothing = ask(app, f"/v2/quay.io/a/app/referrers/sha256:{'1' * 64}")
    assert (nothing.status, json.loads(body(nothing))["manifests"]) == (200, [])


def test_charts_are_artifacts_too(tmp_path: Path) -> None:
    charts = {"charts/shop-1.2.3+b1.tgz": b"chart one", "charts/my-shop-0.1.0-rc.1.tgz": b"chart two",
              "charts/index.yaml": b"apiVersion: v1\n"}
    app = app_of(make_bundle(tmp_path / "c.tar", charts), [])
    assert body(ask(app, "/charts/index.yaml")) == charts["charts/index.yaml"]
    for name, tag, data in (("shop", "1.2.3_b1", b"chart one"), ("my-shop", "0.1.0-rc.1", b"chart two")):
        assert json.loads(body(ask(app, f"/v2/charts/{name}/tags/list")))["tags"] == [tag]
        reply = ask(app, f"/v2/charts/{name}/manifests/{tag}")
        assert field(reply, "Docker-Content-Digest") == "sha256:" + sha256(body(reply))
        assert field(reply, "Content-Type") == MANIFEST
        manifest = json.loads(body(reply))
        assert manifest["config"]["mediaType"] == "application/vnd.cncf.helm.config.v1+json"
        config, layer = (
            body(ask(app, f"/v2/charts/{name}/blobs/{one['digest']}"))
            for one in (manifest["config"], *manifest["layers"])
        )
        assert (layer, json.loads(config)["name"]) == (data, name)
        assert errors(ask(app, f"/v2/charts/{name}/blobs/sha256:{'1' * 64}")) == "BLOB_UNKNOWN"
    assert "charts/shop" in json.loads(body(ask(app, "/v2/_catalog")))["repositories"]


def test_repository_files_name_the_server(tmp_path: Path) -> None:
    found = {"packages/el7/keys/a.asc": b"key", "packages/noble/Packages": b"x"}
    hosts = {
        "el7": {"format": "rpm", "path": "packages/el7", "keys": ["packages/el7/keys/a.asc"], "roles": {}},
        "noble": {"format": "deb", "path": "packages/noble", "keys": [], "roles": {}},
    }
    app = app_of(make_bundle(tmp_path / "o.tar", found, hosts=hosts), [])
    text = body(ask(app, "/repo/el7.repo")).decode()
    assert f"\nbaseurl={ORIGIN}/packages/el7/\n" in text
    assert f"\ngpgcheck=1\ngpgkey={ORIGIN}/packages/el7/keys/a.asc\n" in text
    assert "repo_gpgcheck" not in text
    text = body(ask(app, "/repo/noble.sources")).decode()
    assert f"URIs: {ORIGIN}/packages/noble/\nSuites: ./\nTrusted: yes\n" in text  # not signed: said, not hidden
    assert text.startswith("# The bundle's repository is not signed")
    for path in ("/repo/el7.sources", "/repo/noble.repo", "/repo/el9.repo", "/repo/"):
        assert ask(app, path).status == 404


def test_a_changed_bundle_fails_cleanly(tmp_path: Path) -> None:
    said: list[str] = []
    tree = unpack(make_bundle(tmp_path / "b.tar", {"a": b"one", "b": b"two"}), tmp_path / "tree")
    app = app_of(tree, said)
    (tree / "a").write_bytes(b"ONE")
    (tree / "b").unlink()
    for path in ("/a", "/b"):
        reply = ask(app, path)
        assert (reply.status, reply.close) == (503, True)
    assert len(said) == 1
    assert "changed while it was served" in said[0]
