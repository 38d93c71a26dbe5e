"""Options that several commands share, and what they mean."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from bundler import data
from bundler.build import Workshop
from bundler.errors import ManifestError
from bundler.extras import Extras, Requests, read_extras
from bundler.fetch.auth import Credentials
from bundler.fetch.http import Client
from bundler.fetch.mirrors import Mirrors
from bundler.fetch.registry import Registry
from bundler.fetch.sources import open_source
from bundler.lock import read_locks
from bundler.manifest import Release, load_addons, load_release
from bundler.progress import Progress
from bundler.selection import Selection
from bundler.store import Source, Store

Command = TypeVar("Command", bound=Callable[..., Any])

DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)


LEAST_PART = 1 << 20


def size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Return the bytes of ``700M`` or ``4G`` (powers of 1024; 0 for nothing). 4G is a page less, to fit on FAT32."""
    del context, parameter
    found = re.fullmatch(r"(\d{1,12})([KMG]?)i?B?", value or "0", re.IGNORECASE)
    number = int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2].upper()] if found else -1
    if number != 0 and number < LEAST_PART:
        raise click.BadParameter(f"{value!r} is no size of 1M or more: write 700M or 4G.")
    return number - 4096 if number == 4 << 30 else number


def _options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def choosing(command: Command) -> Command:
    """Add the options that say what is wanted."""
    return _options(
        click.option("--version", "version", required=True, metavar="V", help="Release: 1.20 or 1.20.2."),
        click.option("--os", "os_names", multiple=True, metavar="NAME", help="Host system, default the first."),
        click.option("--arch", "--platform", "arches", multiple=True, callback=_arches, metavar="ARCH",
                     help="amd64, or linux/amd64,linux/arm64; default the first."),
        click.option("--with", "addons", multiple=True, metavar="ADDON", help="Add-on beyond those of the release."),
        places,
    )(command)


