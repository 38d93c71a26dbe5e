"""Three masters behind a virtual address, and what an API server, a keepalived or a whole master takes along."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import cluster, net
from tests.lab.lab import Lab, until
from tests.lab.node import Node, boot_all
from tests.lab.snapshot import Snapshot, difference, snapshot
from tests.lab.teardown import down
from tests.lab.upstream import driver, servers
from tests.lab.upstream.home import home, run
from tests.lab.vip import Holders, Requests

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

VIP = "10.77.0.100"
CONFIG = "/run/admin.conf"  # on the worker: the administrator's, whose server is the virtual address
# Seconds. keepalived: an API server that hangs is asked twice for 2 s; a master that is silent is missed after 3 to 4.
API, SILENT, STOPPED = 10.0, 5.0, 3.0
# What a client sees takes longer on two cores that three masters share: etcd's election, a request that times out.
CLIENT = 30.0
SETTLED = 12.0  # seconds for which nothing may move after a master came back


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a bundle made from this tree's manifests and node scripts, served at the switch."""
    place, site = tmp_path_factory.mktemp("ha"), Lab("test-ha")
    ran = all(servers.status().values())
    driver.build()
    shutil.copy(driver.start(), place / "mirrors.yaml")
    bundler = Path(sys.executable).with_name("bundler")
    shared = ["--version", "1.20", "--lock-dir", ".", "--config", "mirrors.yaml", "--cache-dir", home() / "store", "-q"]
    for words in (["lock", *shared], ["build", *shared, "-o", "bundle.tar"]):
        subprocess.run([bundler, *words], cwd=place, check=True, stdout=subprocess.DEVNULL)
    if not ran:
        servers.stop()
    down(site)
    cluster.unpack_installer(place / "bundle.tar", place / "carried")
    cluster.serve(site, place / "bundle.tar", place / "carried")
    yield site
    down(site)


class Three:
    """Three masters and a worker, installed by the lines that a user types, watched from the first moment."""

    def __init__(self, lab: Lab) -> None:
        """Install them; the preflight of a fifth-wheel master is asked before the worker joins."""
        self.masters = [Node(lab, number) for number in (1, 2, 3)]
        self.worker = Node(lab, 4)
        boot_all([*self.masters, self.worker])
        self.before: dict[str, Snapshot] = {node.name: snapshot(node) for node in self.masters}
        self.holders = Holders(VIP, self.masters).start()
        printed = cluster.deploy(self.masters[0], f"master --vip {VIP}")
        self.refused = deploy(self.worker, f"preflight master --vip {VIP}")
        for node in self.masters[1:]:
            cluster.install(node, line_of(printed, "replica"))
        cluster.install(self.worker, line_of(printed, "join"))
        self.worker.run(["tee", CONFIG], input=self.masters[0].run(["cat", cluster.KUBECONFIG]).stdout, check=True)
        self.requests = Requests(self.worker, CONFIG)

    @property
    def holder(self) -> Node:
        """The master that has the address; LabError-free: waits until one has it."""
        assert until(lambda: len(self.holders.now()) == 1, 60), self.holders.now()
        return next(node for node in self.masters if node.name == self.holders.now()[0])

    def recovery(self, what: str, of: Node, fault: Callable[[], object], bound: float) -> None:
        """Cause a fault of the holder; assert and print how long the address and a client took."""
        moment = time.time()
        fault()
        assert until(lambda: self.requests.recovered(moment) is not None, 120), "no answer at the virtual address"
        taken, client = self.holders.taken(moment, of.name), self.requests.recovered(moment)
        assert client is not None
        failed = self.requests.failed(moment)
        print(f"\n   {what}: address moved in {taken:.1f} s, kubectl answered after {client:.1f} s ({failed} failed)")
        assert self.holders.twice() == []
        assert taken < bound
        assert client < CLIENT

    def settled(self, back: Node) -> None:
        """Assert that with a master back in its place the address stays where it went."""
        assert until(lambda: back.run("/usr/libexec/keepalived/kubecarry-check api").returncode == 0, 180)
        moment, now = time.time(), self.holder.name
        assert now != back.name
        time.sleep(SETTLED)
        assert {names for _, names in self.holders.since(moment)} == {(now,)}


@pytest.fixture(scope="module")
def three(lab: Lab) -> Iterator[Three]:
    made = Three(lab)
    yield made
    made.requests.stop()
    made.holders.stop()


