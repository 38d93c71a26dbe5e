"""RPM closure: yum metadata in a libsolv pool, with module filtering as dnf does it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import solv

from bundler.errors import ResolveError
from bundler.locked import ArchLock, LockedMetadata, LockedPackage
from bundler.manifest import Host
from bundler.resolve.modules import Modules
from bundler.resolve.repomd import Metadata, Reader
from bundler.resolve.solver import OPERATORS, Solver

__all__ = ["OPERATORS", "RpmSolver", "compare_evr", "resolve_arch"]

_KERNEL = ("kernel-uname-r", "kernel(", "ksym(", "kmod(")
_POLICY = re.compile(r"(\S*(?:selinux|policycoreutils)\S*) (?:=|>=|>) \S+")


def resolve_arch(
    host: Host,
    arch: str,
    client: Reader,
    keep: Collection[str] = (),
    warn: Callable[[str], object] = str,
) -> ArchLock:
    """Return the packages of every role of ``host`` for a Go architecture, from its repositories as they are now.

    Packages whose sha256 is in ``keep`` are taken again wherever they still fit. ResolveError as of ``Solver.lock``;
    FetchError and IntegrityError as in ``repomd``.
    """
    with tempfile.TemporaryDirectory(prefix="bundler-") as directory:
        metadata = [Metadata(repo.for_arch(arch), client, Path(directory)) for repo in host.repos]
        return RpmSolver(metadata, host.arch(arch), host.installed, host.modules, keep).lock(host, warn)


def compare_evr(one: str, other: str) -> int:
    """Return a negative number where rpm holds ``[epoch:]version-release`` ``one`` for older than ``other``."""
    pool = solv.Pool()
    pool.setdisttype(pool.DISTTYPE_RPM)
    repo = pool.add_repo("")
    first, second = repo.add_solvable(), repo.add_solvable()
    first.evr, second.evr = one, other
    return int(first.evrcmp(second))


class RpmSolver(Solver):
    """The packages of yum repositories."""

    def __init__(
        self,
        metadata: Sequence[Metadata],
        arch: str,
        installed: Sequence[str],
        streams: Sequence[str] = (),
        keep: Collection[str] = (),
    ) -> None:
        """Load primary.xml of each repository, and modules.yaml where there is one; ``streams`` are ``NAME:STREAM``."""
        super().__init__(arch, installed, keep)
        self.repos = [(self.pool.add_repo(entry.repo.id), entry) for entry in metadata]
        for repo, entry in self.repos:
            _load(repo, entry, "primary", 0)
        self.modules = Modules(
            [entry.part("modules") for entry in metadata if "modules" in entry.records], streams, arch
        )
        self.add_host()
        self.excluded = self._filtered()
        self.prepare()

    def digest(self, solvable: Any) -> str:
        """Return the sha256 of the RPM, or an empty text."""
        checksum = solvable.lookup_checksum(solv.SOLVABLE_CHECKSUM)
        return checksum.hex() if checksum is not None and checksum.typestr() == "sha256" else ""

    def package(self, solvable: Any) -> LockedPackage:
        """Return an RPM as plain data."""
        entry = next(entry for repo, entry in self.repos if repo == solvable.repo)
        base = solvable.lookup_str(solv.SOLVABLE_MEDIABASE) or f"{entry.repo.baseurl}/"
        sha256 = self.digest(solvable)
        if not sha256:
            raise ResolveError(f"{entry.url}: gives no sha256 of {solvable}", "A repository with sha256 is needed.")
        return LockedPackage(
            url=urljoin(base, solvable.lookup_location()[0]),
            repoid=entry.repo.id,
            sha256=sha256,
            size=solvable.lookup_num(solv.SOLVABLE_DOWNLOADSIZE) or None,
            name=solvable.name,
            evr=solvable.evr,
            sourcerpm=solvable.lookup_sourcepkg() or "",
            source=entry.url,
        )

    def complete(self, wanted: Iterable[Sequence[Any]]) -> None:
        """Load filelists.xml, which is large, only where a file is required that primary.xml does not list."""
        if self._lacks_filelists(wanted):
            for repo, entry in self.repos:
                _load(repo, entry, "filelists", solv.Repo.REPO_EXTEND_SOLVABLES)
            self.prepare()

    def inspect(self, carried: Sequence[Any]) -> None:
        """Warn of packages for one kernel only, and of policies that may be older on a node than is declared."""
        for solvable in carried:
            requires = [str(dep) for dep in solvable.lookup_deparray(solv.SOLVABLE_REQUIRES)]
            provides = [str(dep) for dep in solvable.lookup_deparray(solv.SOLVABLE_PROVIDES)]
            bound = [dep for dep in requires if dep.startswith(_KERNEL)]
            if bound or any(dep.startswith("kmod(") for dep in provides):
                what = f" ({bound[0]})" if bound else ""
                self.warnings.append(f"{solvable} is for one kernel{what}: it serves only nodes that run it")
            for dep in requires:
                match = _POLICY.fullmatch(dep)
                if match and match[1] in self.installed:
                    self.warnings.append(
                        f"{solvable} wants {dep}, and `installed` declares {match[1]} without a version: a node whose"
                        f" policy is older cannot install it. Declare `{match[1]} = EVR`, and what is newer is carried"
                    )

    def module_metadata(self, carried: Collection[str]) -> list[LockedMetadata]:
        """Return the modules.yaml of each repository that a modular package among ``carried`` (sha256) comes from."""
        found = []
        for repo, entry in self.repos:
            if any(_nevra(s) in self.modules.artifacts and self.digest(s) in carried for s in repo.solvables):
                url, sha256, size = entry.fetched["modules"]
                found.append(LockedMetadata(url, entry.repo.id, sha256, size))
        return found

    def _filtered(self) -> set[int]:
        """Return what dnf hides: packages of inactive streams, and plain ones that an active stream stands for."""
        if not self.modules.artifacts:
            return set()
        hidden: set[int] = set()
        for repo, entry in self.repos:
            if not entry.repo.module_hotfixes:
                hidden.update(s.id for s in repo.solvables if self._is_hidden(s))
        return hidden

    def _is_hidden(self, solvable: Any) -> bool:
        nevra = _nevra(solvable)
        if nevra in self.modules.active:
            return False
        names = {str(dep).partition(" ")[0] for dep in solvable.lookup_deparray(solv.SOLVABLE_PROVIDES)}
        return nevra in self.modules.artifacts or not self.modules.names.isdisjoint({solvable.name, *names})

    def _lacks_filelists(self, wanted: Iterable[Sequence[Any]]) -> bool:
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


def _nevra(solvable: Any) -> str:
    epoch, _, evr = solvable.evr.rpartition(":")
    return f"{solvable.name}-{epoch or '0'}:{evr}.{solvable.arch}"


def _load(repo: Any, metadata: Metadata, kind: str, flags: int) -> None:
    path = metadata.part(kind)
    file = solv.xfopen(str(path))
    if not repo.add_rpmmd(file, "FL" if flags else None, flags):
        raise ResolveError(f"{metadata.url}: libsolv cannot read {kind}: {repo.pool.errstr}")
