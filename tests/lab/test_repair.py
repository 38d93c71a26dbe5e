"""A cluster in its daily life: watched, broken, looked into, mended, joined again, and taken apart node by node."""

from __future__ import annotations

import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import cluster, net
from tests.lab.bundled import served
from tests.lab.lab import Lab, until
from tests.lab.node import Node, boot_all
from tests.lab.snapshot import Snapshot, difference, snapshot

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

OUTSIDE = "192.0.2.1"  # documentation's own: nobody has it
SECRET = "hunter2hunter2"
HOSTS = "/etc/containerd/certs.d/k8s.gcr.io/hosts.toml"
# A Deployment of two, so that a budget of two never gives way; the sample's image is in the bundle.
WORKLOAD = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: pair}
spec:
  replicas: 2
  selector: {matchLabels: {app: pair}}
  template:
    metadata: {labels: {app: pair}}
    spec:
      nodeName: NODE
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: "k8s.gcr.io/pause:3.2", imagePullPolicy: Never}]
---
apiVersion: policy/v1beta1
kind: PodDisruptionBudget
metadata: {name: both}
spec: {minAvailable: 2, selector: {matchLabels: {app: pair}}}
"""


class Trio:
    """A master and two workers, installed with --sealed, and how they were before."""

    def __init__(self, lab: Lab) -> None:
        """Boot and install them."""
        self.lab = lab
        self.master, self.worker, self.third = self.nodes = [Node(lab, number) for number in (1, 2, 3)]
        boot_all(self.nodes)
        self.before: dict[str, Snapshot] = {node.name: snapshot(node) for node in self.nodes}
        self.printed = cluster.deploy(self.master, "master --sealed --node-port-range 20000-22767")
        for node in (self.worker, self.third):
            cluster.install(node, f"{cluster.join_line(self.printed)} --sealed")

    def fresh_line(self) -> str:
        """The join line of a token that the master makes now."""
        return cluster.join_line(deploy(self.master, "token").stdout)


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    with served("test-repair", tmp_path_factory.mktemp("repair")) as lab:
        yield Trio(lab)


def deploy(node: Node, words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    return node.run(f"curl -fsSL {cluster.URL}/deploy.sh | bash -s {words}", timeout=timeout)


def test_a_plain_installation_tried_to_reach_nothing_outside(trio: Trio) -> None:
    cluster.wait_ready(trio.master, trio.nodes)
    address = cluster.apply_smoke(trio.master)
    for node in trio.nodes:
        cluster.ask_service(node, address, of=trio.third)
        told = deploy(node, "sealed")
        assert told.returncode == 0, told.stdout
        assert "nothing tried to reach anything outside" in told.stdout
        assert deploy(node, "status").returncode == 0
    assert net.counters(trio.lab).foreign == 0


def test_an_attempt_to_reach_outside_is_listed(trio: Trio) -> None:
    node = trio.third
    node.run(f"ip route add default via {trio.master.address}; curl -s -m 2 http://{OUTSIDE}/; ip route del default")
    told = deploy(node, "sealed")
    assert told.returncode == 7
    assert f"this host tried to reach {OUTSIDE}" in told.stdout
    assert OUTSIDE in deploy(node, "status").stdout
    assert deploy(trio.worker, "sealed").returncode == 0, "the others did not"


def test_who_is_asked_for_names_is_told(trio: Trio) -> None:
    node = trio.worker
    node.run("cp /etc/resolv.conf /run/resolv; echo nameserver 10.77.0.9 >/etc/resolv.conf; "
             "timeout 3 getent hosts nowhere.example; cat /run/resolv >/etc/resolv.conf; rm /run/resolv", check=True)
    told = deploy(node, "sealed")
    assert told.returncode == 0, told.stdout
    assert "dns        10.77.0.9 was asked for names" in told.stdout


def test_an_attempt_of_a_pod_is_listed_and_other_registries_are_named(trio: Trio) -> None:
    node = trio.worker
    node.run(f"ip route add default via {trio.master.address}", check=True)
    pod = cluster.kubectl(
        trio.master, "get", "pods", "-l", "app=smoke", f"--field-selector=spec.nodeName={node.name}", "-o", "name"
    ).strip()
    trio.master.run(f"kubectl --kubeconfig={cluster.KUBECONFIG} exec {pod} -- wget -T 2 -O - http://198.51.100.7/")
    node.run("ip route del default; mkdir /etc/containerd/certs.d/other", check=True)
    node.run("touch /etc/containerd/certs.d/other/hosts.toml", check=True)
    told = deploy(node, "sealed")
    assert "tried to reach 198.51.100.7" in told.stdout
    assert "could pull from elsewhere by /etc/containerd/certs.d/other/hosts.toml" in told.stdout
    node.run("rm -r /etc/containerd/certs.d/other", check=True)


def test_the_watch_survives_a_reboot(trio: Trio) -> None:
    node = trio.third
    node.reboot()
    assert until(lambda: node.run("systemctl is-active -q kubelet kubecarry-sealed").returncode == 0, 60)
    cluster.wait_ready(trio.master, trio.nodes)
    told = deploy(node, "sealed")
    assert told.returncode == 0, told.stdout


def test_status_sees_each_kind_of_difference_and_the_same_line_mends_them(trio: Trio) -> None:
    """Swap cannot be turned on in a node alone, since the kernel is shared: a file lies over /proc/swaps instead."""
    node = trio.third
    node.run(
        f"echo '# mine' >>{HOSTS}; rm /etc/sysctl.d/90-kubecarry.conf; systemctl -q disable --now kubelet; "
        "rpm -e --nodeps socat; sysctl -qw net.ipv4.ip_forward=0; ip route del 10.96.0.0/12; "
        "ctr -n k8s.io images rm k8s.gcr.io/kube-proxy:v1.20.2 >/dev/null; "
        "printf 'Filename Type\\n/dev/sdz9 partition\\n' >/tmp/swaps; mount --bind /tmp/swaps /proc/swaps", check=True
    )  # fmt: skip
    told = deploy(node, "status")
    assert told.returncode == 7
    for line in (
        f"{HOSTS} was changed", "/etc/sysctl.d/90-kubecarry.conf is missing", "kubelet is inactive",
        "kubelet does not start at boot", "package socat-", "net.ipv4.ip_forward is not 1",
        "the route to 10.96.0.0/12 is gone", "image k8s.gcr.io/kube-proxy:v1.20.2", "swap is on: /dev/sdz9",
    ):  # fmt: skip
        assert f"differs    {line}" in told.stdout, told.stdout
    node.run("systemctl stop containerd", check=True)
    assert "differs    containerd is inactive" in deploy(node, "status").stdout
    node.run("umount /proc/swaps; rm /tmp/swaps", check=True)
    cluster.install(node, trio.fresh_line())
    told = deploy(node, "status")
    assert told.returncode == 0, told.stdout


def test_collect_has_what_is_needed_and_no_secret(trio: Trio, tmp_path: Path) -> None:
    """Secrets lie in the log, in a unit's journal, in a pod's log, in configurations, and in the cluster itself."""
    master = trio.master
    token = trio.fresh_line().split("--token ")[1].split()[0]
    key = master.run("cat /etc/kubernetes/pki/ca.key", check=True).stdout.splitlines()[5]
    client = master.run(f"grep client-key-data {cluster.KUBECONFIG}", check=True).stdout.split()[1]
    cluster.kubectl(master, "create", "secret", "generic", "planted", f"--from-literal=password={SECRET}")
    master.run(
        f"{{ echo 'kubeadm join --token {token}'; cat /etc/kubernetes/pki/ca.key; }} >>/var/log/kubecarry.log; "
        f"systemd-run -q --unit=keepalived sh -c 'echo password={SECRET}; cat {cluster.KUBECONFIG}; sleep 1'; "
        f"printf '[plugins.x]\\n  password = \"{SECRET}\"\\n' >/etc/containerd/certs.d/note.toml; "
        f"log=$(ls /var/log/pods/kube-system_kube-proxy*/kube-proxy/*.log); echo 'token: {SECRET}' >>$log", check=True
    )  # fmt: skip
    found = collected(master, tmp_path)
    master.run("rm /etc/containerd/certs.d/note.toml", check=True)
    assert {"status", "units", "firewall", "network", "disks", "sysctl", "versions", "containers", "journal-of/kubelet",
            "kubectl/get-nodes", "kubectl/get-pods", "kubectl/get-events", "files/var/log/kubecarry.log",
            "kubectl/kubeadm-config"} <= found.keys()  # fmt: skip
    assert "node2" in found["kubectl/get-nodes"]
    assert any(name.startswith("pod-logs/") and "kube-proxy" in name for name in found)
    for name, text in found.items():
        for secret in (token.split(".")[1], key, client[:60], SECRET, "aHVudGVyMmh1bnRlcjI"):
            assert secret not in text, name


def test_collect_on_a_broken_host_still_gives_a_file(trio: Trio, tmp_path: Path) -> None:
    node = trio.worker
    files = ("/etc/kubernetes/kubelet.conf", "/usr/bin/kubectl")
    node.run(f"systemctl stop kubelet containerd; mv {' '.join(files)} /root/", check=True)
    began = time.monotonic()
    found = collected(node, tmp_path)
    assert time.monotonic() - began < 300
    assert "kubelet is inactive" in found["status"]
    for file in files:
        node.run(f"mv /root/{Path(file).name} {file}", check=True)
    node.run("systemctl start containerd kubelet", check=True)


def collected(node: Node, place: Path) -> dict[str, str]:
    """Run `collect` and return the contents of its file by the part's name."""
    told = deploy(node, "collect /srv/collected.tar.gz")
    assert told.returncode == 0, told.stderr
    assert node.run("stat -c %a /srv/collected.tar.gz").stdout == "600\n"
    path = place / "collected.tar.gz"
    with path.open("wb") as file:
        subprocess.run(node.entering(["cat", "/srv/collected.tar.gz"]), stdout=file, check=True)
    node.run("rm /srv/collected.tar.gz", check=True)
    with tarfile.open(path) as tar:
        return {
            member.name.split("/", 1)[1]: tar.extractfile(member).read().decode(errors="replace")  # type: ignore[union-attr]
            for member in tar
            if member.isfile()
        }


