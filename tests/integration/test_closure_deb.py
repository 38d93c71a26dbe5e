"""A bundle of debs: proven, explained, rebuilt; take away any one package, and the build must say so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from bundler import archive, closure
from bundler.archive import Member
from bundler.closure.contents import Planned
from bundler.errors import ResolveError
from bundler.reposign import keygen
from bundler.verify import open_bundle
from tests.integration.managers import apt, run
from tests.integration.upstream import debs
from tests.integration.upstream import site as upstream
from tests.integration.upstream.site import Site
from tests.serving import serving

USER = "repo@example.org"
HASH = "0123456789abcdef" * 4
# name_version[_arch], then its other fields
DEBS = {
    "base-files_12": ["Essential: yes", "Depends: libgiven (>= 2), mail-agent"],
    "libgiven_2.1-1": [],
    "exim_4-1": ["Provides: mail-agent"],
    "libc6_2.36-9": [],
    "kubelet_1.20.2-00": ["License: Apache-2.0", "Depends: libc6 (>= 2.17), kubernetes-cni (>= 0.8.7), iptables | nft"],
    "kubelet_1.20.4-00": ["Depends: kubernetes-cni (>= 0.8.7)"],
    "kubectl_1.20.2-00": ["Depends: libc6"],
    "kubernetes-cni_1:0.8.7-00": ["Depends: libdeep (= 1~rc1-1), libgiven (>= 2.0), mail-agent"],
    "libdeep_1~rc1-1_all": [],
    "iptables_1.8-1": ["Depends: libxt"],
    "libxt_1": [],
    "nft_1": [],
}
CARRIED = {"kubelet", "kubectl", "kubernetes-cni", "libdeep", "iptables", "libxt", "nft"}
HOST = {
    "format": "deb",
    "repos": [{"id": "main", "baseurl": "https://files.test/apt", "suite": "stable", "components": ["main"],
               "keys": ["https://files.test/apt/key.asc"]}],
    "installed": ["libc6"],
    "roles": {"master": ["kubelet-1.20.2", "kubectl-1.20.2-00", "nft"], "node": ["kubelet-1.20.2"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An upstream with a Debian host beside the EL one, locked."""
    with upstream.serve(tmp_path_factory.mktemp("site"), payload=3000) as found:
        top, ring = found.root / "upstream/apt", found.root / "ring"
        (top / "pool").mkdir(parents=True)
        for name, fields in DEBS.items():
            debs.build(top / "pool", found.root / "work", name, fields, payload=1024)
        for kubelet in (top / "pool").glob("kubelet_*.deb"):
            kubelet.rename(kubelet.with_name(f"{kubelet.stem}_amd64_{HASH}.deb"))  # as upstream's pool names it
        debs.make_key(ring, USER)
        debs.export(ring, USER, top / "key.asc", "--armor")
        debs.publish(top, ring, USER, "dists/stable", "main/binary-amd64")
        subprocess.run(["gpgconf", "--homedir", ring, "--kill", "gpg-agent"], check=True)
        manifest = found.root / "manifests/1.20.yaml"
        document = yaml.safe_load(manifest.read_text())
        document["arches"], document["hosts"]["debian12"] = ["amd64"], HOST
        manifest.write_text(yaml.safe_dump(document, sort_keys=False))
        found.run("lock", "--os", "el7", "--os", "debian12")
        yield found


@pytest.fixture(scope="module")
def bundle(site: Site) -> Path:
    site.run("build", "--os", "debian12", "-o", "whole.tar")
    return site.root / "whole.tar"


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """Return contract, closure and every member's bytes."""
    with open_bundle(path) as found:
        members = {name: archive.content(found.fd, entry) for name, entry in found.entries.items()}
        return dict(found.contract), json.loads(members["closure.json"]), members


def bundler(*words: str | Path, code: int = 0) -> str:
    done = upstream.run(sys.executable, "-m", "bundler", *words, code=code)
    return done.stdout if code == 0 else done.stderr