def _arches(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Return the architectures out of ``amd64`` and ``linux/amd64,linux/arm64``."""
    del context, parameter
    names = [name.strip() for value in values for name in value.split(",")]
    for name in names:
        if not name.removeprefix("linux/") or "/" in name.removeprefix("linux/"):
            raise click.BadParameter(f"{name!r} is neither like amd64 nor like linux/amd64.")
    return tuple(dict.fromkeys(name.removeprefix("linux/") for name in names))


def _mirrors(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> Sequence[str]:
    """Return the rules as they are, if they are rules; a wrong one is a wrong command line, not a wrong manifest."""
    del context, parameter
    try:
        Mirrors.parse(values)
    except ManifestError as reason:
        raise click.BadParameter(f"{reason.message.removeprefix('--mirror ')}; {reason.hint}") from reason
    return values


def own(command: Command) -> Command:
    """Add the options that name the user's own things."""
    return _options(
        click.option("--image", "images", multiple=True, metavar="REF", help="Carry an image of your own."),
        click.option("--chart", "charts", multiple=True, metavar="PATH|URL", help="Carry a Helm chart and its images."),
        click.option("--chart-image", "chart_images", multiple=True, metavar="CHART=REF",
                     help="An image of a chart that only helm could tell."),
        click.option("--manifest", "own_manifests", multiple=True, metavar="PATH|URL",
                     help="Carry a Kubernetes manifest and its images; it is not applied."),
        click.option("--package", "packages", multiple=True, metavar="NAME", help="Install a package in every role."),
        click.option("--file", "files", multiple=True, metavar="PATH|URL", help="Carry any file."),
    )(command)


def places(command: Command) -> Command:
    """Add the options that say where manifests and locks lie."""
    return _options(
        click.option("--manifests", type=DIRECTORY, help="Directory of manifests, default the bundler's own."),
        click.option("--lock-dir", type=DIRECTORY, help="Directory of the locks, default . if it has a rpms.lock."),
    )(command)


def fetching(command: Command) -> Command:
    """Add the options that say where bytes come from."""
    return _options(
        click.option("--mirror", "mirrors", multiple=True, callback=_mirrors, metavar="FROM=TO",
                     help="Ask TO for what FROM has."),
        click.option("--config", type=FILE, help="YAML file with `mirrors: {FROM: TO}`."),
        click.option("--source", "sources", multiple=True, type=ANY_PATH, help="Folder or former bundle to take from."),
        click.option("--docker", is_flag=True, help="Take images from the local Docker, of a containerd image store."),
        click.option("--cache-dir", type=ANY_PATH, help="Cache, default ~/.cache/kubecarry."),
        click.option("-j", "--jobs", type=click.IntRange(1, 64), default=8, show_default=True, help="Connections."),
        click.option("--retries", type=click.IntRange(0, 100), default=5, show_default=True, help="Per file."),
        click.option("--timeout", type=click.FloatRange(0.1), default=20.0, show_default=True, help="In seconds."),
        click.option("--ca-file", type=FILE, help="CA certificates to trust, PEM."),
        click.option("-q", "--quiet", is_flag=True, help="No progress."),
    )(command)


@dataclass(frozen=True)
class Fetching:
    """The values of ``fetching``."""

    mirrors: Sequence[str]
    config: Path | None
    sources: Sequence[Path]
    cache_dir: Path | None
    jobs: int
    retries: int
    timeout: float
    ca_file: Path | None
    quiet: bool
    docker: bool = False

    @contextmanager
    def open(self) -> Iterator[Workshop]:
        """Open cache, client and display for the length of a with block."""
        mirrors = Mirrors.parse(self.mirrors, self.config)
        store = Store(self.cache_dir or default_cache(), list(self._sources()))
        client = Client(mirrors, retries=self.retries, timeout=self.timeout, ca_file=self.ca_file)
        try:
            with Progress(quiet=self.quiet) as progress:
                yield Workshop(store, Registry(client, Credentials.load()), progress, self.jobs)
        finally:
            client.close()

    def _sources(self) -> Iterator[Source]:
        yield from map(open_source, self.sources)
        if self.docker:
            from bundler.fetch.daemon import Daemon  # noqa: PLC0415 (Docker's SDK is slow to import)

            yield Daemon(Store(self.cache_dir or default_cache()))


def default_cache() -> Path:
    """Return the cache's directory by the XDG rules."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "kubecarry"


def requests(options: dict[str, Any]) -> Requests:
    """Take the values of ``own`` out of a command's options."""
    return Requests(
        images=options.pop("images"),
        charts=options.pop("charts"),
        manifests=options.pop("own_manifests"),
        packages=options.pop("packages"),
        files=options.pop("files"),
        chart_images=options.pop("chart_images"),
        drop=options.pop("drop", ()),
    )


def select(
    version: str,
    os_names: Sequence[str],
    arches: Sequence[str],
    addons: Sequence[str],
    manifests: Path | None,
    lock_dir: Path | None,
    extras: Extras | None = None,
) -> Selection:
    """Read manifests and locks, and fill in what was not chosen. ManifestError or LockError.

    ``extras`` take the place of those that are recorded.
    """
    directory = manifests or data.manifests_dir()
    release = load_release(directory, version)
    if extras is None:
        extras = read_extras(lock_dir or data.lock_dir()).get(release.release, Extras())
    return Selection(
        release=extras.applied(release),
        addons=load_addons(directory, release, addons),
        os_names=_known(os_names, tuple(release.hosts), "--os", release),
        arches=_known(arches, release.arches, "--arch", release),
        locks=read_locks(lock_dir or data.lock_dir()),
        extras=extras,
    )


def _known(names: Sequence[str], known: Sequence[str], option: str, release: Release) -> tuple[str, ...]:
    for name in names:
        if name not in known:
            raise ManifestError(
                f"release {release.release} has nothing for {option} {name}", f"Known: {', '.join(known)}."
            )
    return tuple(dict.fromkeys(names)) or (known[0],)


def created(release: Release) -> int:
    """Return the time stamp of all that is written: SOURCE_DATE_EPOCH, or the release's date."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return release.date
    if not text.isascii() or not text.isdigit() or int(text) >= 8**11:
        raise ManifestError(f"SOURCE_DATE_EPOCH={text}: not a number of seconds since 1970", "Mend or unset it.")
    return int(text)
