"""Deb closure: Packages in a libsolv pool.

The libsolv that pip installs reads no Packages and knows only rpm's order of versions and rpm's meaning of a capability
without one. So versions become ranks, and what Debian calls a virtual package becomes a name of its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any
from urllib.parse import quote

import solv

from bundler.errors import ResolveError
from bundler.locked import ArchLock, LockedPackage
from bundler.manifest import Host
from bundler.resolve.apt import Index, Stanza, read_index
from bundler.resolve.debver import Ranks
from bundler.resolve.repomd import Reader
from bundler.resolve.solver import OPERATORS, Solver

_ALTERNATIVE = re.compile(
    r"\s*([A-Za-z0-9][A-Za-z0-9+.-]*)(?::([a-z0-9-]+))?\s*(?:\(\s*(<<|<=|=|>=|>>|<|>)\s*([^\s)]+)\s*\))?\s*(?:\[.*)?"
)
# A lone < or > is the old way to write <= and >=
_OPERATORS = {"<<": "<", "<": "<=", "<=": "<=", "=": "=", ">=": ">=", ">": ">=", ">>": ">"}
_PRIORITIES = ("required", "important", "standard", "optional", "extra")
_VIRTUAL = "virtual:"
_KERNEL = re.compile(r"linux-(image|modules)-.*\d.*|.*-dkms")
Alternative = tuple[str, str, str]


def resolve_arch(
    host: Host,
    arch: str,
    client: Reader,
    keep: Collection[str] = (),
    warn: Callable[[str], object] = str,
) -> ArchLock:
    """Return the packages of every role of ``host`` for a Go architecture, as ``bundler.resolve.rpm`` does for RPMs."""
    indexes = [read_index(repo.for_arch(arch), host.arch(arch), client) for repo in host.repos]
    return DebSolver(indexes, host.arch(arch), host.installed, keep).lock(host, warn)


def parse_relations(text: str) -> Iterator[list[Alternative]]:
    """Yield the alternatives of each entry of Depends and its like: name (``:any`` kept), operator, version."""
    for entry in filter(str.strip, text.split(",")):
        yield [_alternative(part) for part in entry.split("|")]


def _alternative(text: str) -> Alternative:
    match = _ALTERNATIVE.fullmatch(text)
    if match is None:
        return text.strip(), "", ""
    return match[1] + (":any" if match[2] == "any" else ""), _OPERATORS.get(match[3] or "", ""), match[4] or ""


class DebSolver(Solver):
    """The packages of apt repositories."""

    def __init__(
        self, indexes: Sequence[Index], arch: str, installed: Sequence[str], keep: Collection[str] = ()
    ) -> None:
        """Fill the pool; the first of several repositories wins a package of the same version."""
        super().__init__(arch, installed, keep)
        self.ranks = Ranks(self._versions(indexes))
        self.stanzas: dict[int, Stanza] = {}
        self.repos = [(self.pool.add_repo(index.repo.id), index) for index in indexes]
        seen: set[tuple[str, str]] = set()
        for repo, index in self.repos:
            for stanza in index.stanzas:
                if (stanza["Package"], stanza["Version"]) not in seen:
                    seen.add((stanza["Package"], stanza["Version"]))
                    self._add(repo, stanza)
            if index.until is not None and index.until < time.time():
                ended = time.strftime("%Y-%m-%d", time.gmtime(index.until))
                self.warnings.append(f"{index.source} ended on {ended}: the mirror is out of date, or an archive")
        self.add_host()
        self.prepare()

    def version(self, solvable: Any) -> str:
        """Return the Debian version."""
        return self.stanzas[solvable.id]["Version"] if solvable.id in self.stanzas else str(solvable.evr)

    def capability(self, dep: Any) -> str:
        """Return a dependency, or libsolv's account of one, in Debian's words."""
        text = re.sub(rf" or {_VIRTUAL}[^\s)]+", "", str(dep))
        text = re.sub(r"\(([^\s()]+( [<=>]+ [^\s()]+)?)\)", r"\1", text).replace(" or ", " | ")
        return self.ranks.text(text).replace(".noarch", "")

    def taken(self, dep: Any, provider: Any) -> str:
        """Return the first alternative of ``dep`` that ``provider`` stands for."""
        for text in str(dep).replace("(", "").replace(")", "").split(" or "):
            name, _, relation = text.partition(" ")
            operator, _, rank = relation.partition(" ")
            found = self.pool.Dep(name)
            if relation:
                found = found.Rel(OPERATORS[operator], self.pool.Dep(rank))
            if any(one.id == provider.id for one in self.pool.whatprovides(found)):
                return self.ranks.text(text).removeprefix(_VIRTUAL)
        return super().taken(dep, provider)

    def digest(self, solvable: Any) -> str:
        """Return the sha256 of the deb, or an empty text."""
        return self.stanzas.get(solvable.id, {}).get("SHA256", "").lower()

    def package(self, solvable: Any) -> LockedPackage:
        """Return a deb as plain data."""
        index = next(index for repo, index in self.repos if repo == solvable.repo)
        stanza, sha256 = self.stanzas[solvable.id], self.digest(solvable)
        if len(sha256) != 64 or not stanza.get("Filename"):
            what = f"{stanza['Package']} {stanza['Version']}"
            raise ResolveError(f"{index.source}: gives no SHA256 of {what}", "A repository with SHA256 is needed.")
        size = stanza.get("Size", "")
        return LockedPackage(
            url=f"{index.repo.baseurl}/{quote(stanza['Filename'].removeprefix('./'), safe='/~+:')}",
            repoid=index.repo.id,
            sha256=sha256,
            size=int(size) if size.isdecimal() else None,
            name=stanza["Package"],
            evr=stanza["Version"],
            sourcerpm="",
            source=index.source,
        )

    def provides(self, capability: str) -> list[Any]:
        """Return what one declared capability gives: without a version, it stands for any version."""
        name, _, relation = capability.partition(" ")
        operator, _, version = relation.partition(" ")
        return [self._rel(name, operator, version)]

    def essential(self) -> Iterable[str]:
        """Return the packages that no Debian host is without."""
        return {stanza["Package"] for stanza in self.stanzas.values() if stanza.get("Essential") == "yes"}

    def preferred(self, wanted: Iterable[Sequence[Any]], given: AbstractSet[int]) -> list[int]:
        """Return what apt would mark: of alternatives the first, of a virtual package's providers the weightiest."""
        found = {max(group, key=lambda s: (self.digest(s) in self.keep, self._rank(s))).id: None for group in wanted}
        ahead = list(found)
        while ahead:
            for entry in self._depends(self.stanzas.get(ahead.pop(0), {})):
                choices = [s for alternative in entry for s in self._by_weight(alternative)]
                if choices and not any(s.id in found or s.id in given or s.id not in self.stanzas for s in choices):
                    first = next((s for s in choices if self.digest(s) in self.keep), choices[0])
                    found[first.id] = None
                    ahead.append(first.id)
        return list(found)

    def inspect(self, carried: Sequence[Any]) -> None:
        """Warn of packages that belong to one kernel."""
        for solvable in carried:
            if _KERNEL.fullmatch(solvable.name):
                self.warnings.append(f"{solvable.name} is for one kernel: it serves only nodes that run it")

    def _versions(self, indexes: Sequence[Index]) -> Iterator[str]:
        for capability in self.installed:
            if " " in capability:
                yield capability.rsplit(" ", 1)[-1]
        for stanza in (stanza for index in indexes for stanza in index.stanzas):
            yield stanza["Version"]
            for field in ("Pre-Depends", "Depends", "Conflicts", "Breaks", "Provides"):
                for entry in parse_relations(stanza.get(field, "")):
                    yield from (version for _, _, version in entry if version)

    def _add(self, repo: Any, stanza: Stanza) -> None:
        solvable = repo.add_solvable()
        self.stanzas[solvable.id] = stanza
        rank = self.ranks.rank(stanza["Version"])
        solvable.name, solvable.evr = stanza["Package"], rank
        solvable.arch = "noarch" if stanza["Architecture"] == "all" else self.arch
        names = [stanza["Package"]]
        if stanza.get("Multi-Arch") == "allowed":
            names.append(f"{stanza['Package']}:any")
        for name in names:
            solvable.add_provides(self._rel(name, "=", stanza["Version"]))
        for (name, operator, version), *_ in parse_relations(stanza.get("Provides", "")):
            solvable.add_provides(self._rel(name if operator else _VIRTUAL + name, operator, version))
        for entry in self._depends(stanza):
            solvable.add_requires(self._any(entry))
        for field in ("Conflicts", "Breaks"):
            for entry in parse_relations(stanza.get(field, "")):
                for alternative in entry:
                    for dep in self._deps(alternative):
                        solvable.add_conflicts(dep)

    def _depends(self, stanza: Stanza) -> list[list[Alternative]]:
        return [entry for field in ("Pre-Depends", "Depends") for entry in parse_relations(stanza.get(field, ""))]

    def _rel(self, name: str, operator: str, version: str) -> Any:
        dep = self.pool.Dep(name)
        return dep.Rel(OPERATORS[operator], self.pool.Dep(self.ranks.rank(version))) if operator else dep

    def _deps(self, alternative: Alternative) -> list[Any]:
        """Return what satisfies it: a version is asked of the package itself or of a versioned Provides only."""
        name, operator, version = alternative
        return [self._rel(name, operator, version)] + ([] if operator else [self.pool.Dep(_VIRTUAL + name)])

    def _any(self, entry: Sequence[Alternative]) -> Any:
        deps = [dep for alternative in entry for dep in self._deps(alternative)]
        found = deps[-1]
        for dep in reversed(deps[:-1]):
            found = dep.Rel(solv.REL_OR, found)
        return found

    def _by_weight(self, alternative: Alternative) -> list[Any]:
        found = {s.id: s for dep in self._deps(alternative) for s in self.pool.whatprovides(dep)}
        name = alternative[0].partition(":")[0]
        return sorted(found.values(), key=lambda s: (s.name != name, self._priority(s), -self._rank(s), s.id))

    def _priority(self, solvable: Any) -> int:
        priority = self.stanzas.get(solvable.id, {}).get("Priority", "")
        return _PRIORITIES.index(priority) if priority in _PRIORITIES else len(_PRIORITIES)

    def _rank(self, solvable: Any) -> int:
        return int(str(solvable.evr).removeprefix("rank")) if solvable.id in self.stanzas else 0
