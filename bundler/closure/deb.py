"""The apt repository of a bundle, in a libsolv pool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bundler.closure.contents import Contents
from bundler.closure.repository import Reader, Repository
from bundler.resolve.apt import read_unsigned
from bundler.resolve.deb import DebSolver
from bundler.wanted import Repo


class DebRepository(Repository):
    """Debs."""

    def __init__(self, contents: Contents, path: str, arch: str, capabilities: Iterable[str]) -> None:
        index = read_unsigned(Repo("bundle", path, (), suite="./"), arch, Reader(contents))
        self.solver = DebSolver([index], arch, list(capabilities))
        super().__init__(self.solver.pool, self.solver.repos[0][0], next(iter(self.solver.pool.installed.solvables)))
        stanzas = self.solver.stanzas
        self.files = {stanzas[s.id]["Filename"].removeprefix("./"): s for s in self.repo.solvables}

    def capabilities(self, text: str) -> list[Any]:
        """Return what one declared capability (``NAME`` or ``NAME OP VERSION``) gives the host."""
        return self.solver.provides(text)

    def digest(self, solvable: Any) -> str:
        """Return the sha256 (hex) that Packages gives."""
        return self.solver.digest(solvable)

    def version(self, solvable: Any) -> str:
        """Return the Debian version."""
        return self.solver.version(solvable)

    def text(self, found: Any) -> str:
        """Return a dependency, a package or libsolv's account of them in Debian's words."""
        return self.solver.capability(found)

    def assumable(self, dep: Any) -> str:
        """Return the first alternative."""
        return self.solver.capability(dep).strip("()").split(" | ")[0]

    def favored(self, wanted: Sequence[Sequence[Any]]) -> list[int]:
        """Return what apt would mark."""
        return self.solver.preferred([group for group in wanted if group], {self.host.id})