def test_an_expired_token_is_refused_with_the_remedy_and_a_node_taken_down_joins_again_at_once(trio: Trio) -> None:
    node = trio.third
    done = deploy(node, "down")
    assert done.returncode == 0, done.stderr
    create = f"kubeadm --kubeconfig={cluster.KUBECONFIG} token create --ttl 1s --print-join-command"
    words = trio.master.run(create, check=True).stdout.split()
    token, ca = words[words.index("--token") + 1], words[words.index("--discovery-token-ca-cert-hash") + 1]
    expired = f"join --token {token} --ca-cert-hash {ca} {trio.master.address}"
    listed = ("get", "-n", "kube-public", "configmap", "cluster-info", "-o", "yaml")
    assert until(lambda: token.split(".")[0] not in cluster.kubectl(trio.master, *listed), 60, 0.2)
    done = deploy(node, expired)
    assert done.returncode == 7
    assert "or it has expired" in done.stderr
    assert "print a new join line on the master: deploy.sh token" in done.stderr
    assert node.name in cluster.ready(trio.master), "or nothing is proven by the next line"
    cluster.install(node, trio.fresh_line())
    cluster.wait_ready(trio.master, trio.nodes)


def test_remove_names_what_blocks_it_and_goes_on_when_it_is_mended(trio: Trio) -> None:
    master, node = trio.master, trio.worker
    cluster.kubectl(master, "apply", "-f", "-", input=WORKLOAD.replace("NODE", node.name))
    cluster.kubectl(master, "rollout", "status", "deployment/pair", "--timeout=120s", timeout=130)
    done = deploy(master, f"remove {node.name} --timeout 8")
    assert done.returncode == 7
    assert "disruption budget both needs 2 healthy pods" in done.stderr
    assert node.name in cluster.ready(master)
    assert "unschedulable" not in cluster.kubectl(master, "get", "node", node.name, "-o", "yaml"), "it takes pods again"
    cluster.kubectl(master, "delete", "pdb,deployment", "--all", "--wait")
    done = deploy(master, f"remove {node.name}")
    assert done.returncode == 0, done.stderr
    assert node.name not in cluster.kubectl(master, "get", "nodes")
    assert deploy(master, f"remove {node.name}").returncode == 0, "and again"
    done = deploy(node, "down")
    assert done.returncode == 0, done.stderr
    assert difference(trio.before[node.name], snapshot(node)) == []


