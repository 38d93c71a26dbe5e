"""Which hosts answer at all: asked once for a whole build, so that no network costs seconds, not minutes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

import requests.utils

from bundler.errors import FetchError

MIRROR_HINT = "is there a network? A mirror or a folder can stand in for it: --mirror FROM=TO"
TRIES = 3
PAUSE = 0.5
# One look-up plus connect; a resolver without a network may take a minute by itself.
DEADLINE = 10.0
PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


class Hosts:
    """Remembers for each host and port whether a connection could be made; threads wait for one common try."""

    def __init__(self, deadline: float = DEADLINE, pause: float = PAUSE) -> None:
        """Give up a host after ``deadline`` seconds without an answer, or after three refusals ``pause`` s apart."""
        self._deadline = deadline
        self._pause = pause
        self._lock = threading.Lock()
        self._locks: dict[tuple[str, int], threading.Lock] = {}
        self._outcomes: dict[tuple[str, int], str] = {}

    def reach(self, url: str, proxies: Mapping[str, str], stop: threading.Event) -> None:
        """Return if the host of ``url``, or the proxy in front of it, takes connections; FetchError if not."""
        proxy = requests.utils.select_proxy(url, proxies)
        host, port = _address(proxy or url)
        with self._lock:
            lock = self._locks.setdefault((host, port), threading.Lock())
        with lock:
            if (host, port) not in self._outcomes:
                self._outcomes[host, port] = self._try(host, port, stop)
            reason = self._outcomes[host, port]
        if reason:
            wanted = urlsplit(url).hostname
            through = f" (proxy for {wanted})" if proxy else ""
            raise FetchError(f"{host}:{port}{through} cannot be reached: {reason}", MIRROR_HINT)

    def _try(self, host: str, port: int, stop: threading.Event) -> str:
        reason = ""
        for pause in (0.0, *(self._pause * (number + 1) for number in range(TRIES - 1))):
            if stop.wait(pause):
                return "stopped"
            reason, final = self._connect(host, port)
            if final:
                break
        return reason

    def _connect(self, host: str, port: int) -> tuple[str, bool]:
        """One attempt: what went wrong (empty: nothing), and whether there is no point in another one."""
        outcome: list[str] = []
        # A thread of its own, because nothing can interrupt the resolver; its connect must not give up before we do,
        # or silence would be taken for a failure that is worth another try.
        longer = 2 * self._deadline
        thread = threading.Thread(target=lambda: outcome.append(_attempt(host, port, longer)), daemon=True)
        thread.start()
        thread.join(self._deadline)
        if not outcome:
            return f"no answer within {self._deadline:.0f} s", True
        return outcome[0], not outcome[0]


def _attempt(host: str, port: int, timeout: float) -> str:
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except (OSError, UnicodeError) as error:
        return (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ""


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        return parts.hostname or "", parts.port or PORTS.get(parts.scheme, 80)
    except ValueError as error:
        raise FetchError(f"{parts.netloc.rpartition('@')[2]}: not a host and port: {error}") from error
