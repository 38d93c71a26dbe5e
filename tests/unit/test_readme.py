"""The commands of both READMEs: each is one that the programs take, and names files that are really there by then."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bundler import data
from bundler.cli import main
from bundler.manifest import load_release
from bundler.sign import keygen
from installer.cli import parser
from tests.shell.stream import Shell

ROOT = Path(__file__).parents[2]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]


def commands(readme: Path) -> list[list[str]]:
    """The words of every command in a README's code blocks, continued lines joined and comments left out."""
    blocks = "".join(re.findall(r"^```\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
    return [shlex.split(line, comments=True) for line in blocks.replace("\\\n", " ").splitlines()]


@pytest.fixture
def connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory in which `keygen keys` was run, a bundle built, and others lie by the names that READMEs use."""
    monkeypatch.chdir(tmp_path)
    keygen(Path("keys"))
    release = load_release(data.manifests_dir(), "1.20")
    for name in ("OLD.tar", "NEW.tar", "BUNDLE.tar", "delta.tar"):
        Path(name).touch()
    Path(f"kubecarry-{release.kubernetes}-{next(iter(release.hosts))}-{release.arches[0]}.tar").touch()


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_bundler_takes_its_commands(readme: Path) -> None:
    found = [words[1:] for words in commands(readme) if words[:1] == ["bundler"]]
    assert {"lock", "keygen", "build", "verify"} <= {words[0] for words in found}
    for verb, *words in found:
        main.commands[verb].make_context(verb, words)  # UsageError for an unknown option or a file that is not there


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_installer_takes_its_commands(readme: Path) -> None:
    found = [words[3:] for words in commands(readme) if words[1:3] == ["-m", "installer"]]
    assert {"verify", "serve"} <= {words[0] for words in found}
    for words in found:
        options = parser().parse_args(words)
        assert Path(options.bundle).exists()
        assert not options.key or (Path("keys") / options.key).exists()


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_nodes_take_their_commands(readme: Path, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    found = [words[words.index("-s") + 1 :] for words in commands(readme) if words[:1] == ["curl"]]
    assert {"preflight", "master", "join"} <= {words[0] for words in found}
    for words in found:
        line = shlex.join(words).replace("sha256:…", "sha256:" + "a" * 64).replace("MASTER", "10.1.10.11")
        shell.out(f"parse {line}")


def test_both_tell_the_same_commands() -> None:
    english, chinese = (commands(readme) for readme in READMES)
    assert english == chinese
