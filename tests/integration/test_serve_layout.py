"""The installer as it travels: from an unpacked directory alone, beside a package of its name, on an old Python."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import make_bundle, unpack
from tests.serving import PROJECT, serving


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds installer/ and nothing else, unpacked from a bundle that carries it."""
    folder = tmp_path_factory.mktemp("parent")
    members = {
        str(path.relative_to(PROJECT)): path.read_bytes()
        for path in (PROJECT / "installer").rglob("*")
        if path.suffix in (".py", ".sh")
    }
    bundle = make_bundle(folder / "b.tar", members)
    tree = unpack(bundle, folder / "tree")
    shutil.copytree(tree / "installer", folder / "alone/installer")
    return folder


def installer(parent: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments, "verify", str(parent / "b.tar")]
    return subprocess.run(command, cwd=parent / "alone", capture_output=True, text=True, env={**os.environ, **env})


def test_it_runs_from_its_parent_directory(parent: Path) -> None:
    done = installer(parent, "-m", "installer")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{parent}/b.tar: ok, ")


def test_it_wins_over_another_package_of_its_name(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "installer").mkdir()
    (tmp_path / "installer/__init__.py").write_text("raise SystemExit('the other installer')\n")
    done = installer(parent, "-m", "installer", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_it_needs_nothing_but_the_standard_library(parent: Path) -> None:
    done = installer(parent, "-S", "-E", "-s", "-m", "installer")
    assert done.returncode == 0, done.stderr
    start = (
        f"import sys, runpy; sys.path.insert(0, {str(parent / 'alone')!r}); "
        "runpy.run_module('installer', run_name='__main__', alter_sys=True)"
    )
    done = installer(parent, "-I", "-S", "-c", start)
    assert done.returncode == 0, done.stderr


def test_it_serves_from_there_without_a_locale(parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    with serving(parent / "b.tar", tmp_path, cwd=parent / "alone") as server:
        assert server.ask(b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nok\n")
        script = server.ask(b"GET /deploy.sh HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2]
    assert subprocess.run(["bash", "-n"], input=script).returncode == 0
    assert b"\nmain() {" in script


def test_python_3_6_can_run_it() -> None:
    vermin = Path(sys.executable).parent / "vermin"
    done = subprocess.run([vermin, "-t=3.6-", "--violations", PROJECT / "installer"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_imports_nothing_from_outside() -> None:
    seen = 0
    for path in (PROJECT / "installer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            seen += len(names)
            assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names, path
    assert seen > 50
