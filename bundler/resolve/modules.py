"""Module streams of EL8 and later: which packages of a repository count, given the streams that are enabled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bundler.errors import ResolveError

# Every scalar as text: a stream 1.10 is no number
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclass(frozen=True)
class Module:
    """One build of a stream: ``requires`` are alternatives, each streams by module name; artifacts are NEVRAs."""

    name: str
    stream: str
    version: int
    requires: tuple[Mapping[str, Sequence[str]], ...]
    artifacts: frozenset[str]


class Modules:
    """The modules of all repositories: ``artifacts`` of any stream, those of ``active`` ones, and their ``names``."""

    def __init__(self, paths: Iterable[Path], enabled: Sequence[str], arch: str) -> None:
        """Read unpacked modules.yaml files. ResolveError where one is malformed, or knows no enabled stream."""
        self.modules: list[Module] = []
        self.streams: dict[str, str] = {}
        for path in paths:
            self._read(path, arch)
        self._enable(enabled)
        self._require()
        self.artifacts = frozenset(nevra for module in self.modules for nevra in module.artifacts)
        self.active = frozenset(nevra for module in self._chosen() for nevra in module.artifacts)
        self.names = frozenset(nevra.rsplit("-", 2)[0] for nevra in self.active)

    def _read(self, path: Path, arch: str) -> None:
        try:
            with path.open("rb") as file:
                for document in yaml.load_all(file, _Loader):
                    self._take(document or {}, arch)
        except (yaml.YAMLError, KeyError, ValueError, TypeError, AttributeError) as reason:
            raise ResolveError(f"{path.name}: is no modules.yaml: {' '.join(str(reason).split())}") from reason

    def _take(self, document: Mapping[str, Any], arch: str) -> None:
        data = document.get("data") or {}
        if document.get("document") == "modulemd-defaults" and data.get("stream"):
            self.streams[data["module"]] = data["stream"]
        if document.get("document") != "modulemd" or data.get("arch", arch) not in (arch, "noarch"):
            return
        rpms = (data.get("artifacts") or {}).get("rpms") or []
        binary = frozenset(nevra for nevra in rpms if not nevra.endswith((".src", ".nosrc")))
        requires = tuple(entry.get("requires") or {} for entry in data.get("dependencies") or [])
        self.modules.append(Module(data["name"], data["stream"], int(data["version"]), requires, binary))

    def _enable(self, enabled: Sequence[str]) -> None:
        for entry in enabled:
            name, _, stream = entry.partition(":")
            known = sorted({module.stream for module in self.modules if module.name == name})
            if stream not in known:
                raise ResolveError(
                    f"no module stream {entry} in the repositories",
                    f"There is {', '.join(f'{name}:{other}' for other in known)}." if known else "Check `modules`.",
                )
            self.streams[name] = stream

    def _require(self) -> None:
        """Enable the streams that active ones require, where nothing else is enabled; ``platform`` is the host."""
        changed = True
        while changed:
            changed = False
            for module in self._chosen():
                for name, streams in (pair for entry in module.requires for pair in entry.items()):
                    if name != "platform" and name not in self.streams and streams:
                        self.streams[name] = streams[0]
                        changed = True

    def _chosen(self) -> list[Module]:
        """Return the newest build of each active stream, in every context that the other active streams allow."""
        builds = [module for module in self.modules if self.streams.get(module.name) == module.stream]
        newest: dict[str, int] = {}
        for module in builds:
            newest[module.name] = max(module.version, newest.get(module.name, 0))
        latest = [module for module in builds if module.version == newest[module.name]]
        return [module for module in latest if not module.requires or any(map(self._allows, module.requires))]

    def _allows(self, requires: Mapping[str, Sequence[str]]) -> bool:
        return all(
            name == "platform" or name not in self.streams or not streams or self.streams[name] in streams
            for name, streams in requires.items()
        )
