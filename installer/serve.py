"""`serve`: check the port, verify the bundle, start the server, print what to type on the nodes."""

import os
import re
import secrets
import socket
import sys
from typing import List, NamedTuple, Optional, Sequence
from urllib.parse import urlsplit

from . import address, certificate
from .bundle import Bundle
from .errors import HostError, UsageError
from .nodescript import NodeScript
from .progress import Progress, human
from .server.accesslog import AccessLog
from .server.app import App
from .server.board import Board
from .server.desk import Desk
from .server.loop import Loop, url_of
from .server.supervisor import Supervisor
from .servers import also, check_urls
from .verify import Result, check_signature, verify

_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/-]*)?")


class Options(NamedTuple):
    """The options of `serve`; `workers` 0 = one for each core, `access_log` "-" = stdout.

    `tls` makes a key pair in the directory `state` unless `tls_cert` and `tls_key` name one.
    """

    bind: str
    port: int
    verify: bool
    key: str
    workers: int
    access_log: Optional[str]
    advertise: str
    state: str
    tls: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    also: Sequence[str] = ()
    log_format: str = "json"


def default_state() -> str:
    """Where the server keeps what must outlive a restart: its keys and the token of the nodes' reports."""
    if os.geteuid() == 0:
        return "/var/lib/kubecarry-server"
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(home, "kubecarry")


def serve(bundle: Bundle, options: Options) -> None:
    """Serve until told to stop. Raises HostError, IntegrityError, UsageError before the first client is served."""
    if options.advertise and not _URL.fullmatch(options.advertise):
        raise UsageError("--advertise {}: not an URL".format(options.advertise), "give http://ADDRESS:PORT")
    advertise = options.advertise.rstrip("/")
    log = AccessLog(options.access_log, options.log_format) if options.access_log is not None else None
    with address.bind(options.bind, options.port) as sock:
        identity = _identity(options)
        _check(bundle, options)
        token = _token(options.state)
        ours = {"REPORT_TOKEN": token}
        if identity:
            ours.update(SERVER_CA=identity.ca, SERVER_PIN=identity.pin)
        ours.update(also(check_urls("--also", options.also)))
        script = NodeScript(bundle, ours)
        app = App(bundle, script, report, identity.ca if identity else "")
        address.listen(sock)
        lines = instructions(bundle, script, [advertise] if advertise else _urls(sock, identity is not None))
        tls = identity.context if identity else None

        count = options.workers or os.cpu_count() or 1
        board = Board(count)

        def make_loop(number: int, lifeline: int) -> Loop:
            app.desk = Desk(board, number, token)
            return Loop(app, [sock], lifeline, report, log, advertise, tls, app.desk)

        supervisor = Supervisor(count, [sock], make_loop, report, _Watch(bundle))
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
        master, join = (script.commands(url, what) for what in ("master", "join --token TOKEN MASTER:6443"))
        lines += ["", "For nodes that reach this machine at {}, as root:".format(url),
                  "on the first master", "  " + master[0],
                  "on every node that joins (master prints TOKEN and MASTER)", "  " + join[0],
                  "or, safe against a changed script on the way, the forms that check it before they run it",
                  "  " + master[1], "  " + join[1],
                  "what is inside, and how far each node is: {}/".format(url)]
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


def _urls(sock: socket.socket, secure: bool) -> List[str]:
    return [url_of(pair, secure) for pair in address.reachable(sock)]


def _identity(options: Options) -> Optional[certificate.Identity]:
    if bool(options.tls_cert) != bool(options.tls_key) or (options.tls_ca and not options.tls_cert):
        raise UsageError("--tls-cert and --tls-key belong together, --tls-ca needs both",
                         "give both, or --tls alone to have a pair made")
    if options.tls_cert:
        return certificate.load(options.tls_cert, options.tls_key, options.tls_ca)
    if not options.tls:
        return None
    host = urlsplit(options.advertise).hostname
    return certificate.kept(options.state, [host] if host else [])


def _token(folder: str) -> str:
    """What nodes must show with their reports; the same after a restart, where it can be kept."""
    path = os.path.join(folder, "report.token")
    token = secrets.token_hex(16)
    try:
        with open(path) as file:
            kept = file.read().strip()
        if re.fullmatch("[0-9a-f]{32}", kept):
            return kept
    except (OSError, UnicodeDecodeError):
        pass
    try:
        certificate.write(path, token + "\n")
    except HostError as error:
        report("{}; nodes that are under way report no more once the server is restarted".format(error.message))
    return token
