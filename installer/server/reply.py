"""Replies: a head as bytes, and a body of bytes and of slices of members."""

import json
from email.utils import formatdate
from typing import Any, List, NamedTuple, Sequence, Tuple, Union

from ..tarindex import Member
from .request import Request

REASONS = {
    200: "OK", 204: "No Content", 206: "Partial Content", 304: "Not Modified", 400: "Bad Request", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout", 412: "Precondition Failed",
    413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable",
}
TEXT = "text/plain; charset=utf-8"
Fields = Sequence[Tuple[str, str]]


class Slice(NamedTuple):
    """`size` bytes of a member, from its byte `start`."""

    member: Member
    start: int
    size: int


Part = Union[bytes, Slice]


class Reply:
    """What is sent: `head` lacks only the Date field and the empty line. `lasting`: same for every client."""

    __slots__ = ("body", "close", "head", "lasting", "request", "status")

    def __init__(self, status: int, fields: Fields, body: List[Part], lasting: bool = False) -> None:
        self.status = status
        self.head = _head(status, fields, body)
        self.body = body
        self.lasting = lasting
        self.close = False
        self.request: Union[Request, None] = None

    def to(self, request: Request) -> "Reply":
        """Fit the reply to who asked: no body for HEAD, and what becomes of the connection."""
        self.request = request
        self.close = self.close or not request.keep_alive or request.has_body
        if request.method == "HEAD":
            self.body = []
        if self.close:
            self.head += b"Connection: close\r\n"
        elif request.minor == 0:
            self.head += b"Connection: keep-alive\r\n"
        return self


def text(status: int, message: str, fields: Fields = ()) -> Reply:
    """A short plain text reply."""
    return Reply(status, [("Content-Type", TEXT), *fields], [(message + "\n").encode("utf-8")])


def as_json(status: int, value: Any, fields: Fields) -> Reply:
    """A JSON reply."""
    body = json.dumps(value, separators=(",", ":")).encode("utf-8")
    return Reply(status, [("Content-Type", "application/json"), *fields], [body])


def size_of(part: Part) -> int:
    """Bytes that a part of a body takes."""
    return len(part) if isinstance(part, bytes) else part.size


def date_line(now: float) -> bytes:
    """The end of every head: the Date field (`now` in seconds since the epoch) and the empty line."""
    return "Date: {}\r\n\r\n".format(formatdate(now, usegmt=True)).encode("ascii")


def _head(status: int, fields: Fields, body: List[Part]) -> bytes:
    lines = ["HTTP/1.1 {} {}".format(status, REASONS[status]), "Server: kubecarry"]
    lines += ["{}: {}".format(name, value) for name, value in fields]
    if status not in (204, 304):
        lines.append("Content-Length: {}".format(sum(size_of(part) for part in body)))
    return ("\r\n".join(lines) + "\r\n").encode("latin-1")
