"""The linters are tests: whatever they find fails."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from installer.nodescript import NodeScript

PROJECT = Path(__file__).parents[1]
BIN = Path(sysconfig.get_path("scripts"))
PARTS = sorted((PROJECT / "installer/node").glob("*.sh"))
SCRIPTS = sorted(path for top in ("tests", "bench", ".ci") for path in (PROJECT / top).rglob("*") if
                 path.suffix == ".sh" or path.parent.name == ".ci")
SETTINGS = ("RELEASE", "METHOD", "KUBERNETES_VERSION", "KUBEADM_API", "IMAGE_REPOSITORY", "PAUSE_IMAGE", "POD_SUBNET",
            "SERVICE_SUBNET", "RUNTIME", "BUNDLE_HOSTS", "BUNDLE_ARCHES", "REGISTRIES", "NETWORK_ADDON",
            "NETWORK_MANIFESTS", "ADDON_MANIFESTS", "MANIFEST_REPLACE")


def lint(*command: str | Path) -> None:
    """Run a linter of this environment; its output is the failure's text."""
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff() -> None:
    lint("ruff", "check", ".")


def test_mypy() -> None:
    lint("mypy")


def test_installer_runs_on_python_3_6() -> None:
    lint("vermin", "-t=3.6-", "--no-tips", "--violations", "--eval-annotations", "installer")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_shellcheck(script: Path) -> None:
    lint("shellcheck", "--external-sources", script)


def test_shellcheck_of_deploy_sh(tmp_path: Path) -> None:
    """The parts are checked as nodes get them: joined, so that each function and variable is known."""
    texts = {path.relative_to(PROJECT).as_posix(): path.read_bytes() for path in PARTS}

    def used(setting: str) -> bool:
        return any(re.search(rf"\$\{{?{setting}\b".encode(), text) for text in texts.values())

    bundle = SimpleNamespace(members=texts, read=texts.__getitem__, digests={"SHA256SUMS": "0" * 64},
                             info=SimpleNamespace(node=dict.fromkeys(filter(used, SETTINGS), "x")))
    script = tmp_path / "deploy.sh"
    script.write_bytes(NodeScript(bundle).render("http://10.0.0.1:8000"))  # type: ignore[arg-type]
    lint("shellcheck", "--shell=bash", script)


def test_every_setting_of_a_node_is_documented() -> None:
    text = (PROJECT / "docs/formats.md").read_text(encoding="utf-8")
    assert not [name for name in SETTINGS if f"`{name}`" not in text]


def test_no_file_names_this_machine_or_is_too_long() -> None:
    """Absolute paths of whoever wrote a file are of no use to anybody else; nor are files nobody can oversee."""
    names = [path for top in ("bundler", "installer", "tests", "bench") for path in (PROJECT / top).rglob("*")]
    for path in names:
        if path.suffix in (".py", ".sh"):
            text = path.read_text(encoding="utf-8")
            assert str(PROJECT) not in text, path
            assert text.count("\n") <= 400, path


def test_every_test_that_the_list_of_pitfalls_names_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (PROJECT / "docs/pitfalls.md").read_text(encoding="utf-8"))
    assert named
    for file, function in named:
        assert f"\ndef {function}(" in (PROJECT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{function}"
