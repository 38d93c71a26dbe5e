"""The demo, as `make demo` runs it: with nodes where they can be had, and what is left of it where they cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import createrepo_c
import pytest

from tests.lab import demo, net, paper
from tests.lab.lab import Lab
from tests.lab.paperrpm import rpm
from tests.lab.show import Phases
from tests.lab.teardown import down


@pytest.fixture
def lab() -> Iterator[Lab]:
    place = Lab("test-demo")
    down(place)
    yield place
    down(place)


@pytest.mark.root
@pytest.mark.lab
def test_a_manifest_becomes_a_cluster_that_answers_and_no_frame_leaves(lab: Lab) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab", "demo"],
        env={**os.environ, "LAB_ID": lab.id},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    for expected in (
        "-> hello from node1",
        "pod on node2, by its DNS name -> hello from node",
        "   0 frames to anywhere else\n",
        "Take it down:\n  LAB_ID=test-demo make down",
    ):
        assert expected in done.stdout
    seen = net.counters(lab)
    assert seen.foreign == 0
    assert seen.inside > 1000, "nodes that install a cluster send more than that"


def test_without_nodes_it_still_builds_verifies_and_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    monkeypatch.setenv("LAB_ID", "paper")
    monkeypatch.setattr(demo, "on_debian_12", lambda: False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    demo.demo(Lab())
    told = capfd.readouterr().out
    place = tmp_path / "labs/paper/demo"
    assert "kubernetes-1.20.tar: OK" in told
    assert "/packages/el7/repodata/repomd.xml: " in told
    assert "Left out: the nodes and the cluster they become, because they are made of Debian 12's packages" in told
    listed = subprocess.run(["tar", "-tf", place / "kubernetes-1.20.tar"], capture_output=True, text=True, check=True)
    assert "packages/el7/kubelet-1.20.2-0.x86_64.rpm" in listed.stdout.splitlines()


def test_an_upstream_of_paper_has_every_image_under_its_true_name(tmp_path: Path) -> None:
    with paper.upstream(tmp_path / "upstream", "1.20") as mirrors:
        bundle = demo.connected_side(Phases(), tmp_path, mirrors)
    carried = subprocess.run(["tar", "-xOf", bundle, "bundle.json"], capture_output=True, check=True).stdout
    refs = {image["ref"] for image in json.loads(carried)["images"]}
    assert {"k8s.gcr.io/pause:3.2", "docker.io/library/busybox:1.33", "quay.io/coreos/flannel:v0.13.0"} <= refs


def test_a_package_of_paper_is_a_package(tmp_path: Path) -> None:
    path = tmp_path / "kubelet.rpm"
    path.write_bytes(rpm("kubelet", "1.20.2"))
    package = createrepo_c.package_from_rpm(str(path))
    assert (package.name, package.version, package.release, package.arch) == ("kubelet", "1.20.2", "0", "x86_64")
    assert [p[:5] for p in package.provides] == [("kubelet", "EQ", "0", "1.20.2", "0")]
    assert package.files == []
