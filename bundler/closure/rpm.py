"""The yum repository of a bundle, in a libsolv pool."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import solv

from bundler.closure.contents import Contents
from bundler.closure.repository import Reader, Repository
from bundler.errors import ResolveError
from bundler.resolve.repomd import Metadata
from bundler.resolve.rpm import OPERATORS
from bundler.wanted import Repo


class RpmRepository(Repository):
    """RPMs."""

    def __init__(self, contents: Contents, path: str, arch: str, capabilities: Iterable[str]) -> None:
        pool = solv.Pool()
        pool.setdisttype(pool.DISTTYPE_RPM)
        pool.setarch(arch)
        repo = pool.add_repo("bundle")
        _load(repo, contents, path)
        pool.installed = pool.add_repo("@minimal")
        host = pool.installed.add_solvable()
        host.name, host.evr, host.arch = "minimal-host", "0-0", "noarch"
        super().__init__(pool, repo, host)
        self.files = {s.lookup_location()[0]: s for s in repo.solvables if s.arch in (arch, "noarch")}
        self.provide(capabilities)
        pool.addfileprovides()

    def capabilities(self, text: str) -> list[Any]:
        """Return what one declared capability (``NAME`` or ``NAME OP EVR``) gives the host."""
        name, _, relation = text.partition(" ")
        operator, _, evr = relation.partition(" ")
        dep = self.pool.Dep(name)
        return [dep.Rel(OPERATORS[operator], self.pool.Dep(evr)) if relation else dep]

    def digest(self, solvable: Any) -> str:
        """Return the sha256 (hex) that the metadata give."""
        return str(solvable.lookup_checksum(solv.SOLVABLE_CHECKSUM).hex())


def _load(repo: Any, contents: Contents, path: str) -> None:
    with tempfile.TemporaryDirectory(prefix="bundler-") as directory:
        metadata = Metadata(Repo("bundle", path, ()), Reader(contents), Path(directory))
        for record in metadata.records.values():
            if f"{path}/{record.location_href}" not in contents.sizes:
                raise ResolveError(f"{path}/{record.location_href} is not in the bundle")
        for kind, language, flags in (("primary", None, 0), ("filelists", "FL", solv.Repo.REPO_EXTEND_SOLVABLES)):
            if not repo.add_rpmmd(solv.xfopen(str(metadata.part(kind))), language, flags):
                raise ResolveError(f"{path}: libsolv cannot read {kind}: {repo.pool.errstr}")
