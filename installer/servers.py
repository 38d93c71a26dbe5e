"""Servers of one and the same bundle, between which nodes choose."""

import re
from typing import Dict, List, Sequence

from .errors import UsageError

_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/-]*)?")


def check_urls(option: str, urls: Sequence[str]) -> List[str]:
    """The URLs without a slash at their end. Raises UsageError for what is none."""
    for url in urls:
        if not _URL.fullmatch(url):
            raise UsageError("{} {}: not an URL".format(option, url), "give http://ADDRESS:PORT")
    return [url.rstrip("/") for url in urls]


def also(urls: Sequence[str]) -> Dict[str, str]:
    """The setting of deploy.sh that names further servers; none without any."""
    return {"SERVERS": " ".join(urls)} if urls else {}
