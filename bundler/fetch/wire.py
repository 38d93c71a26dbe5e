"""One request and its answer: connections, proxies, certificates, redirects, a second try with credentials."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3

from bundler import __version__
from bundler.errors import FetchError, HostError
from bundler.fetch.hosts import Hosts

CHUNK = 256 * 1024
REDIRECTS = 10
CONNECT_TIMEOUT = 10.0
# Below this rate (bytes per second, over one window of seconds) a connection counts as stuck.
SLOWEST = 1024
WINDOW = 30.0
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
CA_HINT = "if a private authority signed it, name its certificate with --ca-file"


class Transient(Exception):
    """A failure that may pass; ``wait`` is how many seconds the server asks for, where it does."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        """Keep ``reason``, a phrase for people."""
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


class Cancelled(FetchError):
    """Another part of the build failed first."""


class Auth(Protocol):
    """Credentials of one host."""

    def header(self) -> str | None:
        """Value of Authorization, if there is one already."""

    def renew(self, refused: str | None, challenge: str) -> bool:
        """Answer a 401 to the header ``refused``; tells whether there is something new to try."""


@dataclass(frozen=True)
class Wanted:
    """One request; ``form`` is the body of a POST."""

    method: str
    url: str
    headers: Mapping[str, str]
    form: str | None = field(default=None, repr=False)


@dataclass
class Answer:
    """Status, headers and the body as it comes; ``read`` gives up to 256 KiB, empty at the end."""

    status: int
    headers: Mapping[str, str]
    _read: Any
    _since: float = field(default_factory=time.monotonic)
    _count: int = 0

    def read(self) -> bytes:
        """Next bytes of the body. Transient if the connection fails or hardly moves."""
        try:
            data: bytes = self._read(CHUNK)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise Transient(_phrase(error)) from error
        self._count += len(data)
        now = time.monotonic()
        if now - self._since > WINDOW:
            if self._count < SLOWEST * WINDOW:
                raise Transient(f"only {self._count} bytes came within {WINDOW:.0f} s")
            self._since, self._count = now, 0
        return data


class Wire:
    """Pooled connections, one session per thread."""

    def __init__(self, timeout: float, ca_file: Path | None, hosts: Hosts) -> None:
        """Give up on ``timeout`` seconds of silence. HostError if there is no ``ca_file``."""
        self.stop = threading.Event()
        self._timeout = (min(timeout, CONNECT_TIMEOUT), timeout)
        self._verify = _authorities(ca_file)
        self._hosts = hosts
        self._local = threading.local()
        self._lock = threading.Lock()
        self._sessions: list[requests.Session] = []
        self._live: set[urllib3.BaseHTTPResponse] = set()

    @contextmanager
    def open(self, wanted: Wanted, auth: Auth | None = None, *, pinned: bool) -> Iterator[Answer]:
        """Ask, and follow redirects. ``pinned``: a digest checks the bytes, so that a redirect may leave https.

        Transient or FetchError if there is no answer; every status that is no redirect is an answer.
        """
        if _scheme(wanted.url) == "file":
            with _open_file(wanted) as answer:
                yield answer
            return
        response = self._follow(wanted, auth, pinned)
        raw = response.raw
        with self._lock:
            self._live.add(raw)
        try:
            if self.stop.is_set():
                raise Cancelled(f"{shown(wanted.url)}: stopped")
            yield Answer(response.status_code, response.headers, lambda size: raw.read1(size, decode_content=False))
        finally:
            with self._lock:
                self._live.discard(raw)
            response.close()

    def cancel(self) -> None:
        """Make every request under way, in any thread, end soon; none can be made afterwards."""
        self.stop.set()
        with self._lock:
            for raw in self._live:
                try:
                    raw.shutdown()
                except (ValueError, OSError, RuntimeError):
                    continue

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for session in self._sessions:
                session.close()

    def _follow(self, wanted: Wanted, auth: Auth | None, pinned: bool) -> requests.Response:
        target, renewed = wanted.url, False
        for _ in range(REDIRECTS):
            # A redirect leads to a CDN, which has no business with the registry's credentials.
            at_home = _origin(target) == _origin(wanted.url)
            credential = auth.header() if auth and at_home else None
            response = self._send(replace(wanted, url=target), credential)
            if response.status_code == 401 and auth and at_home and not renewed:
                renewed = True
                _discard(response)
                if auth.renew(credential, response.headers.get("WWW-Authenticate", "")):
                    continue
                return response
            if not response.is_redirect:
                return response
            _discard(response)
            target = _redirected(target, response.headers["Location"], pinned)
        raise FetchError(f"{shown(wanted.url)}: more than {REDIRECTS} redirects")

    def _send(self, wanted: Wanted, credential: str | None) -> requests.Response:
        url = wanted.url
        if self.stop.is_set():
            raise Cancelled(f"{shown(url)}: stopped")
        proxies = requests.utils.get_environ_proxies(url)
        self._hosts.reach(url, proxies, self.stop)
        session = self._session()
        headers = dict(wanted.headers)
        if credential:
            headers["Authorization"] = credential
        if wanted.form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            request = session.prepare_request(requests.Request(wanted.method, url, headers=headers, data=wanted.form))
            return session.send(
                request,
                stream=True,
                timeout=self._timeout,
                verify=self._verify,
                allow_redirects=False,
                proxies=proxies,
            )
        except requests.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise FetchError(f"{shown(url)}: its certificate is not trusted", CA_HINT) from error
            raise Transient(_phrase(error)) from error
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
                raise FetchError(f"{shown(url)}: not a URL that can be fetched") from error
            raise Transient(_phrase(error)) from error
        except (requests.RequestException, ValueError) as error:
            raise FetchError(f"{shown(url)}: not a URL that can be fetched") from error

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            # Proxies and authorities are read here, once; .netrc would replace a registry's token.
            session.trust_env = False
            session.headers.clear()
            session.headers.update({"User-Agent": f"kubecarry/{__version__}", "Accept-Encoding": "identity"})
            self._local.session = session
            with self._lock:
                self._sessions.append(session)
        return session


def shown(url: str) -> str:
    """``url`` as it may be printed: without passwords, and without a query, which may be a signature."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _authorities(ca_file: Path | None) -> str | bool:
    named = str(ca_file) if ca_file else next(filter(None, map(os.environ.get, CA_VARIABLES)), None)
    if named and not Path(named).exists():
        raise HostError(f"{named}: there is no such certificate file", "correct --ca-file or REQUESTS_CA_BUNDLE")
    return named or True


