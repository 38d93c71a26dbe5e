"""The whole road in one run: a manifest becomes locks, a bundle, a server, and two isolated nodes a real cluster."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import cluster, net, paper
from .lab import Lab
from .node import Node, boot_all
from .show import Phases, watch
from .teardown import down
from .upstream import driver
from .upstream.home import LabError, debian_versions, home

RELEASE = "1.20"
PACKAGES = Path(__file__).parent / "packages.txt"


def demo(lab: Lab) -> None:
    """Run it and leave the cluster running. Raises LabError at the first thing that does not work."""
    if not os.geteuid():
        down(lab)
    phases = Phases()
    place = lab.dir / "demo"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    lacking = what_lacks()
    with upstream(phases, place) as mirrors:
        bundle = connected_side(phases, place, mirrors)
    if lacking:
        loopback(phases, bundle, place / "carried")
        print(f"\nLeft out: the nodes and the cluster they become, because {lacking}.")
    else:
        master, worker = Node(lab, 1), Node(lab, 2)
        isolated_side(phases, lab, bundle, place / "carried", master, worker)
        farewell(lab, master)
    print(f"\nWhere the time went:\n{phases.table()}")


@contextmanager
def upstream(phases: Phases, place: Path) -> Iterator[Path]:
    """Have an upstream for as long as the block runs; yields the file that tells the bundler where it is."""
    lacking = what_upstream_lacks()
    if lacking:
        with phases.phase("upstream: of paper, the true names with nothing inside"):
            print(f"   the real one cannot be built here: {lacking}")
            stack = ExitStack()
            mirrors = stack.enter_context(paper.upstream(place / "upstream", RELEASE))
        with stack:
            yield mirrors
    else:
        with phases.phase("upstream: a small faithful internet on this machine"):
            driver.build()
            mirrors = driver.start()
        yield mirrors


def what_lacks() -> str:
    """Return why this machine cannot run nodes; empty when it can."""
    if not on_debian_12():
        return "they are made of Debian 12's packages, and this is another system"
    return "making them takes root" if os.geteuid() else ""


def what_upstream_lacks() -> str:
    """Return why this machine cannot build the lab's own upstream; empty when it can."""
    if not on_debian_12():
        return "it is built from Debian 12's packages"
    wanted = {line for line in PACKAGES.read_text().split("\n") if line and not line.startswith("#")}
    try:
        debian_versions(*wanted)
    except LabError as error:
        return str(error)
    return ""


def on_debian_12() -> bool:
    """Say whether this machine runs Debian 12."""
    told = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return (told.get("ID"), told.get("VERSION_ID", "").strip('"')) == ("debian", "12")


def connected_side(phases: Phases, place: Path, mirrors: Path) -> Path:
    """Lock, build and verify as a user would; return the bundle."""
    bundle = place / f"kubernetes-{RELEASE}.tar"
    shutil.copy(mirrors, place / "mirrors.yaml")
    shared = ["--version", RELEASE, "--lock-dir", ".", "--config", "mirrors.yaml", "--cache-dir", f"{home()}/store"]
    for verb, about, words in (
        ("lock", "choose versions and digests", shared),
        ("build", "fetch what the lock says, into one tar", [*shared, "-o", bundle.name]),
        ("verify", "check every byte of it", [bundle.name]),
    ):
        with phases.phase(f"{verb}: {about}"):
            watch([sys.executable, "-m", "bundler", verb, *words], f"bundler {verb} {' '.join(words)}", cwd=place)
    print(f"   {bundle}: {bundle.stat().st_size / 1e6:.1f} MB")
    return bundle


def isolated_side(phases: Phases, lab: Lab, bundle: Path, carried: Path, master: Node, worker: Node) -> None:
    """Serve the bundle in the lab, install two nodes from it, and ask a workload through its Service."""
    with phases.phase("nodes: two fresh machines, wired to one switch and to nothing else"):
        boot_all([master, worker])
        for node in (master, worker):
            print(f"   {node.name} {node.address}, route to 1.1.1.1: {net.way_out(node.netns) or 'none'}")
    with phases.phase("serve: straight out of the tar, by the installer that it carries"):
        cluster.unpack_installer(bundle, carried)
        cluster.serve(lab, bundle, carried)
        print(f"   $ tar -xf {bundle.name} installer && python3 -m installer serve {bundle.name}")
    with phases.phase("master: one line on node1"):
        printed = cluster.deploy(master, "master")
    with phases.phase("join: the printed line on node2"):
        cluster.install(worker, cluster.join_line(printed))
    with phases.phase("ready: both nodes"):
        cluster.wait_ready(master, [master, worker])
        cluster.show_kubectl(master, "get nodes -o wide")
    with phases.phase("workload: asked through its Service from the other node"):
        address = cluster.apply_smoke(master)
        print(f"   node2# curl http://{address}/ -> {cluster.ask_service(worker, address, of=master)}")
        print(f"   node1# curl http://{address}/ -> {cluster.ask_service(master, address, of=worker)}")
        print(f"   pod on node2, by its DNS name -> {cluster.ask_by_name(master, on=worker)}")
        cluster.show_kubectl(master, "get pods -A -o wide")
    with phases.phase("isolation: every frame at the switch, counted since it exists"):
        prove_isolation(lab, [master, worker])


def prove_isolation(lab: Lab, nodes: list[Node]) -> None:
    """Print the counters and the routes; LabError when any frame wanted to leave or a node has a way out."""
    seen = net.counters(lab)
    print(f"   {seen.inside} frames inside the lab, {seen.address} ARP, {seen.local6} IPv6 on the link")
    print(f"   {seen.foreign} frames to anywhere else")
    ways = [node.name for node in nodes if net.way_out(node.netns) or net.default_routes(node.netns)]
    if seen.foreign or ways:
        raise LabError(f"the lab is not closed: {seen}, nodes with a way out: {ways or 'none'}")


def loopback(phases: Phases, bundle: Path, carried: Path) -> None:
    """Serve the bundle on this machine's loopback, ask for what nodes would ask for, and stop the server."""
    with phases.phase("serve: straight out of the tar, by the installer that it carries"):
        cluster.unpack_installer(bundle, carried)
        with cluster.on_loopback(bundle, carried) as url:
            for path in ("healthz", "deploy.sh", "packages/el7/repodata/repomd.xml", "v2/"):
                print(f"   {url}/{path}: {len(cluster.fetch(f'{url}/{path}'))} bytes")


def farewell(lab: Lab, master: Node) -> None:
    """Say how to look around and how to end it."""
    prefix = "" if lab.id == "lab" else f"LAB_ID={lab.id} "
    python = shutil.which("python", path=str(Path(sys.executable).parent)) or sys.executable
    lab_words = f"{prefix}{os.path.relpath(python)} -m tests.lab"
    print(
        f"\nThe cluster is up. Look around:\n"
        f"  {lab_words} run {master.name} kubectl --kubeconfig={cluster.KUBECONFIG} get pods -A\n"
        f"  {lab_words} run {master.name}            # a shell on the node\n"
        f"  {lab_words} counters\n"
        f"Take it down:\n  {prefix}make down"
    )
