"""RPM closure: which packages make a role installable on the declared minimal host.

libsolv decides. Only plain data leaves its pool: a solvable that outlives its pool crashes Python.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import solv

from bundler.errors import ResolveError
from bundler.lock import ArchLock, LockedPackage, satisfies
from bundler.manifest import Host, rpm_arch
from bundler.resolve.repomd import Metadata, Reader

OPERATORS = {"<": solv.REL_LT, "<=": solv.REL_LT | solv.REL_EQ, "=": solv.REL_EQ}
OPERATORS |= {">=": solv.REL_GT | solv.REL_EQ, ">": solv.REL_GT}
CHECK = "Check the versions under `hosts` in the release manifest, and that its repositories still carry them."


def resolve_arch(host: Host, arch: str, client: Reader) -> ArchLock:
    """Return the packages of every role of ``host`` for a Go architecture, from its repositories as they are now.

    ResolveError carries libsolv's own account of why a role cannot be installed; FetchError and IntegrityError as in
    ``repomd``.
    """
    with tempfile.TemporaryDirectory(prefix="bundler-") as directory:
        metadata = [Metadata(repo.for_arch(arch), client, Path(directory)) for repo in host.repos]
        solver = _Solver(metadata, rpm_arch(arch), host.installed)
        roles = solver.roles(host.name, host.roles)
        return _arch_lock(host.name, rpm_arch(arch), roles, solver.given)


def compare_evr(one: str, other: str) -> int:
    """Return a negative number where rpm holds ``[epoch:]version-release`` ``one`` for older than ``other``."""
    pool = solv.Pool()
    pool.setdisttype(pool.DISTTYPE_RPM)
    repo = pool.add_repo("")
    first, second = repo.add_solvable(), repo.add_solvable()
    first.evr, second.evr = one, other
    return int(first.evrcmp(second))


class _Solver:
    """A pool of repositories, and the declared minimal host as what is installed."""

    def __init__(self, metadata: Sequence[Metadata], arch: str, installed: Sequence[str]) -> None:
        self.arch, self.installed = arch, installed
        self.given: set[str] = set()
        self.pool = solv.Pool()
        self.pool.setdisttype(self.pool.DISTTYPE_RPM)
        self.pool.setarch(arch)
        self.repos = [(self.pool.add_repo(entry.repo.id), entry) for entry in metadata]
        for repo, entry in self.repos:
            _load(repo, entry, "primary", 0)
        self._add_host()
        self._prepare()

    def roles(self, host: str, roles: Mapping[str, Sequence[str]]) -> dict[str, list[LockedPackage]]:
        """Return each role's closure without what a minimal host has."""
        specs = dict.fromkeys(spec for wanted in roles.values() for spec in wanted)
        candidates = {spec: self._candidates(host, spec) for spec in specs}
        if self._lacks_filelists(candidates.values()):
            for repo, entry in self.repos:
                _load(repo, entry, "filelists", solv.Repo.REPO_EXTEND_SOLVABLES)
            self._prepare()
        base = self._base()
        chosen: dict[str, list[Any]] = {}
        for role, wanted in roles.items():
            jobs = [self._install(candidates[spec]) for spec in wanted]
            # One repository serves all roles, so a role prefers what another one carries already.
            favor = [s.id for solvables in chosen.values() for s in solvables]
            solvables = self._role(f"{host} {role} {self.arch}", jobs, base, favor)
            given = {s.id for s in base} - {s.id for s in solvables if any(satisfies(p, s.name, s.evr) for p in wanted)}
            chosen[role] = [s for s in solvables if s.id not in given]
            self._note_given(chosen[role], given)
        return {role: [self._package(s) for s in solvables] for role, solvables in chosen.items()}

    def _note_given(self, carried: Sequence[Any], given: AbstractSet[int]) -> None:
        """Keep what ``carried`` requires and only ``given`` (ids of packages) provide: the bundle alone cannot tell."""
        enough = {s.id for s in carried} | {s.id for s in self.pool.installed.solvables}
        for dep in (dep for s in carried for dep in s.lookup_deparray(solv.SOLVABLE_REQUIRES)):
            providers = self.pool.whatprovides(dep)
            if not any(provider.id in enough for provider in providers):
                for provider in (provider for provider in providers if provider.id in given):
                    self.given.add(f"{provider.name} = {provider.evr}" if str(dep).startswith("(") else str(dep))

    def _prepare(self) -> None:
        self.pool.addfileprovides()
        self.pool.createwhatprovides()
        # libsolv holds i686 installable on x86_64; only a 64-bit host is served.
        foreign = [s.id for s in self.pool.solvables if s.arch not in (self.arch, "noarch")]
        self.pool.set_disabled_list(foreign)
        self.pool.createwhatprovides()

    def _add_host(self) -> None:
        """Make the declared capabilities a package that is already installed."""
        self.pool.installed = self.pool.add_repo("@minimal")
        host = self.pool.installed.add_solvable()
        host.name, host.evr, host.arch = "minimal-host", "0-0", "noarch"
        for capability in self.installed:
            name, _, relation = capability.partition(" ")
            dep = self.pool.Dep(name)
            operator, _, evr = relation.partition(" ")
            if relation:
                dep = dep.Rel(OPERATORS[operator], self.pool.Dep(evr))
            host.add_provides(dep)

    def _candidates(self, host: str, spec: str) -> list[Any]:
        near = [s for name, group in self.by_name.items() if spec.startswith(name) for s in group]
        found = [s for s in near if satisfies(spec, s.name, s.evr)]
        if not found:
            have = sorted({f"{s.name}-{s.evr}" for s in near if spec.startswith(f"{s.name}-")})
            repos = ", ".join(entry.repo.baseurl for _, entry in self.repos)
            hint = f"There is {', '.join(have[-5:])}." if have else CHECK
            raise ResolveError(f"{host}: no package {spec} for {self.arch} in {repos}", hint)
        return found

    @functools.cached_property
    def by_name(self) -> dict[str, list[Any]]:
        """The packages of the repositories that fit the architecture."""
        groups: dict[str, list[Any]] = {}
        for solvable in (s for repo, _ in self.repos for s in repo.solvables if s.arch in (self.arch, "noarch")):
            groups.setdefault(solvable.name, []).append(solvable)
        return groups

    def _lacks_filelists(self, wanted: Iterable[Sequence[Any]]) -> bool:
        """Tell whether anything that could be chosen requires a file that primary.xml does not list."""
        ahead = [solvable for group in wanted for solvable in group]
        ahead += [solvable for name in self.installed for solvable in self.by_name.get(name, [])]
        seen = {solvable.id for solvable in ahead}
        while ahead:
            for dep in ahead.pop().lookup_deparray(solv.SOLVABLE_REQUIRES):
                providers = self.pool.whatprovides(dep)
                if not providers and str(dep).startswith("/"):
                    return True
                new = [provider for provider in providers if provider.id not in seen]
                seen.update(provider.id for provider in new)
                ahead += new
        return False

    def _base(self) -> list[Any]:
        """Return what the declared packages, as far as the repositories have them, bring along on a minimal host."""
        how = solv.Job.SOLVER_INSTALL | solv.Job.SOLVER_SOLVABLE_NAME | solv.Job.SOLVER_WEAK
        names = sorted(set(self.installed) & set(self.by_name))
        _, solvables = self._solve([self.pool.Job(how, self.pool.str2id(name)) for name in names])
        return solvables

    def _install(self, candidates: Sequence[Any]) -> Any:
        how = solv.Job.SOLVER_INSTALL | solv.Job.SOLVER_SOLVABLE_ONE_OF
        return self.pool.Job(how, self.pool.towhatprovides([s.id for s in candidates]))

    def _role(self, name: str, wanted: Sequence[Any], base: Sequence[Any], favor: Sequence[int]) -> list[Any]:
        install, prefer = (how | solv.Job.SOLVER_SOLVABLE for how in (solv.Job.SOLVER_INSTALL, solv.Job.SOLVER_FAVOR))
        jobs = [self.pool.Job(install, s.id) for s in base] + [self.pool.Job(prefer, number) for number in favor]
        problems, solvables = self._solve([*jobs, *wanted])
        if problems:
            raise ResolveError(f"{name} cannot be installed: {'; '.join(problems)}", CHECK)
        return solvables

    def _solve(self, jobs: Sequence[Any]) -> tuple[list[str], list[Any]]:
        solver = self.pool.Solver()
        solver.set_flag(solver.SOLVER_FLAG_IGNORE_RECOMMENDED, 1)
        rules = [rule for problem in solver.solve(list(jobs)) for rule in problem.findallproblemrules()]
        problems = list(dict.fromkeys(str(rule.info().problemstr()) for rule in rules))
        return problems, [] if problems else list(solver.transaction().newsolvables())

    def _package(self, solvable: Any) -> LockedPackage:
        entry = next(entry for repo, entry in self.repos if repo == solvable.repo)
        base = solvable.lookup_str(solv.SOLVABLE_MEDIABASE) or f"{entry.repo.baseurl}/"
        url = urljoin(base, solvable.lookup_location()[0])
        checksum = solvable.lookup_checksum(solv.SOLVABLE_CHECKSUM)
        if checksum is None or checksum.typestr() != "sha256":
            raise ResolveError(f"{entry.url}: gives no sha256 of {solvable}", "A repository with sha256 is needed.")
        return LockedPackage(
            url=url,
            repoid=entry.repo.id,
            sha256=checksum.hex(),
            size=solvable.lookup_num(solv.SOLVABLE_DOWNLOADSIZE) or None,
            name=solvable.name,
            evr=solvable.evr,
            sourcerpm=solvable.lookup_sourcepkg() or "",
            source=entry.url,
        )


def _load(repo: Any, metadata: Metadata, kind: str, flags: int) -> None:
    path = metadata.part(kind)
    file = solv.xfopen(str(path))
    if not repo.add_rpmmd(file, "FL" if flags else None, flags):
        raise ResolveError(f"{metadata.url}: libsolv cannot read {kind}: {repo.pool.errstr}")


def _arch_lock(
    host: str, arch: str, roles: Mapping[str, Sequence[LockedPackage]], given: Iterable[str]
) -> ArchLock:
    packages = {package.filename: package for chosen in roles.values() for package in chosen}
    builds: dict[str, str] = {}
    for package in packages.values():
        other = builds.setdefault(package.name, package.evr)
        if other != package.evr:
            what = f"{package.name} {other} and {package.evr}"
            raise ResolveError(f"{host} {arch}: two builds of one package, {what}", "Ask for one version in all roles.")
    names = {role: tuple(sorted(package.filename for package in chosen)) for role, chosen in roles.items()}
    carried = tuple(sorted(packages.values(), key=lambda package: package.url))
    return ArchLock(arch, carried, names, tuple(sorted(given)))
