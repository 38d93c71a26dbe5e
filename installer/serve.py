"""`serve`: check the port, verify the bundle, start the server, print what to type on the nodes."""

import os
import re
import socket
import sys
from typing import List, NamedTuple, Optional

from . import address
from .bundle import Bundle
from .errors import UsageError
from .nodescript import NodeScript
from .progress import Progress, human
from .server.accesslog import AccessLog
from .server.app import App
from .server.loop import Loop, url_of
from .server.supervisor import Supervisor
from .verify import Result, check_signature, verify

_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/-]*)?")


class Options(NamedTuple):
    """The options of `serve`; `workers` 0 = one for each core, `access_log` "-" = stdout."""

    bind: str
    port: int
    verify: bool
    key: str
    workers: int
    access_log: Optional[str]
    advertise: str


def serve(bundle: Bundle, options: Options) -> None:
    """Serve until told to stop. Raises HostError, IntegrityError, UsageError before the first client is served."""
    if options.advertise and not _URL.fullmatch(options.advertise):
        raise UsageError("--advertise {}: not an URL".format(options.advertise), "give http://ADDRESS:PORT")
    advertise = options.advertise.rstrip("/")
    log = AccessLog(options.access_log) if options.access_log is not None else None
    with address.bind(options.bind, options.port) as sock:
        _check(bundle, options)
        script = NodeScript(bundle)
        app = App(bundle, script, report)
        address.listen(sock)
        lines = instructions(bundle, script, [advertise] if advertise else _urls(sock))

        def make_loop(lifeline: int) -> Loop:
            return Loop(app, [sock], lifeline, report, log, advertise)

        supervisor = Supervisor(options.workers or os.cpu_count() or 1, [sock], make_loop, report, _Watch(bundle))
        supervisor.run(lambda: print(lines, flush=True))


def report(message: str) -> None:
    """A line on stderr, even where stderr is gone."""
    try:
        sys.stderr.write("installer: {}\n".format(message))
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def checked(bundle: Bundle, key: str, workers: int = 0) -> Result:
    """Verify with progress on stderr. Raises IntegrityError, HostError."""
    progress = Progress("verifying", sum(member.size for member in bundle.members.values()))
    result = verify(bundle, key, progress.add, workers)
    progress.finish()
    return result


def instructions(bundle: Bundle, script: NodeScript, urls: List[str]) -> str:
    """What to type on the nodes, for each URL of the server: the short form, and the one that pins deploy.sh."""
    info = bundle.info
    size = sum(member.size for member in bundle.members.values())
    lines = ["Serving release {} (Kubernetes {}): {} files, {} images, {}. Stop with Ctrl-C.".format(
        info.release, info.kubernetes, len(bundle.members), len(info.images), human(size))]
    for url in urls:
        short = "  curl -fsSL {}/deploy.sh | bash -s {{}}".format(url)
        pinned = ('  curl -fsSL {0}/deploy.sh -o deploy.sh && echo "{1}  deploy.sh" | sha256sum -c - '
                  "&& bash deploy.sh {{}}").format(url, script.digest(url))
        join = "join --token TOKEN MASTER:6443"
        lines += ["", "For nodes that reach this machine at {}, as root:".format(url),
                  "on the first master", short.format("master"),
                  "on every node that joins (master prints TOKEN and MASTER)", short.format(join),
                  "or, safe against a changed script on the way, the forms that check it before they run it",
                  pinned.format("master"), pinned.format(join)]
    return "\n".join(lines)


class _Watch:
    """Says once that another file has taken the bundle's place."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._said = False

    def __call__(self) -> None:
        if not self._said and self._bundle.source.replaced():
            self._said = True
            report("{} was replaced or removed; still serving the old one: restart the server for the new one".format(
                self._bundle.source.path))


def _check(bundle: Bundle, options: Options) -> None:
    if options.verify:
        checked(bundle, options.key)
    elif options.key:
        check_signature(bundle, options.key)


def _urls(sock: socket.socket) -> List[str]:
    return [url_of(pair) for pair in address.reachable(sock)]
