"""Ready repository files in stock dnf and apt: signed packages install, a signature by somebody else is refused."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from urllib.request import urlopen

import createrepo_c
import pytest

from tests.bundles import make_bundle
from tests.integration.managers import Dnf, apt, run
from tests.integration.upstream import rpms
from tests.serving import Server, serving

USERS = ("ours@example.org", "theirs@example.org")


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A gpg home with a key for each of USERS."""
    home = tmp_path_factory.mktemp("gnupg")
    home.chmod(0o700)
    for user in USERS:
        run("gpg", "--homedir", home, "--batch", "--passphrase", "", "--quick-generate-key", user, "rsa2048")
    yield home
    run("gpgconf", "--homedir", home, "--kill", "gpg-agent")


def export(ring: Path, user: str, *options: str) -> bytes:
    command = ["gpg", "--homedir", str(ring), "--batch", *options, "--export", user]
    return subprocess.run(command, check=True, capture_output=True).stdout


def sign(ring: Path, data: bytes, option: str) -> bytes:
    command = ["gpg", "--homedir", str(ring), "--batch", "--armor", "--local-user", USERS[0], option]
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout


def contents(folder: Path, prefix: str) -> dict[str, bytes]:
    return {f"{prefix}{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def yum_repository(folder: Path, ring: Path) -> dict[str, bytes]:
    """Two packages, one signed by a key of the bundle, one by another; metadata signed by the bundle's."""
    for name, user in zip(("good", "bad"), USERS):
        path = rpms.build(folder, name, "1.0")
        run("rpmsign", "--define", f"_gpg_name {user}", "--define", "__gpg /usr/bin/gpg", "--addsign", path,
            env={**os.environ, "GNUPGHOME": str(ring)})  # fmt: skip
    shutil.rmtree(folder / "top")
    paths = sorted(folder.glob("*.rpm"))
    with createrepo_c.RepositoryWriter(str(folder), num_packages=2, compression=createrepo_c.GZ_COMPRESSION) as writer:
        for path in paths:
            writer.add_pkg(createrepo_c.package_from_rpm(str(path), location_href=path.name))
    repomd = folder / "repodata/repomd.xml"
    (folder / "repodata/repomd.xml.asc").write_bytes(sign(ring, repomd.read_bytes(), "--detach-sign"))
    return contents(folder, "packages/el7/")


def deb_repository(folder: Path, ring: Path) -> dict[str, bytes]:
    """A flat repository with one package."""
    (folder / "work/DEBIAN").mkdir(parents=True)
    (folder / "work/DEBIAN/control").write_text(
        "Package: tool\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    run("dpkg-deb", "--build", "-Znone", folder / "work", folder / "tool_1_all.deb")
    shutil.rmtree(folder / "work")
    packages = run("dpkg-scanpackages", "-m", ".", cwd=folder).stdout.encode()
    (folder / "Packages").write_bytes(packages)
    (folder / "Packages.gz").write_bytes(gzip.compress(packages))
    sums = [
        f" {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} {path.name}"
        for path in sorted(folder.glob("Packages*"))
    ]
    release = "\n".join([f"Date: {formatdate(0, usegmt=True)}", "SHA256:", *sums, ""]).encode()
    (folder / "Release").write_bytes(release)
    (folder / "InRelease").write_bytes(sign(ring, release, "--clearsign"))
    return contents(folder, "packages/noble/")


@pytest.fixture(scope="module")
def bundle(ring: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("repos")
    members = {**yum_repository(top / "el7", ring), **deb_repository(top / "noble", ring)}
    members["packages/el7/keys/ours.asc"] = export(ring, USERS[0], "--armor")
    members["packages/noble/keys/ours.gpg"] = export(ring, USERS[0])  # binary: the server makes it text
    members["packages/wrong/keys/theirs.gpg"] = export(ring, USERS[1])
    for name in ("InRelease", "Packages"):
        members[f"packages/wrong/{name}"] = members[f"packages/noble/{name}"]
    hosts = {
        name: {"format": kind, "path": f"packages/{name}", "keys": [f"packages/{name}/keys/{key}"], "roles": {},
               "repo_key": f"packages/{name}/keys/{key}"}
        for name, kind, key in (
            ("el7", "rpm", "ours.asc"),
            ("noble", "deb", "ours.gpg"),
            ("wrong", "deb", "theirs.gpg"),
        )
    }
    return make_bundle(top / "b.tar", members, hosts=hosts)


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    with serving(bundle, bundle.parent) as found:
        yield found


@pytest.fixture(scope="module")
def secure(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(bundle, tmp_path_factory.mktemp("tls"), "--tls") as found:
        yield found


def ca(server: Server) -> Path:
    return server.output.parent / "state/ca.pem"


def fetched(server: Server, path: str) -> str:
    context = ssl.create_default_context(cafile=str(ca(server))) if server.url.startswith("https:") else None
    with urlopen(server.url + path, context=context) as reply:
        return str(reply.read().decode())


@pytest.mark.root
def test_dnf_checks_packages_and_metadata(server: Server, tmp_path: Path) -> None:
    text = fetched(server, "/repo/el7.repo")
    assert "gpgcheck=1\n" in text
    assert "repo_gpgcheck=1\n" in text
    dnf = Dnf(tmp_path, text)
    dnf("install", "good")
    assert (dnf.root / "opt/good/payload").stat().st_size == 100_000
    assert "GPG check FAILED" in dnf.refused("install", "bad")
    assert not (dnf.root / "opt/bad").exists()


def test_apt_takes_the_signed_repository(server: Server, tmp_path: Path) -> None:
    text = fetched(server, "/repo/noble.sources")
    assert "Trusted" not in text
    command = apt(tmp_path, text, "kubecarry.sources")
    run(*command, "update")
    run(*command, "install", "--download-only", "tool")
    assert list((tmp_path / "var/cache/apt/archives").glob("tool_1_all.deb"))


def test_apt_takes_the_line_with_a_key_file(server: Server, tmp_path: Path) -> None:
    key = tmp_path / "kubecarry.gpg"
    first, line = fetched(server, "/repo/noble.list").splitlines()
    assert f"{server.url}/packages/noble/keys/ours.gpg -o /etc/apt/keyrings/kubecarry.gpg" in first
    with urlopen(f"{server.url}/packages/noble/keys/ours.gpg") as reply:
        key.write_bytes(reply.read())
    line = line.replace("/etc/apt/keyrings/kubecarry.gpg", str(key))
    command = apt(tmp_path / "root", line + "\n", "kubecarry.list")
    run(*command, "update")
    assert "tool_1_all.deb" in run(*command, "install", "--print-uris", "tool").stdout


def test_apt_refuses_another_key(server: Server, tmp_path: Path) -> None:
    done = run(*apt(tmp_path, fetched(server, "/repo/wrong.sources"), "kubecarry.sources"), "update", check=False)
    assert done.returncode != 0
    assert "NO_PUBKEY" in done.stdout + done.stderr


@pytest.mark.root
def test_dnf_over_tls_trusts_the_ca_of_the_file_alone(secure: Server, tmp_path: Path) -> None:
    text = fetched(secure, "/repo/el7.repo")
    assert "sslcacert=/etc/pki/tls/certs/kubecarry.pem\n" in text
    given = text.replace("/etc/pki/tls/certs/kubecarry.pem", str(ca(secure)))
    dnf = Dnf(tmp_path / "with", given)
    dnf("install", "good")
    assert (dnf.root / "opt/good/payload").stat().st_size == 100_000
    without = "".join(line for line in given.splitlines(True) if not line.startswith("sslcacert"))
    assert "certificate" in Dnf(tmp_path / "without", without).refused("install", "good")


@pytest.mark.parametrize("suffix", ["sources", "list"])
def test_apt_over_tls_trusts_the_ca_of_its_note_alone(secure: Server, tmp_path: Path, suffix: str) -> None:
    key = tmp_path / "kubecarry.gpg"
    run("curl", "-fsS", "--cacert", ca(secure), f"{secure.url}/packages/noble/keys/ours.gpg", "-o", key)
    text = fetched(secure, f"/repo/noble.{suffix}").replace("/etc/apt/keyrings/kubecarry.gpg", str(key))
    (setting,) = (line.partition("apt.conf.d: ")[2] for line in text.splitlines() if "apt.conf.d" in line)
    setting = setting.replace("/etc/apt/kubecarry.pem", str(ca(secure)))
    command = apt(tmp_path / "with", text, f"kubecarry.{suffix}", setting)
    run(*command, "update")
    run(*command, "install", "--download-only", "tool")
    assert list((tmp_path / "with/var/cache/apt/archives").glob("tool_1_all.deb"))
    refused = run(*apt(tmp_path / "without", text, f"kubecarry.{suffix}"), "update", check=False)
    assert refused.returncode != 0
    assert "certificate" in refused.stdout + refused.stderr
