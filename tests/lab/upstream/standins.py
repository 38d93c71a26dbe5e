"""The stand-ins: small programs for what Debian does not have, built beside Kubernetes and with its libraries."""

from __future__ import annotations

import json
from pathlib import Path

from .home import HERE, Built, debian_versions, run, step
from .source import TREE, go_env, source

PROGRAMS = {"labdns": "coredns", "labcrictl": "crictl", "labflanneld": "flanneld", "labflannelcni": "flannel"}


def standins() -> Built:
    """Return a directory with coredns, crictl, flanneld, flannel (the CNI plugin) and pause, all static.

    pause is Kubernetes' own source; the others say in --version that they are stand-ins.
    """
    tree = source()
    return step(
        "standins",
        [tree, HERE / "standins", PROGRAMS, debian_versions("gcc", "libc6-dev"), Path(__file__)],
        lambda out: _build(tree.path, out),
    )


def _build(source_path: Path, out: Path) -> None:
    tree, env = source_path / TREE, go_env(source_path / "gopath")
    overlay = out.with_name("standins.overlay.json")
    overlay.write_text(json.dumps({"Replace": _replacements(tree)}))
    for name, program in PROGRAMS.items():
        run(
            "go",
            "build",
            "-overlay",
            overlay,
            "-o",
            out / program,
            "-ldflags",
            "-s -w",
            f"./cmd/{name}",
            cwd=tree,
            env=env,
        )
    overlay.unlink()
    run("gcc", "-Os", "-static", "-s", "-DVERSION=3.2", "-o", out / "pause", tree / "build/pause/linux/pause.c")


def _replacements(tree: Path) -> dict[str, str]:
    """Each program appears to the compiler as a command of Kubernetes' tree, whose vendored libraries it may use."""
    files = (HERE / "standins").glob("*/*.go")
    return {str(tree / "cmd" / f.parent.name / f.name): str(f) for f in files}