def test_a_dead_node_is_removed_with_its_pods(trio: Trio) -> None:
    trio.third.stop()
    assert until(lambda: trio.third.name not in cluster.ready(trio.master), 120, 0.5)
    began = time.monotonic()
    done = deploy(trio.master, f"remove {trio.third.name}")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60
    assert "cannot be drained" in done.stderr
    assert trio.third.name not in cluster.kubectl(trio.master, "get", "nodes")
    pods = ("get", "pods", "-A", "-o", "wide")
    assert until(lambda: trio.third.name not in cluster.kubectl(trio.master, *pods), 60, 0.5)


def test_a_dead_master_goes_with_its_etcd_member(trio: Trio) -> None:
    """The master is a stand-in that only the cluster knows: a node, an etcd member that never started, an endpoint."""
    master, ghost = trio.master, "node9"
    etcd = ["-n", "kube-system", "exec", f"etcd-{master.name}", "--", "etcdctl", "--endpoints=https://127.0.0.1:2379",
            *(f"--{option}=/etc/kubernetes/pki/etcd/{file}" for option, file in
              (("cacert", "ca.crt"), ("cert", "peer.crt"), ("key", "peer.key")))]  # fmt: skip
    cluster.kubectl(master, *etcd, "member", "add", "ghost", "--learner", "--peer-urls=https://10.77.0.19:2380")
    node = json.dumps({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": ghost, "labels": {"node-role.kubernetes.io/master": ""}},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                   "addresses": [{"type": "InternalIP", "address": "10.77.0.19"}]},
    })  # fmt: skip
    cluster.kubectl(master, "create", "-f", "-", input=node)
    cluster.kubectl(master, "replace", f"--raw=/api/v1/nodes/{ghost}/status", "-f", "-", input=node)
    endpoints = f"apiEndpoints:\n  {ghost}:\n    advertiseAddress: 10.77.0.19\n    bindPort: 6443\n"
    patch = json.dumps({"data": {"ClusterStatus": endpoints}})
    cluster.kubectl(master, "-n", "kube-system", "patch", "configmap", "kubeadm-config", "--type=merge", "-p", patch)
    assert "10.77.0.19:2380" in cluster.kubectl(master, *etcd, "member", "list")
    done = deploy(master, f"remove {ghost}")
    assert done.returncode == 0, done.stderr
    assert "10.77.0.19" not in cluster.kubectl(master, *etcd, "member", "list")
    assert ghost not in cluster.kubectl(master, "get", "nodes")
    assert ghost not in cluster.kubectl(master, "-n", "kube-system", "get", "configmap", "kubeadm-config", "-o", "yaml")


def test_the_only_master_is_not_removed_and_down_leaves_nothing(trio: Trio) -> None:
    done = deploy(trio.master, f"remove {trio.master.name}")
    assert done.returncode == 7
    assert "only master" in done.stderr
    manifest = trio.master.run("cat /etc/kubernetes/manifests/kube-apiserver.yaml", check=True).stdout
    assert "--service-node-port-range=20000-22767" in manifest
    done = deploy(trio.master, "down")
    assert done.returncode == 0, done.stderr
    assert difference(trio.before[trio.master.name], snapshot(trio.master)) == []
