"""Ranges and conditions, case by case after RFC 9110."""

from __future__ import annotations

import pytest

from installer.server.ranges import Validator, precondition, wanted
from installer.server.request import parse

ETAG = '"sha256:abc"'
DATE = "Wed, 13 Jan 2021 00:00:00 GMT"
EARLIER, LATER = "Tue, 12 Jan 2021 00:00:00 GMT", "Thu, 14 Jan 2021 00:00:00 GMT"
VALIDATOR = Validator(ETAG, 1610496000)


def request(method: str = "GET", **fields: str) -> object:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return parse("\r\n".join([f"{method} / HTTP/1.1", "Host: x", *lines]).encode("latin-1"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-", [(0, 100)]),
        ("bytes=10-19", [(10, 10)]),
        ("bytes=90-200", [(90, 10)]),
        ("bytes=-10", [(90, 10)]),
        ("bytes=-200", [(0, 100)]),
        ("bytes=99-99", [(99, 1)]),
        ("bytes=0-1,5-6", [(0, 2), (5, 2)]),
        ("bytes = 0-1 , 98-", [(0, 2), (98, 2)]),
        ("BYTES=0-1", [(0, 2)]),
        ("bytes=0-1,100-", [(0, 2)]),
        ("bytes=100-", []),
        ("bytes=100-200", []),
        ("bytes=-0", []),
        ("bytes=200-,300-", []),
        ("bytes=5-4", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=1", None),
        ("lines=0-1", None),
        ("bytes=0-1,x", None),
        ("bytes=0-99,0-99", None),
        ("bytes=" + "0-0," * 70 + "0-0", None),
        ("bytes=" + "9" * 30 + "-", None),
        ("bytes=1-2;3-4", None),
        ("", None),
    ],
)
def test_ranges(value: str, expected: list[tuple[int, int]] | None) -> None:
    assert wanted(request(range=value), VALIDATOR, 100) == expected  # type: ignore[arg-type]


def test_an_empty_member_has_no_range() -> None:
    assert wanted(request(range="bytes=0-"), VALIDATOR, 0) == []  # type: ignore[arg-type]
    assert wanted(request(range="bytes=-5"), VALIDATOR, 0) == []  # type: ignore[arg-type]


def test_ranges_are_for_get_alone() -> None:
    assert wanted(request("HEAD", range="bytes=0-1"), VALIDATOR, 100) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "honoured"),
    [
        (ETAG, True),
        (DATE, True),
        ('"other"', False),
        ("W/" + ETAG, False),
        (EARLIER, False),
        (LATER, False),
        ("junk", False),
    ],
)
def test_if_range(value: str, honoured: bool) -> None:
    found = wanted(request(range="bytes=0-1", if_range=value), VALIDATOR, 100)  # type: ignore[arg-type]
    assert (found is not None) is honoured


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"if_none_match": ETAG}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": "W/" + ETAG}, 304),
        ({"if_none_match": f'"a", {ETAG}'}, 304),
        ({"if_none_match": '"a"'}, 200),
        ({"if_modified_since": DATE}, 304),
        ({"if_modified_since": EARLIER}, 200),
        ({"if_modified_since": LATER}, 200),
        ({"if_modified_since": "junk"}, 200),
        ({"if_modified_since": "Wed, 99 Jan 99999 00:00:00 GMT"}, 200),
        ({"if_none_match": '"a"', "if_modified_since": DATE}, 200),
        ({"if_match": ETAG}, 200),
        ({"if_match": "*"}, 200),
        ({"if_match": '"a"'}, 412),
        ({"if_match": "W/" + ETAG}, 412),
        ({"if_unmodified_since": EARLIER}, 412),
        ({"if_unmodified_since": DATE}, 200),
        ({"if_unmodified_since": "junk"}, 200),
        ({"if_match": ETAG, "if_unmodified_since": EARLIER}, 200),
        ({"if_match": ETAG, "if_none_match": ETAG}, 304),
    ],
)
def test_preconditions(fields: dict[str, str], status: int) -> None:
    assert precondition(request(**fields), VALIDATOR) == status  # type: ignore[arg-type]
