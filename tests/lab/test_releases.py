"""Every release that is shipped, locked and built from its manifest as it is; its roles as dnf would choose them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import createrepo_c
import pytest
import yaml

from tests.lab import paper
from tests.lab.paperrpm import rpm
from tests.lab.upstream import driver, servers

RELEASES = sorted(path.stem for path in paper.MANIFESTS.glob("[0-9]*.yaml"))
PROJECT = Path(__file__).parents[2]


def manifest(release: str) -> dict[str, Any]:
    return dict(yaml.safe_load((paper.MANIFESTS / f"{release}.yaml").read_text()))


# Hosts of Debian's kind have no upstream of paper: test_hosts_mixed.py locks, builds and installs them.
HOSTS = [
    (release, name)
    for release in RELEASES
    for name, host in manifest(release)["hosts"].items()
    if host["format"] == "rpm"
]


def addons(release: str) -> set[str]:
    """Every add-on that is shipped for a release."""
    every = [yaml.safe_load(path.read_text()) for path in (paper.MANIFESTS / "addons").glob("*.yaml")]
    return {addon["addon"] for addon in every if {release, release.partition("-")[0]} & set(addon["releases"])}


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Well-formed empty packages and small images under the true names of all releases; the mirrors that lead there."""
    with paper.upstream(tmp_path_factory.mktemp("paper"), *RELEASES) as mirrors:
        yield mirrors


@pytest.fixture(scope="module")
def lab() -> Iterator[Path]:
    """The lab's own upstream, with real packages and images of 1.20 on EL7; the mirrors that lead there."""
    ran = all(servers.status().values())
    driver.build()
    yield driver.start()
    if not ran:
        servers.stop()


