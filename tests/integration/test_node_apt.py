"""The source and the configuration that deploy.sh makes for apt, read by the real apt-get of this machine."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from bundler import debrepo
from tests.integration.upstream import debs
from tests.shell.stream import Shell

pytestmark = pytest.mark.root
OURS, THEIRS = "ours@example.org", "theirs@example.org"
OFFER = """HOST_FORMAT=deb HOST_OS=debian12 ROLE=node; deb_offer
    env APT_CONFIG="$STATE/apt/apt.conf" apt-get -s -q install tool=1 | grep ^Inst"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A node that has fetched a repository of one package."""
    shell = Shell(tmp_path)
    repo = shell.state / "cache/packages/debian12"
    (repo / "keys").mkdir(parents=True)
    deb = debs.build(repo, tmp_path / "work", "tool_1_all")
    sums = hashlib.sha256(deb.read_bytes()).hexdigest()
    for name, data in debrepo.build([debrepo.Deb(deb.name, deb, sums)], "debian12", 1610496000).items():
        (repo / name).write_bytes(data)
    return shell


def sign(shell: Shell, tmp_path: Path, user: str) -> None:
    """Sign by a user's key, and carry the one of OURS."""
    repo, ring = shell.state / "cache/packages/debian12", tmp_path / "gnupg"
    try:
        for owner in (OURS, THEIRS):
            debs.make_key(ring, owner)
        debs.export(ring, OURS, repo / "keys/ours.asc", "--armor")
        debs.sign(repo, ring, user)
    finally:
        subprocess.run(["gpgconf", "--homedir", ring, "--kill", "gpg-agent"], check=True)
    (repo / "Release.gpg").unlink()


def test_the_checked_copy_is_trusted(shell: Shell) -> None:
    assert shell.out(OFFER).startswith("Inst tool (1 ")


def test_a_signature_by_the_bundles_key_is_checked(shell: Shell, tmp_path: Path) -> None:
    sign(shell, tmp_path, OURS)
    assert shell.out(OFFER).startswith("Inst tool (1 ")
    assert "signed-by" in (shell.state / "apt/sources.list").read_text()


def test_a_signature_by_another_key_is_refused(shell: Shell, tmp_path: Path) -> None:
    sign(shell, tmp_path, THEIRS)
    done = shell.run(OFFER)
    assert done.returncode == 6
    assert "apt-get refuses the bundle's repository" in done.stderr


def test_metadata_that_release_does_not_vouch_for_are_refused(shell: Shell) -> None:
    for name in ("Packages", "Packages.gz"):
        path = shell.state / "cache/packages/debian12" / name
        path.write_bytes(path.read_bytes()[:-1] + b" ")
    assert shell.run(OFFER).returncode == 6
