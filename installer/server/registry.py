"""/v2/: the OCI distribution protocol, as far as pulling needs it."""

import json
import re
from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import parse_qs, quote

from .. import charts
from ..bundle import Bundle
from ..images import Images, Repository, blob_path
from .content import Content, Entity
from .reply import Fields, Reply, as_json
from .request import Request

_API = ("Docker-Distribution-Api-Version", "registry/2.0")
_NAME = "(?P<name>[a-z0-9]+(?:[._:/-]+[a-z0-9]+)*)"
_ROUTE = re.compile("/v2/" + _NAME + "/(?P<kind>manifests|blobs|tags|referrers)/(?P<what>[^/]+)")
_TAG = re.compile("[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile("[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}")
_BINARY = "application/octet-stream"
_INDEX = "application/vnd.oci.image.index.v1+json"


def error(status: int, code: str, message: str, detail: Any = None, fields: Fields = ()) -> Reply:
    """An error as the distribution specification words it."""
    body = {"errors": [{"code": code, "message": message, "detail": detail}]}
    return as_json(status, body, [_API, *fields])


class Registry:
    """Answers GET and HEAD below /v2/."""

    def __init__(self, bundle: Bundle, content: Content) -> None:
        self._members = bundle.members
        self._images = Images(bundle)
        self._content = content
        self._charts: Dict[str, Entity] = {
            digest: content.make(made, _BINARY, []) if isinstance(made, bytes)
            else Entity(bundle.members[made], bundle.digests[made], _BINARY, [])
            for digest, made in charts.add(bundle, self._images).items()}

    def answer(self, request: Request, path: str) -> Reply:
        """The reply for a decoded `path` that is /v2 or below it."""
        query = parse_qs(request.query.decode("latin-1"), keep_blank_values=True) if request.query else {}
        if path in ("/v2", "/v2/"):
            return as_json(200, {}, [_API])
        if path == "/v2/_catalog":
            return self._page("repositories", self._images.names, {}, path, query)
        match = _ROUTE.fullmatch(path)
        if match is None:
            return error(404, "NAME_INVALID", "no such endpoint, or an invalid repository name")
        name, kind, what = match.group("name"), match.group("kind"), match.group("what")
        repository = self._images.find(name, query.get("ns", [""])[0])
        if repository is None:
            return error(404, "NAME_UNKNOWN", "the bundle has no such repository", {"name": name})
        if kind == "tags":
            return self._tags(repository, name, what, path, query)
        if kind == "referrers":
            return _referrers(repository, what, query)
        return self._manifest(request, repository, what) if kind == "manifests" \
            else self._blob(request, repository, what)

    def _manifest(self, request: Request, repository: Repository, reference: str) -> Reply:
        if ":" not in reference and not _TAG.fullmatch(reference):
            return error(400, "TAG_INVALID", "malformed tag", {"tag": reference})
        if ":" in reference and not _DIGEST.fullmatch(reference):
            return error(400, "DIGEST_INVALID", "malformed digest", {"digest": reference})
        digest = reference if ":" in reference else repository.tags.get(reference, "")
        if digest not in repository.manifests:
            return error(404, "MANIFEST_UNKNOWN", "the bundle has no such manifest",
                         {"name": repository.name, "reference": reference})
        return self._send(request, digest, repository.manifests[digest] or _BINARY)

    def _blob(self, request: Request, repository: Repository, digest: str) -> Reply:
        if not _DIGEST.fullmatch(digest):
            return error(400, "DIGEST_INVALID", "malformed digest", {"digest": digest})
        if digest not in repository.blobs:
            return error(404, "BLOB_UNKNOWN", "the bundle has no such blob",
                         {"name": repository.name, "digest": digest})
        return self._send(request, digest, _BINARY)

    def _send(self, request: Request, digest: str, media_type: str) -> Reply:
        fields: Fields = [("Docker-Content-Digest", digest), _API]
        made = self._charts.get(digest)
        member = made.member if made else self._members[blob_path(digest)]
        return self._content.reply(request, Entity(member, digest.partition(":")[2], media_type, fields))

    def _tags(self, repository: Repository, name: str, what: str, path: str, query: Any) -> Reply:
        if what != "list":
            return error(404, "NAME_INVALID", "no such endpoint")
        return self._page("tags", sorted(repository.tags), {"name": name}, path, query)

    def _page(self, key: str, values: List[str], body: Any, path: str, query: Any) -> Reply:
        """A listing, cut after `n` values and begun after `last`, with a Link to what follows."""
        count, last = query.get("n", [None])[0], query.get("last", [""])[0]
        if count is not None and not re.fullmatch("[0-9]{1,9}", count):
            return error(400, "PAGINATION_NUMBER_INVALID", "n must be a number", {"n": count})
        page, more = _cut([value for value in values if value > last], None if count is None else int(count))
        fields = [_API]
        if more and page:
            following = "{}?n={}&last={}".format(quote(path), len(page), quote(page[-1], safe=""))
            if "ns" in query:
                following += "&ns=" + quote(query["ns"][0], safe="")
            fields.append(("Link", '<{}>; rel="next"'.format(following)))
        return as_json(200, dict(body, **{key: page}), fields)


def _referrers(repository: Repository, digest: str, query: Any) -> Reply:
    """An index of the manifests that have `digest` as their subject, none where nothing is known of it."""
    if not _DIGEST.fullmatch(digest):
        return error(400, "DIGEST_INVALID", "malformed digest", {"digest": digest})
    found = repository.referrers.get(digest, [])
    fields = [_API, ("Content-Type", _INDEX)]
    if "artifactType" in query:
        found = [one for one in found if one.get("artifactType") == query["artifactType"][0]]
        fields.append(("OCI-Filters-Applied", "artifactType"))
    body = json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": found}).encode("utf-8")
    return Reply(200, fields, [body])


def _cut(values: List[str], count: Optional[int]) -> Tuple[List[str], bool]:
    return (values, False) if count is None else (values[:count], len(values) > count)
