"""What ``bundler versions`` shows: the releases, the add-ons that fit each, and how complete the locks are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bundler.complete import Need, counts, needs
from bundler.lock import read_locks
from bundler.locked import Locks
from bundler.manifest import Addon, Release, list_addons, load_addons, load_release, release_names


def versions(manifests: Path, lock_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """Return ``releases`` (one entry per host and architecture) and ``addons`` as plain data.

    ``locked`` of ``wanted`` entries are there, ``counts`` says the same per kind as pairs; a release counts the add-ons
    that it includes. ManifestError or LockError.
    """
    locks, addons = read_locks(lock_dir), list_addons(manifests)
    releases = [load_release(manifests, name) for name in release_names(manifests)]
    found = []
    for release in releases:
        included = load_addons(manifests, release, [])
        for os_name in release.hosts:
            for arch in release.arches:
                found.append(_entry(release, included, addons, locks, os_name, arch))
    return {"releases": found, "addons": [_addon(addon, releases, locks) for addon in addons]}


def lines(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Yield what ``versions`` returned as text; a line that is about a platform starts with its release."""
    widths = [
        max([0, *(len(entry[key]) for entry in found["releases"])]) for key in ("release", "kubernetes", "os", "arch")
    ]
    for entry in found["releases"]:
        cells = zip((entry["release"], entry["kubernetes"], entry["os"], entry["arch"]), widths)
        yield "  ".join([*(text.ljust(width) for text, width in cells), _state(entry)])
        others = [name for name in entry["fitting"] if name not in entry["addons"]]
        yield f"    add-ons: {', '.join(entry['addons']) or 'none'}; --with {', '.join(others) or '(no other fits)'}"
    for addon in found["addons"]:
        name = f"add-on {addon['name']} {addon['version']} ({addon['kind']}) for {', '.join(addon['releases'])}"
        yield f"{name}: {_state(addon)}"


def _state(entry: Mapping[str, Any]) -> str:
    total = f"{entry['locked']} of {entry['wanted']} locked"
    if not entry["unresolved"]:
        return f"{total}, complete"
    kinds = ", ".join(f"{kind}s {have} of {want}" for kind, (have, want) in entry["counts"].items())
    return f"{total} ({kinds}), {len(entry['unresolved'])} unresolved"


def _entry(
    release: Release, included: Sequence[Addon], addons: Sequence[Addon], locks: Locks, os_name: str, arch: str
) -> dict[str, Any]:
    return {
        "release": release.release,
        "kubernetes": release.kubernetes,
        "method": release.method,
        "runtime": release.runtime,
        "os": os_name,
        "arch": arch,
        "addons": [addon.name for addon in included],
        "fitting": sorted({addon.name for addon in addons if addon.fits(release.release)}),
        **_complete(needs(release, included, locks, [os_name], [arch])),
    }


def _addon(addon: Addon, releases: Sequence[Release], locks: Locks) -> dict[str, Any]:
    """An add-on's own images and manifests, for every architecture of the releases that it fits."""
    wanted: dict[Need, None] = {}
    for release in (release for release in releases if addon.fits(release.release)):
        base = set(needs(release, [], locks, [], release.arches))
        wanted.update((need, None) for need in needs(release, [addon], locks, [], release.arches) if need not in base)
    facts = {"name": addon.name, "version": addon.version, "kind": addon.kind, "releases": list(addon.releases)}
    return {**facts, **_complete(list(wanted))}


def _complete(found: Sequence[Need]) -> dict[str, Any]:
    lacking = [str(need) for need in found if need.lacking]
    return {
        "counts": {kind: list(pair) for kind, pair in counts(found).items()},
        "locked": len(found) - len(lacking),
        "wanted": len(found),
        "unresolved": lacking,
    }
