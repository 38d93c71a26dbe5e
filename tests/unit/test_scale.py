"""The model behind docs/scale.md: its shares are fair, and where arithmetic knows the answer it gives that."""

from __future__ import annotations

import pytest

from bench.scale import BYTES_MB, NODE_GBIT, Site, fair, megabytes


def test_a_narrow_flow_leaves_its_share_to_the_others() -> None:
    # Link 0 carries all three; link 1 lets the first have 10 of it only.
    assert fair([(0, 1), (0, 2), (0, 3)], [100, 10, 100, 100]) == [10, 45, 45]
    assert fair([(0, 2), (1, 2)], [30, 100, 60]) == [30, 30]
    assert fair([], [1]) == []


@pytest.mark.parametrize("servers", [1, 4])
def test_without_peers_a_full_server_takes_bytes_by_bandwidth(servers: int) -> None:
    taken = Site(100, servers, 1, 0.0, 1).run()
    assert max(taken) == pytest.approx(100 * BYTES_MB / megabytes(1) / servers, rel=0.03)


def test_a_lone_node_is_as_fast_as_its_own_link() -> None:
    assert Site(1, 1, 25, 0.0, 1).run() == [pytest.approx(BYTES_MB / megabytes(NODE_GBIT), rel=0.05)]


def test_peers_that_have_everything_take_the_layers_off_the_server() -> None:
    alone, warm = (max(Site(50, 1, 1, 10, 1, peers, 10 * peers).run()) for peers in (False, True))
    assert warm < alone / 2
    assert Site(20, 1, 1, 10, 7, True).run() == Site(20, 1, 1, 10, 7, True).run(), "the seed decides"
