"""One small upstream, locked once, for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.upstream import site as upstream
from tests.integration.upstream.site import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A served upstream with a complete lock."""
    with upstream.serve(tmp_path_factory.mktemp("site")) as found:
        found.run("lock")
        yield found


@pytest.fixture(scope="module")
def bundle(site: Site) -> Path:
    """The bundle of that lock, under its default name."""
    built = site.run("build")
    path = site.root / "kubecarry-v1.20.2-el7-amd64.tar"
    assert built.stdout == f"{path.name}\n"
    return path


@pytest.fixture(scope="module")
def unpacked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, unpacked by tar."""
    where = tmp_path_factory.mktemp("unpacked")
    upstream.run("tar", "xf", bundle, "-C", where)
    return where
