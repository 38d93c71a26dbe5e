"""What each URL means. Everything below / is looked up in dictionaries; no path ever reaches the disk."""

import secrets
import time
from typing import Callable, Dict, Optional

from ..bundle import Bundle
from ..facts import facts
from ..nodescript import NodeScript
from . import metrics, page
from .board import Board
from .content import Changed, Content, Entity, media_type
from .desk import MAX_REPORT, Desk
from .registry import Registry
from .registry import error as registry_error
from .reply import TEXT, Reply, as_json, text
from .repos import Repos
from .request import Request

_MISSING = (
    "There is nothing under this path.\n"
    "/                     what is inside, and how far the nodes are\n"
    "/deploy.sh            what nodes run\n"
    "/bundle.json          every file that is served, with its size and sha256\n"
    "/packages/<os>/       a repository of packages; /repo/<os>.repo or /repo/<os>.sources describes it to dnf or apt\n"
    "/charts/              a helm repository\n"
    "/v2/<registry>/<name> images"
)
_QUIET_SECONDS = 60
_FRESH = [("Cache-Control", "no-store")]
_ALLOW = [("Allow", "GET, HEAD")]


class App:
    """Turns a Request into a Reply. Made before the workers are forked, so that they share what it holds.

    Raises IntegrityError if an image's manifest is missing or damaged.
    """

    def __init__(self, bundle: Bundle, script: NodeScript, report: Callable[[str], None], ca: str = "",
                 desk: Optional[Desk] = None) -> None:
        self.source = bundle.source
        self._report = report
        self._content = Content(bundle)
        self._script = script
        self._ca = ca.encode("ascii")  # PEM; empty without TLS
        self._registry = Registry(bundle, self._content)
        self._repos = Repos(bundle)
        self._entities: Dict[str, Entity] = {
            "/" + path: Entity(member, bundle.digests[path], media_type(path), [])
            for path, member in bundle.members.items()
        }
        self._facts = facts(bundle)
        self._page = page.Page(self._facts, script)
        self.desk = desk or Desk(Board(1), 0, secrets.token_hex(16))  # of this worker
        self._quiet_until = 0.0

    def body_size(self, request: Request) -> int:
        """How many bytes of a body are to be read before `answer` is asked; 0: none, whatever the client sends."""
        length = request.get(b"content-length") or ""
        if request.method != "POST" or request.path != "/report" or not length.isdigit():
            return 0
        return int(length) if int(length) <= MAX_REPORT else 0

    def answer(self, request: Request, origin: Callable[[], str]) -> Reply:
        """The reply to a request; `origin` gives the URL under which its client reached the server."""
        try:
            reply = self._route(request, origin)
        except (Changed, OSError) as error:
            self.changed(error)
            reply = text(503, "The bundle on the server changed while it was served: restart the server.")
            reply.close = True
        return reply.to(request)

    def changed(self, error: Exception) -> None:
        """Tell the operator, now and then, that the bundle on the disk is not what was opened."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            self._report("{} changed while it was served: {}; restart the server".format(self.source.path, error))

    def _route(self, request: Request, origin: Callable[[], str]) -> Reply:
        path = request.path
        images = path is not None and (path.startswith("/v2/") or path == "/v2")
        if request.method == "POST" and path == "/report":
            return self._take(request)
        if request.method not in ("GET", "HEAD"):
            if images:
                return registry_error(405, "UNSUPPORTED", "this registry is read-only", None, _ALLOW)
            return text(405, "Only GET and HEAD are answered here.", _ALLOW)
        if path is None:
            return text(404, _MISSING)
        entity = self._entities.get(path) or self._entities.get(_tidy(path))
        if entity is not None:
            return self._content.reply(request, entity)
        if images:
            return self._registry.answer(request, path)
        if path == "/healthz":
            return text(200, "ok")
        return self._describe(path, origin) or text(404, _MISSING)

    def _describe(self, path: str, origin: Callable[[], str]) -> Optional[Reply]:
        """What is made anew for each request."""
        if path == "/":
            return Reply(200, page.FIELDS, [self._page.render(origin(), self.desk.nodes())])
        if path == "/api/bundle":
            return as_json(200, self._facts, _FRESH)
        if path == "/api/nodes":
            return as_json(200, {"nodes": self.desk.nodes()}, _FRESH)
        if path == "/metrics":
            return Reply(200, metrics.FIELDS, [metrics.render(self._facts, self.desk.totals(), self.desk.nodes())])
        if path == "/deploy.sh":
            return self._plain(self._script.render(origin()))
        if path == "/ca.pem" and self._ca:
            return self._plain(self._ca)
        if path in self._repos.paths:
            return self._plain(self._repos.render(path, origin()))
        return None

    def _take(self, request: Request) -> Reply:
        """A node's progress: kept in memory, nothing else is ever done with it."""
        if request.has_body:  # not read
            return text(413, "a report has a Content-Length of at most {} bytes".format(MAX_REPORT))
        status, why = self.desk.take(request.body, request.peer)
        return text(status, why) if why else Reply(status, [], [])

    def _plain(self, body: bytes) -> Reply:
        """A text that names the server as its client sees it."""
        return Reply(200, [("Content-Type", TEXT), ("Cache-Control", "no-store")], [body])


def _tidy(path: str) -> str:
    """Without empty and `.` segments: apt asks for `packages/<os>/./InRelease`."""
    *folders, name = path.split("/")
    return "/".join(["", *[part for part in folders if part not in ("", ".")], name])
