"""Conditional and range requests (RFC 9110, sections 13 and 14) on members that never change."""

import re
from email.utils import parsedate_to_datetime
from typing import List, NamedTuple, Optional, Tuple

from .request import Request

_MAX_RANGES = 64
_RANGES = re.compile(r"bytes[ \t]*=[ \t]*(.+)", re.IGNORECASE)
_RANGE = re.compile(r"[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*")


class Validator(NamedTuple):
    """What a member is compared by: its quoted ETag, and its date in whole seconds since the epoch."""

    etag: str
    modified: int


def precondition(request: Request, validator: Validator) -> int:
    """200 to go on, 304 if the client has it already, 412 if a condition of the client fails."""
    if_match = request.get(b"if-match")
    if if_match is not None and not _lists(if_match, validator.etag, weak=False):
        return 412
    if if_match is None:
        since = _date(request.get(b"if-unmodified-since"))
        if since is not None and validator.modified > since:
            return 412
    if_none_match = request.get(b"if-none-match")
    if if_none_match is not None:
        return 304 if _lists(if_none_match, validator.etag, weak=True) else 200
    # Equal, not earlier: bundles of one release carry one date, and an older one may replace a newer.
    return 304 if _date(request.get(b"if-modified-since")) == validator.modified else 200


def wanted(request: Request, validator: Validator, size: int) -> Optional[List[Tuple[int, int]]]:
    """The (start, length) pairs that a GET asks for: None = all of it, [] = none can be satisfied (416)."""
    value = request.get(b"range")
    if value is None or request.method != "GET" or not _if_range(request, validator):
        return None
    match = _RANGES.fullmatch(value)
    specs = [one for one in match.group(1).split(",") if one.strip(" \t")] if match else []  # a list may have gaps
    if not specs or len(specs) > _MAX_RANGES:
        return None
    found = []
    for spec in specs:
        pair = _RANGE.fullmatch(spec)
        if pair is None or not (pair.group(1) or pair.group(2)):
            return None
        if pair.group(1) and pair.group(2) and int(pair.group(2)) < int(pair.group(1)):
            return None
        found.append(_resolve(pair.group(1), pair.group(2), size))
    satisfiable = [part for part in found if part[1] > 0]
    # Overlapping ranges are an attack, or a client better served with the whole.
    return None if len(satisfiable) > 1 and sum(part[1] for part in satisfiable) > size else satisfiable


def _resolve(first: str, last: str, size: int) -> Tuple[int, int]:
    if not first:
        length = min(int(last), size)
        return size - length, length
    start = int(first)
    end = min(int(last) + 1 if last else size, size)
    return start, max(0, end - start)


def _if_range(request: Request, validator: Validator) -> bool:
    value = request.get(b"if-range")
    return value is None or value == validator.etag or _date(value) == validator.modified


def _lists(value: str, etag: str, weak: bool) -> bool:
    if value.strip() == "*":
        return True
    tags = [tag.strip() for tag in value.split(",")]
    return etag in tags or (weak and "W/" + etag in tags)


def _date(value: Optional[str]) -> Optional[int]:
    if not value or len(value) > 64:
        return None
    try:
        return int(parsedate_to_datetime(value).timestamp())
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
