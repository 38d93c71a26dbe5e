"""The proof of closure against a real upstream: take away any one thing, and the build must say so."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bundler import archive, closure
from bundler.closure.contents import Finished, Planned
from bundler.errors import ManifestError, ResolveError
from bundler.verify import open_bundle
from tests.integration.upstream import rpms
from tests.integration.upstream import site as upstream
from tests.integration.upstream.site import Site

pytestmark = pytest.mark.root

VERSION = "v1.20.2"
KUBEADM = {"kube-apiserver": ["master"], "kube-controller-manager": ["master"], "kube-scheduler": ["master"],
           "etcd": ["master"], "kube-proxy": ["master", "node"], "coredns": ["master", "node"]}
PACKAGES = {"kubelet": "kubernetes-cni >= 0.8", "kubernetes-cni": "libdeep", "libdeep": "bash", "kubeadm": "kubelet",
            "conntrack": "libgiven.so.1", "tcpdump": "libpcap", "libpcap": ""}
NET = """
kind: List
items:
- kind: DaemonSet
  metadata: {name: net}
  spec:
    template:
      spec: {initContainers: [{image: "images.test/init:v1"}], containers: [{image: "images.test/net:v1"}]}
- {kind: Fabric, metadata: {name: f}, spec: {agent: {image: "images.test/agent:v1"}}}
- {kind: ConfigMap, metadata: {name: c}, data: {net.json: '{"Network": "10.244.0.0/16"}'}}
"""
CHART = {
    "Chart.yaml": "apiVersion: v2\nname: shop\nversion: 1.2.3\nappVersion: v7\ndependencies: [{name: cache}]\n",
    "values.yaml": "image: {repository: images.test/shop}\ncache: {image: {tag: v9}}\n",
    "templates/deployment.yaml": "kind: Deployment\nspec:\n"
        '  image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"\n',
    "charts/cache/Chart.yaml": "apiVersion: v2\nname: cache\nversion: 0.1.0\n",
    "charts/cache/values.yaml": "image: {repository: images.test/cache, tag: v1}\n",
    "charts/cache/templates/pod.yaml": "kind: Pod\nspec: {}\n",
}
OWN = """
kind: CronJob
metadata: {name: own}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: "images.test/own:v1"}]}}}}}
"""
ASKED = ["--chart", "shop", "--manifest", "own.yaml", "--file", "note.txt", "--file", "https://files.test/key.gpg",
         "--image", "images.test/lone:v1", "--package", "tcpdump"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A served upstream with a kubeadm, charts and manifests of the user's own, locked."""
    with upstream.serve(tmp_path_factory.mktemp("site"), payload=3000) as found:
        _enrich(found)
        found.run("lock", *ASKED)
        yield found


def _enrich(site: Site) -> None:
    repo = site.root / "upstream/repo"
    for name, requires in PACKAGES.items():
        rpms.build(repo, name, "1.20.2", requires, 1000)
    base = site.root / "upstream/base"
    rpms.build(base, "minimal", "1", "given", 100)
    (base / "given.spec").write_text("")
    _build_given(base)
    for directory in (repo, base):
        subprocess.run(["createrepo_c", "--quiet", directory], check=True)
    names = {**dict.fromkeys(KUBEADM, VERSION), **dict.fromkeys(
        ("init", "agent", "own", "lone"), "v1"), "shop": "v7", "cache": "v9"}
    for name, tag in names.items():
        site.registry.push(name, tag, [500], site.root / "layouts")
    manifest = site.root / "manifests/1.20.yaml"
    document = yaml.safe_load(manifest.read_text())
    document["images"] = [{"ref": f"images.test/{n}:{VERSION}", "roles": r} for n, r in KUBEADM.items()]
    document["images"].append("images.test/pause:3.2")
    host = document["hosts"]["el7"]
    host["repos"].append({"id": "base", "baseurl": "https://files.test/base"})
    host["installed"] = ["bash", "/bin/sh", "minimal"]
    node = ["kubelet-1.20.2", "kubeadm"]
    host["roles"] = {"master": [*node, "kubectl", "conntrack"], "node": node}
    manifest.write_text(yaml.safe_dump(document))
    addon = site.root / "manifests/addons/net-1.yaml"
    images = ", ".join(f"images.test/{name}:v1" for name in ("net", "init", "agent"))
    addon.write_text(addon.read_text().replace("images.test/net:v1", images)
                     + "image_paths: [{kind: Fabric, path: spec.agent.image}]\n")
    (site.root / "upstream/net.yml").write_text(NET)
    for name, text in CHART.items():
        path = site.root / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (site.root / "own.yaml").write_text(OWN)
    (site.root / "note.txt").write_text("a note\n")


