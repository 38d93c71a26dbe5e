"""What goes wrong around a build: one clear message, the right exit code, never a wrong bundle."""

from __future__ import annotations

import fcntl
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.upstream.site import OPTIONS, Site, run

pytestmark = pytest.mark.root

OUT = "failed.tar"


@pytest.fixture(autouse=True)
def no_half_bundle(site: Site) -> Iterator[None]:
    """However a build fails, it leaves nothing under the final name, and no temporary file."""
    yield
    assert not (site.root / OUT).exists()
    assert not list(site.root.glob(".*.partial"))
    site.files.faults.clear()


def complaint(site: Site, verb: str, *arguments: str | Path, code: int) -> str:
    """Run a failing command; returns what it says, which must begin with the error."""
    output = [] if verb == "lock" else ["-o", OUT]
    said = site.run(verb, *output, "-q", *arguments, code=code).stderr
    assert said.startswith("error: ")
    return said


def with_mounts(site: Site, prepare: str, command: list[str]) -> str:
    """Run a command with mounts of its own, made by a shell line; it must exit with 7; returns its stderr."""
    line = f"{prepare}; exec {shlex.join(command)}"
    return run("unshare", "--mount", "sh", "-ec", line, cwd=site.root, code=7).stderr


def test_no_network_names_host_and_mirror_option(site: Site) -> None:
    command = [sys.executable, "-m", "bundler", "build", *OPTIONS, "--cache-dir", "none", "-o", OUT]
    start = time.monotonic()
    said = run("unshare", "--net", *command, cwd=site.root, code=5).stderr
    assert time.monotonic() - start < 30
    assert "files.test" in said or "images.test" in said
    assert "--mirror" in said


def test_dead_mirror_is_named(site: Site) -> None:
    said = complaint(site, "build", "--cache-dir", "none", "--mirror", "files.test=http://127.0.0.1:1",
                     "--mirror", "images.test=127.0.0.1:1", code=5)
    assert "127.0.0.1:1 cannot be reached" in said


def test_missing_upstream_file_is_named(site: Site) -> None:
    site.files.faults["/net.yml"] = 404
    said = complaint(site, "build", "--cache-dir", "no-net", code=5)
    assert "/net.yml: HTTP status 404" in said
    assert "--mirror" in said


def test_failing_upstream_is_retried_then_named(site: Site) -> None:
    site.files.faults["/net.yml"] = 503
    before = site.files.log.count("/net.yml")
    said = complaint(site, "build", "--cache-dir", "no-net", "--retries", "2", code=5)
    assert "HTTP status 503" in said
    assert site.files.log.count("/net.yml") - before == 3


def test_wrong_bytes_are_refused(site: Site) -> None:
    file = site.files.root / "net.yml"
    right = file.read_bytes()
    try:
        file.write_bytes(right.replace(b"10.244", b"10.245"))
        said = complaint(site, "build", "--cache-dir", "wrong", code=6)
    finally:
        file.write_bytes(right)
    assert "/net.yml" in said
    assert "expected" in said


def test_no_space_for_the_bundle(site: Site) -> None:
    site.run("build", "-o", "warm.tar")
    for limit, said_as in (("mount -t tmpfs -o size=200k tmpfs small", "are free"),
                           ("ulimit -f 200; mount -t tmpfs tmpfs small", "ulimit -f")):
        said = with_mounts(site, f"mkdir -p small; {limit}", site.command("build", "-q", "-o", f"small/{OUT}"))
        assert said_as in said
        assert "-o" in said


def test_no_space_in_the_cache(site: Site) -> None:
    said = with_mounts(site, "mkdir -p small; mount -t tmpfs -o size=200k tmpfs small",
                       site.command("build", "-q", "--cache-dir", "small", "-o", OUT))
    assert "small" in said
    assert "--cache-dir" in said


def test_read_only_cache(site: Site) -> None:
    said = with_mounts(site, "mkdir -p frozen; mount -t tmpfs -o ro tmpfs frozen",
                       site.command("build", "--cache-dir", "frozen", "-o", OUT))
    assert "frozen" in said
    assert "--cache-dir" in said


def test_unwritable_output_is_told_before_anything_is_fetched(site: Site) -> None:
    build = site.command("build", "-q", "--cache-dir", "unused", "-o")
    for path, said in ((f"nowhere/{OUT}", "nowhere: no such directory"), ("locks", "locks: is a directory")):
        (site.root / "locks").mkdir(exist_ok=True)
        told = run(*build, path, cwd=site.root, code=7).stderr
        assert said in told
        assert "-o" in told
    told = with_mounts(site, "mkdir -p frozen; mount -t tmpfs -o ro tmpfs frozen", [*build, f"frozen/{OUT}"])
    assert "frozen: cannot be written to" in told
    assert "-o" in told
    assert not list((site.root / "unused").glob("sha256/*/*"))


def test_unresolved_entries_are_named_with_the_command(site: Site) -> None:
    (site.root / "unlocked").mkdir(exist_ok=True)
    said = complaint(site, "build", "--lock-dir", "unlocked", code=3)
    for name in ("image images.test/pause:3.2", "package kubelet-1.20.2", "files.test/net.yml", "key https"):
        assert name in said
    assert "bundler lock --version 1.20 --os el7 --arch amd64" in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version", "9.9"], 3, "Known releases: 1.20"),
        (["--version", "1.20.7"], 3, "is v1.20.2, not 1.20.7"),
        (["--os", "el9"], 3, "Known: el7"),
        (["--arch", "s390x"], 3, "Known: amd64, arm64"),
        (["--with", "unknown"], 3, "Known add-ons: extra, net, sample"),
        (["--key", "manifests/1.20.yaml"], 7, "bundler keygen"),
        (["--source", "nowhere"], 7, "nowhere"),
    ],
)
def test_mistakes_are_explained(site: Site, arguments: list[str], code: int, said: str) -> None:
    assert said in complaint(site, "build", *arguments, code=code)


def test_a_mirror_that_is_no_rule_is_wrong_usage(site: Site) -> None:
    said = site.run("build", "-o", OUT, "-q", "--mirror", "files.test", code=2).stderr
    assert "'--mirror': files.test: there is no '='; write --mirror FROM=TO" in said


def test_replacement_must_fit_the_manifest(site: Site) -> None:
    addon = site.root / "manifests/addons/net-1.yaml"
    right = addon.read_text()
    try:
        addon.write_text(right.replace('from: \'"Network"', 'from: \'"Netwerk"'))
        said = complaint(site, "build", code=3)
    finally:
        addon.write_text(right)
    assert "add-on net 1" in said
    assert "Netwerk" in said
    assert "net-1.yaml" in said


def test_malformed_lock_is_named(site: Site) -> None:
    (site.root / "broken").mkdir(exist_ok=True)
    (site.root / "broken" / "images.lock").write_text("images: 7\n")
    assert "broken/images.lock" in complaint(site, "build", "--lock-dir", "broken", code=3)


def test_two_builds_of_one_output(site: Site) -> None:
    with (site.root / f".{OUT}.partial").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another build is writing it" in complaint(site, "build", code=7)
    (site.root / f".{OUT}.partial").unlink()
