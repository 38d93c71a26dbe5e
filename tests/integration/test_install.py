"""The bundler as a user installs it: from a wheel, from an sdist, never with a top-level ``installer``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.integration.upstream.site import OPTIONS, Site

PROJECT = Path(__file__).parents[2]
PARTS = ("bundler", "installer", "manifests", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in",
         "rpms.lock", "images.lock")
CLEAN = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def wheel(source: Path, out: Path) -> Path:
    """Build a wheel from a directory or an sdist."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation",
                    "-w", out, source], check=True, env=CLEAN)
    (found,) = out.glob("*.whl")
    return found


def contents(path: Path) -> dict[str, bytes]:
    """The files of a wheel, but its record."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a checkout holds, for setuptools to write into."""
    top = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        if (PROJECT / part).is_dir():
            shutil.copytree(PROJECT / part, top / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif (PROJECT / part).exists():
            shutil.copy(PROJECT / part, top / part)
    return top


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout."""
    return wheel(checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a fresh venv with the wheel; its dependencies are borrowed from this one."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    subprocess.run([sys.executable, "-m", "pip", "--python", venv / "bin/python", "install", "-q", "--no-deps",
                    "--no-index", "--disable-pip-version-check", built], check=True, env=CLEAN)
    # A path in a .pth file brings packages, but not the .pth files beside them: not this checkout.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin/python"


def test_wheel_has_one_top_level_package(built: Path) -> None:
    tops = {name.split("/")[0] for name in contents(built)}
    assert tops == {"bundler", next(name for name in tops if name.endswith(".dist-info"))}


def test_wheel_carries_every_module(checkout: Path, built: Path) -> None:
    """A new package must be listed in setup.cfg."""
    modules = {path.relative_to(checkout).as_posix() for path in (checkout / "bundler").rglob("*.py")}
    assert modules <= set(contents(built))


def test_wheel_carries_all_of_installer_manifests_and_locks(checkout: Path, built: Path) -> None:
    inside = contents(built)
    carried = [path for part in ("installer", "manifests") for path in (checkout / part).rglob("*") if path.is_file()]
    carried += [checkout / "rpms.lock", checkout / "images.lock"]
    assert len(carried) > 20
    for path in carried:
        name = f"bundler/_payload/{path.relative_to(checkout).as_posix()}"
        assert inside.get(name) == path.read_bytes(), name
    assert not [name for name in inside if "/tests/" in name or "__pycache__" in name]
    payload = [name for name in inside if name.startswith("bundler/_payload/")]
    assert len(payload) == len(carried)


def test_sdist_makes_the_same_wheel(checkout: Path, built: Path, tmp_path: Path) -> None:
    code = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=checkout, check=True, capture_output=True, env=CLEAN)
    (sdist,) = tmp_path.glob("*.tar.gz")
    assert contents(wheel(sdist, tmp_path / "wheel")) == contents(built)


def test_installed_bundler_finds_its_data(python: Path, tmp_path: Path) -> None:
    def versions(*command: str | Path) -> object:
        done = subprocess.run([*command, "versions", "--json"], cwd=tmp_path, env=CLEAN, check=True,
                              capture_output=True)
        return json.loads(done.stdout)

    found = versions(python.with_name("bundler"))
    assert found == versions(python, "-m", "bundler")
    assert found == versions(sys.executable, "-m", "bundler")
    code = "import bundler.data as d, importlib.util as u; print(d.root()); print(u.find_spec('installer'))"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=CLEAN, check=True, capture_output=True, text=True)
    root, installer = done.stdout.splitlines()
    assert root.startswith(str(python.parents[1]))
    assert installer == "None"


@pytest.mark.root
def test_installed_bundler_builds_what_a_checkout_builds(python: Path, checkout: Path, site: Site) -> None:
    def build(interpreter: str | Path, name: str, env: dict[str, str]) -> Path:
        subprocess.run([interpreter, "-m", "bundler", "build", *OPTIONS, *site.mirrors, "-q", "-o", name], check=True,
                       cwd=site.root, env=env, capture_output=True)
        return site.root / name

    installed = build(python, "installed.tar", CLEAN)
    listed = subprocess.run(["tar", "tf", installed], check=True, capture_output=True, text=True).stdout.split()
    assert "installer/__main__.py" in listed
    assert any(name.startswith("installer/node/") for name in listed)
    plain = build(sys.executable, "plain.tar", {**CLEAN, "PYTHONPATH": str(checkout)})
    assert hashlib.sha256(installed.read_bytes()).digest() == hashlib.sha256(plain.read_bytes()).digest()
