"""etcd outside Kubernetes on real hosts: keys handed out sealed, a member lost and found, no trace afterwards."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.lab import bundled, cluster
from tests.lab.lab import Lab, until
from tests.lab.node import Node, boot_all
from tests.lab.snapshot import Snapshot, difference, snapshot

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

LINE = f"curl -fsSL {cluster.URL}/deploy.sh | "
MEMBERS = "one=10.77.0.11,two=10.77.0.12,three=10.77.0.13"
ENDPOINTS = "https://10.77.0.11:2379,https://10.77.0.12:2379,https://10.77.0.13:2379"
# What any reboot changes on such a node: temporary directories of services, its cable, and how its root is mounted.
OF_A_BOOT = ("/systemd-private-", "network +eth0@", "network -eth0@", ",upperdir=")


class Site:
    """Three hosts and how they were before."""

    def __init__(self, lab: Lab) -> None:
        """Boot them."""
        self.nodes = [Node(lab, number) for number in (1, 2, 3)]
        boot_all(self.nodes)
        self.before: dict[str, Snapshot] = {node.name: snapshot(node) for node in self.nodes}
        self.printed = ""
        self.joined = ""

    def secret(self, host: str) -> str:
        """The secret in the line that the first member printed for a host."""
        return re.findall(rf"^{host}[^\n]*:\n.*ETCD_SECRET=([0-9a-f]{{64}}) ", self.printed, re.M)[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with bundled.served("test-etcd-external", tmp_path_factory.mktemp("etcd")) as lab:
        yield Site(lab)


def deploy(node: Node, words: str, secret: str = "", timeout: float = 900) -> subprocess.CompletedProcess[str]:
    return node.run(f"{LINE} ETCD_SECRET={secret} bash -s {words}", timeout=timeout)


def kill(node: Node, words: str, after: float) -> None:
    """Run a verb and kill -9 deploy.sh itself after so many seconds."""
    run = threading.Thread(target=deploy, args=(node, words))
    run.start()
    time.sleep(after)
    node.run("kill -9 $(cat /run/lock/kubecarry.lock)")
    run.join()


def good(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_members_wait_for_nobody_and_become_a_cluster(site: Site) -> None:
    one, two, three = site.nodes
    early = deploy(two, f"etcd --members {MEMBERS}")
    assert (early.returncode, "run the line there first" in early.stderr) == (7, True)
    for seconds in (0.7, 2, 3.5):
        kill(one, f"etcd --members {MEMBERS}", seconds)
    first = good(deploy(one, f"etcd --members {MEMBERS}"))
    assert "1 of 3 members run: not yet enough for a quorum; run the line on the others: two three" in first.stderr
    site.printed = first.stdout
    wrong = deploy(two, f"etcd --members {MEMBERS} --from {one.address}", site.secret("three"))
    assert (wrong.returncode, "do not fit the secret" in wrong.stderr) == (6, True)
    second = good(deploy(two, f"etcd --members {MEMBERS} --from {one.address}", site.secret("two")))
    assert "2 of 3 members run, and this one is healthy; run the line on the others: three" in second.stderr
    third = good(deploy(three, f"etcd --members {MEMBERS} --from {one.address}", site.secret("three")))
    assert "3 of 3 members run, and this one is healthy" in third.stderr
    for node in site.nodes:
        assert good(deploy(node, "status")).stdout.startswith("etcd ")


def test_nothing_secret_is_open(site: Site) -> None:
    one, _, three = site.nodes
    handout = three.run(["bash", "-c", "exec 3<>/dev/tcp/10.77.0.11/2378; cat <&3"], check=True).stdout
    assert [line.split()[0] for line in handout.splitlines()] == ["client", "two", "three"]
    assert "PRIVATE" not in handout
    assert "BEGIN" not in handout
    assert three.run("ls /etc/kubecarry-etcd/ca.key /etc/kubecarry-etcd/secrets").returncode != 0
    for node in site.nodes:
        assert node.run("find /etc/kubecarry-etcd ! -user root -o -perm /077 | grep .").stdout == ""
        text = node.run("cat /var/log/kubecarry.log /var/lib/kubecarry/journal /var/lib/kubecarry/state").stdout
        assert not any(site.secret(host) in text for host in ("two", "three", "the master"))
    for words in ("http://10.77.0.11:2379/health", "-k https://10.77.0.11:2379/health", "-k https://10.77.0.11:2380/"):
        assert three.run(f"curl -sS -m 5 {words}").returncode != 0
    assert one.run("ls -d /var/lib/etcd/member").returncode != 0


def test_the_same_line_again_changes_nothing(site: Site) -> None:
    one, two, _ = site.nodes
    pid = "systemctl show -p MainPID kubecarry-etcd"
    running = [node.run(pid).stdout for node in (one, two)]
    assert site.secret("two") in good(deploy(one, f"etcd --members {MEMBERS}")).stdout
    good(deploy(two, f"etcd --members {MEMBERS}"))
    assert [node.run(pid).stdout for node in (one, two)] == running
    other = deploy(two, "etcd --members 10.77.0.12,10.77.0.11,10.77.0.13")
    assert (other.returncode, "fault   etcd-data: this host is a member already" in other.stderr) == (7, True)


def test_a_master_is_installed_while_a_member_is_off(site: Site) -> None:
    one, two, three = site.nodes
    three.stop()
    done = good(deploy(one, f"master --single-node --etcd-endpoints {ENDPOINTS}"))
    assert "warning etcd-endpoints: https://10.77.0.13:2379 is not healthy" in done.stderr
    site.joined = cluster.join_line(done.stdout)
    cluster.install(two, site.joined)
    cluster.wait_ready(one, [one, two])
    address = cluster.apply_smoke(one)
    assert cluster.ask_service(two, address, of=one) == "hello from node1"
    assert one.run("ls /etc/kubernetes/manifests/etcd.yaml /var/lib/etcd/member").returncode != 0
    refused = deploy(one, "backup")
    assert (refused.returncode, "runs no etcd of the cluster" in refused.stderr) == (7, True)


def test_the_member_comes_back_and_another_may_go(site: Site) -> None:
    one, two, three = site.nodes
    three.boot()
    assert until(lambda: deploy(three, "status").returncode == 0, 120, 1), deploy(three, "status").stdout
    assert good(deploy(one, "status")).stdout.startswith("etcd ")
    two.run("systemctl stop kubecarry-etcd", check=True)
    assert deploy(two, "status").returncode == 7
    cluster.kubectl(one, "create", "namespace", "written-by-two-of-three", timeout=120)
    two.run("systemctl start kubecarry-etcd", check=True)
    assert until(lambda: deploy(two, "status").returncode == 0, 120, 1), deploy(two, "status").stdout


def test_a_used_etcd_and_old_data_are_refused(site: Site) -> None:
    one, two, three = site.nodes
    told = good(deploy(one, "down"))
    assert "the cluster's data stay in its etcd" in told.stderr
    refused = deploy(one, f"master --etcd-endpoints {ENDPOINTS}")
    assert refused.returncode == 7, "its client's keys went with its member"
    again = deploy(two, "down")
    good(again)
    two.run("mkdir -p /var/lib/kubecarry-etcd/member/wal && touch /var/lib/kubecarry-etcd/member/wal/0.wal", check=True)
    kept = deploy(two, f"etcd --members {MEMBERS}")
    assert (kept.returncode, "mv /var/lib/kubecarry-etcd /var/lib/kubecarry-etcd.old" in kept.stderr) == (7, True)
    two.run("rm -r /var/lib/kubecarry-etcd", check=True)
    good(deploy(three, "down"))
    for node in (one, two):
        good(deploy(node, "down"))


def test_nothing_is_left(site: Site) -> None:
    for node in site.nodes:
        changes = difference(site.before[node.name], snapshot(node))
        assert [change for change in changes if not any(of in change for of in OF_A_BOOT)] == [], node.name


def test_keys_can_be_carried_and_a_used_etcd_is_no_new_cluster_s(site: Site) -> None:
    one, two, _ = site.nodes
    members = "10.77.0.11"
    site.printed = good(deploy(one, f"etcd --members {members}")).stdout
    sealed = one.run("cat /etc/kubecarry-etcd/handout/sealed", check=True).stdout
    two.run("cat > /srv/sealed", input=sealed, check=True)
    endpoints = "--etcd-endpoints https://10.77.0.11:2379"
    keys = "--cacert ca.crt --cert client.crt --key client.key"
    etcdctl = f"/var/lib/kubecarry/etcd/bin/etcdctl --endpoints https://10.77.0.11:2379 {keys}"
    one.run(f"cd /etc/kubecarry-etcd && {etcdctl} put /registry/theirs x", check=True)
    refused = deploy(two, f"master {endpoints} --from /srv/sealed", site.secret("the master"))
    assert (refused.returncode, "has the data of another Kubernetes cluster" in refused.stderr) == (7, True)
    for node in (one, two):
        good(deploy(node, "down"))
