"""Where the bundler's own data lies: manifests, locks and the installer.

In a checkout they are the package's siblings; an installed package carries them inside, under ``_payload``.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """Return the directory that holds ``manifests/``, ``installer/`` and the locks."""
    inside = _PACKAGE / "_payload"
    return inside if inside.is_dir() else _PACKAGE.parent


def is_installed() -> bool:
    """Tell whether the data belongs to an installed package, which nobody should write to."""
    return root() != _PACKAGE.parent


def manifests_dir() -> Path:
    """Return the directory of the release manifests."""
    return root() / "manifests"


def lock_dir() -> Path:
    """Return the directory of the locks to read: the current one if it holds a ``rpms.lock``, else our own."""
    return Path.cwd() if Path("rpms.lock").is_file() else root()


def installer_files(installer: Path | None = None) -> dict[str, Path]:
    """Return the installer's files by their path in a bundle (``installer/node/10-host.sh``)."""
    top = installer or root() / "installer"
    files = [*top.rglob("*.py"), *(top / "node").glob("*.sh")]
    return {f"installer/{path.relative_to(top).as_posix()}": path for path in sorted(files)}
