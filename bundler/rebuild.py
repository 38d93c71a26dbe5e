"""Proof that a bundle is what the locks say: it is composed again from them, and compared member by member."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bundler.archive import Member
from bundler.build import Workshop, compose, require_complete
from bundler.bundle import CONTRACT, SIGNATURE, SIGSTORE, SUMS
from bundler.errors import IntegrityError
from bundler.options import select
from bundler.reposign import Carried
from bundler.verify import HINT, Bundle, open_bundle

_HINT = "Was it built from other locks or manifests, or by another version of the bundler?"


def rebuild(path: Path, manifests: Path | None, lock_dir: Path | None, workshop: Workshop) -> int:
    """Compose the bundle at ``path`` from the locks and compare; returns how many members are the same.

    The contents of the bundle must have been verified. Signatures of SHA256SUMS are left out: they need a key.
    Those of repositories are taken from the bundle, if they are good and over what the locks give. IntegrityError names
    the first member that differs; all errors of a build may come.
    """
    with open_bundle(path) as bundle:
        try:
            node, contract = bundle.contract["node"], bundle.contract
            selection = select(
                version=contract["release"], os_names=node["BUNDLE_HOSTS"].split(), arches=contract["arches"],
                addons=[addon["name"] for addon in contract["addons"]], manifests=manifests, lock_dir=lock_dir,
            )
            created = int(contract["created"])
        except (KeyError, TypeError, AttributeError) as reason:
            raise IntegrityError(f"{path}: {CONTRACT} is malformed: {reason}", HINT) from reason
        require_complete(selection)
        return _compare(path, bundle, compose(selection, created, workshop, Carried(bundle)))


def _compare(path: Path, bundle: Bundle, members: Sequence[Member]) -> int:
    ours = {member.path: member.sha256 for member in members}
    # bundle.json and SHA256SUMS differ with any other member: they come last, if it is they alone.
    for name in [*sorted({*ours, *bundle.files} - {CONTRACT, SUMS}), CONTRACT]:
        found = bundle.files.get(name) if name != CONTRACT else bundle.contract_sha256
        if found != ours.get(name):
            what = "is not in it" if found is None else "is extra" if name not in ours else "differs"
            raise IntegrityError(f"{path}: not what the locks give: {name} {what}", _HINT)
    return len(bundle.entries) - len({SIGNATURE, SIGSTORE} & set(bundle.entries))
