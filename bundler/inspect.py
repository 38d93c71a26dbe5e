"""What a bundle says of itself, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bundler import archive
from bundler.errors import IntegrityError
from bundler.progress import amount
from bundler.verify import HINT, Bundle, open_bundle


def inspect(path: Path) -> dict[str, Any]:
    """Return a bundle's contract without its files, with sizes and counts.

    Contents are not verified; IntegrityError if the bundle's structure is wrong.
    """
    with open_bundle(path) as bundle:
        try:
            return _facts(bundle)
        except (ValueError, KeyError, TypeError, AttributeError) as reason:
            raise IntegrityError(f"{path}: bundle.json or closure.json is malformed: {reason}", HINT) from reason


def _facts(bundle: Bundle) -> dict[str, Any]:
    return {
        **{key: value for key, value in bundle.contract.items() if key not in ("files", "node")},
        "path": str(bundle.path),
        "size": bundle.size,
        "members": len(bundle.entries),
        "signed": bundle.signature is not None,
        "base": bundle.base,
        "parts": _parts(bundle),
        "roles": _roles(bundle),
        "closure": _closure(bundle),
    }


def _closure(bundle: Bundle) -> Any:
    """Return what was proven when it was built, or None in a bundle of before there were proofs."""
    entry = bundle.entries.get("closure.json")
    return None if entry is None else json.loads(archive.content(bundle.fd, entry))["proven"]


def _parts(bundle: Bundle) -> dict[str, dict[str, int]]:
    """Count files and bytes by the first part of the path."""
    parts: dict[str, dict[str, int]] = {}
    for path, entry in bundle.entries.items():
        if "/" in path:
            part = parts.setdefault(path.split("/")[0], {"files": 0, "size": 0})
            part["files"] += 1
            part["size"] += entry.size
    return parts


def _roles(bundle: Bundle) -> dict[str, dict[str, dict[str, int]]]:
    """Count packages and their bytes by host and role."""
    roles: dict[str, dict[str, dict[str, int]]] = {}
    for name, host in bundle.contract["hosts"].items():
        for role, path in host["roles"].items():
            if path not in bundle.entries:
                continue  # of a delta, whose base has it
            packages = archive.content(bundle.fd, bundle.entries[path]).decode().split()
            size = sum(bundle.entries[package].size for package in packages if package in bundle.entries)
            roles.setdefault(name, {})[role] = {"packages": len(packages), "size": size}
    return roles


def lines(facts: dict[str, Any]) -> list[str]:
    """Return what ``inspect`` found as lines for people."""
    text = [
        f"{facts['path']}: Kubernetes {facts['kubernetes']}, {', '.join(facts['arches'])}",
        f"{facts['members']} members, {amount(facts['size'])}, "
        + ("signed: check it with verify --key" if facts["signed"] else "not signed"),
    ]
    if facts["base"]:
        text.append(f"Delta to the bundle whose SHA256SUMS has sha256 {facts['base']}")
    for name, part in sorted(facts["parts"].items()):
        text.append(f"  {name:<10} {part['files']:>4} files  {amount(part['size']):>9}")
    for host, roles in facts["roles"].items():
        text.append(f"Packages for {host}, signed by {_keys(facts['hosts'][host])}:")
        text += [f"  {role:<8} {c['packages']:>4} packages  {amount(c['size']):>9}" for role, c in roles.items()]
    text.append("Images:")
    text += [f"  {image['ref']}  {image['digest']}  {', '.join(image['roles'])}" for image in facts["images"]]
    if facts["addons"]:
        text.append("Add-ons:")
        text += [f"  {addon['name']} {addon['version']} ({addon['kind']})" for addon in facts["addons"]]
    return [*text, *_proof(facts["closure"])]


def _proof(proven: dict[str, Any] | None) -> list[str]:
    if proven is None:
        return ["Not proven to be complete"]
    text = ["Proven to be complete:"]
    for host, roles in proven["roles"].items():
        for role, found in roles.items():
            text.append(f"  {host} {role}: {found['packages']} packages install from it alone")
            text += [f"    assumed of the host: {', '.join(found['assumed'])}"] if found["assumed"] else []
            text += [f"    replaceable by others: {', '.join(found['spare'])}"] if found["spare"] else []
    return [*text, f"  {len(proven['images'])} images, whole, are all that anything in it names"]


def _keys(host: dict[str, Any]) -> str:
    return ", ".join(key.rsplit("/", 1)[-1] for key in host["keys"]) or "nobody"
