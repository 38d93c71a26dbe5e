"""What a selection and its bundle hold, from locks made by hand and a store without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundler import bundle, sbom
from bundler.archive import DamagedSource
from bundler.bundle import CarriedImage
from bundler.errors import LockError, ManifestError
from bundler.fetch.images import image_content
from bundler.locked import ArchLock, HostLock, LockedFile, LockedImage, LockedPackage, Locks
from bundler.manifest import Addon, AddonFile, Host, Image, Release, Replace, Repo
from bundler.selection import Selection
from bundler.store import Store

KEY = "https://files.test/keys/key.gpg"
NET = "https://files.test/net.yml"
BOTH = ("master", "node")


def package(name: str, arch: str, content: bytes, store: Store) -> LockedPackage:
    file = f"{name}-1-0.{arch}.rpm"
    return LockedPackage(f"https://files.test/{file}", "repo", store.add_bytes(content), len(content), name, "2:1-0",
                         "", "here")


def locked_file(url: str, content: bytes, store: Store) -> LockedFile:
    return LockedFile(url, store.add_bytes(content), len(content), "here")


def locked_image(ref: str, store: Store) -> LockedImage:
    config = b'{"os": "linux", "architecture": "amd64"}'
    descriptor = {"digest": f"sha256:{store.add_bytes(config)}", "size": len(config), "mediaType": "config"}
    manifest = json.dumps({"mediaType": "application/vnd.oci.image.manifest.v1+json", "config": descriptor,
                           "layers": []})
    return LockedImage(ref, f"sha256:{store.add_bytes(manifest.encode())}", ("linux/amd64",), "here")


def addon(tmp_path: Path, replace: str = "10.244.0.0/16") -> Addon:
    return Addon("net", "1", "network", ("1.20",), (Image("quay.test/net:v1", ("node",)),), (AddonFile(NET, None),),
                 (Replace(replace, "@POD_SUBNET@"),), tmp_path / "files")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def selection(tmp_path: Path, store: Store) -> Selection:
    release = Release(
        "1.20", "v1.20.2", 1610496000, ("amd64", "arm64"), "kubeadm.k8s.io/v1beta2", "containerd", "images.test",
        "images.test/pause:3.2", "10.244.0.0/16", "10.96.0.0/12", (Image("images.test/pause:3.2", BOTH),), (), (),
        {"el7": Host("el7", "rpm", (Repo("repo", "https://files.test", (KEY,)),), (),
                     {"master": ("a",), "node": ("common",)})},
    )
    common = package("common", "noarch", b"common", store)
    arches = {
        arch: ArchLock(arch, (package("a", arch, arch.encode(), store), package("b", arch, b"b", store), common),
                       {"master": (f"a-1-0.{arch}.rpm", "common-1-0.noarch.rpm"), "node": ("common-1-0.noarch.rpm",)})
        for arch in ("x86_64", "aarch64")
    }
    host = HostLock("1.20", "el7", arches, (locked_file(KEY, b"key", store),))
    images = {ref: locked_image(ref, store) for ref in ("images.test/pause:3.2", "quay.test/net:v1")}
    files = {NET: locked_file(NET, b"net: 10.244.0.0/16\n", store)}
    return Selection(release, (addon(tmp_path),), ("el7",), ("amd64",), Locks(images, files, {("1.20", "el7"): host}))


def carried(selection: Selection, store: Store) -> list[CarriedImage]:
    return [CarriedImage(image_content(store, image.ref, image.digest, ("amd64",)), roles)
            for image, roles in selection.images()]


def test_a_role_is_its_closure_and_no_more(selection: Selection) -> None:
    assert [p.filename for p in selection.role("el7", "node")] == ["common-1-0.noarch.rpm"]
    assert [p.filename for p in selection.packages("el7")] == ["a-1-0.x86_64.rpm", "common-1-0.noarch.rpm"]


def test_architectures_share_what_has_none(selection: Selection) -> None:
    both = Selection(selection.release, (), ("el7",), ("amd64", "arm64"), selection.locks)
    names = [p.filename for p in both.packages("el7")]
    assert names == ["a-1-0.aarch64.rpm", "a-1-0.x86_64.rpm", "common-1-0.noarch.rpm"]


def test_two_files_of_one_name_are_refused(selection: Selection, store: Store) -> None:
    other = "https://elsewhere.test/key.gpg"
    host = selection.host("el7")
    (repo,) = selection.release.hosts["el7"].repos
    hosts = {"el7": Host("el7", "rpm", (Repo(repo.id, repo.baseurl, (KEY, other)),), (), {})}
    release = Release(**{**vars(selection.release), "hosts": hosts})
    keys = (*host.keys, locked_file(other, b"another key", store))
    locks = Locks(selection.locks.images, selection.locks.files,
                  {("1.20", "el7"): HostLock("1.20", "el7", host.arches, keys)})
    with pytest.raises(LockError, match=r"packages/el7/keys/key\.gpg: both https://files.test.* and https://else"):
        Selection(release, (), ("el7",), ("amd64",), locks).files()


def test_members_and_contract(selection: Selection, store: Store, tmp_path: Path) -> None:
    (tmp_path / "main.sh").write_bytes(b"main\n")
    images = carried(selection, store)
    body = bundle.members(selection, store, images, {"el7": {"repodata/repomd.xml": b"<repomd/>"}},
                          {"installer/node/99-main.sh": tmp_path / "main.sh"}, 7)
    paths = [member.path for member in body]
    assert paths == sorted(paths)
    assert [path for path in paths if not path.startswith("images/blobs/")] == [
        "images/index.json", "images/oci-layout", "installer/node/99-main.sh", "lists/el7/master.packages",
        "lists/el7/node.packages", "lists/images", "lists/layers", "manifests/net/net.yml",
        "packages/el7/a-1-0.x86_64.rpm", "packages/el7/common-1-0.noarch.rpm", "packages/el7/keys/key.gpg",
        "packages/el7/repodata/repomd.xml", "sbom.cdx.json",
    ]
    found = bundle.contract(selection, images, body, 7, {})
    assert found["hosts"]["el7"]["keys"] == ["packages/el7/keys/key.gpg"]
    assert [image["roles"] for image in found["images"]] == [["master", "node"], ["node"]]
    assert found["node"]["REGISTRIES"] == "images.test quay.test"
    assert found["node"]["MANIFEST_REPLACE"] == "manifests/net/net.yml\t10.244.0.0/16\t@POD_SUBNET@"
    first, sums = bundle.head(found, body, None)
    assert isinstance(sums.source, bytes)
    assert sums.source.decode().splitlines()[0] == f"{first.sha256}  bundle.json"
    index = next(member for member in body if member.path == "images/index.json")
    assert isinstance(index.source, bytes)
    layers = next(member for member in body if member.path == "lists/layers")
    assert isinstance(layers.source, bytes)
    digests = {image["digest"] for image in found["images"]}
    configs = {digest: json.loads(store.read(digest[7:]))["config"]["digest"] for digest in digests}
    assert layers.source.decode().splitlines() == sorted(f"{digest} amd64 {configs[digest]}" for digest in digests)
    names = [entry["annotations"][bundle.REF_NAME] for entry in json.loads(index.source)["manifests"]]
    assert names == ["images.test/pause:3.2", "quay.test/net:v1"]


def test_replacement_that_fits_nothing_is_refused(selection: Selection, store: Store, tmp_path: Path) -> None:
    wrong = Selection(selection.release, (addon(tmp_path, "10.9.0.0/16"),), ("el7",), ("amd64",), selection.locks)
    body = bundle.members(wrong, store, carried(wrong, store), {"el7": {}}, {}, 7)
    with pytest.raises(ManifestError, match="net 1: no manifest of it holds '10.9.0.0/16'"):
        bundle.contract(wrong, carried(wrong, store), body, 7, {})


def test_damaged_manifest_is_noticed_before_it_is_searched(selection: Selection, store: Store) -> None:
    body = bundle.members(selection, store, carried(selection, store), {"el7": {}}, {}, 7)
    store.path(selection.locks.files[NET].sha256).write_bytes(b"net: 10.244.0.0/17\n")
    with pytest.raises(DamagedSource):
        bundle.contract(selection, carried(selection, store), body, 7, {})


def test_bill_of_materials_is_reproducible_and_complete(selection: Selection) -> None:
    first = sbom.build(selection, 7)
    assert first == sbom.build(selection, 7)
    document = json.loads(first)
    assert document["metadata"]["timestamp"] == "1970-01-01T00:00:07Z"
    purls = {component["name"]: component["purl"] for component in document["components"]}
    assert purls["a"] == "pkg:rpm/a@1-0?arch=x86_64&distro=el7&epoch=2"
    assert purls["images.test/pause"].startswith("pkg:oci/pause@sha256%3A")
    assert "b" not in purls
    other = Selection(selection.release, (), ("el7",), ("amd64",), selection.locks)
    assert json.loads(sbom.build(other, 7))["serialNumber"] != document["serialNumber"]