def _build_given(base: Path) -> None:
    """A package that comes along with the minimal host and is never carried."""
    spec = base / "given.spec"
    spec.write_text("Name: given\nVersion: 1\nRelease: 0\nSummary: x\nLicense: x\nBuildArch: noarch\n"
                    "Provides: libgiven.so.1\n%description\nx\n%files\n")
    subprocess.run(["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {base}/top", "--define", f"_rpmdir {base}",
                    "--define", "_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm", spec], check=True,
                   capture_output=True)


@pytest.fixture(scope="module")
def bundle(site: Site) -> Path:
    """The bundle of that lock."""
    site.run("build", *ASKED, "-o", "whole.tar")
    return site.root / "whole.tar"


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """Return contract, closure and every member's bytes."""
    with open_bundle(path) as found:
        members = {name: archive.content(found.fd, entry) for name, entry in found.entries.items()}
        return dict(found.contract), json.loads(members["closure.json"]), members


def reproof(contract: dict[str, Any], wanted: dict[str, Any], members: dict[str, bytes]) -> dict[str, Any]:
    """Prove a changed bundle, whose contract lists what is left."""
    files = [entry for entry in contract["files"] if entry["path"] in members]
    images = [image for image in contract["images"] if closure.images.blob(image["digest"]) in members]
    left = {**contract, "files": files, "images": images}
    planned = Planned([archive.Member.of(path, data) for path, data in sorted(members.items())])
    return closure.prove(wanted, left, planned)


def test_finished_bundle_is_proven_by_itself(bundle: Path) -> None:
    contract, proof, members = load(bundle)
    assert reproof(contract, proof["wanted"], members) == proof["proven"]
    with open_bundle(bundle) as found:
        assert closure.prove(proof["wanted"], contract, Finished(found.fd, found.entries)) == proof["proven"]


def test_proof_says_what_is_in(bundle: Path) -> None:
    _, proof, _ = load(bundle)
    assert proof["proven"]["roles"]["el7"]["node"] == {"packages": 6, "spare": [], "assumed": []}
    assert proof["wanted"]["hosts"]["el7"]["given"] == {"x86_64": ["libgiven.so.1"]}
    by = {image["ref"]: image["by"] for image in proof["proven"]["images"]}
    assert all(by.values())
    assert by["images.test/etcd:v1.20.2"] == ["release 1.20", "kubeadm"]
    assert by["images.test/pause:3.2"] == ["release 1.20", "the kubelet, as its pause image"]
    assert by["images.test/agent:v1"] == ["add-on net 1", "manifests/net/net.yml: Fabric f"]
    assert by["images.test/own:v1"] == ["the user", "manifests/own/own.yaml: CronJob own"]
    assert by["images.test/shop:v7"] == ["the user", "charts/shop-1.2.3.tgz: templates/deployment.yaml:3"]
    assert by["images.test/cache:v9"] == ["the user", "charts/shop-1.2.3.tgz: charts/cache/values.yaml"]


def test_any_package_taken_from_the_bundle_is_missed(bundle: Path) -> None:
    contract, proof, members = load(bundle)
    packages = [path for path in members if path.endswith(".rpm")]
    assert len(packages) == 8
    for gone in packages:
        left = {path: data for path, data in members.items() if path != gone}
        with pytest.raises(ResolveError, match=gone.rsplit("/", 1)[-1].replace("+", ".")):
            reproof(contract, proof["wanted"], left)


def test_any_file_or_blob_taken_from_the_bundle_is_missed(bundle: Path) -> None:
    contract, proof, members = load(bundle)
    free = ("bundle.json", "SHA256SUMS", "closure.json", "sbom.cdx.json", "installer/")
    tried = [path for path in members if not path.startswith(free) and not path.endswith(".rpm")]
    assert len(tried) > 50
    for gone in tried:
        left = {path: data for path, data in members.items() if path != gone}
        with pytest.raises(ResolveError) as caught:
            reproof(contract, proof["wanted"], left)
        named = [image["ref"] for image in contract["images"] if image["digest"].endswith(gone.rsplit("/", 1)[-1])]
        lines = [line for line in caught.value.message.splitlines() if any(name in line for name in (gone, *named))]
        assert any("wanted by" in line or "fetched by" in line for line in lines), gone


def locks(site: Site) -> dict[str, list[Any]]:
    top = site.root / "locks"
    names = ("rpms.lock", "images.lock", "manifests/files.lock", "extras.lock")
    return {name: list(yaml.safe_load_all((top / name).read_text())) for name in names}


