"""``lock`` run again: what is locked stays, byte for byte, until it is asked to change."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.upstream import rpms
from tests.integration.upstream.site import Site, serve

LOCKS = ("rpms.lock", "images.lock", "manifests/files.lock")


def contents(site: Site) -> list[bytes]:
    return [(site.root / "locks" / name).read_bytes() for name in LOCKS]


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[Site]:
    """A site that was locked, and whose upstream has moved on since in every respect."""
    with serve(tmp_path, payload=2000) as site:
        site.run("lock")
        repo = tmp_path / "upstream/repo"
        rpms.build(repo, "kubernetes-cni", "0.8.8", size=1000)
        rpms.build(repo, "other", "1", size=1000)
        subprocess.run(["createrepo_c", "--quiet", repo], check=True)
        site.registry.push("pause", "3.2", [3000], tmp_path / "layouts2")
        (tmp_path / "upstream/net.yml").write_text('{"Network": "10.244.0.0/16", "new": 1}\n')
        (tmp_path / "upstream/key.gpg").write_text("another key\n")
        yield site


def test_nothing_moves_by_itself(moved: Site) -> None:
    before = contents(moved)
    done = moved.run("lock")
    assert done.stdout == ""
    assert "0 changes" in done.stderr
    assert contents(moved) == before


def test_only_what_is_asked_for_moves(moved: Site) -> None:
    (line,) = moved.run("lock", "--upgrade", "kubernetes-*").stdout.splitlines()
    assert line.startswith("changed package kubernetes-cni (1.20 el7 x86_64) 0.8.7-")
    assert " -> 0.8.8-" in line
    (line,) = moved.run("lock", "--upgrade", "images.test/*").stdout.splitlines()
    assert line.startswith("changed image images.test/pause:3.2 sha256:")
    (line,) = moved.run("lock", "--upgrade", "https://files.test/net.yml").stdout.splitlines()
    assert line.startswith("changed file https://files.test/net.yml sha256:")
    (line,) = moved.run("lock", "--upgrade").stdout.splitlines()
    assert line.startswith("changed key https://files.test/key.gpg sha256:")
    assert moved.run("lock", "--upgrade").stdout == ""


def test_another_platform_moves_nothing_of_the_first(moved: Site) -> None:
    lines = moved.run("lock", "--platform", "linux/amd64,linux/arm64").stdout.splitlines()
    assert lines
    assert all(line.startswith("added ") and ("arm64" in line or "aarch64" in line) for line in lines)


def test_a_package_that_would_become_older_is_refused(moved: Site) -> None:
    moved.run("lock", "--upgrade")
    before = contents(moved)
    repo = moved.root / "upstream/repo"
    for path in repo.glob("kubernetes-cni-0.8.8*"):
        path.unlink()
    subprocess.run(["createrepo_c", "--quiet", repo], check=True)
    said = moved.run("lock", code=4).stderr
    assert "kubernetes-cni would go from 0.8.8-" in said
    assert "--allow-downgrade" in said
    assert contents(moved) == before
    assert " -> 0.8.7-" in moved.run("lock", "--allow-downgrade").stdout