def _scheme(url: str) -> str:
    """Scheme of a URL that is sound. FetchError for any other."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise FetchError(f"{url.rpartition('@')[2]!r} is not a URL") from error
    return parts.scheme


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _redirected(url: str, location: str, pinned: bool) -> str:
    try:
        target = urljoin(url, location)
    except ValueError:
        target = ""
    old, new = _scheme(url), _scheme(target)
    if new not in ("http", "https"):
        raise FetchError(f"{shown(url)}: redirects to {new or 'nowhere'}")
    if (old, new) == ("https", "http") and not pinned:
        raise FetchError(f"{shown(url)}: redirects from https to http, and no digest would notice a forgery")
    return target


def _discard(response: requests.Response) -> None:
    """Read a short body to its end, so that the connection can be used again."""
    with suppress(urllib3.exceptions.HTTPError, OSError):
        response.raw.read(CHUNK)
    response.close()


def _phrase(error: BaseException) -> str:
    """What failed, without the URL that the libraries put into their messages."""
    text = f"{type(error).__name__} {error}".lower()
    for sign, phrase in (
        ("timeout", "no bytes came in time"),
        ("timed out", "no bytes came in time"),
        ("reset", "the connection was reset"),
        ("refused", "the connection was refused"),
        ("incompleteread", "the connection was cut"),
        ("remotedisconnected", "the connection was closed without an answer"),
        ("ssl", "the TLS connection failed"),
        ("proxy", "the proxy failed"),
    ):
        if sign in text:
            return phrase
    return "the connection failed"


@contextmanager
def _open_file(wanted: Wanted) -> Iterator[Answer]:
    path = Path(unquote(urlsplit(wanted.url).path))
    try:
        file = path.open("rb")
    except OSError as error:
        if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
            yield Answer(404, {}, lambda _: b"")
            return
        raise FetchError(f"{path}: {error.strerror}") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        start, end = _range(wanted.headers.get("Range", ""), size)
        file.seek(start)
        fields = {"Content-Length": str(end - start), "Content-Range": f"bytes {start}-{end - 1}/{size}"}
        status = 206 if "Range" in wanted.headers else 200
        yield Answer(status, fields, lambda count: file.read(min(count, end - file.tell())))


def _range(text: str, size: int) -> tuple[int, int]:
    first, _, last = text.removeprefix("bytes=").partition("-")
    return int(first or 0), min(int(last) + 1, size) if last else size
