"""Apt metadata, made of real debs and read by the real apt."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
from pathlib import Path

import pytest

from bundler import debrepo
from bundler.archive import DamagedSource
from bundler.debrepo import Deb
from bundler.errors import IntegrityError

STAMP = 1610496000


def make(folder: Path, name: str, version: str, depends: str = "", packer: str = "xz") -> Deb:
    tree = folder / f"tree-{name}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "opt").mkdir()
    (tree / "opt" / name).write_text(name)
    lines = [f"Package: {name}", f"Version: {version}", "Architecture: all", "Maintainer: nobody <n@example.org>",
             "Description: stand-in", " with a second line"]
    (tree / "DEBIAN/control").write_text("\n".join([*lines[:3], *([f"Depends: {depends}"] if depends else []),
                                                    *lines[3:]]) + "\n")
    path = folder / f"{name}_{version}_all.deb"
    subprocess.run(["dpkg-deb", f"-Z{packer}", "--root-owner-group", "-b", tree, path], check=True, capture_output=True)
    return Deb(path.name, path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def debs(tmp_path: Path) -> list[Deb]:
    return [make(tmp_path, "tool", "1:2.0-1", "lib (>= 1)", "zstd"), make(tmp_path, "lib", "1.5", packer="gzip"),
            make(tmp_path, "other", "3")]


def test_packages_say_what_dpkg_says(debs: list[Deb]) -> None:
    files = debrepo.build(debs, "noble", STAMP)
    assert files == debrepo.build(debs[::-1], "noble", STAMP)
    stanzas = files["Packages"].decode().split("\n\n")
    assert [stanza.splitlines()[0] for stanza in stanzas] == ["Package: lib", "Package: other", "Package: tool"]
    assert "Depends: lib (>= 1)" in stanzas[2] and f"SHA256: {debs[0].sha256}" in stanzas[2]
    control = subprocess.run(["dpkg-deb", "-f", debs[0].path], check=True, capture_output=True, text=True).stdout
    assert stanzas[2].startswith(control)
    assert gzip.decompress(files["Packages.gz"]) == files["Packages"]
    digest = hashlib.sha256(files["Packages"]).hexdigest()
    assert f" {digest} {len(files['Packages'])} Packages\n" in files["Release"].decode()
    assert "Date: Wed, 13 Jan 2021 00:00:00 GMT\n" in files["Release"].decode()


def test_apt_resolves_and_fetches_from_it(debs: list[Deb], tmp_path: Path) -> None:
    for name, data in debrepo.build(debs, "noble", STAMP).items():
        (tmp_path / name).write_bytes(data)
    sources, state = tmp_path / "sources.list", tmp_path / "state"
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "status").write_text("")
    sources.write_text(f"deb [trusted=yes] file:{tmp_path} ./\n")
    options = [f"-oDir::Etc::sourcelist={sources}", "-oDir::Etc::sourceparts=-", f"-oDir::State={state}",
               f"-oDir::State::status={state}/status", f"-oDir::Cache={state}",
               f"-oDir::Cache::archives={state}/archives", "-oAPT::Sandbox::User=root", "-oDebug::NoLocking=1"]
    subprocess.run(["apt-get", *options, "update"], check=True, capture_output=True)
    shown = subprocess.run(["apt-get", *options, "-s", "install", "tool"], check=True, capture_output=True, text=True)
    assert sorted(line.split()[1] for line in shown.stdout.splitlines() if line.startswith("Inst ")) == ["lib", "tool"]
    subprocess.run(["apt-get", *options, "download", "tool"], check=True, capture_output=True, cwd=state)
    assert next(state.glob("tool_*.deb")).read_bytes() == debs[0].path.read_bytes()


def test_what_is_no_deb_is_named(debs: list[Deb], tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    for content in (b"", b"not a deb", b"!<arch>\n", debs[0].path.read_bytes()[:100], b"!<arch>\n" + b"x" * 60):
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match=r"x\.deb: has the right digest, but is no deb"):
            debrepo.build([Deb("x.deb", path, hashlib.sha256(content).hexdigest())], "noble", STAMP)
    with pytest.raises(DamagedSource, match=r"x\.deb"):
        debrepo.build([Deb("x.deb", path, "0" * 64)], "noble", STAMP)
