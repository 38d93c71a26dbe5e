"""Where an upstream is really asked: the rules of ``--mirror FROM=TO``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import yaml

from bundler.errors import ManifestError

HINT = "write --mirror FROM=TO: FROM is a host, a URL prefix or *, TO a host, a URL or a folder (/path)"
ANY = "*"
# The name that images carry, and the host that answers for it.
REGISTRY_HOSTS = {"docker.io": "registry-1.docker.io"}
LOOPBACK = ("localhost", "127.", "[::1]")


@dataclass(frozen=True)
class Mirrors:
    """Rules from upstream (host, ``host/path``, ``scheme://host/path`` or ``*``) to a base URL without final slash."""

    rules: Mapping[str, str]

    @classmethod
    def parse(cls, rules: Sequence[str] = (), config: Path | None = None) -> Mirrors:
        """Read ``FROM=TO`` rules; they win over ``{mirrors: {FROM: TO}}`` of ``config``. ManifestError."""
        pairs = dict(_config_rules(config)) if config else {}
        for rule in rules:
            source, equals, target = rule.partition("=")
            if not equals:
                raise ManifestError(f"--mirror {rule}: there is no '='", HINT)
            pairs[source] = target
        return cls({_source(source): _target(source, target) for source, target in pairs.items()})

    def url(self, url: str) -> str:
        """Where ``url`` is to be asked: the longest prefix wins; ``*`` turns https://h/p into TO/h/p."""
        bare = url.partition("://")[2]
        matches = [(len(rule.partition("://")[2] or rule), rule) for rule in self.rules if _covers(rule, url, bare)]
        if matches:
            rule = max(matches)[1]
            rest = (url if "://" in rule else bare)[len(rule) :]
            return self.rules[rule] + _path(rest, self.rules[rule])
        if ANY in self.rules and bare and not url.startswith("file:"):
            return self.rules[ANY] + _path("/" + bare, self.rules[ANY])
        return url

    def registry(self, host: str, repository: str) -> tuple[str, str]:
        """Base URL of the registry that answers for a repository of ``host``, and the repository's name there.

        FROM may end within the repository's path (``gcr.io/google_containers``): the longest one wins.
        """
        name = f"{host}/{repository}"
        bare = {rule.partition("://")[2] or rule: rule for rule in self.rules if rule != ANY}
        matches = [rule for rule in bare if name == rule or name.startswith(f"{rule}/")]
        if matches:
            rule = max(matches, key=len)
            return _registry(self.rules[bare[rule]], name[len(rule) + 1 :])
        if ANY in self.rules:
            return _registry(self.rules[ANY], name)
        return _with_scheme(REGISTRY_HOSTS.get(host, host)), repository


def _config_rules(config: Path) -> Mapping[str, str]:
    try:
        document = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{config}: cannot be read: {error}", HINT) from error
    if document is None:
        return {}
    rules = (document.get("mirrors") or {}) if isinstance(document, dict) else None
    if not isinstance(rules, dict) or not all(isinstance(text, str) for pair in rules.items() for text in pair):
        raise ManifestError(f"{config}: `mirrors` must map FROM to TO", HINT)
    return rules


def _source(source: str) -> str:
    plain = source.strip().rstrip("/")
    if plain != ANY and ("*" in plain or not urlsplit(plain if "://" in plain else f"//{plain}").hostname):
        raise ManifestError(f"--mirror {source}=…: {source!r} is neither a host, a URL prefix nor *", HINT)
    return plain


def _target(source: str, target: str) -> str:
    plain = target.strip()
    if plain.startswith("/"):
        return "file://" + quote(plain.rstrip("/"))
    url = _with_scheme(plain)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "file") or not (parts.hostname or url.startswith("file:///")):
        raise ManifestError(f"--mirror {source}={target}: {target!r} is neither a host, a URL nor a folder", HINT)
    return url.rstrip("/")


def _with_scheme(host: str) -> str:
    """A bare host is asked over https; one on this machine, as with docker, over http."""
    if "://" in host:
        return host
    return f"http://{host}" if host.startswith(LOOPBACK) else f"https://{host}"


def _covers(rule: str, url: str, bare: str) -> bool:
    whole = url if "://" in rule else bare
    return whole.startswith(rule) and whole[len(rule) : len(rule) + 1] in ("", "/", "?")


def _path(rest: str, base: str) -> str:
    """A folder has no query strings."""
    return rest.partition("?")[0] if base.startswith("file:") else rest


def _registry(base: str, repository: str) -> tuple[str, str]:
    """Split ``https://host/some/path`` into ``https://host`` and the name of the repository below ``some/path``."""
    if base.startswith("file:"):
        return base, repository
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc}", "/".join(filter(None, [parts.path.strip("/"), repository]))
