"""Real debs, made by dpkg-deb, and signed repositories of them."""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
from collections.abc import Iterable
from email.utils import formatdate
from pathlib import Path


def run(*command: str | Path, code: int = 0, **options: object) -> str:
    """Run a command that must exit with ``code``; returns what it says, errors included."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, check=False,
        **options,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def build(folder: Path, work: Path, name: str, fields: Iterable[str] = (), payload: int = 0) -> Path:
    """Build a deb called ``name_version[_arch]`` (amd64) with further control fields and ``payload`` bytes inside."""
    package, version, *arch = name.split("_")
    root = work / name
    (root / "DEBIAN").mkdir(parents=True)
    lines = [f"Package: {package}", f"Version: {version}", f"Architecture: {arch[0] if arch else 'amd64'}"]
    lines += ["Maintainer: Nobody <nobody@example.org>", "Description: x", *fields]
    (root / "DEBIAN/control").write_text("\n".join([*lines, ""]))
    if payload:
        (root / "opt").mkdir()
        (root / "opt" / package).write_bytes(hashlib.sha256(name.encode()).digest() * (payload // 32))
    path = folder / f"{re.sub(r'_[0-9]+:', '_', name)}.deb"  # Debian's pool leaves the epoch out, too
    run("dpkg-deb", "--build", "-Znone", "--root-owner-group", root, path)
    return path


def make_key(ring: Path, user: str) -> None:
    """Make a key in a gpg home, which is made with it."""
    ring.mkdir(mode=0o700, exist_ok=True)
    run("gpg", "--homedir", ring, "--batch", "--passphrase", "", "--quick-generate-key", user, "ed25519")


def export(ring: Path, user: str, path: Path, *options: str) -> None:
    """Write a public key to a file."""
    run("gpg", "--homedir", ring, *options, "--output", path, "--export", user)


def publish(root: Path, ring: Path, user: str, folder: str, base: str = "") -> None:
    """Write Packages, Release, InRelease and Release.gpg of a folder below ``root`` for the debs in its ``pool/``."""
    top = root / folder
    (top / base).mkdir(parents=True, exist_ok=True)
    text = run("dpkg-scanpackages", "-m", "pool", cwd=root).partition("dpkg-scanpackages: ")[0]
    (top / base / "Packages").write_text(text)
    (top / base / "Packages.gz").write_bytes(gzip.compress(text.encode()))
    sums = [
        f" {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} {path.relative_to(top)}"
        for path in sorted((top / base).glob("Packages*"))
    ]
    lines = ["Suite: stable", "Codename: stable", "Components: main", "Architectures: amd64"]
    (top / "Release").write_text("\n".join([*lines, f"Date: {formatdate(0, usegmt=True)}", "SHA256:", *sums, ""]))
    sign(top, ring, user)


def sign(top: Path, ring: Path, *users: str) -> None:
    """Write InRelease and Release.gpg beside Release, each with a signature of every user."""
    signers = [word for user in users for word in ("--local-user", user)]
    for option, name in (("--clearsign", "InRelease"), ("--detach-sign", "Release.gpg")):
        run("gpg", "--homedir", ring, "--batch", "--yes", *signers, "--output", top / name, option, top / "Release")
