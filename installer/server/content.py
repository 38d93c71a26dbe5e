"""Members as replies: whole, in ranges, or not at all because the client has them."""

import hashlib
from email.utils import formatdate
from typing import Dict, List, NamedTuple, Optional, Tuple

from ..bundle import Bundle
from ..errors import IntegrityError
from ..tarindex import Member
from .ranges import Validator, precondition, wanted
from .reply import Fields, Part, Reply, Slice, text
from .request import Request

SMALL = 64 << 10  # members up to this many bytes are kept in memory once asked for
_CACHE = 16 << 20  # of them, this many bytes per process
_BOUNDARY = "kubecarry-{}"
_TYPES = {
    "gpg": "application/pgp-keys", "asc": "application/pgp-keys", "gz": "application/gzip", "json": "application/json",
    "rpm": "application/x-rpm", "sh": "text/plain; charset=utf-8", "tar": "application/x-tar",
    "tgz": "application/gzip", "xml": "application/xml", "yaml": "application/yaml", "yml": "application/yaml",
}
_TEXTS = ("SHA256SUMS", "LICENSE", "README")
_BINARY = "application/octet-stream"


class Changed(Exception):
    """The bundle on the disk is no longer the one that was opened."""


class Entity(NamedTuple):
    """A member as it is served: sha256 in hex, media type, and fields of its own."""

    member: Member
    sha256: str
    media_type: str
    fields: Fields


def media_type(path: str) -> str:
    """The media type of a member by its name."""
    name = path.rpartition("/")[2]
    if name in _TEXTS or path.startswith("lists/"):
        return "text/plain; charset=utf-8"
    return _TYPES.get(name.rpartition(".")[2] if "." in name else "", _BINARY)


class Content:
    """Makes replies of entities; keeps small members in memory, each checked when it is first read."""

    def __init__(self, bundle: Bundle) -> None:
        self._source = bundle.source
        self._modified = int(bundle.source.modified)
        self._date = formatdate(self._modified, usegmt=True)
        self._kept: Dict[str, bytes] = {}
        self._room = _CACHE

    def reply(self, request: Request, entity: Entity) -> Reply:
        """Answer a GET or HEAD for a member. Raises Changed, OSError."""
        validator = Validator('"sha256:{}"'.format(entity.sha256), self._modified)
        fields = [("ETag", validator.etag), ("Last-Modified", self._date), ("Accept-Ranges", "bytes"), *entity.fields]
        status = precondition(request, validator)
        if status == 304:
            return Reply(304, fields, [], lasting=True)
        if status == 412:
            return text(412, "the member has another ETag or date than the request expects", fields)
        size = entity.member.size
        ranges = wanted(request, validator, size)
        if ranges == []:
            return text(416, "the member has {} bytes".format(size), [("Content-Range", "bytes */{}".format(size))])
        if ranges is None:
            body = [self._part(entity, 0, size)] if size else []
            return Reply(200, [("Content-Type", entity.media_type), *fields], body, lasting=True)
        return self._partial(entity, fields, ranges)

    def _partial(self, entity: Entity, fields: Fields, ranges: List[Tuple[int, int]]) -> Reply:
        size = entity.member.size
        spans = ["bytes {}-{}/{}".format(start, start + length - 1, size) for start, length in ranges]
        parts = [self._part(entity, start, length) for start, length in ranges]
        if len(parts) == 1:
            return Reply(206, [("Content-Type", entity.media_type), ("Content-Range", spans[0]), *fields], parts)
        boundary = _BOUNDARY.format(entity.sha256[:24])
        body: List[Part] = []
        for span, part in zip(spans, parts):
            lead = "\r\n--{}\r\nContent-Type: {}\r\nContent-Range: {}\r\n\r\n".format(boundary, entity.media_type, span)
            body += [lead.encode("ascii"), part]
        body.append("\r\n--{}--\r\n".format(boundary).encode("ascii"))
        return Reply(206, [("Content-Type", "multipart/byteranges; boundary=" + boundary), *fields], body)

    def _part(self, entity: Entity, start: int, length: int) -> Part:
        data = self._small(entity)
        if data is None:
            return Slice(entity.member, start, length)
        return data if length == len(data) else data[start:start + length]

    def _small(self, entity: Entity) -> Optional[bytes]:
        """The contents of a small member, from memory if possible; None for a large one."""
        kept = self._kept.get(entity.sha256)
        if kept is not None or entity.member.size > SMALL:
            return kept
        try:
            data = self._source.read(entity.member)
        except IntegrityError:
            raise Changed(entity.member.path) from None
        if hashlib.sha256(data).hexdigest() != entity.sha256:
            raise Changed(entity.member.path)
        if len(data) > self._room:
            self._kept, self._room = {}, _CACHE
        self._kept[entity.sha256] = data
        self._room -= len(data)
        return data
