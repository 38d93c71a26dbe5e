"""The command line's edges: what it prints where, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bundler import cli, options
from bundler import versions as listing
from bundler.data import lock_dir, manifests_dir, root
from bundler.errors import FetchError
from bundler.sign import keygen

PROJECT = Path(__file__).parents[3]


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_versions_lists_every_release_and_platform() -> None:
    found = json.loads(run("versions", "--json").stdout)
    names = {entry["release"] for entry in found["releases"]}
    assert names == {path.stem for path in manifests_dir().glob("[0-9]*.yaml")}
    text = run("versions").stdout
    for entry in found["releases"]:
        state = f"{len(entry['unresolved'])} unresolved" if entry["unresolved"] else "complete"
        assert any(line.split()[:4] == [entry["release"], entry["kubernetes"], entry["os"], entry["arch"]]
                   and line.endswith(state) for line in text.splitlines())
    assert {"flannel", "smoke"} <= {addon["name"] for addon in found["addons"]}


def test_verify_and_inspect(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = make_bundle()
    result = run("verify", path)
    assert result.stdout.startswith(f"{path}: OK, 6 members")
    assert "not signed" in result.stderr
    found = json.loads(run("verify", "--json", "-q", path).stdout)
    assert (found["members"], found["signed"], found["trusted"]) == (6, False, False)
    assert json.loads(run("inspect", "--json", path).stdout)["parts"]["bin"]["files"] == 1
    private, public = keygen(tmp_path / "keys")
    signed = make_bundle("signed.tar", private)
    assert "give --key" in run("verify", signed).stderr
    assert f"signed by {public}" in run("verify", "--key", public, signed).stdout
    whole = bytearray(path.read_bytes())
    whole[600] ^= 1
    path.write_bytes(whole)
    result = run("verify", path, code=6)
    assert result.stdout == ""
    assert result.stderr.splitlines()[-2].startswith(f"error: {path}: ")


def test_inspect_refuses_a_malformed_contract(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"not a bundle" * 100)
    assert "error: " in run("inspect", tmp_path / "x.tar", code=6).stderr


def test_keygen(tmp_path: Path) -> None:
    private, public = run("keygen", tmp_path / "a").stdout.split()
    assert Path(private).stat().st_mode & 0o777 == 0o600
    assert Path(public).is_file()
    assert "exists already" in run("keygen", "--out", tmp_path / "a", code=7).stderr
    run("keygen", code=2)
    run("keygen", "--out", tmp_path, tmp_path, code=2)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    assert "_BUNDLER_COMPLETE" in run("completion", shell).stdout


def test_bash_accepts_the_completion() -> None:
    subprocess.run(["bash", "-n"], input=run("completion", "bash").stdout, text=True, check=True)


def test_platforms_are_architectures() -> None:
    both = run("lock", "--version", "1.20", "--platform", "linux/amd64,linux/arm64", "--lock-dir", PROJECT, code=3)
    assert "release 1.20 has nothing for --arch arm64" in both.stderr
    assert run("build", "--version", "1.20", "--arch", "linux/amd64", code=3).stderr == run(
        "build", "--version", "1.20", "--platform", "amd64", code=3).stderr
    for wrong in ("windows/amd64", "linux/arm/v7", "linux/"):
        run("build", "--version", "1.20", "--platform", wrong, code=2)


def test_versions_counts_entry_by_entry() -> None:
    found = json.loads(run("versions", "--json").stdout)
    for entry in [*found["releases"], *found["addons"]]:
        have, want = (sum(pair[number] for pair in entry["counts"].values()) for number in (0, 1))
        assert (have, want, want - have) == (entry["locked"], entry["wanted"], len(entry["unresolved"]))
    reference = next(entry for entry in found["releases"] if entry["release"] == "1.8")
    assert reference["locked"] == reference["wanted"] == 27


@pytest.mark.parametrize(
    "arguments", [["unknown"], ["build"], ["build", "--version", "1.20", "-j", "0"], ["verify", "missing.tar"]]
)
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    run(*arguments, code=2)


def test_unexpected_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(listing, "versions", fault)
    lines = run("versions", code=1).stderr.splitlines()
    assert lines[0] == "error: unexpected ZeroDivisionError: two lines"
    assert "--debug" in lines[1]
    assert len(lines) == 2
    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(cli.main, ["--debug", "versions"], catch_exceptions=False)


def test_errors_have_a_hint_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise FetchError("what happened", "what to do")

    monkeypatch.setattr(listing, "versions", fail)
    assert run("versions", code=5).stderr == "error: what happened\n  what to do\n"


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "versions", interrupt)
    assert "interrupted" in run("versions", code=130).stderr


def test_default_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert lock_dir() == root() == PROJECT
    (tmp_path / "rpms.lock").touch()
    assert lock_dir() == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert options.default_cache() == tmp_path / "kubecarry"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert options.default_cache() == Path("/home/someone/.cache/kubecarry")


def test_locks_are_never_written_into_an_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli._lock_target(None) == PROJECT
    monkeypatch.setattr(cli.data, "is_installed", lambda: True)
    assert cli._lock_target(None) == tmp_path
    assert cli._lock_target(tmp_path / "given") == tmp_path / "given"


def test_a_full_standard_output_is_the_machine_s_fault() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "bundler", "versions"]
        told = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert told.returncode == 7
    assert told.stderr.startswith("error: standard output: no space left\n")


def test_variants_of_a_release_have_names_of_their_own() -> None:
    def name(version: str) -> str:
        return cli._name(options.select(version, (), (), (), None, None))

    assert name("1.20") == "kubecarry-v1.20.2-el7-amd64"
    assert name("1.20-docker") == "kubecarry-v1.20.2-docker-el7-amd64"