def deploy(node: Node, words: str) -> subprocess.CompletedProcess[str]:
    return node.run(f"curl -fsSL {cluster.URL}/deploy.sh | bash -s {words}", timeout=400)


def line_of(printed: str, verb: str) -> str:
    """The line that `master` printed for this verb."""
    return next(line.strip() for line in printed.splitlines() if f"bash -s {verb} " in line)


def kill_when(node: Node, line: str, path: str) -> None:
    """Run a line, and kill deploy.sh as soon as a file is there."""
    run = threading.Thread(target=node.run, args=(line,), kwargs={"timeout": 400})
    run.start()
    assert until(lambda: node.run(["test", "-e", path]).returncode == 0, 240)
    node.run("kill -9 $(cat /run/lock/kubecarry.lock)", check=True)
    run.join()


def control(node: Node, words: str) -> None:
    node.run(f"systemctl {words} keepalived", check=True)


NO_MULTICAST = """
table bridge filtered {
  chain forward { type filter hook forward priority 0; ip daddr 224.0.0.18 drop; }
}
"""


@pytest.fixture
def pair(lab: Lab) -> Iterator[tuple[Node, Node]]:
    """Two machines on a switch that drops VRRP multicast; gone before the three masters take the same address."""
    nodes = Node(lab, 5), Node(lab, 6)
    run(*net.within(lab.switch), "nft", "-f", "-", given=NO_MULTICAST)
    boot_all(nodes)
    yield nodes
    for node in nodes:
        node.wipe()
    run(*net.within(lab.switch), "nft", "delete", "table", "bridge", "filtered")


def test_where_multicast_is_dropped_a_replica_is_refused_until_peers_are_named(pair: tuple[Node, Node]) -> None:
    """The replica is killed at the worst moment once: etcd has two members then, and one that runs."""
    first, second = nodes = pair
    holders = Holders(VIP, nodes).start()
    printed = cluster.deploy(first, f"master --vip {VIP}")
    refused = second.run(line_of(printed, "replica"), timeout=120)
    assert refused.returncode == 7
    assert "fault   vip-heard: no VRRP advert of number 100" in refused.stderr
    printed = cluster.deploy(first, f"master --vip {VIP} --peers {first.address},{second.address}")
    line = line_of(printed, "replica")
    assert f"--peers {first.address},{second.address}" in line
    kill_when(second, line, "/etc/kubernetes/manifests/etcd.yaml")
    cluster.install(second, line)
    control(first, "stop")
    assert until(lambda: holders.now() == (second.name,), 10)
    cluster.wait_ready(second, nodes)
    holders.stop()
    assert holders.twice() == []


def test_three_masters_and_a_worker_are_ready_and_know_one_address(three: Three) -> None:
    cluster.wait_ready(three.masters[0], [*three.masters, three.worker])
    for node in (*three.masters, three.worker):
        assert f"server: https://{VIP}:6443" in node.run("cat /etc/kubernetes/kubelet.conf").stdout
    proxy = cluster.kubectl(three.masters[2], "-n", "kube-system", "get", "configmap", "kube-proxy", "-o", "yaml")
    assert f"server: https://{VIP}:6443" in proxy
    for node in three.masters:
        told = deploy(node, "status")
        assert told.returncode == 0, told.stdout + told.stderr
        for member in three.masters:
            assert f"{member.name} is healthy" in told.stdout
        where = "is held here" if node == three.holder else "is held by another master"
        assert f"{VIP} {where}" in told.stdout


def test_each_master_differs_in_priority_and_none_begins_as_master(three: Three) -> None:
    files = [node.run("cat /etc/keepalived/keepalived.conf", check=True).stdout for node in three.masters]
    assert len({line for text in files for line in text.splitlines() if "priority " in line and "-20" not in line}) == 3
    for text in files:
        assert "state BACKUP\n  nopreempt\n" in text
        assert f"{VIP}/32 dev eth0" in text
        assert "auth" not in text


def test_a_taken_address_and_a_taken_number_are_faults(three: Three) -> None:
    assert three.refused.returncode == 7
    assert f"fault   vip-free: another machine has the virtual address {VIP}" in three.refused.stderr
    assert "fault   vip-free: VRRP number 100 is in use on eth0 by others" in three.refused.stderr
    assert not three.worker.run("iptables-save | grep kubecarry-listens").stdout


