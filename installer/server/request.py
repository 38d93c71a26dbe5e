"""HTTP/1.x request heads: split by hand, refused unless they are well formed."""

import re
from typing import Dict, List, Optional
from urllib.parse import unquote_to_bytes

MAX_LINE = 8192
MAX_HEAD = 16384
MAX_FIELDS = 64

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])")
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: |\Z)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
_ABSOLUTE = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SINGLE = (b"host", b"content-length", b"transfer-encoding")
# A head whose reply depends on its first line alone: whatever else counts is not among its fields.
_OTHER = rb"""(?:(?!(?i:accept-encoding|connection|content-length|host|if-[a-z-]+|range|transfer-encoding):)
    [!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*"""
_HOST = rb"(?i:host):[\t\x20-\x7e\x80-\xff]*\r\n"
PLAIN = re.compile(rb"(GET[ ][\x21-\x7e]+[ ]HTTP/1\.1)\r\n" + _OTHER + _HOST + _OTHER + rb"\r\n", re.VERBOSE)


class RequestError(Exception):
    """A request that is answered with `status` and `text`, after which the connection is closed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Request:
    """One request head. `path` is percent-decoded (None: not UTF-8), `query` raw, field names lower case."""

    __slots__ = ("body", "fields", "has_body", "keep_alive", "method", "minor", "path", "peer", "query", "target")

    def __init__(self, method: str, target: bytes, minor: int, fields: Dict[bytes, bytes]) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.fields = fields
        self.body = b""  # read for those requests only that may have one
        self.peer = ""  # address of the client
        self.has_body = _has_body(fields)
        self.keep_alive = _keep_alive(minor, fields)
        raw, _, self.query = _origin(target).partition(b"?")
        self.path = _decode(raw)

    def get(self, name: bytes) -> Optional[str]:
        """The value of a field, or None; several fields of one name are joined by a comma."""
        value = self.fields.get(name)
        return None if value is None else value.decode("latin-1")


def parse(head: bytes) -> Request:
    """Read a request head (without its final empty line). Raises RequestError."""
    line, _, rest = head.partition(b"\r\n")
    match = _LINE.fullmatch(line)
    if match is None:
        raise RequestError(400, "this is not an HTTP/1.1 request line")
    fields = _fields(rest.split(b"\r\n") if rest else [])
    minor = int(match.group(3))
    if minor and b"host" not in fields:
        raise RequestError(400, "an HTTP/1.1 request needs a Host field")
    return Request(match.group(1).decode("ascii"), match.group(2), minor, fields)


def check_partial(data: bytes) -> None:
    """Raise RequestError if an unfinished head can no longer become a valid one, or is too long."""
    if not _METHOD.match(data):
        raise RequestError(400, "this is not an HTTP request (is the client speaking TLS?)")
    end = data.find(b"\n")
    if end > 0 and data[end - 1:end] != b"\r":
        raise RequestError(400, "lines must end with CR LF")
    if (end if end >= 0 else len(data)) > MAX_LINE:
        raise RequestError(414, "the request line is longer than {} bytes".format(MAX_LINE))
    if len(data) > MAX_HEAD:
        raise RequestError(431, "the request head is longer than {} bytes".format(MAX_HEAD))


def _fields(lines: List[bytes]) -> Dict[bytes, bytes]:
    if len(lines) > MAX_FIELDS:
        raise RequestError(431, "more than {} header fields".format(MAX_FIELDS))
    fields: Dict[bytes, bytes] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise RequestError(400, "malformed header field")
        name, value = match.group(1).lower(), match.group(2)
        if name in fields:
            if name in _SINGLE:
                raise RequestError(400, "a header field that must be single occurs twice")
            value = fields[name] + b", " + value
        fields[name] = value
    return fields


def _has_body(fields: Dict[bytes, bytes]) -> bool:
    length = fields.get(b"content-length")
    if length is not None and (not length.isdigit() or len(length) > 18):
        raise RequestError(400, "malformed Content-Length")
    if b"transfer-encoding" in fields:
        if length is not None:
            raise RequestError(400, "Content-Length and Transfer-Encoding together")
        return True
    return length is not None and int(length) > 0


def _keep_alive(minor: int, fields: Dict[bytes, bytes]) -> bool:
    value = fields.get(b"connection")
    if value is None:
        return minor == 1
    tokens = [token.strip() for token in value.lower().split(b",")]
    return b"close" not in tokens and (minor == 1 or b"keep-alive" in tokens)


def _origin(target: bytes) -> bytes:
    """The path and query of a target in origin or absolute form; the authority is never looked at."""
    match = _ABSOLUTE.match(target)
    if match:
        target = target[match.end():] or b"/"
        target = b"/" + target if target.startswith(b"?") else target
    if not target.startswith(b"/") and target != b"*":
        raise RequestError(400, "the request target must be a path")
    return target


def _decode(raw: bytes) -> Optional[str]:
    if b"%" in raw:
        if _BAD_ESCAPE.search(raw):
            raise RequestError(400, "malformed percent escape in the path")
        raw = unquote_to_bytes(raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