@dataclass
class Site:
    """A folder for locks and bundles of a release on a host, and the words that choose it."""

    root: Path
    choice: list[str]

    def run(self, *words: str | Path) -> str:
        """Run a Python program of ours, which must succeed; returns its stdout."""
        command = [sys.executable, "-m", *map(str, words)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def bundler(self, verb: str, *words: str | Path, cache: str = "cache") -> str:
        """Lock or build with the manifests as they are shipped."""
        return self.run("bundler", verb, *self.choice, "--cache-dir", self.root / cache, *words)

    def locked(self, release: str, host: str) -> dict[str, Any]:
        return document(self.root / "rpms.lock", release, host)


def document(path: Path, release: str, host: str) -> dict[str, Any]:
    """The part of a lock that is about one release on one host."""
    (found,) = (d for d in yaml.safe_load_all(path.read_text()) if (d["release"], d["os"]) == (release, host))
    return dict(found)


def lock(root: Path, release: str, host: str, mirrors: Path, *choice: str) -> Site:
    words = ["--version", release, "--os", host, "--lock-dir", str(root), "--config", str(mirrors), "-q", *choice]
    site = Site(root, words)
    site.bundler("lock")
    return site


def check_bundle(site: Site, host: str, arches: list[str]) -> dict[str, Any]:
    """Build, have both sides verify it, and build again from nothing; returns what inspect tells of it."""
    bundle, again = site.root / "bundle.tar", site.root / "again.tar"
    site.bundler("build", "-o", bundle)
    for program in ("bundler", "installer"):
        assert f"{bundle}: ok, " in site.run(program, "verify", bundle).lower()
    site.bundler("build", "-o", again, "-j", "1", cache="another")
    assert hashlib.sha256(bundle.read_bytes()).digest() == hashlib.sha256(again.read_bytes()).digest()
    again.unlink()
    listed = subprocess.run(["tar", "-xOf", bundle, "bundle.json", "closure.json"], capture_output=True, check=True)
    contract, end = json.JSONDecoder().raw_decode(listed.stdout.decode())
    proof = json.loads(listed.stdout.decode()[end:])
    assert contract["arches"] == arches
    assert list(contract["hosts"]) == list(proof["proven"]["roles"]) == [host]
    for role, proven in proof["proven"]["roles"][host].items():
        assert (proven["packages"] > 1, proven["assumed"]) == (True, []), role
    assert {image["ref"] for image in proof["proven"]["images"]} == {image["ref"] for image in contract["images"]}
    return dict(contract)


@pytest.mark.parametrize(("release", "host"), HOSTS)
def test_every_release_with_all_its_addons(stand_ins: Path, tmp_path: Path, release: str, host: str) -> None:
    wanted = manifest(release)
    chosen = [word for name in sorted(addons(release)) for word in ("--with", name)]
    site = lock(tmp_path, release, host, stand_ins, "--arch", ",".join(wanted["arches"]), *chosen)
    contract = check_bundle(site, host, wanted["arches"])
    assert {addon["name"] for addon in contract["addons"]} == addons(release)
    assert contract["kubernetes"] == wanted["kubernetes"]
    carried = {image["ref"] for image in contract["images"]}
    assert {image if isinstance(image, str) else image["ref"] for image in wanted["images"]} <= carried
    platforms = [f"linux/{arch}" for arch in wanted["arches"]]
    assert all(image["platforms"] == platforms for image in contract["images"])
    asked = {spec for role in wanted["hosts"][host]["roles"].values() for spec in role}
    assert not site.locked(release, host)["unresolved"]
    for arch in site.locked(release, host)["arches"]:
        names = [file.removesuffix(".rpm") for role in arch["roles"].values() for file in role]
        assert all(any(name.startswith(spec + "-") for name in names) for spec in asked)


def test_stand_ins_of_the_reference_release_have_the_shipped_versions(stand_ins: Path, tmp_path: Path) -> None:
    """What is chosen among the stand-ins is what the shipped lock pins: no more, no less, no other build."""
    site = lock(tmp_path, "1.8", "el7", stand_ins)
    found, shipped = (document(root / "rpms.lock", "1.8", "el7") for root in (site.root, PROJECT))
    keys = ("name", "evr", "repoid")
    evrs = [{tuple(p[key] for key in keys) for p in lock["arches"][0]["packages"]} for lock in (found, shipped)]
    assert evrs[0] == evrs[1]
    assert len(evrs[0]) == 14


@pytest.mark.root
@pytest.mark.lab
def test_release_of_real_packages_and_images(lab: Path, tmp_path: Path) -> None:
    site = lock(tmp_path, "1.20", "el7", lab)
    contract = check_bundle(site, "el7", ["amd64"])
    assert sum(file["size"] for file in contract["files"]) > 100_000_000, "these are real"
    kubelet = next(file for file in contract["files"] if "kubelet-1.20.2" in file["path"])
    assert kubelet["size"] > 10_000_000


ROLE_SETS = [
    ("1.20", "el7", "master", "lab"),
    ("1.20", "el8", "node", "paper"),
    ("1.20-docker", "el7", "master", "paper"),
    ("1.8", "el7", "master", "paper"),
    ("1.8-packages", "el7", "node", "paper"),
    ("1.36", "el9", "node", "paper"),
]


@pytest.mark.root
@pytest.mark.lab
@pytest.mark.parametrize(("release", "host", "role", "origin"), ROLE_SETS)
def test_roles_are_what_dnf_chooses(
    request: pytest.FixtureRequest, tmp_path: Path, release: str, host: str, role: str, origin: str
) -> None:
    mirrors = request.getfixturevalue("lab" if origin == "lab" else "stand_ins")
    (arch,) = lock(tmp_path, release, host, mirrors).locked(release, host)["arches"]
    wanted = manifest(release)["hosts"][host]
    dnf = Dnf(tmp_path / "dnf", wanted, yaml.safe_load(mirrors.read_text())["mirrors"])
    assert {Path(file).name for file in dnf.choose(wanted["roles"][role])} == set(arch["roles"][role])


class Dnf:
    """dnf with an installroot that holds a host's minimal system, and nothing of this machine's configuration."""

    def __init__(self, root: Path, host: dict[str, Any], mirrors: dict[str, str]) -> None:
        self.root = root
        root.mkdir()
        lines = [
            "[main]", "gpgcheck=0", f"reposdir={root}/none", f"cachedir={root}/cache", f"logdir={root}/log",
            f"persistdir={root}/state", f"pluginpath={root}/none", "install_weak_deps=0", "best=0",
            "module_platform_id=platform:el7",
        ]  # fmt: skip
        for repo in host["repos"]:
            url = repo["baseurl"].format(rpmarch="x86_64")
            prefix = next(mirror for mirror in mirrors if url.startswith(f"{mirror}/"))
            lines += [f"[{repo['id']}]", f"name={repo['id']}", f"baseurl={mirrors[prefix]}{url[len(prefix) :]}"]
            lines += ["module_hotfixes=1"] if repo.get("module_hotfixes") else []
        (root / "dnf.conf").write_text("\n".join(lines) + "\n")
        self._install_host(host["installed"])

    def choose(self, specs: list[str]) -> set[str]:
        """The files that dnf would install."""
        self.run("install", "--downloadonly", f"--downloaddir={self.root}/chosen", *specs)
        return {path.name for path in (self.root / "chosen").iterdir()}

    def _install_host(self, installed: list[str]) -> None:
        """Install what repositories have of the minimal host, and one package that provides the rest."""
        names = self.run("repoquery", "-q", "--qf", "%{name}").split()
        packages = [name for name in installed if name in names]
        provided = [text for text in installed if text not in packages]
        path = self.root / "host-1-0.noarch.rpm"
        path.write_bytes(rpm("host", "1", "noarch", provides=provided))
        assert createrepo_c.package_from_rpm(str(path)).name == "host"
        self.run("install", "--setopt=tsflags=noscripts", path, *packages)

    def run(self, *words: str | Path) -> str:
        command = ["dnf", "-y", "-c", self.root / "dnf.conf", "--releasever=7", "--forcearch=x86_64",
                   f"--installroot={self.root}/root", *words]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
        return done.stdout
