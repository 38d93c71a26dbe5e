"""Closure: which packages make a role installable on the declared minimal host. libsolv decides.

Only plain data leaves a pool: a solvable that outlives its pool crashes Python.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import solv

from bundler.complete import satisfies
from bundler.errors import ResolveError
from bundler.locked import ArchLock, LockedMetadata, LockedPackage
from bundler.wanted import Host

OPERATORS = {"<": solv.REL_LT, "<=": solv.REL_LT | solv.REL_EQ, "=": solv.REL_EQ}
OPERATORS |= {">=": solv.REL_GT | solv.REL_EQ, ">": solv.REL_GT}
CHECK = "Check the versions under `hosts` in the release manifest, and that its repositories still carry them."
INSTALL, FAVOR, WEAK = solv.Job.SOLVER_INSTALL, solv.Job.SOLVER_FAVOR, solv.Job.SOLVER_WEAK


class Solver:
    """A pool of repositories, and the declared minimal host as what is installed.

    A subclass fills ``pool`` and ``repos`` (each with what it was made of), then calls ``prepare``; it says what a
    solvable stands for, and what is particular to its package format.
    """

    def __init__(self, arch: str, installed: Sequence[str], keep: Collection[str]) -> None:
        """Take RPM's or Debian's name of the architecture, and the sha256 of packages that should stay."""
        self.arch, self.installed, self.keep = arch, installed, frozenset(keep)
        self.given: set[str] = set()
        self.warnings: list[str] = []
        self.excluded: set[int] = set()
        self.pool = solv.Pool()
        self.pool.setdisttype(self.pool.DISTTYPE_RPM)
        self.pool.setarch(arch)
        self.repos: list[tuple[Any, Any]] = []

    def package(self, solvable: Any) -> LockedPackage:
        """Return a solvable as plain data. ResolveError where its repository gives no sha256."""
        raise NotImplementedError

    def version(self, solvable: Any) -> str:
        """Return the version as it is written outside of the pool."""
        return str(solvable.evr)

    def capability(self, dep: Any) -> str:
        """Return a dependency as it is written in a manifest."""
        return str(dep)

    def digest(self, solvable: Any) -> str:
        """Return the sha256 of its file, or an empty text."""
        raise NotImplementedError

    def taken(self, dep: Any, provider: Any) -> str:
        """Return a capability that stands for what ``dep`` takes from ``provider`` (solvable) of the host."""
        plain = not str(dep).startswith("(") and " | " not in str(dep)
        return self.capability(dep) if plain else f"{provider.name} = {self.version(provider)}"

    def provides(self, capability: str) -> list[Any]:
        """Return the dependencies that one declared capability (``NAME`` or ``NAME OP EVR``) gives the host."""
        name, _, relation = capability.partition(" ")
        operator, _, evr = relation.partition(" ")
        dep = self.pool.Dep(name)
        return [dep.Rel(OPERATORS[operator], self.pool.Dep(evr)) if relation else dep]

    def essential(self) -> Iterable[str]:
        """Return the names of packages that every host has."""
        return ()

    def preferred(self, wanted: Iterable[Sequence[Any]], given: AbstractSet[int]) -> list[int]:
        """Return what the format's own installer would choose where several packages would do, as ids.

        ``wanted`` are the candidates of each entry of a role, ``given`` the ids of what the host has.
        """
        del wanted, given
        return []

    def complete(self, wanted: Iterable[Sequence[Any]]) -> None:
        """Load what is needed beyond the first metadata, now that it is known what is wanted."""

    def inspect(self, carried: Sequence[Any]) -> None:
        """Add to ``warnings`` what somebody should look at in a role's closure."""

    def module_metadata(self, carried: Collection[str]) -> list[LockedMetadata]:
        """Return the modules.yaml of each repository that a modular package among ``carried`` (sha256) comes from."""
        del carried
        return []

    def lock(self, host: Host, warn: Callable[[str], object]) -> ArchLock:
        """Return the packages of every role of ``host``, and tell what somebody should look at.

        ResolveError carries libsolv's own account of why a role cannot be installed.
        """
        roles = self.roles(host.name, host.roles)
        carried = {package.sha256 for packages in roles.values() for package in packages}
        for text in dict.fromkeys(self.warnings):
            warn(f"{host.name} {self.arch}: {text}")
        return arch_lock(host.name, self.arch, roles, self.given, self.module_metadata(carried))

    def prepare(self) -> None:
        """Index the pool, without what is excluded."""
        self.pool.addfileprovides()
        self.pool.createwhatprovides()
        # libsolv holds i686 installable on x86_64; only a 64-bit host is served.
        foreign = {s.id for s in self.pool.solvables if s.arch not in (self.arch, "noarch")}
        self.pool.set_disabled_list(sorted(foreign | self.excluded))
        self.pool.createwhatprovides()

    def add_host(self) -> None:
        """Make the declared capabilities a package that is already installed."""
        self.pool.installed = self.pool.add_repo("@minimal")
        host = self.pool.installed.add_solvable()
        host.name, host.evr, host.arch = "minimal-host", "0-0", "noarch"
        for dep in (dep for capability in self.installed for dep in self.provides(capability)):
            host.add_provides(dep)

    def roles(self, host: str, roles: Mapping[str, Sequence[str]]) -> dict[str, list[LockedPackage]]:
        """Return each role's closure without what a minimal host has."""
        specs = dict.fromkeys(spec for wanted in roles.values() for spec in wanted)
        candidates = {spec: self._candidates(host, spec) for spec in specs}
        self.complete(candidates.values())
        base = self._base()
        kept = [s.id for group in self.by_name.values() for s in group if self.digest(s) in self.keep]
        chosen: dict[str, list[Any]] = {}
        for role, wanted in roles.items():
            jobs = [self._install(candidates[spec]) for spec in wanted]
            # One repository serves all roles, so a role prefers what another one carries already.
            favor = kept + [s.id for solvables in chosen.values() for s in solvables]
            favor += self.preferred([candidates[spec] for spec in wanted], {s.id for s in base})
            solvables = self._role(f"{host} {role} {self.arch}", jobs, base, favor)
            asked = {s.id for s in solvables if any(satisfies(spec, s.name, self.version(s)) for spec in wanted)}
            given = {s.id for s in base} - asked
            chosen[role] = [s for s in solvables if s.id not in given]
            self._note_given(chosen[role], given)
            self.inspect(chosen[role])
        return {role: [self.package(s) for s in solvables] for role, solvables in chosen.items()}

    def _note_given(self, carried: Sequence[Any], given: AbstractSet[int]) -> None:
        """Keep what ``carried`` requires and only ``given`` (ids of packages) provide: the bundle alone cannot tell."""
        enough = {s.id for s in carried} | {s.id for s in self.pool.installed.solvables}
        for dep in (dep for s in carried for dep in s.lookup_deparray(solv.SOLVABLE_REQUIRES)):
            providers = self.pool.whatprovides(dep)
            if not any(provider.id in enough for provider in providers):
                self.given.update(self.taken(dep, provider) for provider in providers if provider.id in given)

    def _candidates(self, host: str, spec: str) -> list[Any]:
        near = [s for name, group in self.by_name.items() if spec.startswith(name) for s in group]
        found = [s for s in near if satisfies(spec, s.name, self.version(s))]
        if not found:
            have = sorted({f"{s.name}-{self.version(s)}" for s in near if spec.startswith(f"{s.name}-")})
            repos = ", ".join(entry.repo.baseurl for _, entry in self.repos)
            hint = f"There is {', '.join(have[-5:])}." if have else CHECK
            raise ResolveError(f"{host}: no package {spec} for {self.arch} in {repos}", hint)
        return found

    @functools.cached_property
    def by_name(self) -> dict[str, list[Any]]:
        """The packages of the repositories that fit the architecture."""
        groups: dict[str, list[Any]] = {}
        for solvable in (s for repo, _ in self.repos for s in repo.solvables if s.arch in (self.arch, "noarch")):
            if solvable.id not in self.excluded:
                groups.setdefault(solvable.name, []).append(solvable)
        return groups

    def _base(self) -> list[Any]:
        """Return what the declared packages, as far as the repositories have them, bring along on a minimal host."""
        names = sorted({*self.installed, *self.essential()} & set(self.by_name))
        how = INSTALL | solv.Job.SOLVER_SOLVABLE_NAME | WEAK
        jobs = [self.pool.Job(how, self.pool.str2id(name)) for name in names]
        _, solvables = self._solve(jobs + self._favor(self.preferred([self.by_name[name] for name in names], set())))
        return solvables

    def _favor(self, ids: Iterable[int]) -> list[Any]:
        return [self.pool.Job(FAVOR | solv.Job.SOLVER_SOLVABLE, number) for number in dict.fromkeys(ids)]

    def _install(self, candidates: Sequence[Any]) -> Any:
        kept = [s for s in candidates if self.digest(s) in self.keep]
        ids = self.pool.towhatprovides([s.id for s in kept or candidates])
        return self.pool.Job(INSTALL | solv.Job.SOLVER_SOLVABLE_ONE_OF, ids)

    def _role(self, name: str, wanted: Sequence[Any], base: Sequence[Any], favor: Sequence[int]) -> list[Any]:
        jobs = [self.pool.Job(INSTALL | solv.Job.SOLVER_SOLVABLE, s.id) for s in base]
        problems, solvables = self._solve([*jobs, *self._favor(favor), *wanted])
        if problems:
            raise ResolveError(f"{name} cannot be installed: {'; '.join(problems)}", CHECK)
        return solvables

    def _solve(self, jobs: Sequence[Any]) -> tuple[list[str], list[Any]]:
        solver = self.pool.Solver()
        solver.set_flag(solver.SOLVER_FLAG_IGNORE_RECOMMENDED, 1)
        rules = [rule for problem in solver.solve(list(jobs)) for rule in problem.findallproblemrules()]
        problems = list(dict.fromkeys(self.capability(rule.info().problemstr()) for rule in rules))
        return problems, [] if problems else list(solver.transaction().newsolvables())


def arch_lock(
    host: str,
    arch: str,
    roles: Mapping[str, Sequence[LockedPackage]],
    given: Iterable[str],
    modules: Iterable[LockedMetadata] = (),
) -> ArchLock:
    """Return the lock of one architecture. ResolveError if two roles want two builds of one package."""
    packages = {package.filename: package for chosen in roles.values() for package in chosen}
    builds: dict[str, str] = {}
    for package in packages.values():
        other = builds.setdefault(package.name, package.evr)
        if other != package.evr:
            what = f"{package.name} {other} and {package.evr}"
            raise ResolveError(f"{host} {arch}: two builds of one package, {what}", "Ask for one version in all roles.")
    names = {role: tuple(sorted(package.filename for package in chosen)) for role, chosen in roles.items()}
    carried = tuple(sorted(packages.values(), key=lambda package: package.url))
    return ArchLock(arch, carried, names, tuple(sorted(given)), tuple(modules))
