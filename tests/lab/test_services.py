"""The release whose components are services of the host, on real nodes: EL7's packages and units, a workload, gone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.lab import cluster, net
from tests.lab.lab import Lab
from tests.lab.node import Node, boot_all
from tests.lab.snapshot import difference, snapshot
from tests.lab.teardown import down
from tests.lab.upstream import driver, servers
from tests.lab.upstream.home import home

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

PROJECT = Path(__file__).parents[2]
RELEASE = "1.20-packages"
MASTER = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE = ("flanneld", "docker", "kubelet", "kube-proxy")


def write_manifests(place: Path) -> None:
    """1.8-packages as it ships, with the versions that run here: 1.20.2's components and images."""
    shutil.copytree(PROJECT / "manifests", place / "manifests")
    base = yaml.safe_load((PROJECT / "manifests/1.20.yaml").read_text())
    release = yaml.safe_load((PROJECT / "manifests/1.8-packages.yaml").read_text())
    host, old = release["hosts"]["el7"], base["hosts"]["el7"]
    repos = {repo["id"]: repo for repo in old["repos"]}
    key = base["hosts"]["el7"]["repos"][0]["keys"][1]  # the lab signs all that it builds
    host["repos"] = [{"id": "k8s-1.8", "baseurl": "https://onwalk.net/repo", "keys": [key]}, repos["base"]]
    host["installed"] = old["installed"]
    host["roles"] = {
        role: [name.replace("1.8.14", "1.20.2") for name in names if name != "ca-certificates"]
        for role, names in host["roles"].items()
    }
    changed = {key: base[key] for key in ("kubernetes", "date", "pause")}
    release.update(changed, release=RELEASE, images=[base["pause"]], addons=["smoke"], hosts={"el7": host})
    (place / f"manifests/{RELEASE}.yaml").write_text(yaml.safe_dump(release, sort_keys=False))
    (smoke,) = (place / "manifests/addons").glob("smoke-*.yaml")
    smoke.write_text(smoke.read_text().replace('"1.20"', f'"1.20", "{RELEASE}"'))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with such a bundle, served at the switch."""
    place, site = tmp_path_factory.mktemp("services"), Lab("test-services")
    write_manifests(place)
    ran = all(servers.status().values())
    driver.build()
    shutil.copy(driver.start(), place / "mirrors.yaml")
    bundler = Path(sys.executable).with_name("bundler")
    shared = ["--version", RELEASE, "--manifests", "manifests", "--lock-dir", ".", "--config", "mirrors.yaml",
              "--cache-dir", home() / "store", "-q"]  # fmt: skip
    for words in (["lock", *shared], ["build", *shared, "-o", "bundle.tar"]):
        subprocess.run([bundler, *words], cwd=place, check=True, stdout=subprocess.DEVNULL)
    if not ran:
        servers.stop()
    down(site)
    cluster.unpack_installer(place / "bundle.tar", place / "carried")
    cluster.serve(site, place / "bundle.tar", place / "carried")
    yield site
    down(site)


def active(node: Node, units: tuple[str, ...]) -> list[str]:
    return node.run(["systemctl", "is-active", *units]).stdout.split()


def test_a_cluster_of_services_and_nothing_left_of_it(lab: Lab) -> None:
    master, *workers = nodes = [Node(lab, number) for number in (1, 2, 3)]
    boot_all(nodes)
    before = {node.name: snapshot(node) for node in nodes}
    printed = cluster.deploy(master, "master --flannel-backend host-gw")
    assert active(master, MASTER) == ["active"] * len(MASTER)
    for worker in workers:
        cluster.install(worker, cluster.join_line(printed))
        assert active(worker, NODE) == ["active"] * len(NODE)
    cluster.wait_ready(master, workers)
    address = cluster.apply_smoke(master)
    assert cluster.ask_service(workers[0], address, of=workers[1]) == f"hello from {workers[1].name}"
    assert cluster.ask_service(workers[1], address, of=workers[0]) == f"hello from {workers[0].name}"
    assert net.counters(lab).foreign == 0
    for node in nodes:
        done = node.run(f"curl -fsSL {cluster.URL}/deploy.sh | bash -s status", timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    again = cluster.deploy(master, "master --flannel-backend host-gw")
    assert "join --token" in again
    node_pids = workers[0].run("systemctl show -p MainPID kubelet docker", check=True).stdout
    cluster.install(workers[0], cluster.join_line(again))
    assert workers[0].run("systemctl show -p MainPID kubelet docker").stdout == node_pids

    for node in reversed(nodes):
        done = node.run(f"curl -fsSL {cluster.URL}/deploy.sh | bash -s down", timeout=300)
        assert done.returncode == 0, done.stderr
        left = difference(before[node.name], snapshot(node))
        assert left == [], f"{node.name}:\n" + "\n".join(left)
