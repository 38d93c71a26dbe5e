"""Whether a host answers at all: found out once, within the time that a person waits."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bundler.errors import FetchError
from bundler.fetch.hosts import PAUSE, Hosts

DEADLINE = 0.2


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that answers nobody, as behind a firewall that drops: its queue of connections is full."""
    with socket.socket() as server, socket.socket() as first:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        first.connect(server.getsockname())
        yield server.getsockname()[1]


@pytest.mark.parametrize("_", range(12))
def test_silence_ends_the_search_at_its_deadline(silent: int, _: int) -> None:
    begun = time.monotonic()
    with pytest.raises(FetchError, match=rf"127\.0\.0\.1:{silent} cannot be reached: no answer within"):
        Hosts(DEADLINE).reach(f"http://127.0.0.1:{silent}/x", {}, threading.Event())
    assert DEADLINE <= time.monotonic() - begun < DEADLINE + PAUSE


def test_a_host_that_refuses_is_tried_again_before_it_is_given_up() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        begun = time.monotonic()
        hosts = Hosts(pause=0.1)
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
        for _ in range(2):
            with pytest.raises(FetchError, match="refused") as caught:
                hosts.reach(url, {}, threading.Event())
            assert "--mirror" in caught.value.hint
        assert 0.3 <= time.monotonic() - begun < 0.6
