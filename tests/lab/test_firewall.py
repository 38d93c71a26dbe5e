"""Hosts with a firewall of their own: opened for the cluster, no further, and given back as they were.

firewalld does not start on a node of the lab; test_firewall_tools.py has the real one, without a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import cluster, net
from tests.lab.bundled import served
from tests.lab.debs import furnish
from tests.lab.lab import Lab
from tests.lab.node import Node, boot_all
from tests.lab.snapshot import difference, snapshot
from tests.lab.upstream.home import run

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

NFTABLES = """#!/usr/sbin/nft -f
flush ruleset
table inet filter {
  chain input {
    type filter hook input priority 0; policy drop;
    ct state established,related accept
    iif lo accept
    icmp type echo-request accept
    tcp dport 22 accept comment "mine"
  }
  chain forward { type filter hook forward priority 0; policy drop; }
}
"""

def nftables(node: Node) -> None:
    furnish(node, "nftables")
    node.run("cat >/etc/nftables.conf; systemctl -q enable --now nftables", input=NFTABLES, check=True)


def ufw(node: Node) -> None:
    """What its maintainer script does: rules from their templates, and the switch."""
    furnish(node, "ufw")
    node.run("cp /usr/share/ufw/iptables/*.rules /etc/ufw/; cp /usr/share/ufw/ufw.conf /etc/ufw/; "
             "chmod 640 /etc/ufw/*.rules; ufw --force enable && systemctl -q enable ufw && "
             "systemctl start ufw && ufw reload && ufw status", check=True)  # fmt: skip


def rules(node: Node) -> str:
    """Every rule of the node's firewalls, without counters and handles; a table that holds none says nothing."""
    return node.run("iptables-save 2>/dev/null | grep '^-A'; "
                    "command -v nft >/dev/null && nft -s list table inet filter; "
                    "command -v ufw >/dev/null && ufw show added").stdout  # fmt: skip


def answers(lab: Lab, node: Node, port: int) -> bool:
    """Whether a packet from the switch is let in: the attempt ends by itself, made or refused; a dropped one waits."""
    words = f"timeout 2 bash -c '</dev/tcp/{node.address}/{port}' 2>/dev/null; [ $? != 124 ] && echo yes || echo no"
    return run(*net.within(lab.switch), "bash", "-c", words).strip() == "yes"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with served("test-firewall", tmp_path_factory.mktemp("firewall")) as site:
        yield site


def test_a_cluster_of_hosts_with_two_firewalls(lab: Lab) -> None:
    nodes = master, worker = [Node(lab, number) for number in (1, 2)]
    boot_all(nodes)
    for node, furnished in zip(nodes, (nftables, ufw)):
        furnished(node)
    before = {node.name: (snapshot(node), rules(node)) for node in nodes}
    for node in nodes:
        assert not answers(lab, node, 10250), f"{node.name} drops nothing"
    printed = cluster.deploy(master, "master")
    cluster.install(worker, cluster.join_line(printed))
    cluster.wait_ready(master, nodes)
    address = cluster.apply_smoke(master)
    for asking, of in ((master, worker), (worker, master)):
        assert cluster.ask_service(asking, address, of=of) == f"hello from {of.name}"
    for node in nodes:
        assert answers(lab, node, 10250), f"{node.name}: the kubelet"
        assert not answers(lab, node, 9999), f"{node.name}: a port that nobody needs"
        assert not answers(lab, node, 10256), f"{node.name}: kube-proxy's health"
    assert answers(lab, master, 6443)
    assert not answers(lab, worker, 6443)
    master.run("nft -f /etc/nftables.conf", check=True)  # as its service does at boot
    assert answers(lab, master, 10250)
    for node in (worker, master):
        done = node.run(f"curl -fsSL {cluster.URL}/deploy.sh | bash -s down", timeout=300)
        assert done.returncode == 0, done.stderr
    for node in nodes:
        assert rules(node) == before[node.name][1]
        assert difference(before[node.name][0], snapshot(node)) == []
