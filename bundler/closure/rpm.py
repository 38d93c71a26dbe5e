"""Whether a role's packages install from the bundle's own yum repository, and why each of them is there.

Only plain data leaves libsolv's pool: a solvable that outlives its pool crashes Python.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import solv

from bundler.closure.contents import Contents
from bundler.errors import ResolveError
from bundler.lock import satisfies
from bundler.manifest import Repo
from bundler.resolve.repomd import Metadata
from bundler.resolve.rpm import OPERATORS


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

    ResolveError or IntegrityError where its metadata are missing or damaged.
    """

    def __init__(self, contents: Contents, path: str, arch: str, capabilities: Iterable[str]) -> None:
        self.pool = solv.Pool()
        self.pool.setdisttype(self.pool.DISTTYPE_RPM)
        self.pool.setarch(arch)
        self.repo = self.pool.add_repo("bundle")
        _load(self.repo, contents, path)
        self.files = {s.lookup_location()[0]: s for s in self.repo.solvables if s.arch in (arch, "noarch")}
        self.pool.installed = self.pool.add_repo("@minimal")
        self.host = self.pool.installed.add_solvable()
        self.host.name, self.host.evr, self.host.arch = "minimal-host", "0-0", "noarch"
        self._provide(capabilities)
        self.pool.addfileprovides()

    def solve(self, specs: Iterable[str], listed: Collection[str], *, assume: bool = False) -> Solved:
        """Install ``specs`` from the ``listed`` files (names) alone.

        With ``assume``, what they require and none of them provides is taken for the host's.
        """
        role = self._restrict(listed)
        assumed = self._assume(role) if assume else ()
        jobs, gaps, wanted = [], [], {}
        for spec in specs:
            found = [s for s in role.values() if satisfies(spec, s.name, s.evr)]
            wanted[spec] = [s.id for s in found]
            if found:
                how = solv.Job.SOLVER_INSTALL | solv.Job.SOLVER_SOLVABLE_ONE_OF
                jobs.append(self.pool.Job(how, self.pool.towhatprovides(wanted[spec])))
            else:
                gaps.append(f"package {spec} is wanted, and not in the role's list")
        problems, chosen = self._run(jobs)
        spare = self._spare(role, wanted.values()) if not problems else ()
        return Solved(frozenset(chosen), tuple(spare), tuple(assumed), (*gaps, *problems))

    def digests(self) -> dict[str, str]:
        """Return the sha256 (hex) that the metadata give of each file."""
        return {name: s.lookup_checksum(solv.SOLVABLE_CHECKSUM).hex() for name, s in self.files.items()}

    def names(self) -> dict[str, tuple[str, str]]:
        """Return what each file's package may be called: its name, and name-version-release.arch."""
        return {file: (s.name, str(s)) for file, s in self.files.items()}

    def chain(self, specs: Sequence[str], listed: Collection[str], target: str) -> list[str]:
        """Return how ``target`` (a file name) comes to be among ``listed``, shortest first: the spec, then
        ``A needs B`` and so on, then the package itself; empty if nothing leads to it."""
        role = self._restrict(listed)
        before: dict[int, tuple[int, str]] = {}
        names = {s.id: str(s) for s in role.values()}
        ahead = []
        for spec in specs:
            for s in role.values():
                if satisfies(spec, s.name, s.evr) and s.id not in before:
                    before[s.id] = (0, spec)
                    ahead.append(s)
        while ahead:
            solvable = ahead.pop(0)
            for dep in solvable.lookup_deparray(solv.SOLVABLE_REQUIRES):
                for provider in self.pool.whatprovides(dep):
                    if provider.id in names and provider.id not in before:
                        before[provider.id] = (solvable.id, f"{solvable} needs {dep}")
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

    def _provide(self, capabilities: Iterable[str]) -> None:
        for capability in capabilities:
            name, _, relation = capability.partition(" ")
            dep = self.pool.Dep(name)
            operator, _, evr = relation.partition(" ")
            if relation:
                dep = dep.Rel(OPERATORS[operator], self.pool.Dep(evr))
            self.host.add_provides(dep)

    def _assume(self, role: Mapping[str, Any]) -> list[str]:
        deps = [dep for s in role.values() for dep in s.lookup_deparray(solv.SOLVABLE_REQUIRES)]
        found = sorted({str(dep) for dep in deps if not str(dep).startswith("(") and not self.pool.whatprovides(dep)})
        self._provide(found)
        self.pool.createwhatprovides()
        return found

    def _run(self, jobs: Sequence[Any]) -> tuple[list[str], list[str]]:
        solver = self.pool.Solver()
        solver.set_flag(solver.SOLVER_FLAG_IGNORE_RECOMMENDED, 1)
        rules = [rule for problem in solver.solve(list(jobs)) for rule in problem.findallproblemrules()]
        problems = list(dict.fromkeys(info.problemstr() for rule in rules for info in rule.allinfos()))
        chosen = [] if problems else [s.lookup_location()[0] for s in solver.transaction().newsolvables()]
        return problems, chosen

    def _spare(self, role: Mapping[str, Any], wanted: Iterable[Sequence[int]]) -> list[str]:
        """Return the packages that meet a requirement which would be met without them, too."""
        needed, offered = {ids[0] for ids in wanted if len(ids) == 1}, set()
        for solvable in role.values():
            for dep in solvable.lookup_deparray(solv.SOLVABLE_REQUIRES):
                providers = {provider.id for provider in self.pool.whatprovides(dep)} - {solvable.id}
                offered |= providers
                if len(providers) == 1:
                    needed |= providers
        return sorted(name for name, s in role.items() if s.id in offered - needed)


class _Reader:
    """Gives the metadata reader a bundle's members for URLs."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def read(self, url: str) -> bytes:
        """Return the member's bytes."""
        return self._contents.read(url)


def _load(repo: Any, contents: Contents, path: str) -> None:
    with tempfile.TemporaryDirectory(prefix="bundler-") as directory:
        metadata = Metadata(Repo("bundle", path, ()), _Reader(contents), Path(directory))
        for record in metadata.records.values():
            if f"{path}/{record.location_href}" not in contents.sizes:
                raise ResolveError(f"{path}/{record.location_href} is not in the bundle")
        for kind, language, flags in (("primary", None, 0), ("filelists", "FL", solv.Repo.REPO_EXTEND_SOLVABLES)):
            if not repo.add_rpmmd(solv.xfopen(str(metadata.part(kind))), language, flags):
                raise ResolveError(f"{path}: libsolv cannot read {kind}: {repo.pool.errstr}")
