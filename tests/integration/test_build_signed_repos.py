"""Repositories that a build signs: the same bytes each time, and stock dnf and apt that check them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from bundler import debrepo
from bundler.errors import HostError
from bundler.reposign import GpgKey, keygen, open_key
from tests.bundles import make_bundle, unpack
from tests.integration.managers import Dnf, apt, run
from tests.integration.upstream import files
from tests.integration.upstream import site as upstream
from tests.integration.upstream.site import Site
from tests.serving import Server, serving

VENDOR = "vendor@example.org"


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A gpg home with the key of a vendor of packages, and keys of other kinds."""
    home = tmp_path_factory.mktemp("gnupg")
    home.chmod(0o700)
    for user, kind in ((VENDOR, "rsa2048"), ("ed@example.org", "ed25519"), ("nist@example.org", "nistp256")):
        run("gpg", "--homedir", home, "--batch", "--passphrase", "", "--quick-generate-key", user, kind, "sign")
    yield home
    run("gpgconf", "--homedir", home, "--kill", "all")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    keygen(folder)
    return folder


@pytest.fixture(scope="module")
def site(ring: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An upstream whose packages the vendor has signed."""
    with upstream.serve(tmp_path_factory.mktemp("site"), payload=20_000) as found:
        top = found.root / "upstream"
        for path in (top / "repo").glob("*.rpm"):
            run("rpmsign", "--define", f"_gpg_name {VENDOR}", "--define", "__gpg /usr/bin/gpg", "--addsign", path,
                env={**os.environ, "GNUPGHOME": str(ring)})  # fmt: skip
        run("createrepo_c", "--quiet", top / "repo")
        (top / "key.gpg").write_text(run("gpg", "--homedir", ring, "--armor", "--export", VENDOR).stdout)
        found.run("lock")
        yield found


@pytest.fixture(scope="module")
def bundle(site: Site, keys: Path) -> Path:
    site.run("build", "--repo-key", keys / "kubecarry-repo.key", "-o", "signed.tar")
    return site.root / "signed.tar"


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(bundle, tmp_path_factory.mktemp("served")) as found:
        yield found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetched(server: Server, path: str) -> str:
    with urlopen(server.url + path) as reply:
        return str(reply.read().decode())


def test_two_builds_are_alike_with_their_signatures(site: Site, bundle: Path, keys: Path, tmp_path: Path) -> None:
    """From a file, and by fingerprint out of a keyring with a configuration of its own; at other times and places."""
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    (home / "gpg.conf").write_text("digest-algo SHA512\ncomment hello\nemit-version\nuse-embedded-filename\n")
    run("gpg", "--homedir", home, "--batch", "--import", keys / "kubecarry-repo.key")
    listed = run("gpg", "--homedir", home, "--with-colons", "--list-secret-keys").stdout
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
    env = {"GNUPGHOME": str(home), "TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8"}
    site.run("build", "--repo-key", fingerprint, "-o", "again.tar", "--cache-dir", tmp_path / "cache", env=env)
    run("gpgconf", "--homedir", home, "--kill", "all")
    assert digest(site.root / "again.tar") == digest(bundle)


def test_the_contract_names_the_key_and_nodes_can_import_it(server: Server, tmp_path: Path) -> None:
    host = json.loads(fetched(server, "/bundle.json"))["hosts"]["el7"]
    assert host["repo_key"].startswith("packages/el7/keys/repository-")
    assert host["keys"] == ["packages/el7/keys/key.gpg", host["repo_key"]]
    key, rpm = tmp_path / "key.asc", ["rpm", "--dbpath", tmp_path / "rpmdb"]
    key.write_text(fetched(server, "/" + host["repo_key"]))
    run(*rpm, "--import", key)
    assert "Kubecarry repository" in run(*rpm, "-qa", "--qf", "%{summary}\n", "gpg-pubkey*").stdout


def test_it_is_built_again_without_the_secret_key(site: Site, bundle: Path) -> None:
    rest = (str(bundle), "--manifests", "manifests", "--lock-dir", "locks", "--cache-dir", "cache", *site.mirrors)
    command = [sys.executable, "-m", "bundler", "verify", "--rebuild", *rest]
    assert "the same as the locks give, bit for bit" in upstream.run(*command, cwd=site.root).stdout


@pytest.mark.root
def test_dnf_checks_packages_and_metadata(server: Server, tmp_path: Path) -> None:
    text = fetched(server, "/repo/el7.repo")
    assert "gpgcheck=1\n" in text
    assert "repo_gpgcheck=1\n" in text
    dnf = Dnf(tmp_path, text)
    dnf("install", "kubelet")
    assert (dnf.root / "opt/kubelet/payload").stat().st_size == 20_000


@pytest.mark.root
def test_a_role_s_repository_has_what_the_role_consists_of(server: Server, bundle: Path, tmp_path: Path) -> None:
    """Signed like the whole, over HTTP and from the unpacked tree."""
    tree = unpack(bundle, tmp_path / "tree")
    text = fetched(server, "/repo/el7-node.repo")
    assert "repo_gpgcheck=1\n" in text
    for name, url in (("http", server.url), ("file", f"file://{tree}")):
        dnf = Dnf(tmp_path / name, text.replace(server.url, url))
        dnf("install", "kubelet")
        assert (dnf.root / "opt/kubernetes-cni/payload").stat().st_size == 20_000
        assert "No match for argument: kubectl" in dnf.refused("install", "kubectl")
        assert "vendor" not in dnf("--setopt=gpgcheck=1", "install", "*").stderr
    master = Dnf(tmp_path / "master", fetched(server, "/repo/el7-master.repo"))
    listed = (tree / "lists/el7/master.packages").read_text().splitlines()
    found = master("repoquery", "--quiet", "--queryformat", "%{name}-%{version}-%{release}.%{arch}.rpm").stdout.split()
    assert sorted(found) == sorted(line.rpartition("/")[2] for line in listed)


@pytest.mark.root
def test_dnf_itself_refuses_metadata_that_changed(server: Server, bundle: Path, tmp_path: Path) -> None:
    tree = unpack(bundle, tmp_path / "tree")
    repomd = tree / "packages/el7/repodata/repomd.xml"
    repomd.write_bytes(repomd.read_bytes().replace(b"<revision>1", b"<revision>2"))
    with files.serve(tree) as liar:  # our own server does not give out what has changed
        text = fetched(server, "/repo/el7.repo").replace(server.url, liar.url)
        said = Dnf(tmp_path / "dnf", text).refused("install", "kubelet")
    assert "repomd.xml GPG signature verification error" in said


@pytest.fixture(scope="module")
def debs(ring: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A flat repository of one package, signed as a build signs it."""
    top = tmp_path_factory.mktemp("debs")
    (top / "work/DEBIAN").mkdir(parents=True)
    (top / "work/DEBIAN/control").write_text(
        "Package: tool\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    run("dpkg-deb", "--build", "-Znone", top / "work", top / "tool_1_all.deb")
    deb = (top / "tool_1_all.deb").read_bytes()
    made = debrepo.build([debrepo.Deb("tool_1_all.deb", top / "tool_1_all.deb", hashlib.sha256(deb).hexdigest())],
                         "noble", 1610496000)
    signed = sign(ring, "ed@example.org", "deb", made)
    key = "packages/noble/" + next(name for name in signed if name.startswith("keys/"))
    members = {f"packages/noble/{name}": data for name, data in {**made, **signed, "tool_1_all.deb": deb}.items()}
    host = {"format": "deb", "path": "packages/noble", "keys": [key], "repo_key": key, "roles": {}}
    with serving(make_bundle(top / "b.tar", members, hosts={"noble": host}), top) as found:
        yield found


def sign(ring: Path, user: str, kind: str, metadata: dict[str, bytes]) -> dict[str, bytes]:
    listed = run("gpg", "--homedir", ring, "--with-colons", "--list-secret-keys", user).stdout.splitlines()
    fields = listed[0].split(":")
    key = GpgKey(ring, listed[1].split(":")[9], fields[3], int(fields[5]))
    return key.sign("host", kind, metadata, 1610496000)


@pytest.mark.parametrize("suffix", ["sources", "list"])
def test_apt_checks_what_a_build_signed(debs: Server, tmp_path: Path, suffix: str) -> None:
    text = fetched(debs, f"/repo/noble.{suffix}")
    assert "rusted" not in text
    name = json.loads(fetched(debs, "/bundle.json"))["hosts"]["noble"]["repo_key"]
    (tmp_path / "key.asc").write_text(fetched(debs, "/" + name))
    command = apt(tmp_path / "root", text.replace("/etc/apt/keyrings/kubecarry.asc", f"{tmp_path}/key.asc"),
                  f"kubecarry.{suffix}")
    run(*command, "update")
    run(*command, "install", "--download-only", "tool")
    assert list((tmp_path / "root/var/cache/apt/archives").glob("tool_1_all.deb"))


def test_apt_itself_refuses_metadata_that_changed(debs: Server, tmp_path: Path) -> None:
    tree = unpack(debs.output.parent / "b.tar", tmp_path / "tree")
    release = tree / "packages/noble/InRelease"
    release.write_bytes(release.read_bytes().replace(b"Suite: noble", b"Suite: doble"))
    with files.serve(tree) as liar:
        text = fetched(debs, "/repo/noble.sources").replace(debs.url, liar.url)
        refused = run(*apt(tmp_path / "root", text, "kubecarry.sources"), "update", check=False)
    assert refused.returncode != 0
    assert "BADSIG" in refused.stdout + refused.stderr


@pytest.mark.parametrize("user", [VENDOR, "ed@example.org", "nist@example.org"])
def test_a_signature_is_the_same_each_time_and_no_older_than_its_key(ring: Path, user: str) -> None:
    first, second = (sign(ring, user, "deb", {"Release": b"Suite: x\n"}) for _ in range(2))
    assert first == second


def test_a_key_that_signs_at_random_is_refused(ring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gpg whose signatures differ each time, as those of a card may."""
    (tmp_path / "gpg").write_text("#!/bin/sh\ncat >/dev/null; date +%s%N\n")
    (tmp_path / "gpg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(HostError, match="differently each time"):
        GpgKey(ring, "F" * 40, "19", 0).sign("noble", "deb", {"Release": b"x"}, 1)


def test_keys_that_cannot_sign_a_repository(site: Site, ring: Path, keys: Path, tmp_path: Path) -> None:
    ed = tmp_path / "ed.key"
    ed.write_text(run("gpg", "--homedir", ring, "--armor", "--export-secret-keys", "ed@example.org").stdout)
    locked = tmp_path / "locked.key"
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    run("gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", "secret",
        "--quick-generate-key", "x@example.org", "rsa2048", "sign")
    locked.write_text(run("gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", "secret",
                          "--armor", "--export-secret-keys").stdout)
    run("gpgconf", "--homedir", home, "--kill", "all")
    env = {"GNUPGHOME": str(home)}
    for key, told in ((ed, "not RSA"), (keys / "kubecarry-repo.asc", "no secret key"), (locked, "without passphrase"),
                      (site.root / "manifests/1.20.yaml", "keygen --repo"), ("nobody@example.org", "keygen --repo")):
        done = site.run("build", "--repo-key", key, "-o", tmp_path / "none.tar", code=7, env=env)
        assert told in done.stderr, done.stderr
        assert not (tmp_path / "none.tar").exists()


def test_without_gpg_it_says_so(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError, match="gpg is not installed"), open_key(str(keys / "kubecarry-repo.key")):
        pass


def test_no_agent_stays_behind(site: Site, keys: Path, tmp_path: Path) -> None:
    """gpg starts an agent for each home; the one of a build goes with it."""
    env = {"TMPDIR": str(tmp_path)}
    site.run("build", "--repo-key", keys / "kubecarry-repo.key", "-o", "third.tar", env=env)
    assert not list(tmp_path.glob("bundler-*"))
    agents = subprocess.run(["pgrep", "-af", f"gpg-agent.*{tmp_path}"], capture_output=True, text=True, check=False)
    assert agents.stdout == ""
    assert shutil.which("pgrep")