def test_the_certificate_key_is_in_no_log_and_a_new_line_ends_the_former(three: Three) -> None:
    printed = deploy(three.masters[1], "token")
    assert printed.returncode == 0, printed.stderr
    key = line_of(printed.stdout, "replica").split("--certificate-key ")[1].split()[0]
    assert len(key) == 64
    for node in three.masters:
        assert node.run(["grep", "-c", key, "/var/log/kubecarry.log"]).stdout == "0\n"
    assert "--token" in line_of(printed.stdout, "join")


def test_the_same_line_again_changes_nothing(three: Three) -> None:
    holder = three.holder
    for node, words in ((three.masters[0], "master"), (three.masters[1], None)):
        pids = node.run("systemctl show -p MainPID keepalived kubelet containerd").stdout
        line = words or line_of(deploy(three.masters[0], "token").stdout, "replica").split("bash -s ")[1]
        done = deploy(node, line)
        assert done.returncode == 0, done.stderr
        assert node.run("systemctl show -p MainPID keepalived kubelet containerd").stdout == pids
    assert three.holder == holder


def test_an_api_server_that_hangs_loses_the_address(three: Three) -> None:
    holder = three.holder
    three.recovery("API server hangs", holder, lambda: holder.run("pkill -STOP -x kube-apiserver", check=True), API)
    holder.run("pkill -CONT -x kube-apiserver")
    three.settled(holder)


def test_an_api_server_that_is_gone_loses_the_address(three: Three) -> None:
    holder, manifest = three.holder, "/etc/kubernetes/manifests/kube-apiserver.yaml"
    fault = f"mv {manifest} /run/ && pkill -KILL -x kube-apiserver"
    three.recovery("API server killed", holder, lambda: holder.run(fault, check=True), API)
    holder.run(f"mv /run/kube-apiserver.yaml {manifest}", check=True)
    three.settled(holder)


def test_a_keepalived_that_is_stopped_hands_the_address_over(three: Three) -> None:
    holder = three.holder
    three.recovery("keepalived stopped", holder, lambda: control(holder, "stop"), STOPPED)
    control(holder, "start")
    three.settled(holder)


def test_a_keepalived_that_is_killed_leaves_no_address_behind(three: Three) -> None:
    holder = three.holder
    three.recovery("keepalived killed", holder, lambda: holder.run("pkill -KILL -x keepalived", check=True), SILENT)
    assert until(lambda: holder.run("pgrep -x keepalived").returncode == 0, 30), "systemd starts it again"
    three.settled(holder)


def test_a_master_without_power_is_replaced_and_comes_back_as_one_of_many(three: Three) -> None:
    holder = three.holder
    three.recovery("node without power", holder, holder.stop, SILENT)
    three.holders.release(holder)
    holder.boot()
    three.holders.reopen(holder)
    three.settled(holder)
    other = next(node for node in three.masters if node != holder)
    cluster.wait_ready(other, [*three.masters, three.worker], 180)


def test_a_master_that_leaves_takes_its_etcd_along(three: Three) -> None:
    leaving = three.holder
    staying = [node for node in three.masters if node != leaving]
    moment = time.time()
    done = deploy(leaving, "down")
    assert done.returncode == 0, done.stderr
    changes = difference(three.before[leaving.name], snapshot(leaving))
    boot = ("/systemd-private-", "network +eth0@", "network -eth0@", ",upperdir=")
    assert [change for change in changes if not any(of in change for of in boot)] == []
    for node in staying:
        told = deploy(node, "status")
        assert told.returncode == 0, told.stdout
        assert f"{leaving.name} is healthy" not in told.stdout
    cluster.kubectl(staying[0], "delete", "node", leaving.name)
    address = cluster.apply_smoke(staying[0])
    assert cluster.ask_service(staying[0], address, of=three.worker) == f"hello from {three.worker.name}"
    assert until(lambda: three.requests.recovered(moment) is not None, 60)
    print(f"\n   the holder leaves: kubectl answered after {three.requests.recovered(moment):.1f} s")
    assert three.holders.twice() == []
    count, rate, pause = len(three.holders.samples), three.holders.rate(), three.holders.longest()
    print(f"   {count} samples, {rate:.0f} a second, at most {pause:.1f} s apart, none with two holders")
    assert rate > 5
