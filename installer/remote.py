"""A registry that is written to: connections, authentication, and the errors it answers with."""

import contextlib
import http.client
import json
import re
import ssl
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple
from urllib.parse import quote, urlencode, urljoin, urlsplit

from .credentials import Credentials
from .errors import HostError, TransferError

TRIES = 5
_TIMEOUT = 60
_SLACK = 20  # seconds before its end that a token is replaced
_PASSING = (408, 429, 500, 502, 503, 504)
_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"|([a-z_]+)=([^",\s]+)', re.IGNORECASE)


class Lost(Exception):
    """The connection broke, or the registry is in trouble that may pass."""


class Answer(NamedTuple):
    """Status, fields and body (all of it) of a reply."""

    status: int
    fields: Any
    body: bytes

    def codes(self) -> List[str]:
        """The error codes of the distribution protocol in it."""
        try:
            return [str(error["code"]) for error in json.loads(self.body.decode("utf-8"))["errors"]]
        except (ValueError, KeyError, TypeError):
            return []

    def said(self) -> str:
        """What went wrong, in the registry's own words, on one line."""
        try:
            errors = json.loads(self.body.decode("utf-8"))["errors"]
            text = "; ".join("{code}: {message}".format(**dict({"message": ""}, **error)) for error in errors)
        except (ValueError, KeyError, TypeError):
            text = self.body[:200].decode("utf-8", "replace")
        return "HTTP {} {}".format(self.status, " ".join(text.split())).rstrip()


