"""Whether a role's packages install from the bundle's own repository, and why each of them is there.

Only plain data leaves libsolv's pool: a solvable that outlives its pool crashes Python.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import solv

from bundler.closure.contents import Contents
from bundler.lock import satisfies
from bundler.resolve.solver import FAVOR


@dataclass(frozen=True)
class Solved:
    """What came of a role: file names that libsolv installs, those of them that others of the role could replace, the
    capabilities assumed of the host, and what is lacking, a line each."""

    installed: frozenset[str]
    spare: tuple[str, ...]
    assumed: tuple[str, ...]
    gaps: tuple[str, ...]


class Repository:
    """One architecture of ``packages/<os>`` in a bundle, with a host that has ``capabilities`` and nothing else.

    A subclass fills the pool and ``files`` (its packages by file name), and says what is particular to its format.
    ResolveError or IntegrityError where its metadata are missing or damaged.
    """

    def __init__(self, pool: Any, repo: Any, host: Any) -> None:
        """Take a pool, the repository in it, and the package that stands for the host."""
        self.pool, self.repo, self.host = pool, repo, host
        self.files: dict[str, Any] = {}
        self.assumed: set[str] = set()

    def capabilities(self, text: str) -> list[Any]:
        """Return the dependencies that one declared capability gives the host."""
        raise NotImplementedError

    def digest(self, solvable: Any) -> str:
        """Return the sha256 (hex) of its file that the metadata give."""
        raise NotImplementedError

    def version(self, solvable: Any) -> str:
        """Return the version as it is written outside of the pool."""
        return str(solvable.evr)

    def text(self, found: Any) -> str:
        """Return a dependency, a package or libsolv's account of them as people write it."""
        return str(found)

    def assumable(self, dep: Any) -> str:
        """Return the capability that would satisfy ``dep``, or an empty text where no single one is sure to."""
        return "" if str(dep).startswith("(") else str(dep)

    def favored(self, wanted: Sequence[Sequence[Any]]) -> list[int]:
        """Return what the format's own installer would choose where several packages would do, as ids."""
        del wanted
        return []

    def solve(self, specs: Iterable[str], listed: Collection[str], *, assume: bool = False) -> Solved:
        """Install ``specs`` from the ``listed`` files (names) alone.

        With ``assume``, what they require and none of them provides is taken for the host's.
        """
        role = self._restrict(listed)
        assumed = self._assume(role) if assume else ()
        wanted = {spec: self._named(spec, role) for spec in specs}
        gaps = [f"package {spec} is wanted, and not in the role's list" for spec, found in wanted.items() if not found]
        how = solv.Job.SOLVER_INSTALL | solv.Job.SOLVER_SOLVABLE_ONE_OF
        jobs = [self.pool.Job(FAVOR | solv.Job.SOLVER_SOLVABLE, one) for one in self.favored(list(wanted.values()))]
        jobs += [self.pool.Job(how, self.pool.towhatprovides([s.id for s in g])) for g in wanted.values() if g]
        problems, chosen = self._run(jobs)
        spare = self._spare(role, wanted.values()) if not problems else ()
        return Solved(frozenset(chosen), tuple(spare), tuple(assumed), (*gaps, *problems))

    def digests(self) -> dict[str, str]:
        """Return the sha256 (hex) that the metadata give of each file."""
        return {name: self.digest(s) for name, s in self.files.items()}

    def names(self) -> dict[str, tuple[str, str]]:
        """Return what each file's package may be called: its name, and name-version-release.arch."""
        return {file: (s.name, self.text(s)) for file, s in self.files.items()}

    def chain(self, specs: Sequence[str], listed: Collection[str], target: str) -> list[str]:
        """Return how ``target`` (a file name) comes to be among ``listed``, shortest first: the spec, then
        ``A needs B`` and so on, then the package itself; empty if nothing leads to it."""
        role = self._restrict(listed)
        before: dict[int, tuple[int, str]] = {}
        names = {s.id: self.text(s) for s in role.values()}
        ahead = []
        for spec in specs:
            for s in self._named(spec, role):
                if s.id not in before:
                    before[s.id] = (0, spec)
                    ahead.append(s)
        while ahead:
            solvable = ahead.pop(0)
            for dep in solvable.lookup_deparray(solv.SOLVABLE_REQUIRES):
                for provider in self.pool.whatprovides(dep):
                    if provider.id in names and provider.id not in before:
                        before[provider.id] = (solvable.id, f"{self.text(solvable)} needs {self.text(dep)}")
                        ahead.append(provider)
        end = role[target].id if target in role else 0
        steps = [names[end]] if end in before else []
        while end in before:
            end, why = before[end]
            steps.insert(0, why)
        return steps

    def _restrict(self, listed: Collection[str]) -> dict[str, Any]:
        """Hide every other package of the repository, and return those that are left."""
        role = {name: s for name, s in self.files.items() if name in listed}
        keep = {s.id for s in role.values()}
        self.pool.set_disabled_list([s.id for s in self.repo.solvables if s.id not in keep])
        self.pool.createwhatprovides()
        return role

    def _named(self, spec: str, role: Mapping[str, Any]) -> list[Any]:
        return [s for s in role.values() if satisfies(spec, s.name, self.version(s))]

    def provide(self, capabilities: Iterable[str]) -> None:
        """Give the host further capabilities."""
        for dep in (dep for text in capabilities for dep in self.capabilities(text)):
            self.host.add_provides(dep)

    def _assume(self, role: Mapping[str, Any]) -> list[str]:
        found: set[str] = set()
        for dep in (dep for s in role.values() for dep in s.lookup_deparray(solv.SOLVABLE_REQUIRES)):
            capability = self.assumable(dep)
            known = {self.host.id} if capability in self.assumed else set()  # of a role before
            if capability and not {provider.id for provider in self.pool.whatprovides(dep)} - known:
                found.add(capability)
        self.provide(found - self.assumed)
        self.assumed |= found
        self.pool.createwhatprovides()
        return sorted(found)

    def _run(self, jobs: Sequence[Any]) -> tuple[list[str], list[str]]:
        solver = self.pool.Solver()
        solver.set_flag(solver.SOLVER_FLAG_IGNORE_RECOMMENDED, 1)
        rules = [rule for problem in solver.solve(list(jobs)) for rule in problem.findallproblemrules()]
        problems = list(dict.fromkeys(self.text(info.problemstr()) for rule in rules for info in rule.allinfos()))
        names = {s.id: name for name, s in self.files.items()}
        chosen = [] if problems else [names[s.id] for s in solver.transaction().newsolvables()]
        return problems, chosen

    def _spare(self, role: Mapping[str, Any], wanted: Iterable[Sequence[Any]]) -> list[str]:
        """Return the packages that meet a requirement which would be met without them, too."""
        needed, offered = {group[0].id for group in wanted if len(group) == 1}, set()
        for solvable in role.values():
            for dep in solvable.lookup_deparray(solv.SOLVABLE_REQUIRES):
                providers = {provider.id for provider in self.pool.whatprovides(dep)} - {solvable.id}
                offered |= providers
                if len(providers) == 1:
                    needed |= providers
        return sorted(name for name, s in role.items() if s.id in offered - needed)


class Reader:
    """Gives the metadata readers a bundle's members for URLs."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def read(self, url: str) -> bytes:
        """Return the member's bytes."""
        return self._contents.read(url)
