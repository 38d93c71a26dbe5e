"""The same bundle as a delta, in parts, and as a file that runs itself."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.upstream.site import Site, run
from tests.serving import Server, serving

pytestmark = pytest.mark.root


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bundler(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "bundler", *arguments, code=code)


def installer(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "installer", *arguments, code=code)


@pytest.fixture(scope="module")
def more(site: Site, bundle: Path) -> Path:
    """A bundle with one add-on more."""
    own = site.root / "manifests/addons/files/extra.yaml"
    own.write_text(own.read_text().replace("own", "extra"))
    site.run("build", "--with", "extra", "-o", "more.tar")
    return site.root / "more.tar"


@pytest.fixture(scope="module")
def delta(site: Site, bundle: Path, more: Path) -> Path:
    """What the larger bundle has and the smaller one lacks."""
    built = site.run("build", "--with", "extra", "--since", bundle, "-o", "delta.tar")
    assert built.stdout == "delta.tar\n"
    return site.root / "delta.tar"


def test_a_delta_holds_only_new_bytes(bundle: Path, more: Path, delta: Path) -> None:
    found = json.loads(bundler("diff", "--json", bundle, more).stdout)
    outside = sum(int(line.split()[2]) for line in run("tar", "tvf", delta).stdout.splitlines()
                  if line.split()[-1] in ("bundle.json", "SHA256SUMS", "delta.json"))
    members = run("tar", "tf", delta).stdout.split()
    assert delta.stat().st_size <= found["newBytes"] + outside + 1024 * (len(members) + 1)
    assert members[:3] == ["delta.json", "bundle.json", "SHA256SUMS"]
    assert "manifests/extra/extra.yaml" in members
    assert not [name for name in members if name.startswith(("packages/", "bin/", "images/blobs/"))]


def test_have_stands_for_the_bundle(site: Site, bundle: Path, delta: Path) -> None:
    text = bundler("have", bundle).stdout
    (site.root / "have.json").write_text(text)
    assert len(text) < bundle.stat().st_size / 20
    site.run("build", "--with", "extra", "--since", "have.json", "-o", "delta2.tar")
    assert digest(site.root / "delta2.tar") == digest(delta)


def test_a_delta_is_joined_byte_for_byte(bundle: Path, more: Path, delta: Path, tmp_path: Path) -> None:
    installer("unpack", bundle, delta, "-o", tmp_path / "full.tar")
    assert digest(tmp_path / "full.tar") == digest(more)
    assert installer("verify", bundle, delta).stdout
    assert "needs the bundle" in bundler("verify", delta).stderr


def test_every_verb_takes_the_delta_beside_its_base(bundle: Path, delta: Path, site: Site, tmp_path: Path) -> None:
    installer("export", bundle, delta, tmp_path / "tree", "--servers", "http://site")
    assert (tmp_path / "tree/www/manifests/extra/extra.yaml").read_text()
    run("sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS", cwd=tmp_path / "tree/www")
    pushed = installer("push", bundle, delta, f"{site.registry.address}/delta", "--plain-http", "--dry-run")
    assert f"images.test/pause:3.2 -> {site.registry.address}/delta/images.test/pause:3.2" in pushed.stdout
    installer("inspect", bundle, delta)


def test_a_delta_joins_with_an_unpacked_base(unpacked: Path, more: Path, delta: Path, tmp_path: Path) -> None:
    installer("unpack", unpacked, delta, "-o", tmp_path / "full.tar")
    assert digest(tmp_path / "full.tar") == digest(more)


def test_a_wrong_base_is_refused_by_name_before_anything_is_touched(
    bundle: Path, more: Path, delta: Path, tmp_path: Path
) -> None:
    full = tmp_path / "full.tar"
    full.write_text("mine")
    refused = installer("unpack", more, delta, "-o", full, code=6)
    assert str(more) in refused.stderr and "base" in refused.stderr
    assert full.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["full.tar"]
    assert "is a delta" in installer("verify", delta, code=6).stderr
    assert "not a delta" in installer("verify", bundle, more, code=6).stderr
    installer("serve", more, delta, code=6)


def test_a_damaged_delta_or_base_is_refused(bundle: Path, delta: Path, tmp_path: Path) -> None:
    for name, source in (("delta", delta), ("base", bundle)):
        spoilt = tmp_path / name
        data = bytearray(source.read_bytes())
        member = b"kind: Namespace" if name == "delta" else b'{"architecture"'
        data[data.index(member)] ^= 1
        spoilt.write_bytes(data)
        pair = (bundle, spoilt) if name == "delta" else (spoilt, delta)
        installer("unpack", *pair, "-o", tmp_path / "full.tar", code=6)
        assert not (tmp_path / "full.tar").exists()
    assert bundler("verify", tmp_path / "delta", code=6).stderr.count("changed member") == 1


def test_diff_names_what_changed(bundle: Path, more: Path) -> None:
    text = bundler("diff", bundle, more).stdout
    assert text.splitlines()[0].startswith("+ manifest extra/extra.yaml")
    assert bundler("diff", more, bundle).stdout.startswith("- manifest extra/extra.yaml")
    assert "no package, image" in bundler("diff", bundle, bundle).stdout


@pytest.fixture(scope="module")
def split(site: Site, bundle: Path) -> list[Path]:
    """The bundle in parts of 1 MiB."""
    built = site.run("build", "--split", "1M", "-o", "cut.tar")
    return [site.root / name for name in built.stdout.split()]


def test_parts_are_the_bundle(site: Site, bundle: Path, split: list[Path]) -> None:
    assert len(split) == -(-bundle.stat().st_size // (1 << 20)) > 1
    assert [path.name for path in split][:2] == ["cut.tar.001", "cut.tar.002"]
    assert b"".join(path.read_bytes() for path in split) == bundle.read_bytes()
    run("sha256sum", "--strict", "-c", "cut.tar.sha256", cwd=site.root)


def test_parts_verify_without_being_joined(split: list[Path], tmp_path: Path) -> None:
    assert "OK" in bundler("verify", split[0]).stdout
    assert installer("verify", split[0]).stdout
    assert installer("verify", *split).stdout
    copies = [Path(shutil.copy(path, tmp_path)) for path in split]
    data = bytearray(copies[-1].read_bytes())
    data[5] ^= 1
    copies[-1].write_bytes(data)
    bundler("verify", copies[0], code=6)
    installer("verify", copies[0], code=6)
    copies[-1].unlink()
    bundler("verify", copies[0], code=6)
    installer("verify", copies[0], code=6)


def test_parts_of_an_earlier_build_do_not_stay(site: Site, split: list[Path]) -> None:
    stale = site.root / f"cut.tar.{len(split) + 1:03}"
    stale.write_bytes(b"old")
    site.run("build", "--split", "1M", "-o", "cut.tar")
    assert not stale.exists()
    site.run("build", "--split", "12", code=2)


@pytest.fixture(scope="module")
def itself(site: Site, bundle: Path) -> Path:
    """The bundle as a .run."""
    built = site.run("build", "--run")
    assert built.stdout == "kubecarry-v1.20.2-el7-amd64.run\n"
    return site.root / built.stdout.strip()


def test_run_is_a_head_and_the_bundle(bundle: Path, itself: Path) -> None:
    assert itself.read_bytes()[16 << 10 :] == bundle.read_bytes()
    assert os.access(itself, os.X_OK)
    run("sha256sum", "--strict", "-c", f"{itself.name}.sha256", cwd=itself.parent)
    assert "OK" in bundler("verify", itself).stdout


def test_run_behaves_as_the_installer(bundle: Path, itself: Path, tmp_path: Path) -> None:
    places = {"TMPDIR": str(tmp_path)}
    assert "ok" in run(itself, "verify", env=places).stdout
    assert json.loads(run(itself, "inspect", "--json", env=places).stdout)["kubernetes"] == "v1.20.2"
    run(itself, "unpack", "-o", tmp_path / "out.tar", env=places)
    assert digest(tmp_path / "out.tar") == digest(bundle)
    assert "serve" in run(itself, "--help", env=places).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out.tar"]


def test_a_damaged_run_runs_nothing(itself: Path, tmp_path: Path) -> None:
    whole = itself.read_bytes()
    bad = tmp_path / "bad.run"
    for data in (whole[:-1], whole + b"x", whole[:20000] + b"?" + whole[20001:], whole[:-5000] + b"?" + whole[-4999:]):
        bad.write_bytes(data)
        refused = run("sh", bad, "inspect", code=6, env={"TMPDIR": str(tmp_path)})
        assert "damaged" in refused.stderr and refused.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["bad.run"]


def test_shapes_that_do_not_go_together(site: Site, bundle: Path) -> None:
    site.run("build", "--run", "--split", "1M", code=2)
    site.run("build", "--run", "--since", bundle, code=2)


def body(server: Server, path: str, *fields: str) -> bytes:
    """What the server has under a path."""
    head = "".join(f"{field}\r\n" for field in ("Host: test", "Connection: close", *fields))
    return server.ask(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()).partition(b"\r\n\r\n")[2]


def serves(server: Server, tree: Path) -> None:
    """Every member comes out as it lies in the unpacked bundle, whole and in a range."""
    paths = [path for path in sorted(tree.rglob("*")) if path.is_file()]
    assert len(paths) > 20
    for path in paths:
        data = path.read_bytes()
        assert body(server, f"/{path.relative_to(tree)}") == data
        if len(data) > 10:
            assert body(server, f"/{path.relative_to(tree)}", "Range: bytes=3-8") == data[3:9]


def test_parts_are_served_without_being_joined(split: list[Path], unpacked: Path, tmp_path: Path) -> None:
    with serving(split[0], tmp_path) as server:
        serves(server, unpacked)


def test_base_and_delta_are_served_together(bundle: Path, delta: Path, more: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    run("tar", "xf", more, "-C", tree)
    with serving(bundle, tmp_path, more=[delta]) as server:
        serves(server, tree)


def test_a_run_serves_its_own_payload(itself: Path, unpacked: Path, tmp_path: Path) -> None:
    with serving(itself, tmp_path) as server:
        serves(server, unpacked)


def test_a_rebuild_is_the_same_bit_for_bit(site: Site, bundle: Path, tmp_path: Path) -> None:
    again = site.command("verify", bundle, "--rebuild")
    again = [word for number, word in enumerate(again) if word != "--version" and again[number - 1] != "--version"]
    assert "bit for bit" in run(*again, cwd=site.root).stdout
    own = site.root / "manifests/addons/files/sample.yaml"
    kept = own.read_text()
    try:
        own.write_text(kept + "# changed\n")
        refused = run(*again, cwd=site.root, code=6)
        assert "manifests/sample/sample.yaml differs" in refused.stderr
    finally:
        own.write_text(kept)