def build_with(site: Site, changed: dict[str, list[Any]], codes: tuple[int, ...] = (4,)) -> str:
    """Build from changed locks, which must fail with one of ``codes``; returns what it says."""
    top = site.root / "spoilt"
    for name, documents in changed.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(yaml.safe_dump_all(documents))
    command = site.command("build", "--lock-dir", "spoilt", "-o", "spoilt.tar", "-q")
    done = subprocess.run(command, cwd=site.root, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.returncode in codes, done.stderr
    assert not (site.root / "spoilt.tar").exists()
    return done.stderr


def test_layers_that_are_not_an_image_s_are_caught(bundle: Path) -> None:
    contract, proof, members = load(bundle)
    listed = members["lists/layers"]
    members["lists/layers"] = listed.replace(listed.split()[2], b"sha256:" + b"0" * 64)
    with pytest.raises(ResolveError, match="lists/layers does not list the parts of each image"):
        reproof(contract, proof["wanted"], members)


def test_any_package_taken_from_the_lock_is_missed(site: Site, bundle: Path) -> None:
    whole = locks(site)["rpms.lock"][0]["arches"][0]["packages"]
    assert len(whole) == 8
    for number, package in enumerate(whole):
        changed = locks(site)
        arch = changed["rpms.lock"][0]["arches"][0]
        del arch["packages"][number]
        file = package["url"].rsplit("/", 1)[-1]
        arch["roles"] = {role: [n for n in names if n != file] for role, names in arch["roles"].items()}
        # What a role asks for by name is missed before anything is fetched
        assert package["name"] in build_with(site, changed, (3, 4))


def test_any_image_taken_from_the_lock_is_missed(site: Site, bundle: Path) -> None:
    whole = locks(site)["images.lock"][0]["images"]
    assert len(whole) == 14
    for number, image in enumerate(whole):
        changed = locks(site)
        del changed["images.lock"][0]["images"][number]
        assert image["annotations"]["kbld.carvel.dev/id"] in build_with(site, changed, (3,))


def test_any_file_taken_from_the_lock_is_missed(site: Site, bundle: Path) -> None:
    whole = locks(site)["manifests/files.lock"][0]["files"]
    assert len(whole) == 2
    for number, file in enumerate(whole):
        changed = locks(site)
        del changed["manifests/files.lock"][0]["files"][number]
        assert file["url"] in build_with(site, changed, (3,))


def test_package_of_a_dependency_is_caught_by_the_proof_with_who_wants_it(site: Site, bundle: Path) -> None:
    changed = locks(site)
    arch = changed["rpms.lock"][0]["arches"][0]
    arch["packages"] = [package for package in arch["packages"] if package["name"] != "libdeep"]
    arch["roles"] = {role: [n for n in names if "libdeep" not in n] for role, names in arch["roles"].items()}
    said = build_with(site, changed)
    assert "el7 node x86_64: nothing provides libdeep needed by kubernetes-cni-1.20.2-0.noarch" in said
    assert "bundler lock" in said


def test_package_that_nothing_needs_is_refused(site: Site, bundle: Path) -> None:
    changed = locks(site)
    arch = changed["rpms.lock"][0]["arches"][0]
    arch["roles"]["node"] = arch["roles"]["master"]
    assert "el7 node: conntrack-1.20.2-0.noarch.rpm is carried, but nothing of it needs it" in build_with(site, changed)


def test_lock_that_nobody_asked_what_is_given_assumes_it_openly(site: Site, bundle: Path) -> None:
    top = site.root / "older"
    (top / "manifests").mkdir(parents=True)
    for name, documents in locks(site).items():
        for document in documents if name == "rpms.lock" else ():
            del document["arches"][0]["given"]
        (top / name).write_text(yaml.safe_dump_all(documents))
    site.run("build", "--lock-dir", "older", "-o", "older.tar")
    _, proof, _ = load(site.root / "older.tar")
    assert proof["proven"]["roles"]["el7"]["master"]["assumed"] == ["libgiven.so.1"]


def test_image_that_only_a_manifest_names_is_caught(site: Site, bundle: Path) -> None:
    contract, proof, members = load(bundle)
    changed = NET.replace("init:v1", "other:v2").encode()
    with pytest.raises(ResolveError, match=r"images.test/other:v2: wanted by manifests/net/net.yml: DaemonSet net"):
        reproof(contract, {**proof["wanted"], "files": []}, {**members, "manifests/net/net.yml": changed})


def test_image_path_that_finds_nothing_is_refused(bundle: Path) -> None:
    contract, proof, members = load(bundle)
    wanted = json.loads(json.dumps(proof["wanted"]).replace("spec.agent.image", "spec.agnt.image"))
    with pytest.raises(ManifestError, match=r"add-on net 1: image_paths names spec.agnt.image of Fabric"):
        reproof(contract, wanted, members)


def test_inspect_shows_the_proof(bundle: Path) -> None:
    said = upstream.run(sys.executable, "-m", "bundler", "inspect", bundle).stdout
    assert "Proven to be complete:\n  el7 master: 8 packages install from it alone\n" in said
    assert "14 images, whole, are all that anything in it names" in said


def test_charts_are_a_repository(site: Site, bundle: Path) -> None:
    _, _, members = load(bundle)
    index = yaml.safe_load(members["charts/index.yaml"])
    (entry,) = index["entries"]["shop"]
    assert entry["urls"] == ["shop-1.2.3.tgz"]
    assert entry["created"] == index["generated"] == "2021-01-13T00:00:00Z"
    assert b"shop/charts/cache/values.yaml" in gzip.decompress(members["charts/shop-1.2.3.tgz"])
    assert members["files/note.txt"] == b"a note\n"
    assert members["files/key.gpg"] == b"a key\n"


def test_same_again_is_the_same_bundle(site: Site, bundle: Path) -> None:
    site.run("build", "-o", "again.tar", "--cache-dir", "cache2")
    _, _, again = load(site.root / "again.tar")
    _, _, before = load(bundle)
    assert again["closure.json"] == before["closure.json"]
    assert again["charts/index.yaml"] == before["charts/index.yaml"]
    assert again["charts/shop-1.2.3.tgz"] == before["charts/shop-1.2.3.tgz"]


def test_lock_again_keeps_the_users_things(site: Site, bundle: Path) -> None:
    before = (site.root / "locks/extras.lock").read_text()
    assert site.run("lock").stdout == ""
    assert (site.root / "locks/extras.lock").read_text() == before


def test_build_refuses_what_is_not_locked(site: Site) -> None:
    said = site.run("build", "--image", "images.test/never:v1", "--package", "ghost", code=3).stderr
    assert "extras.lock does not have --image images.test/never:v1, --package ghost" in said
    assert "bundler lock" in said


def test_changed_file_is_found_by_digest_or_named(site: Site, bundle: Path) -> None:
    (site.root / "note.txt").write_text("another note\n")
    try:
        said = site.run("build", "-o", "x.tar", "--cache-dir", "cache3", code=5).stderr
        assert "note.txt: has changed since it was locked" in said
        site.run("build", "-o", "x.tar", "--cache-dir", "cache3", "--source", bundle)
    finally:
        (site.root / "note.txt").write_text("a note\n")
    assert load(site.root / "x.tar")[2]["files/note.txt"] == b"a note\n"


def why(site: Site, name: str, code: int = 0) -> str:
    done = upstream.run(sys.executable, "-m", "bundler", "why", name, site.root / "whole.tar", code=code)
    return done.stdout if code == 0 else done.stderr


def test_why(site: Site, bundle: Path) -> None:
    assert why(site, "libdeep").splitlines() == [
        "package packages/el7/libdeep-1.20.2-0.noarch.rpm",
        *(f"  el7 {role} x86_64: kubelet-1.20.2 -> kubelet-1.20.2-0.noarch needs kubernetes-cni >= 0.8 -> "
          "kubernetes-cni-1.20.2-0.noarch needs libdeep -> libdeep-1.20.2-0.noarch" for role in ("master", "node")),
    ]
    assert "  manifests/net/net.yml: DaemonSet net" in why(site, "init").splitlines()
    assert why(site, "images.test/lone:v1").splitlines() == ["image images.test/lone:v1", "  the user"]
    assert "  release 1.20" in why(site, "kubectl").splitlines()
    assert why(site, "shop-1.2.3.tgz").splitlines() == ["file charts/shop-1.2.3.tgz", "  the user"]
    assert why(site, "installer/cli.py").splitlines() == ["file installer/cli.py", "  every bundle"]
    _, _, members = load(bundle)
    config = json.loads(members["images/index.json"])["manifests"][0]
    assert why(site, config["digest"].partition(":")[2]).splitlines()[1:] == [
        f"  image {config['annotations']['org.opencontainers.image.ref.name']}"
    ]
    assert "nothing in it is called ghost" in why(site, "ghost", code=4)


def test_drop_takes_away(site: Site, bundle: Path) -> None:
    upstream.run("cp", "-r", "locks", "fewer", cwd=site.root)
    for name in ("note.txt", "tcpdump", "images.test/lone:v1"):
        site.run("lock", "--lock-dir", "fewer", "--drop", name)
    site.run("build", "--lock-dir", "fewer", "-o", "fewer.tar")
    _, proof, members = load(site.root / "fewer.tar")
    assert "files/note.txt" not in members
    assert not any("tcpdump" in path or "libpcap" in path for path in members)
    assert "images.test/lone:v1" not in {image["ref"] for image in proof["proven"]["images"]}
    assert "has no such thing" in site.run("lock", "--lock-dir", "fewer", "--drop", "ghost", code=3).stderr
