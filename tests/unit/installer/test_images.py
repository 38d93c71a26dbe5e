"""Which repository a client means, by every name that clients use."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.bundle import Bundle, open_bundle
from installer.errors import IntegrityError
from installer.images import Images, split
from tests.bundles import MANIFEST, add_image, blob, image_entry, make_bundle


def bundle_of(tmp_path: Path, *refs: str) -> Bundle:
    members: dict[str, bytes] = {}
    images = [add_image(members, ref, [ref.encode()]) for ref in refs]
    return open_bundle(str(make_bundle(tmp_path / "b.tar", members, images)))


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("k8s.gcr.io/pause:3.2", ("k8s.gcr.io", "pause", "3.2")),
        ("docker.io/library/busybox:1.33", ("docker.io", "library/busybox", "1.33")),
        ("docker.io/busybox:1", ("docker.io", "library/busybox", "1")),
        ("busybox:1", ("docker.io", "library/busybox", "1")),
        ("rancher/x:1", ("docker.io", "rancher/x", "1")),
        ("localhost/x:1", ("localhost", "x", "1")),
        ("host:5000/a/b/c:v1", ("host:5000", "a/b/c", "v1")),
    ],
)
def test_references_are_split(ref: str, expected: tuple[str, str, str]) -> None:
    assert split(ref) == expected


@pytest.mark.parametrize("ref", ["busybox", "host:5000/x", "", ":1"])
def test_references_need_a_tag(ref: str) -> None:
    with pytest.raises(IntegrityError, match="no tag"):
        split(ref)


@pytest.mark.parametrize(
    ("name", "registry", "expected"),
    [
        ("pause", "k8s.gcr.io", "k8s.gcr.io/pause"),
        ("k8s.gcr.io/pause", "", "k8s.gcr.io/pause"),
        ("k8s.gcr.io/pause", "k8s.gcr.io", "k8s.gcr.io/pause"),
        ("pause", "", "k8s.gcr.io/pause"),
        ("pause", "quay.io", None),
        ("coreos/flannel", "", "quay.io/coreos/flannel"),
        ("flannel", "quay.io", None),
        ("busybox", "", "docker.io/library/busybox"),
        ("library/busybox", "", "docker.io/library/busybox"),
        ("busybox", "docker.io", "docker.io/library/busybox"),
        ("library/busybox", "docker.io", "docker.io/library/busybox"),
        ("library/busybox", "registry-1.docker.io", "docker.io/library/busybox"),
        ("docker.io/busybox", "", "docker.io/library/busybox"),
        ("index.docker.io/library/busybox", "", "docker.io/library/busybox"),
        ("docker.io/library/busybox", "docker.io", "docker.io/library/busybox"),
        ("same", "", None),
        ("same", "quay.io", "quay.io/same"),
        ("k8s.gcr.io/same", "", "k8s.gcr.io/same"),
        ("", "", None),
        ("k8s.gcr.io/pause", "quay.io", None),
    ],
)
def test_names(tmp_path: Path, name: str, registry: str, expected: str | None) -> None:
    images = Images(
        bundle_of(
            tmp_path,
            "k8s.gcr.io/pause:3.2",
            "quay.io/coreos/flannel:v1",
            "quay.io/same:1",
            "k8s.gcr.io/same:1",
            "docker.io/library/busybox:1.33",
        )
    )
    found = images.find(name, registry)
    assert (found.name if found else None) == expected


def test_a_repository_holds_its_own_blobs_alone(tmp_path: Path) -> None:
    images = Images(bundle_of(tmp_path, "a.io/one:1", "a.io/one:2", "a.io/two:1"))
    one, two = images.find("one"), images.find("two")
    assert one and two
    assert sorted(one.tags) == ["1", "2"]
    assert len(one.manifests) == 2
    assert len(one.blobs) == 6
    assert not set(one.blobs) & set(two.blobs)


def test_an_index_brings_the_children_that_are_there(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    images = Images(
        open_bundle(
            str(make_bundle(tmp_path / "b.tar", members, [add_image(members, "a.io/x:1", [b"layer"], index=True)]))
        )
    )
    found = images.find("x")
    assert found
    assert sorted(found.manifests.values()) == [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
    ]
    assert len(found.blobs) == 4


@pytest.mark.parametrize("data", [b"{}", b"[]", b"not json", b'{"config": {}, "layers": []}', b'{"manifests": [1]}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, data: bytes) -> None:
    members: dict[str, bytes] = {}
    entry = image_entry("a.io/x:1", blob(members, data, MANIFEST))
    with pytest.raises(IntegrityError, match="not an image manifest"):
        Images(open_bundle(str(make_bundle(tmp_path / "b.tar", members, [entry]))))


def test_a_manifest_that_is_missing_is_named(tmp_path: Path) -> None:
    entry = {
        "ref": "a.io/x:1",
        "digest": "sha256:" + "1" * 64,
        "mediaType": MANIFEST,
        "size": 1,
        "platforms": [],
        "roles": [],
    }
    with pytest.raises(IntegrityError, match="no images/blobs/sha256/1111"):
        Images(open_bundle(str(make_bundle(tmp_path / "b.tar", {}, [entry]))))
