"""A build against real servers, and what common tools make of its bundle."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.integration.upstream.site import Site, run

pytestmark = pytest.mark.root


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contract(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(run("tar", "xf", path, "-O", "bundle.json").stdout)
    return found


def test_locking_again_changes_nothing(site: Site) -> None:
    locks = {path: path.read_bytes() for path in (site.root / "locks").rglob("*.lock")}
    assert len(locks) == 3
    again = site.run("lock")
    assert again.stdout == ""
    assert "locks: 0 changes" in again.stderr
    assert {path: path.read_bytes() for path in locks} == locks


def test_unpacked_bundle_passes_sha256sum(unpacked: Path) -> None:
    run("sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS", cwd=unpacked)
    listed = {line.split("  ")[1] for line in (unpacked / "SHA256SUMS").read_text().splitlines()}
    present = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert present == listed | {"SHA256SUMS"}


def test_both_halves_verify_it(bundle: Path, unpacked: Path) -> None:
    assert "OK" in run(sys.executable, "-m", "bundler", "verify", bundle).stdout
    run("python3", "-I", "-c", "import sys, runpy; sys.path.insert(0, '.'); sys.argv[1:] = sys.argv[1:]; "
        "runpy.run_module('installer', run_name='__main__')", "verify", bundle, cwd=unpacked)


def test_everything_locked_is_inside(site: Site, bundle: Path) -> None:
    inside = {entry["sha256"]: entry["path"] for entry in contract(bundle)["files"]}  # type: ignore[attr-defined]
    (packages,) = yaml.safe_load_all((site.root / "locks/rpms.lock").read_text())
    for package in packages["arches"][0]["packages"]:
        name = package["url"].rsplit("/", 1)[-1]
        assert inside[package["checksum"][len("sha256:") :]] == f"packages/el7/{name}"
    images = yaml.safe_load((site.root / "locks/images.lock").read_text())["images"]
    for image in images:
        found = image["image"].split("@sha256:")[1]
        assert inside[found] == f"images/blobs/sha256/{found}"
    assert len(images) == 3


def test_lists_name_each_roles_closure(unpacked: Path) -> None:
    master = (unpacked / "lists/el7/master.packages").read_text().split()
    node = (unpacked / "lists/el7/node.packages").read_text().split()
    assert [path.rsplit("/", 1)[-1] for path in node] == [
        "kubelet-1.20.2-0.noarch.rpm", "kubernetes-cni-0.8.7-0.noarch.rpm"
    ]
    assert set(master) - set(node) == {"packages/el7/kubectl-1.20.2-0.noarch.rpm"}
    assert all((unpacked / path).is_file() for path in master)


def test_dnf_installs_a_role_from_the_bundle_alone(unpacked: Path, tmp_path: Path) -> None:
    # dnf wants to write beside what it installs: rpm's Debian default would be $HOME.
    run("dnf", "-q", "-y", f"--installroot={tmp_path}/root", "--releasever=7", "--setopt=reposdir=/nonexistent",
        f"--setopt=cachedir={tmp_path}/cache", f"--setopt=logdir={tmp_path}", "--setopt=gpgcheck=0",
        "--setopt=module_platform_id=platform:el7", f"--repofrompath=bundle,file://{unpacked}/packages/el7",
        "--repo=bundle", "install", "kubelet", env={"HOME": str(tmp_path)})
    assert (tmp_path / "root/opt/kubelet/payload").is_file()
    assert (tmp_path / "root/opt/kubernetes-cni/payload").is_file()
    assert not (tmp_path / "root/opt/kubectl").exists()


def test_repodata_is_plain_gzip(unpacked: Path) -> None:
    names = sorted((unpacked / "packages/el7/repodata").glob("*.gz"))
    assert len(names) == 3
    primary = gzip.decompress(next(name for name in names if "primary" in name.name).read_bytes()).decode()
    assert 'packages="3"' in primary
    assert '<time file="1610496000"' in primary


def test_skopeo_reads_every_image(site: Site, unpacked: Path, tmp_path: Path) -> None:
    for line in (unpacked / "lists/images").read_text().splitlines():
        locked, ref, _ = line.split(" ")
        raw = run("skopeo", "inspect", "--raw", f"oci:{unpacked}/images:{ref}").stdout
        assert f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}" == locked
        target = tmp_path / locked[-12:]
        run("skopeo", "--insecure-policy", "--override-arch=amd64", "copy", f"oci:{unpacked}/images:{ref}",
            f"dir:{target}")
        assert json.loads((target / "manifest.json").read_text())["layers"]


def test_contract_says_how_to_deploy(bundle: Path) -> None:
    node = contract(bundle)["node"]
    assert isinstance(node, dict)
    assert node["NETWORK_ADDON"] == "net"
    assert node["NETWORK_MANIFESTS"] == "manifests/net/net.yml"
    assert node["ADDON_MANIFESTS"] == ""
    assert node["REGISTRIES"] == "images.test"
    old, new = '"Network": "10.244.0.0/16"', '"Network": "@POD_SUBNET@"'
    assert node["MANIFEST_REPLACE"] == f"manifests/net/net.yml\t{old}\t{new}"
    assert all(isinstance(value, str) for value in node.values())


def test_addon_by_choice(site: Site) -> None:
    site.run("build", "--with", "extra", "-o", "extra.tar")
    node = contract(site.root / "extra.tar")["node"]
    assert isinstance(node, dict)
    assert node["ADDON_MANIFESTS"] == "manifests/extra/extra.yaml"


def test_two_architectures(site: Site) -> None:
    site.run("build", "--arch", "arm64", code=3)
    shutil.copytree(site.root / "locks", site.root / "locks2")
    both = ["--arch", "amd64", "--arch", "arm64", "--lock-dir", "locks2"]
    site.run("lock", *both)
    site.run("build", *both, "-o", "both.tar")
    found = contract(site.root / "both.tar")
    assert [image["platforms"] for image in found["images"]] == [["linux/amd64", "linux/arm64"]] * 3  # type: ignore[attr-defined]
    paths = [entry["path"] for entry in found["files"]]  # type: ignore[attr-defined]
    assert {"bin/amd64/kubectl", "bin/arm64/kubectl"} <= set(paths)


def test_signed_bundle_is_checked_by_openssl(site: Site, tmp_path: Path) -> None:
    private, public = run(sys.executable, "-m", "bundler", "keygen", tmp_path).stdout.split()
    site.run("build", "--key", private, "-o", "signed.tar")
    once = digest(site.root / "signed.tar")
    (site.root / "signed.tar").unlink()
    site.run("build", "--key", private, "-o", "signed.tar")
    assert digest(site.root / "signed.tar") == once
    run("tar", "xf", site.root / "signed.tar", "-C", tmp_path, "SHA256SUMS", "SHA256SUMS.sig")
    checked = run("openssl", "dgst", "-sha256", "-verify", public, "-signature", "SHA256SUMS.sig", "SHA256SUMS",
                  cwd=tmp_path)
    assert checked.stdout == "Verified OK\n"
    found = run(sys.executable, "-m", "bundler", "verify", "--key", public, site.root / "signed.tar")
    assert f"signed by {public}" in found.stdout
    run(sys.executable, "-m", "bundler", "verify", "--key", public, site.root / "kubecarry-v1.20.2-el7-amd64.tar",
        code=6)


def test_bill_of_materials_has_every_locked_digest(site: Site, unpacked: Path) -> None:
    document = json.loads((unpacked / "sbom.cdx.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert document["metadata"]["timestamp"] == "2021-01-13T00:00:00Z"
    digests = {entry["content"] for component in document["components"] for entry in component["hashes"]}
    locked = "".join((site.root / "locks" / name).read_text() for name in ("rpms.lock", "images.lock"))
    assert len(digests) == 3 + 3 + 3
    assert sum(digest in locked for digest in digests) == 3 + 3 + 1
    kubelet = next(c for c in document["components"] if c["name"] == "kubelet")
    assert kubelet["purl"] == "pkg:rpm/kubelet@1.20.2-0?arch=noarch&distro=el7"
    assert kubelet["licenses"] == [{"license": {"name": "Apache-2.0"}}]
    assert len({component["bom-ref"] for component in document["components"]}) == len(document["components"])


def test_inspect_says_what_is_inside(bundle: Path) -> None:
    text = run(sys.executable, "-m", "bundler", "inspect", bundle).stdout
    assert "Kubernetes v1.20.2, amd64" in text
    assert "images.test/pause:3.2  sha256:" in text
    facts = json.loads(run(sys.executable, "-m", "bundler", "inspect", "--json", bundle).stdout)
    assert facts["roles"]["el7"]["master"]["packages"] == 3
    assert facts["size"] == bundle.stat().st_size
    assert not facts["signed"]


def test_second_build_finds_the_first(site: Site, bundle: Path) -> None:
    before, asked = bundle.stat(), len(site.files.log) + len(site.registry.blobs)
    start = time.monotonic()
    again = site.run("build")
    assert time.monotonic() - start < 5
    assert "is there already, unchanged" in again.stderr
    assert (bundle.stat().st_ino, bundle.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(site.files.log) + len(site.registry.blobs) == asked


def test_different_output_is_replaced_at_once(site: Site, bundle: Path) -> None:
    wanted = digest(bundle)
    other = site.root / "other.tar"
    for content in (b"", b"something else", bytes(bundle.stat().st_size), bundle.read_bytes()[:-1] + b"\1"):
        other.write_bytes(content)
        with other.open("rb") as held:
            site.run("build", "-o", "other.tar")
            # Who had the old file open keeps the old file: the new one came by rename.
            assert held.read() == content
        assert digest(other) == wanted
    assert not list(site.root.glob(".*.partial"))


def test_damaged_cache_never_reaches_a_bundle(site: Site, bundle: Path) -> None:
    wanted = digest(bundle)
    files = sorted(path for path in (site.root / "cache/sha256").rglob("*") if path.is_file())
    assert len(files) > 15
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    built = site.run("build", "-o", "healed.tar")
    assert "fetching it again" in built.stderr
    assert digest(site.root / "healed.tar") == wanted


def test_dry_run_fetches_no_content(site: Site) -> None:
    before = len(site.files.log), len(site.registry.blobs)
    told = site.run("build", "--dry-run", "--cache-dir", "empty")
    assert (len(site.files.log), len(site.registry.blobs)) == before
    lines = told.stdout.splitlines()
    assert len(lines) == 15
    assert any(line.startswith("fetch") and line.endswith("kubelet-1.20.2-0.noarch.rpm") for line in lines)
    assert "15 of 15 files to fetch, 8" in told.stderr
    assert "0 of 15 files" in site.run("build", "--dry-run").stderr
    assert not list((site.root / "empty").rglob("*.tar"))


def test_time_stamp_can_be_given(site: Site) -> None:
    site.run("build", "-o", "dated.tar", env={"SOURCE_DATE_EPOCH": "86400"})
    assert contract(site.root / "dated.tar")["created"] == 86400
    listed = run("tar", "--utc", "--full-time", "-tvf", site.root / "dated.tar").stdout
    assert all(" 1970-01-02 00:00:00 " in line for line in listed.splitlines())
    refused = site.run("build", env={"SOURCE_DATE_EPOCH": "yesterday"}, code=3)
    assert "SOURCE_DATE_EPOCH=yesterday" in refused.stderr


def test_former_bundle_is_a_source(site: Site, bundle: Path) -> None:
    asked = len(site.files.log) + len(site.registry.blobs)
    site.run("build", "--source", bundle, "--cache-dir", "from-bundle", "-o", "again.tar")
    assert digest(site.root / "again.tar") == digest(bundle)
    assert len(site.files.log) + len(site.registry.blobs) == asked
