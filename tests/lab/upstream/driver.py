"""What the lab's upstream does: build everything, serve it, say where it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from . import servers
from .home import LabError, home, lock
from .images import catalog, registry_data
from .site import site

VERSIONS = ("v1.20.2",)


def build() -> None:
    """Build what is not built yet: binaries, packages, images, the site. LabError says what failed."""
    with lock("build"):
        site(VERSIONS)
        registry_data(VERSIONS)
        write_mirrors()


def start() -> Path:
    """Serve what was built, and return the path of mirrors.yaml."""
    if not (home() / "site").is_dir() or not (home() / "registry").is_dir():
        raise LabError("nothing is built yet: python -m tests.lab.upstream build")
    servers.start()
    return write_mirrors()


@contextmanager
def beside(version: str, place: Path) -> Iterator[Path]:
    """Have an upstream of another patch level (like `v1.20.3`) beside the usual one while the block runs.

    Yields the path of its own mirrors.yaml, in place, where its registry logs too. LabError says what failed.
    """
    with lock("build"):
        files, data = site((version,)), registry_data((version,))
    with servers.registry_over(data.path / "data", place) as address:
        registries = {ref.split("/")[0] for ref in catalog(version)}
        where = {name: f"http://{address}/{name}" for name in sorted(registries)}
        where.update({f"https://{host.name}": str(host) for host in sorted(files.path.iterdir())})
        path = place / "mirrors.yaml"
        path.write_text(yaml.safe_dump({"mirrors": where}))
        yield path


def mirrors() -> dict[str, str]:
    """Return where each upstream is: a host of images or a URL prefix of files -> a URL of the lab."""
    files, registry = servers.ports()
    hosts = sorted(p.name for p in (home() / "site").iterdir())
    registries = sorted({ref.split("/")[0] for ref in catalog()})
    return {
        **{name: f"http://127.0.0.1:{registry}/{name}" for name in registries},
        **{f"https://{host}": f"http://127.0.0.1:{files}/{host}" for host in hosts},
    }


def write_mirrors() -> Path:
    """Write mirrors.yaml, which `bundler --config` takes, and return its path."""
    path = home() / "mirrors.yaml"
    text = yaml.safe_dump({"mirrors": mirrors()})
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path
