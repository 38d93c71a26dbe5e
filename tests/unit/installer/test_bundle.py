"""Opening a bundle: what it says of itself is checked before anything relies on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from installer.bundle import open_bundle
from installer.contract import parse
from installer.errors import HostError, IntegrityError, UsageError
from tests.bundles import add_image, complete, make_bundle, unpack, write_tar

MEMBERS = {"bin/amd64/tool": b"tool", "lists/images": b""}


def contract(**fields: Any) -> bytes:
    return json.dumps({**json.loads(complete(MEMBERS)["bundle.json"]), **fields}).encode()


@pytest.mark.parametrize("tree", [False, True])
def test_members_read_back_from_tar_and_tree(tmp_path: Path, tree: bool) -> None:
    path = make_bundle(tmp_path / "b.tar", MEMBERS)
    bundle = open_bundle(str(unpack(path, tmp_path / "tree") if tree else path))
    assert bundle.read("bin/amd64/tool") == b"tool"
    assert bundle.read("lists/images") == b""
    assert bundle.info.release == "1.20"
    assert set(bundle.digests) == set(bundle.members)
    with pytest.raises(IntegrityError, match="no bin/other"):
        bundle.read("bin/other")
    bundle.close()


def test_images_hosts_and_addons_are_read(tmp_path: Path) -> None:
    members = dict(MEMBERS)
    image = add_image(members, "k8s.gcr.io/pause:3.2", [b"layer"])
    hosts = {"el7": {"format": "rpm", "path": "packages/el7", "keys": [], "roles": {"master": "lists/images"}}}
    addons = [{"name": "flannel", "version": "0.13.0", "kind": "network", "manifests": ["manifests/flannel/a.yml"]}]
    info = open_bundle(str(make_bundle(tmp_path / "b.tar", members, [image], hosts=hosts, addons=addons))).info
    assert (info.images[0].ref, info.images[0].digest) == ("k8s.gcr.io/pause:3.2", image["digest"])
    assert (info.hosts[0].name, info.hosts[0].roles) == ("el7", {"master": "lists/images"})
    assert info.addons[0].manifests == ["manifests/flannel/a.yml"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema": 2}, "schema 2"),
        ({"schema": True}, "schema True"),
        ({"schema": None}, "schema None"),
        ({"release": 1}, "release must be of type str"),
        ({"created": -1}, "created is negative"),
        ({"created": True}, "created must be of type int"),
        ({"arches": [1]}, "arches"),
        ({"hosts": []}, "hosts"),
        ({"images": {}}, "images must be of type list"),
        ({"images": ["x"]}, r"images\[0\] must be an object"),
        ({"images": [{"ref": "a:1", "digest": "sha256:xyz"}]}, r"images\[0\].digest is malformed"),
        ({"node": {"bad name": "x"}}, "not a setting"),
        ({"node": {"A": "a\0b"}}, "not a setting"),
        ({"node": {"A": 1}}, "node"),
        ({"files": [{"path": "../x", "sha256": "0" * 64, "size": 1}]}, "unsafe member name"),
        ({"files": [{"path": "x", "sha256": "0" * 63, "size": 1}]}, r"files\[0\].sha256 is malformed"),
        ({"files": [{"path": "x", "sha256": "0" * 64, "size": 1.5}]}, r"files\[0\].size"),
        ({"files": [{"path": "x", "sha256": "0" * 64, "size": 1}] * 2}, "names x twice"),
    ],
)
def test_a_wrong_contract_is_refused_by_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        parse(contract(**fields))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b"null", b'{"schema": 1}'])
def test_what_is_no_contract_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"bundle\.json"):
        parse(data)


def test_missing_extra_and_resized_members_are_named(tmp_path: Path) -> None:
    whole = complete(MEMBERS)
    del whole["lists/images"]
    whole["evil"] = b"x"
    whole["bin/amd64/tool"] = b"longer"
    with pytest.raises(IntegrityError) as caught:
        open_bundle(str(write_tar(tmp_path / "b.tar", whole)))
    assert "lists/images: missing" in caught.value.message
    assert "evil: extra" in caught.value.message
    assert "bin/amd64/tool: 6 bytes long, must be 4" in caught.value.message


@pytest.mark.parametrize("name", ["bundle.json", "SHA256SUMS"])
def test_a_tar_without_contract_or_sums_is_no_bundle(tmp_path: Path, name: str) -> None:
    whole = complete(MEMBERS)
    del whole[name]
    with pytest.raises(IntegrityError, match=f"it has no {name}"):
        open_bundle(str(write_tar(tmp_path / "b.tar", whole)))


def test_a_damaged_member_is_not_read(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b.tar", MEMBERS)
    path.write_bytes(path.read_bytes().replace(b"\0tool\0", b"\0tOOl\0"))
    with pytest.raises(IntegrityError, match="bin/amd64/tool differs"):
        open_bundle(str(path)).read("bin/amd64/tool")


def test_links_in_a_tree_are_refused(tmp_path: Path) -> None:
    tree = unpack(make_bundle(tmp_path / "b.tar", MEMBERS), tmp_path / "tree")
    (tree / "bin/amd64/tool").unlink()
    (tree / "bin/amd64/tool").symlink_to("/etc/passwd")
    with pytest.raises(IntegrityError, match="bin/amd64/tool is neither a file nor a directory"):
        open_bundle(str(tree))


def test_paths_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        open_bundle(str(tmp_path / "none"))
    with pytest.raises(HostError):
        open_bundle("/proc/self/mem/x")
    (tmp_path / "text").write_text("no tar\n" * 200)
    with pytest.raises(IntegrityError, match="not a POSIX tar header"):
        open_bundle(str(tmp_path / "text"))
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(IntegrityError, match="cut short"):
        open_bundle(str(tmp_path / "empty"))


def test_a_replaced_tar_is_noticed_but_still_read(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "b.tar", MEMBERS)
    bundle = open_bundle(str(path))
    assert not bundle.source.replaced()
    make_bundle(tmp_path / "new.tar", {"other": b"1"}).replace(path)
    assert bundle.source.replaced()
    assert bundle.read("bin/amd64/tool") == b"tool"
    fd = bundle.source.acquire(bundle.members["bin/amd64/tool"])
    assert bundle.source.intact(fd, bundle.members["bin/amd64/tool"])
    bundle.source.release(fd)
