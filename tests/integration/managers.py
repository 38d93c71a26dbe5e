"""dnf and apt, each with a root, caches and one source of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any


def run(*command: str | Path, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; what it said is in the failure."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **kwargs)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


class Dnf:
    """dnf that knows the repositories of one `.repo` file, and installs below `folder`/root."""

    def __init__(self, folder: Path, repo: str) -> None:
        (folder / "repos").mkdir(parents=True)
        (folder / "repos/kubecarry.repo").write_text(repo)
        (folder / "dnf.conf").write_text("[main]\n")
        self.root = folder / "root"
        self._env = {**os.environ, "HOME": str(folder)}
        self._words = ["dnf", "-y", "-c", folder / "dnf.conf", "--installroot", self.root, "--releasever=7"]
        for name, value in {"reposdir": folder / "repos", "cachedir": folder / "cache", "logdir": folder,
                            "persistdir": "/var/lib/dnf", "module_platform_id": "platform:el7"}.items():  # fmt: skip
            self._words.append(f"--setopt={name}={value}")

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(*self._words, *words, check=check, env=self._env)

    def refused(self, *words: str) -> str:
        """What dnf says where it does not do it."""
        done = self(*words, check=False)
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr


def apt(root: Path, sources: str, name: str, configuration: str = "") -> list[str]:
    """The words of an apt-get with a root of its own, and one source in a file of that name."""
    for folder in ("etc/apt/sources.list.d", "etc/apt/preferences.d", "etc/apt/apt.conf.d", "var/lib/apt/lists/partial",
                   "var/cache/apt/archives/partial", "var/lib/dpkg"):  # fmt: skip
        (root / folder).mkdir(parents=True)
    (root / "etc/apt/sources.list.d" / name).write_text(sources)
    (root / "var/lib/dpkg/status").write_text("")
    (root / "apt.conf").write_text(
        f'Dir "{root}";\nDir::State::status "{root}/var/lib/dpkg/status";\nAPT::Architecture "amd64";\n'
        'APT::Architectures { "amd64"; };\nAPT::Sandbox::User "root";\nAcquire::http::Proxy "DIRECT";\n'
        'Acquire::https::Proxy "DIRECT";\nAcquire::Languages "none";\nAPT::Update::Error-Mode "any";\n' + configuration
    )
    return ["env", f"APT_CONFIG={root}/apt.conf", "apt-get", "-q", "-y"]
