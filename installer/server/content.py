"""Members as replies: whole, gzip'd, in ranges, or not at all because the client has them."""

import gzip
import hashlib
import re
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
_PACKED = range(1 << 10, 1 << 20)  # texts of these sizes are sent gzip'd to who accepts it
_PACKED_CACHE = 8 << 20
_BOUNDARY = "kubecarry-{}"
_TYPES = {
    "gpg": "application/pgp-keys", "asc": "application/pgp-keys", "gz": "application/gzip", "json": "application/json",
    "rpm": "application/x-rpm", "sh": "text/plain; charset=utf-8", "tar": "application/x-tar",
    "tgz": "application/gzip", "xml": "application/xml", "yaml": "application/yaml", "yml": "application/yaml",
}
_TEXTS = ("SHA256SUMS", "LICENSE", "README")
_BINARY = "application/octet-stream"
_PACKABLE = ("application/json", "application/xml", "application/yaml", "text/plain; charset=utf-8")
_GZIP = re.compile(r"(?:^|,)[ \t]*gzip[ \t]*(?:;[ \t]*q=(?!0(?:\.0*)?[ \t]*(?:,|$))[^,]*)?(?:,|$)", re.IGNORECASE)


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
        self._made: Dict[str, bytes] = {}
        self._kept: Dict[str, bytes] = {}
        self._room = _CACHE
        self._packed: Dict[str, bytes] = {}
        self._packed_room = _PACKED_CACHE

    def make(self, data: bytes, media_type: str, fields: Fields) -> Entity:
        """An entity that is no member of the bundle, kept in memory for good."""
        sha256 = hashlib.sha256(data).hexdigest()
        self._made[sha256] = data
        return Entity(Member("", 0, len(data)), sha256, media_type, fields)

    def reply(self, request: Request, entity: Entity) -> Reply:
        """Answer a GET or HEAD for a member. Raises Changed, OSError."""
        packable = entity.media_type in _PACKABLE and entity.member.size in _PACKED
        packed = self._pack(entity) if packable and _accepts_gzip(request) else b""
        validator = Validator('"sha256:{}{}"'.format(entity.sha256, "-gzip" if packed else ""), self._modified)
        fields = [("ETag", validator.etag), ("Last-Modified", self._date), ("Accept-Ranges", "bytes"), *entity.fields]
        if packable:
            fields.append(("Vary", "Accept-Encoding"))
        status = precondition(request, validator)
        if status == 304:
            return Reply(304, fields, [], lasting=True)
        if status == 412:
            return text(412, "the member has another ETag or date than the request expects", fields)
        if packed:
            return Reply(200, [("Content-Type", entity.media_type), ("Content-Encoding", "gzip"), *fields], [packed],
                         lasting=True)
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
        kept = self._kept.get(entity.sha256) or self._made.get(entity.sha256)
        if kept is not None or entity.member.size > SMALL:
            return kept
        data = self._read(entity)
        if len(data) > self._room:
            self._kept, self._room = {}, _CACHE
        self._kept[entity.sha256] = data
        self._room -= len(data)
        return data

    def _pack(self, entity: Entity) -> bytes:
        """The contents gzip'd; nothing where that is no shorter."""
        packed = self._packed.get(entity.sha256)
        if packed is None:
            data = self._small(entity) or self._read(entity)
            packed = gzip.compress(data, 6)
            packed = packed if len(packed) < len(data) else b""
            if len(packed) > self._packed_room:
                self._packed, self._packed_room = {}, _PACKED_CACHE
            self._packed[entity.sha256] = packed
            self._packed_room -= len(packed)
        return packed

    def _read(self, entity: Entity) -> bytes:
        try:
            data = self._source.read(entity.member)
        except IntegrityError:
            raise Changed(entity.member.path) from None
        if hashlib.sha256(data).hexdigest() != entity.sha256:
            raise Changed(entity.member.path)
        return data


def _accepts_gzip(request: Request) -> bool:
    """Whether the client takes gzip. Ranges are of the plain member: a download can be resumed by any client."""
    return b"range" not in request.fields and _GZIP.search(request.get(b"accept-encoding") or "") is not None
