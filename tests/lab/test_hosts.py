"""A host that nobody tidied up becomes a master by the plain line, and is given back as it was."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import cluster
from tests.lab.bundled import served
from tests.lab.lab import Lab, until
from tests.lab.node import Node
from tests.lab.snapshot import difference, snapshot

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

NAME = "node-a.example"
PROXY = "http://10.9.9.9:3128"
AWKWARD = f"""
python3 -c 'import socket; socket.sethostname("Node-A.Example")'; echo Node-A.Example >/etc/hostname
printf '127.0.0.1 localhost\\n127.0.1.1 Node-A.Example Node-A\\n' >/etc/hosts
printf 'nameserver 127.0.0.53\\nsearch a.example\\n' >/etc/resolv.conf
printf '/dev/sdz2 none swap sw 0 0\\n' >>/etc/fstab
ip link add a0lan type bridge; ip link set a0lan up; ip address add 192.168.50.5/24 dev a0lan
ip route add default via 192.168.50.254
echo HTTP_PROXY={PROXY} >>/etc/environment
mkdir -p /etc/systemd/system.conf.d
printf '[Manager]\\nDefaultEnvironment="HTTP_PROXY={PROXY}" "HTTPS_PROXY={PROXY}" "NO_PROXY=.corp"\\n' \
  >/etc/systemd/system.conf.d/proxy.conf
systemctl daemon-reexec
echo 'exclude=kube* containerd*' >>/etc/dnf/dnf.conf
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with served("test-hosts", tmp_path_factory.mktemp("hosts")) as site:
        yield site


def environment(node: Node, program: str) -> dict[str, str]:
    """The environment of a running program."""
    told = node.run(f"tr '\\0' '\\n' </proc/$(pgrep -o -x {program})/environ", check=True).stdout
    return dict(line.split("=", 1) for line in told.splitlines() if "=" in line)


def test_an_awkward_host_becomes_a_master_by_the_plain_line(lab: Lab) -> None:
    node = Node(lab, 1)
    node.boot()
    node.run(AWKWARD, check=True)
    before = snapshot(node)
    line = f"curl -fsSL --noproxy '*' {cluster.URL}/deploy.sh | bash -s "
    bare = f"export PATH=/usr/local/bin:/usr/bin:/bin http_proxy={PROXY} HTTPS_PROXY={PROXY}"
    cluster.install(node, f"{bare}; {line} master", 900)
    assert until(lambda: cluster.ready(node) == {NAME}, 60)
    told = cluster.kubectl(node, "get", "node", NAME, "-o", "jsonpath={.status.addresses[0].address}")
    assert told == node.address, "the interface with the default route is the wrong one"
    assert node.run("cat /etc/fstab").stdout.endswith("#kubecarry# /dev/sdz2 none swap sw 0 0\n")
    assert "127.0.0.53" not in node.run("cat /var/lib/kubecarry/resolv.conf", check=True).stdout
    cluster.kubectl(node, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=180s", timeout=200)
    for program in ("containerd", "kubelet"):
        given = environment(node, program)
        assert given["HTTP_PROXY"] == PROXY
        spared = given["NO_PROXY"].split(",")
        assert given["no_proxy"] == given["NO_PROXY"]
        assert {".corp", "10.77.0.1", node.address, "10.77.0.11/24", "10.244.0.0/16", "10.96.0.0/12"} <= {*spared}
    manifest = node.run("cat /etc/kubernetes/manifests/*.yaml", check=True).stdout
    assert PROXY not in manifest
    began = time.monotonic()
    again = node.run(f"{line} master", timeout=300)
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - began < 120
    done = node.run(f"{line} down", timeout=300)
    assert done.returncode == 0, done.stderr
    assert difference(before, snapshot(node)) == []
