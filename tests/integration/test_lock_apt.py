"""libsolv against apt: the same real debs, the same signed repository, the same minimal host, the same answer."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bundler.errors import IntegrityError, ResolveError
from bundler.fetch.http import Client
from bundler.fetch.mirrors import Mirrors
from bundler.locked import ArchLock
from bundler.manifest import Host, Repo
from bundler.resolve.deb import resolve_arch
from tests.integration.upstream import debs
from tests.integration.upstream.debs import run

# name_version[_arch], then its other fields
DEBS = {
    "base-files_12": ["Essential: yes", "Depends: shell | mawk"],
    "shell_5-1": [],
    "mawk_1-1": [],
    "libc6_2.36-9+deb12u4": ["Multi-Arch: same"],
    "kubelet_1.20.2-00": [
        "Depends: libc6 (>= 2.17), kubernetes-cni (>= 0.8.7), conntrack, iptables | nftables, mta, python3:any",
        "Recommends: extra",
    ],
    "kubelet_1.20.4-00": ["Depends: libc6 (>= 2.17), kubernetes-cni (>= 0.8.7)"],
    "kubelet_1.20.10~rc1-00": ["Depends: nowhere"],
    "kubernetes-cni_0.8.7-00": [],
    "kubernetes-cni_0.10.1-00": ["Pre-Depends: loader (<< 2)"],
    "loader_1.9~beta": [],
    "loader_1.9": [],
    "nftables_1-1": [],
    "zz-iptables_1": ["Provides: iptables (= 1.8.9)", "Priority: extra"],
    "aa-iptables_1": ["Provides: iptables", "Priority: optional", "Depends: mawk"],
    "conntrack_1:1.4.7-1": ["Depends: shell (= 5-1), tool"],
    "tool_1_all": [],
    "exim_4-1": ["Provides: mta", "Conflicts: mta", "Priority: extra"],
    "postfix_3-1": ["Provides: mta", "Conflicts: mta", "Priority: standard", "Depends: iptables (>= 1.8)"],
    "python3_3.11-1": ["Multi-Arch: allowed"],
    "extra_1": [],
    "containerd_1.6-1": ["Depends: runc (>= 1.0), libseccomp2 (>= 2.5)", "Breaks: docker (<< 20)"],
    "runc_1.1-1": [],
    "docker_18-1": [],
    "docker_20-1": ["Depends: containerd | dockerd", "Suggests: extra"],
    "broken_1": ["Depends: libc6 (>= 3)"],
}
INSTALLED = {"libseccomp2": "2.5.4-1", "libc6": "2.36-9+deb12u4"}
ROLES = [
    ["kubelet=1.20.2-00", "nftables"],
    ["kubelet=1.20.4-00", "docker", "runc"],
    ["conntrack", "exim"],
    ["postfix", "kubernetes-cni"],
]


class Site:
    """A signed repository with a suite and a flat one, served on loopback."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url

    def release(self, folder: str, base: str = "") -> None:
        """Write Packages, Release, InRelease and Release.gpg of a folder for the debs in pool/."""
        debs.publish(self.root, self.root.parent / "gnupg", "repo@example.org", folder, base)

    def repo(self, **changes: object) -> Repo:
        repo = Repo("main", self.url, (f"{self.url}/key.asc",), True, False, "stable", ("main",))
        return replace(repo, **changes)

    def resolve(self, specs: list[str], repo: Repo | None = None) -> ArchLock:
        roles = {"master": tuple(spec.replace("=", "-") for spec in specs), "node": ("tool",)}
        installed = tuple(f"{name} = {version}" for name, version in INSTALLED.items())
        host = Host("bookworm", "deb", (repo or self.repo(),), installed, roles)
        client = Client(Mirrors.parse(), retries=0)
        try:
            self.told: list[str] = []
            return resolve_arch(host, "amd64", client, warn=self.told.append)
        finally:
            client.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    top = tmp_path_factory.mktemp("apt")
    (top / "www/pool").mkdir(parents=True)
    for user in ("repo@example.org", "other@example.org"):
        debs.make_key(top / "gnupg", user)
    debs.export(top / "gnupg", "repo@example.org", top / "www/key.asc", "--armor")
    debs.export(top / "gnupg", "repo@example.org", top / "www/key.gpg")
    debs.export(top / "gnupg", "other@example.org", top / "www/other.gpg")
    for name, fields in DEBS.items():
        debs.build(top / "www/pool", top / "work", name, fields)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(top / "www")))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    found = Site(top / "www", f"http://127.0.0.1:{server.server_port}")
    found.release("dists/stable", "main/binary-amd64")
    yield found
    server.shutdown()
    server.server_close()
    thread.join()
    run("gpgconf", "--homedir", top / "gnupg", "--kill", "gpg-agent")


