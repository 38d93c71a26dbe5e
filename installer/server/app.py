"""What each URL means. Everything below / is looked up in dictionaries; no path ever reaches the disk."""

import time
from typing import Callable, Dict

from ..bundle import Bundle
from ..nodescript import NodeScript
from .content import Changed, Content, Entity, media_type
from .registry import Registry
from .registry import error as registry_error
from .reply import TEXT, Reply, text
from .repos import Repos
from .request import Request

_MISSING = (
    "There is nothing under this path.\n"
    "/deploy.sh            what nodes run\n"
    "/bundle.json          every file that is served, with its size and sha256\n"
    "/packages/<os>/       a repository of packages; /repo/<os>.repo or /repo/<os>.sources describes it to dnf or apt\n"
    "/charts/              a helm repository\n"
    "/v2/<registry>/<name> images"
)
_QUIET_SECONDS = 60
_ALLOW = [("Allow", "GET, HEAD")]


class App:
    """Turns a Request into a Reply. Made before the workers are forked, so that they share what it holds.

    Raises IntegrityError if an image's manifest is missing or damaged.
    """

    def __init__(self, bundle: Bundle, script: NodeScript, report: Callable[[str], None], ca: str = "") -> None:
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
        self._quiet_until = 0.0

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
        if path == "/deploy.sh":
            return self._deploy(origin())
        if path == "/healthz":
            return text(200, "ok")
        if path == "/ca.pem" and self._ca:
            return self._plain(self._ca)
        if path in self._repos.paths:
            return self._plain(self._repos.render(path, origin()))
        return text(404, _MISSING)

    def _deploy(self, server: str) -> Reply:
        return self._plain(self._script.render(server))

    def _plain(self, body: bytes) -> Reply:
        """A text that names the server as its client sees it."""
        return Reply(200, [("Content-Type", TEXT), ("Cache-Control", "no-store")], [body])


def _tidy(path: str) -> str:
    """Without empty and `.` segments: apt asks for `packages/<os>/./InRelease`."""
    *folders, name = path.split("/")
    return "/".join(["", *[part for part in folders if part not in ("", ".")], name])