def tls(ca_file: str) -> ssl.SSLContext:
    """A context that trusts `ca_file` (PEM), or the host's authorities if that is empty. Raises HostError."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise HostError("--ca-file {}: {}".format(ca_file, error), "give a PEM file of certificates") from None


class Remote:
    """One registry, spoken to from any number of threads, each on a connection of its own.

    `base` is `http[s]://host[:port]`. Every method raises TransferError with what the registry said.
    """

    def __init__(self, base: str, credentials: Optional[Credentials], context: Optional[ssl.SSLContext]) -> None:
        parts = urlsplit(base)
        self.base, self.host, self._scheme = base, parts.netloc, parts.scheme
        self._credentials = credentials
        self._context = context
        self._challenge: Dict[str, str] = {}
        self._tokens: Dict[Tuple[str, ...], Tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def connect(self) -> None:
        """Ask whether this is a registry, and how it wants to be authenticated to."""
        answer = self.ask("GET", "/v2/", (), anonymous=True)
        if answer.status == 401:
            self._challenge = _challenge(answer.fields.get("WWW-Authenticate", ""))
            if self._challenge.get("scheme") == "basic":
                answer = self.ask("GET", "/v2/", ())
        page = answer.status == 200 and "html" in answer.fields.get("Content-Type", "")
        if answer.status not in (200, 401) or page:
            raise TransferError("{} is not a registry: {}".format(self.base, answer.said()),
                                "check the address (curl -i {}/v2/)".format(self.base))
        if answer.status == 401 and self._challenge.get("scheme") != "bearer":
            raise self.refused(answer, "/v2/")

    def ask(self, method: str, path: str, scopes: Tuple[str, ...], body: Optional[bytes] = None,
            fields: Optional[Dict[str, str]] = None, anonymous: bool = False) -> Answer:
        """One request, sent again if what went wrong may pass; `scopes` are what a token must allow."""
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(min(0.25 * 2 ** attempt, 8))
            try:
                return self.ask_once(method, path, scopes, body, fields, anonymous)
            except Lost as error:
                reason = str(error)
        raise TransferError("{} {}: {}".format(method, self.absolute(path), reason),
                            "check the registry and the network, then run the same line again: it goes on from there")

    def ask_once(self, method: str, path: str, scopes: Tuple[str, ...], body: Optional[bytes] = None,
                 fields: Optional[Dict[str, str]] = None, anonymous: bool = False) -> Answer:
        """One request; raises Lost where it is worth another attempt."""
        for fresh in (False, True):
            sent = dict(fields or {})
            if not anonymous and urlsplit(self.absolute(path)).netloc == self.host:
                sent.update(self._authorization(scopes, fresh))
            answer = self._exchange(method, self.absolute(path), body, sent)
            if answer.status != 401 or anonymous or self._challenge.get("scheme") != "bearer":
                break
        if answer.status in _PASSING:
            raise Lost(answer.said())
        if answer.status in (401, 403) and not anonymous:
            raise self.refused(answer, path)
        return answer

    def absolute(self, location: str) -> str:
        """A Location of the registry as an URL; one of the registry itself never loses its TLS."""
        url = urljoin(self.base, location)
        parts = urlsplit(url)
        return parts._replace(scheme=self._scheme).geturl() if parts.netloc == self.host else url

    def refused(self, answer: Answer, path: str) -> TransferError:
        """The error of a registry that does not let us do something."""
        known, what = self._credentials, urlsplit(path).path
        who = "as {}".format(known.username or "the kept identity") if known else "anonymously"
        hint = "check the rights of that user" if known else "give --username, or log in with docker or podman"
        return TransferError("{} does not allow {} {}: {}".format(self.base, what, who, answer.said()), hint)

    def _authorization(self, scopes: Tuple[str, ...], fresh: bool) -> Dict[str, str]:
        scheme = self._challenge.get("scheme")
        if scheme == "bearer":
            return {"Authorization": "Bearer " + self._token(scopes, fresh)}
        if scheme == "basic" and self._credentials is not None:
            return {"Authorization": self._credentials.basic()}
        return {}

    def _token(self, scopes: Tuple[str, ...], fresh: bool) -> str:
        with self._lock:
            token, end = self._tokens.get(scopes, ("", 0.0))
            if fresh or time.monotonic() >= end:
                token, seconds = self._new_token(scopes)
                self._tokens[scopes] = (token, time.monotonic() + max(seconds - _SLACK, 1))
        return token

    def _new_token(self, scopes: Tuple[str, ...]) -> Tuple[str, float]:
        realm = self._challenge.get("realm", "")
        if self._scheme == "https" and self._credentials and not realm.startswith("https:"):
            raise TransferError("{} wants its password sent to {}, without TLS".format(self.base, realm),
                                "set an https realm in the registry's configuration")
        answer = self._ask_realm(realm, scopes)
        try:
            if answer.status != 200:
                raise ValueError
            reply = json.loads(answer.body.decode("utf-8"))
            return str(reply.get("token") or reply["access_token"]), float(reply.get("expires_in") or 60)
        except (ValueError, KeyError, TypeError):
            raise TransferError("{} gave no token for {}: HTTP {}".format(realm, " ".join(scopes) or "logging in",
                                                                         answer.status),
                                "check user and password, and the user's rights") from None

    def _ask_realm(self, realm: str, scopes: Tuple[str, ...]) -> Answer:
        query = [("service", self._challenge.get("service", ""))] + [("scope", scope) for scope in scopes]
        known = self._credentials
        if known is not None and known.identity_token:
            form = [("service", query[0][1]), ("scope", " ".join(scopes)), ("grant_type", "refresh_token"),
                    ("client_id", "kubecarry"), ("refresh_token", known.identity_token)]
            return self._exchange("POST", realm, urlencode(form).encode("ascii"),
                                  {"Content-Type": "application/x-www-form-urlencoded"})
        url = realm + ("&" if "?" in realm else "?") + urlencode(query)
        return self._exchange("GET", url, None, {"Authorization": known.basic()} if known else {})

    def _exchange(self, method: str, url: str, body: Optional[bytes], fields: Dict[str, str]) -> Answer:
        """One request on this thread's connection; on a new one if the kept one turns out to be closed."""
        parts = urlsplit(url)
        key = "{}://{}".format(parts.scheme, parts.netloc)
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        reused = key in self._connections()
        try:
            return self._over(key, method, target, body, fields)
        except ssl.SSLError as error:
            raise TransferError("{}: {}".format(key, error),
                                "give --ca-file with the registry's authority, or --plain-http") from None
        except (OSError, http.client.HTTPException) as error:
            if reused:
                return self._exchange(method, url, body, fields)
            raise Lost("{}: {}".format(key, error or type(error).__name__)) from None

    def _over(self, key: str, method: str, target: str, body: Optional[bytes], fields: Dict[str, str]) -> Answer:
        connections = self._connections()
        connection = connections.pop(key, None) or self._open(key)
        whole = False
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what it says of that may be there
                connection.request(method, target, body, fields)
            reply = connection.getresponse()
            data = reply.read()
            whole = not reply.will_close
        finally:
            if whole:
                connections[key] = connection
            else:
                connection.close()
        return Answer(reply.status, reply.headers, data)

    def _open(self, key: str) -> http.client.HTTPConnection:
        parts = urlsplit(key)
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.netloc, timeout=_TIMEOUT, context=self._context or tls(""))
        return http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT)

    def _connections(self) -> Dict[str, http.client.HTTPConnection]:
        if not hasattr(self._local, "connections"):
            self._local.connections = {}
        found: Dict[str, http.client.HTTPConnection] = self._local.connections
        return found


def scope(name: str, actions: str = "pull,push") -> str:
    """What a token for a repository must allow."""
    return "repository:{}:{}".format(name, actions)


def api(name: str, kind: str, what: str = "") -> str:
    """The path of something in a repository."""
    return "/v2/{}/{}/{}".format(name, kind, quote(what, safe=":/"))


def _challenge(field: str) -> Dict[str, str]:
    """A WWW-Authenticate field: its scheme, in lower case, and its parameters."""
    scheme, _, rest = field.strip().partition(" ")
    found = {"scheme": scheme.lower()}
    for match in _PARAMETER.finditer(rest):
        found[(match.group(1) or match.group(3)).lower()] = match.group(2) if match.group(1) else match.group(4)
    return found