@pytest.fixture(scope="module")
def apt(site: Site, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """apt-get with a root of its own that holds the minimal host, and nothing of this machine's configuration."""
    root = tmp_path_factory.mktemp("aptroot")
    for folder in ("etc/apt/sources.list.d", "etc/apt/preferences.d", "etc/apt/apt.conf.d", "var/lib/apt/lists/partial",
                   "var/cache/apt/archives/partial", "var/lib/dpkg"):  # fmt: skip
        (root / folder).mkdir(parents=True)
    (root / "etc/apt/sources.list").write_text(f"deb [signed-by={site.root}/key.asc] {site.url} stable main\n")
    status = {**INSTALLED, "base-files": "12", "shell": "5-1"}
    stanzas = [
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\nArchitecture: amd64\n"
        f"Maintainer: x <x@example.org>\nDescription: x\n"
        for name, version in status.items()
    ]
    (root / "var/lib/dpkg/status").write_text("\n".join(stanzas))
    (root / "apt.conf").write_text(
        f'Dir "{root}";\nDir::State::status "{root}/var/lib/dpkg/status";\nAPT::Architecture "amd64";\n'
        'APT::Architectures { "amd64"; };\nAPT::Install-Recommends "false";\nAPT::Sandbox::User "root";\n'
        'Acquire::http::Proxy "DIRECT";\nAcquire::Languages "none";\nAcquire::ForceHash "SHA256";\n'
    )
    config = ["env", f"APT_CONFIG={root}/apt.conf", "apt-get", "-q"]
    run(*config, "update")
    return config


def uris(output: str) -> dict[str, tuple[str, int]]:
    """Return (sha256, size) by file name out of what --print-uris says."""
    found = {}
    for line in output.splitlines():
        if line.startswith("'http"):
            url, _, size, digest = line.split()
            found[url.strip("'").rpartition("/")[2]] = (digest.removeprefix("SHA256:"), int(size))
    return found


@pytest.mark.parametrize("specs", ROLES, ids=" ".join)
def test_same_set_as_apt(site: Site, apt: list[str], specs: list[str]) -> None:
    said = uris(run(*apt, "-y", "install", "--print-uris", *specs))
    lock = site.resolve(specs)
    carried = {
        p.url.rpartition("/")[2]: (p.sha256, p.size) for p in lock.packages if p.filename in lock.roles["master"]
    }
    assert carried == said
    assert len(carried) >= len(specs)


def test_both_refuse_what_cannot_be_installed(site: Site, apt: list[str]) -> None:
    said = run(*apt, "-y", "install", "--print-uris", "broken", code=100)
    assert "libc6 (>= 3)" in said
    with pytest.raises(ResolveError, match=r"nothing provides libc6 >= 3 needed by broken-1"):
        site.resolve(["broken"])


class TestTrust:
    def test_binary_key_and_flat_repository(self, site: Site) -> None:
        site.release("")
        flat = site.repo(suite="./", components=(), keys=(f"{site.url}/key.gpg",))
        lock = site.resolve(["tool"], flat)
        assert [package.name for package in lock.packages] == ["tool"]
        assert lock.packages[0].source == f"{site.url}/InRelease"
        assert lock.packages[0].url == f"{site.url}/pool/tool_1_all.deb"

    def test_release_beside_its_signature(self, site: Site) -> None:
        site.release("dists/old", "main/binary-amd64")
        (site.root / "dists/old/InRelease").unlink()
        (package,) = site.resolve(["tool"], site.repo(suite="old")).packages
        assert package.source == f"{site.url}/dists/old/Release"

    def test_signed_by_somebody_else(self, site: Site) -> None:
        with pytest.raises(IntegrityError, match=r"stable/InRelease: its signature is not good: .*No public key"):
            site.resolve(["tool"], site.repo(keys=(f"{site.url}/other.gpg",)))

    def test_signed_by_somebody_else_as_well(self, site: Site) -> None:
        site.release("dists/twice", "main/binary-amd64")
        top, ring = site.root / "dists/twice", site.root.parent / "gnupg"
        for users in (("repo@example.org", "other@example.org"), ("other@example.org", "repo@example.org")):
            debs.sign(top, ring, *users)
            assert [p.name for p in site.resolve(["tool"], site.repo(suite="twice")).packages] == ["tool"]
        path = top / "InRelease"
        path.write_text(path.read_text().replace("Codename: stable", "Codename: unstable"))
        with pytest.raises(IntegrityError, match="BAD signature"):
            site.resolve(["tool"], site.repo(suite="twice"))

    def test_changed_after_it_was_signed(self, site: Site) -> None:
        site.release("dists/bad", "main/binary-amd64")
        path = site.root / "dists/bad/InRelease"
        path.write_text(path.read_text().replace("Codename: stable", "Codename: unstable"))
        with pytest.raises(IntegrityError, match="BAD signature"):
            site.resolve(["tool"], site.repo(suite="bad"))

    def test_words_outside_of_the_signed_part_count_for_nothing(self, site: Site) -> None:
        site.release("dists/more", "main/binary-amd64")
        path = site.root / "dists/more/InRelease"
        lie = f"SHA256:\n {'0' * 64} 1 main/binary-amd64/Packages.gz\n"
        path.write_text(lie + path.read_text() + lie)
        assert [p.name for p in site.resolve(["tool"], site.repo(suite="more")).packages] == ["tool"]

    def test_packages_that_release_does_not_vouch_for(self, site: Site) -> None:
        site.release("dists/cut", "main/binary-amd64")
        path = site.root / "dists/cut/main/binary-amd64/Packages.gz"
        path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(IntegrityError, match=r"cut/main/binary-amd64/Packages\.gz: is not what .*InRelease says"):
            site.resolve(["tool"], site.repo(suite="cut"))

    def test_a_release_that_has_ended_is_told(self, site: Site) -> None:
        site.release("dists/ended", "main/binary-amd64")
        top = site.root / "dists/ended"
        text = (top / "Release").read_text()
        (top / "Release").write_text(f"Valid-Until: Sat, 01 Feb 2020 00:00:00 UTC\n{text}")
        debs.sign(top, site.root.parent / "gnupg", "repo@example.org")
        assert site.resolve(["tool"], site.repo(suite="ended")).packages
        (line,) = site.told
        assert line.startswith(f"bookworm amd64: {site.url}/dists/ended/InRelease ended on 2020-02-01: the mirror")
        site.resolve(["tool"])
        assert site.told == []

    def test_component_that_is_not_there(self, site: Site) -> None:
        with pytest.raises(ResolveError, match="lists no contrib/binary-amd64/Packages"):
            site.resolve(["tool"], site.repo(components=("contrib",)))
