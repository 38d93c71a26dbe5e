"""Credentials for registries: the user's docker configuration, and the tokens that registries ask for."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from bundler.errors import FetchError, HostError
from bundler.fetch.http import Client
from bundler.fetch.wire import Cancelled, shown

DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")
HELPER_SECONDS = 30
TOKEN_LIMIT = 1024 * 1024


@dataclass(frozen=True)
class Login:
    """What one registry wants: a name with a password, or an identity token."""

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """Value of Authorization for HTTP basic authentication."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Credentials:
    """Logins by registry host, as ``docker login`` keeps them."""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        """Take the parsed ``config.json``; none means that every registry is asked anonymously."""
        self._config = config or {}

    @classmethod
    def load(cls, path: Path | None = None) -> Credentials:
        """Read ``path``, or ``config.json`` in ``$DOCKER_CONFIG`` or ``~/.docker``. HostError if it is malformed."""
        path = path or Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except (OSError, ValueError) as error:
            # The text of a JSON error may quote the file.
            raise HostError(f"{path}: cannot be read as JSON", "repair it, or `docker login` again") from error
        if not isinstance(document, dict):
            raise HostError(f"{path}: must hold a JSON object", "repair it, or `docker login` again")
        return cls(document)

    def find(self, host: str) -> Login | None:
        """Login for ``host`` (with its port), or None."""
        names = _names(host)
        helpers = self._config.get("credHelpers") or {}
        store = self._config.get("credsStore")
        for name in names:
            if name in helpers:
                return _from_helper(helpers[name], name)
        for key, entry in (self._config.get("auths") or {}).items():
            if _host(key) in names and entry:
                return _from_entry(entry)
        if store:
            return next(filter(None, (_from_helper(store, name) for name in names)), None)
        return None


class RegistryAuth:
    """Authorization for one repository of one registry: one token, shared by all threads, renewed when refused."""

    def __init__(self, client: Client, base: str, scope: str, login: Login | None) -> None:
        """Answer challenges of the registry at ``base`` with ``login``; ``scope`` is ``repository:NAME:pull``."""
        self._client = client
        self._base = base
        self._scope = scope
        self._login = login
        self._lock = threading.Lock()
        self._header: str | None = None

    def header(self) -> str | None:
        """Value of Authorization, once a challenge was answered."""
        return self._header

    def renew(self, refused: str | None, challenge: str) -> bool:
        """Answer ``challenge``, unless another thread just did; tells whether there is something new to try."""
        with self._lock:
            if self._header == refused:
                self._header = self._asked(challenge)
            return self._header not in (None, refused)

    def _asked(self, challenge: str) -> str | None:
        """Answer ``challenge``; what fails names the repository, because the address of a token does not."""
        try:
            return self._answer(challenge)
        except Cancelled:
            raise
        except FetchError as error:
            name = f"{self._base}/{self._scope.split(':')[1]}"
            raise FetchError(f"{name}: cannot log in: {error.message}", error.hint) from error

    def _answer(self, challenge: str) -> str | None:
        if re.search(r"\bbearer\b", challenge, re.IGNORECASE):
            fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
            return "Bearer " + self._token(fields.get("realm", ""), fields.get("service", ""), fields.get("scope"))
        return self._login.basic() if self._login else None

    def _token(self, realm: str, service: str, scope: str | None) -> str:
        if urlsplit(realm).scheme not in ("http", "https"):
            raise FetchError(f"{self._base}: asks for a token from {realm or 'nowhere'!r}")
        query = {"service": service, "scope": scope or self._scope}
        fixed = None
        if self._login:
            if realm.startswith("http:") and self._base.startswith("https:"):
                raise FetchError(f"{self._base}: wants the password sent in the clear to {shown(realm)}")
            fixed = Fixed(self._login.basic())
        if self._login and self._login.identity_token:
            query |= {"grant_type": "refresh_token", "client_id": "kubecarry"}
            form = urlencode({**query, "refresh_token": self._login.identity_token})
            page = self._client.page(realm, method="POST", form=form, limit=TOKEN_LIMIT)
        else:
            joint = "&" if urlsplit(realm).query else "?"
            page = self._client.page(f"{realm}{joint}{urlencode(query)}", auth=fixed, limit=TOKEN_LIMIT)
        return _token(page.body, realm)


class Fixed:
    """One header that is never renewed."""

    def __init__(self, value: str) -> None:
        """Send ``value``."""
        self._value = value

    def header(self) -> str | None:
        """Return the value."""
        return self._value

    def renew(self, refused: str | None, challenge: str) -> bool:  # noqa: ARG002
        """There is nothing else to try."""
        return False


def _token(body: bytes, realm: str) -> str:
    try:
        document = json.loads(body)
        token = document.get("token") or document["access_token"]
    except (ValueError, KeyError, AttributeError) as error:
        raise FetchError(f"{shown(realm)}: gave no token") from error
    if not isinstance(token, str) or not token.isprintable():
        raise FetchError(f"{shown(realm)}: gave no token")
    return token


def _names(host: str) -> tuple[str, ...]:
    return (*DOCKER_HUB, "https://index.docker.io/v1/") if host in DOCKER_HUB else (host,)


def _host(key: str) -> str:
    """Keys are hosts, or URLs such as https://index.docker.io/v1/."""
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _from_entry(entry: Mapping[str, str]) -> Login | None:
    name, password = entry.get("username", ""), entry.get("password", "")
    if entry.get("auth"):
        try:
            name, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
        except ValueError:
            return None
    token = entry.get("identitytoken", "")
    return Login(name, password.rstrip("\0"), token) if name or token else None


def _from_helper(helper: str, host: str) -> Login | None:
    """Ask ``docker-credential-HELPER``; a helper that is missing or has nothing leaves the host anonymous."""
    if not HELPER_NAME.fullmatch(helper):
        return None
    try:
        result = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=host.encode(),
            capture_output=True,
            timeout=HELPER_SECONDS,
            check=True,
        )
        entry = json.loads(result.stdout)
        name, secret = entry["Username"], entry["Secret"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None
    # Helpers say so when the secret is no password.
    return Login("", "", secret) if name == "<token>" else Login(name, secret)