def test_proof_says_what_is_in(bundle: Path) -> None:
    _, proof, members = load(bundle)
    assert {path.split("/")[-1].partition("_")[0] for path in members if path.endswith(".deb")} == CARRIED
    roles = proof["proven"]["roles"]["debian12"]
    assert roles["node"] == {"packages": 5, "spare": [], "assumed": []}
    assert (roles["master"]["packages"], roles["master"]["assumed"]) == (5, [])
    given = proof["wanted"]["hosts"]["debian12"]["given"]["amd64"]
    assert {"libgiven >= 2.0", "mail-agent"} <= set(given)


def test_any_member_of_the_repository_taken_away_is_missed(bundle: Path) -> None:
    contract, proof, members = load(bundle)
    gone = [path for path in members if path.startswith(("packages/", "lists/debian12/"))]
    assert len(gone) == len(CARRIED) + 3 + 1 + 2
    for name in gone:
        left = {path: data for path, data in members.items() if path != name}
        files = [entry for entry in contract["files"] if entry["path"] != name]
        planned = Planned([Member.of(path, data) for path, data in sorted(left.items())])
        with pytest.raises(ResolveError) as caught:
            closure.prove(proof["wanted"], {**contract, "files": files}, planned)
        assert name in caught.value.message


def test_a_signed_repository_is_checked_by_apt_and_built_again(site: Site, tmp_path: Path) -> None:
    key, _ = keygen(tmp_path / "keys")
    site.run("build", "--os", "debian12", "--repo-key", key, "-o", "signed.tar")
    with serving(site.root / "signed.tar", tmp_path) as server:
        with urlopen(f"{server.url}/repo/debian12.sources") as reply:
            sources = reply.read().decode()
        assert "rusted" not in sources
        command = apt(tmp_path / "root", sources, "kubecarry.sources")
        run(*command, "update")
        run(*command, "download", "kubelet=1.20.2-00", cwd=tmp_path)
    assert list(tmp_path.glob("kubelet_*.deb"))
    rest = ("--manifests", "manifests", "--lock-dir", "locks", "--cache-dir", "cache", *site.mirrors)
    done = upstream.run(sys.executable, "-m", "bundler", "verify", "--rebuild", "signed.tar", *rest, cwd=site.root)
    assert "bit for bit" in done.stdout


def locks(site: Site) -> tuple[list[Any], dict[str, Any]]:
    """Return the documents of rpms.lock, and the debs' one."""
    documents = list(yaml.safe_load_all((site.root / "locks/rpms.lock").read_text()))
    return documents, next(document for document in documents if document["os"] == "debian12")


def build_with(site: Site, documents: list[Any], code: int) -> str:
    upstream.run("cp", "-rT", "locks", "spoilt", cwd=site.root)
    (site.root / "spoilt/rpms.lock").write_text(yaml.safe_dump_all(documents))
    said = site.run("build", "--lock-dir", "spoilt", "--os", "debian12", "-o", "spoilt.tar", "-q", code=code).stderr
    assert not (site.root / "spoilt.tar").exists()
    return said


def test_any_package_taken_from_the_lock_is_missed(site: Site, bundle: Path) -> None:
    whole = locks(site)[1]["arches"][0]["packages"]
    assert {package["name"] for package in whole} == CARRIED
    for number, package in enumerate(whole):
        documents, document = locks(site)
        arch = document["arches"][0]
        del arch["packages"][number]
        file = package["url"].rsplit("/", 1)[-1]
        arch["roles"] = {role: [name for name in names if name != file] for role, names in arch["roles"].items()}
        # What a role asks for by name is missed before anything is fetched
        said = build_with(site, documents, 3 if package["name"] in ("kubelet", "kubectl", "nft") else 4)
        assert package["name"] in said


def test_gap_is_told_in_debians_words(site: Site, bundle: Path) -> None:
    documents, document = locks(site)
    arch = document["arches"][0]
    arch["packages"] = [package for package in arch["packages"] if package["name"] != "libdeep"]
    arch["roles"] = {role: [n for n in names if "libdeep" not in n] for role, names in arch["roles"].items()}
    said = build_with(site, documents, 4)
    assert "debian12 node amd64: nothing provides libdeep = 1~rc1-1 needed by kubernetes-cni-1:0.8.7-00.amd64" in said


