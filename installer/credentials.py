"""User names and passwords for a registry; none of them is ever an argument, or printed."""

import base64
import json
import os
import sys
from typing import Any, Dict, NamedTuple, Optional

from .errors import HostError, UsageError

PASSWORD_VARIABLE = "KUBECARRY_REGISTRY_PASSWORD"  # noqa: S105 (the name of a variable, not a password)
_HUB_KEY = "https://index.docker.io/v1/"


class Credentials(NamedTuple):
    """A user and a password; or, where docker keeps one, an identity token and no password."""

    username: str
    password: str
    identity_token: str = ""

    def basic(self) -> str:
        """The Authorization field of basic authentication."""
        return "Basic " + base64.b64encode("{}:{}".format(self.username, self.password).encode("utf-8")).decode("ascii")


def given(username: str, password_file: str, from_stdin: bool) -> Credentials:
    """What the command line says; the password from a file, from stdin or from the environment.

    Raises UsageError if there is no password, HostError if the file cannot be read.
    """
    if password_file:
        password = _read(password_file)
    elif from_stdin:
        password = sys.stdin.readline()
    else:
        password = os.environ.get(PASSWORD_VARIABLE, "")
    password = password.rstrip("\r\n")
    if not password:
        raise UsageError("--username {}: there is no password".format(username),
                         "give it in {}, with --password-file FILE or --password-stdin".format(PASSWORD_VARIABLE))
    return Credentials(username, password)


def kept(host: str) -> Optional[Credentials]:
    """What `docker login` or `podman login` kept for a registry (`host[:port]`). Raises HostError."""
    for path in _files():
        if os.path.isfile(path):
            found = _entry(path, host)
            if found is not None:
                return found
    return None


def _files() -> Any:
    home = os.path.expanduser("~")
    yield os.environ.get("REGISTRY_AUTH_FILE", "")
    yield os.path.join(os.environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json")
    yield os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/run/containers/{}".format(os.getuid()),
                       "containers", "auth.json")


def _entry(path: str, host: str) -> Optional[Credentials]:
    try:
        config: Dict[str, Any] = json.loads(_read(path))
        entries = config.get("auths", {})
        wanted = [host, "https://" + host, "http://" + host] + ([_HUB_KEY] if host == "docker.io" else [])
        for key, entry in entries.items():
            if key.rstrip("/") not in wanted and key not in wanted:
                continue
            name, _, password = base64.b64decode(entry.get("auth", "")).decode("utf-8").partition(":")
            name, password = entry.get("username", name), entry.get("password", password)
            token = entry.get("identitytoken", "")
            if token or password:
                return Credentials(name, password.rstrip("\0"), token)
    except (ValueError, AttributeError, TypeError):
        raise HostError("{}: not a docker configuration".format(path),
                        "mend it with `docker login {}`, or give --username".format(host)) from None
    if host in config.get("credHelpers", {}) or config.get("credsStore"):
        sys.stderr.write("installer: {} names a credential helper, which is not asked: give --username\n".format(path))
    return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise HostError("{}: {}".format(path, getattr(error, "strerror", None) or error),
                        "check the path and its permissions") from None