def test_package_that_nothing_needs_is_refused(site: Site, bundle: Path) -> None:
    documents, document = locks(site)
    document["arches"][0]["roles"]["node"] = document["arches"][0]["roles"]["master"]
    said = build_with(site, documents, 4)
    assert "debian12 node: kubectl_1.20.2-00.deb is carried, but nothing of it needs it" in said


def test_lock_that_nobody_asked_what_is_given_assumes_it_openly(site: Site, bundle: Path) -> None:
    upstream.run("cp", "-r", "locks", "older", cwd=site.root)
    documents, document = locks(site)
    del document["arches"][0]["given"]
    (site.root / "older/rpms.lock").write_text(yaml.safe_dump_all(documents))
    site.run("build", "--lock-dir", "older", "--os", "debian12", "-o", "older.tar")
    _, proof, _ = load(site.root / "older.tar")
    assert proof["proven"]["roles"]["debian12"]["node"]["assumed"] == ["libgiven >= 2.0", "mail-agent"]


def test_same_again_is_the_same_bundle_and_verify_rebuilds_it(site: Site, bundle: Path) -> None:
    site.run("build", "--os", "debian12", "-o", "again.tar", "--cache-dir", "cache2")
    assert (site.root / "again.tar").read_bytes() == bundle.read_bytes()
    said = site.run("build", "-o", "both.tar").stdout  # the first host alone, unless others are asked for
    assert said
    done = upstream.run(
        sys.executable, "-m", "bundler", "verify", bundle, "--rebuild", "--lock-dir", "locks", "--manifests",
        "manifests", "--cache-dir", "cache", *site.mirrors, cwd=site.root,
    )  # fmt: skip
    assert done.stdout


def test_why_and_inspect(bundle: Path) -> None:
    assert bundler("why", "libdeep", bundle).splitlines() == [
        "package packages/debian12/libdeep_1~rc1-1_all.deb",
        *(f"  debian12 {role} amd64: kubelet-1.20.2 -> kubelet-1.20.2-00.amd64 needs kubernetes-cni >= 0.8.7 -> "
          "kubernetes-cni-1:0.8.7-00.amd64 needs libdeep = 1~rc1-1 -> libdeep-1~rc1-1"
          for role in ("master", "node")),
    ]
    assert "needs (iptables | nft) -> " in bundler("why", "iptables", bundle)
    said = bundler("inspect", bundle)
    assert "Proven to be complete:\n  debian12 master: 5 packages install from it alone\n" in said
    assert "nothing in it is called ghost" in bundler("why", "ghost", bundle, code=4)


def test_bill_of_materials(bundle: Path) -> None:
    _, _, members = load(bundle)
    components = {component["name"]: component for component in json.loads(members["sbom.cdx.json"])["components"]}
    kubelet = components["kubelet"]
    assert kubelet["purl"] == "pkg:deb/kubelet@1.20.2-00?arch=amd64&distro=debian12"
    assert kubelet["licenses"] == [{"license": {"name": "Apache-2.0"}}]
    assert components["libdeep"]["purl"].startswith("pkg:deb/libdeep@1~rc1-1?arch=all&")
    assert "licenses" not in components["libdeep"]


def test_diff_pairs_the_versions_of_a_package(site: Site, bundle: Path) -> None:
    upstream.run("cp", "-r", "manifests", "newer", cwd=site.root)
    manifest = site.root / "newer/1.20.yaml"
    manifest.write_text(manifest.read_text().replace("kubelet-1.20.2", "kubelet-1.20.4"))
    options = ("--manifests", "newer", "--lock-dir", "newer", "--os", "debian12")
    site.run("lock", *options)
    site.run("build", *options, "-o", "newer.tar")
    (line,) = [line for line in bundler("diff", bundle, site.root / "newer.tar").splitlines() if "kubelet" in line]
    assert line.startswith("~ package  kubelet.amd64 (debian12)  1.20.2-00 -> 1.20.4-00  ")
