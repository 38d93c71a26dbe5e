"""deploy.sh on real nodes: a cluster, twice, repaired, refused, interrupted, and gone without a trace."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import cluster, net
from tests.lab.lab import Lab, until
from tests.lab.node import Node, boot_all
from tests.lab.snapshot import Snapshot, difference, snapshot
from tests.lab.teardown import down
from tests.lab.upstream import driver, servers
from tests.lab.upstream.home import home

pytestmark = [pytest.mark.root, pytest.mark.lab]

LINE = f"curl -fsSL {cluster.URL}/deploy.sh | bash -s "
TOKEN = "abcdef.0123456789abcdef"
# What any reboot changes on such a node: temporary directories of services, its cable, and how its root is mounted.
OF_A_BOOT = ("/systemd-private-", "network +eth0@", "network -eth0@", ",upperdir=")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a bundle made from this tree's manifests and node scripts, served at the switch."""
    place, site = tmp_path_factory.mktemp("deploy"), Lab("test-deploy")
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


class Pair:
    """A master and a worker, installed, and how they were before."""

    def __init__(self, lab: Lab) -> None:
        """Boot both and install them by the two lines that a user types."""
        self.master, self.worker = self.nodes = Node(lab, 1), Node(lab, 2)
        boot_all(self.nodes)
        self.before: dict[str, Snapshot] = {node.name: snapshot(node) for node in self.nodes}
        self.printed = cluster.deploy(self.master, f"master --token {TOKEN}")
        cluster.install(self.worker, cluster.join_line(self.printed))


@pytest.fixture(scope="module")
def pair(lab: Lab) -> Pair:
    return Pair(lab)


@pytest.fixture
def fresh(lab: Lab) -> Iterator[Node]:
    node = Node(lab, 3)
    node.wipe()
    node.boot()
    yield node
    node.wipe()


def deploy(node: Node, words: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    return node.run(LINE + words, timeout=timeout)


def journal(node: Node) -> str:
    return node.run("cat /var/lib/kubecarry/journal").stdout


def processes(node: Node) -> str:
    return node.run("systemctl show -p MainPID containerd kubelet", check=True).stdout


def test_both_nodes_are_ready_and_a_workload_answers_across(lab: Lab, pair: Pair) -> None:
    cluster.wait_ready(pair.master, pair.nodes)
    address = cluster.apply_smoke(pair.master)
    assert cluster.ask_service(pair.worker, address, of=pair.master) == "hello from node1"
    assert cluster.ask_service(pair.master, address, of=pair.worker) == "hello from node2"
    assert net.counters(lab).foreign == 0


def test_what_is_there_is_what_the_bundle_says(pair: Pair) -> None:
    for node in pair.nodes:
        config = node.run("cat /var/lib/kubelet/config.yaml", check=True).stdout
        assert "imageGCHighThresholdPercent: 100" in config
        assert "cgroupDriver: systemd" in config
        images = node.run("ctr -n k8s.io images list", check=True).stdout
        pause = [line for line in images.splitlines() if line.startswith("k8s.gcr.io/pause:3.2 ")]
        assert len(pause) == 1
        assert "io.cri-containerd.pinned=pinned" in pause[0]
        for registry in ("k8s.gcr.io", "quay.io", "docker.io", "_default"):
            hosts = node.run(f"cat /etc/containerd/certs.d/{registry}/hosts.toml", check=True).stdout
            assert f'server = "{cluster.URL}"' in hosts
            assert hosts.count("http") == 2
        assert node.run("stat -c %a /var/log/kubecarry.log /var/lib/kubecarry").stdout.split() == ["600", "700"]
        assert node.run(f"grep -r -l -F {TOKEN} /var/log/kubecarry.log /var/lib/kubecarry /tmp").stdout == ""


@pytest.mark.parametrize("which", ["master", "worker"])
def test_the_same_line_again_changes_nothing(pair: Pair, which: str) -> None:
    node: Node = getattr(pair, which)
    line = f"bash -s master --token {TOKEN}" if which == "master" else cluster.join_line(pair.printed).split("| ")[1]
    before, pids, written = snapshot(node), processes(node), journal(node)
    done = node.run(f"curl -fsSL {cluster.URL}/deploy.sh | {line}", timeout=60)
    assert done.returncode == 0, done.stderr
    assert processes(node) == pids, "a service was restarted"
    assert journal(node) == written
    volatile = ("/var/lib/etcd", "/var/lib/kubelet", "/var/lib/containerd", "/run/", "/var/lib/kubecarry/", "/tmp")
    changes = [c for c in difference(before, snapshot(node)) if not any(place in c for place in volatile)]
    assert [c for c in changes if c.startswith(("files", "contents", "packages", "firewall", "units"))] == []


def test_status_tells_what_differs_and_the_same_line_mends_it(pair: Pair) -> None:
    node, file = pair.worker, "/etc/containerd/certs.d/k8s.gcr.io/hosts.toml"
    assert deploy(node, "status").returncode == 0
    node.run(f"echo '# mine' >> {file}; rm /etc/sysctl.d/90-kubecarry.conf; systemctl stop kubelet", check=True)
    told = deploy(node, "status")
    assert told.returncode == 7
    for line in (f"{file} was changed", "/etc/sysctl.d/90-kubecarry.conf is missing", "kubelet is inactive"):
        assert line in told.stdout
    cluster.install(node, cluster.join_line(pair.printed))
    told = deploy(node, "status")
    assert told.returncode == 0, told.stdout
    assert "node2 is Ready" in told.stdout


def test_token_prints_a_line_that_joins(pair: Pair) -> None:
    told = deploy(pair.master, "token")
    assert told.returncode == 0, told.stderr
    line = cluster.join_line(told.stdout)
    assert TOKEN not in line
    assert "--ca-cert-hash sha256:" in line
    listed = pair.master.run(f"kubeadm --kubeconfig={cluster.KUBECONFIG} token list", check=True).stdout
    assert line.split("--token ")[1].split()[0] in listed
    assert deploy(pair.worker, "token").returncode == 7


def test_a_master_is_not_made_a_worker(pair: Pair) -> None:
    done = deploy(pair.master, f"join --token {TOKEN} {pair.worker.address}")
    assert done.returncode == 7
    assert "fault   other-role" in done.stderr


def test_after_a_reboot_the_node_and_its_route_come_back(pair: Pair) -> None:
    address = cluster.kubectl(pair.master, "get", "service", "smoke", "-o", "jsonpath={.spec.clusterIP}")
    pair.worker.reboot()
    assert until(lambda: pair.worker.run("systemctl is-active -q kubelet").returncode == 0, 30)
    cluster.wait_ready(pair.master, pair.nodes)
    assert "10.96.0.0/12 dev eth0" in pair.worker.run("ip route").stdout
    assert cluster.ask_service(pair.worker, address, of=pair.master) == "hello from node1"


def test_down_leaves_nothing_and_install_again_works(pair: Pair) -> None:
    for node in (pair.worker, pair.master):
        done = deploy(node, "down")
        assert done.returncode == 0, done.stderr
        changes = difference(pair.before[node.name], snapshot(node))
        assert [c for c in changes if not any(of in c for of in OF_A_BOOT)] == []
    assert deploy(pair.master, "down").returncode == 0, "down where nothing is left"
    again = cluster.deploy(pair.master, "master --pod-subnet 10.200.0.0/16 --service-subnet=10.64.0.0/16 --single-node")
    cluster.install(pair.worker, cluster.join_line(again))
    cluster.wait_ready(pair.master, pair.nodes)
    assert "10.64.0.0/16 dev eth0" in pair.worker.run("ip route").stdout, "join takes the networks from the cluster"
    assert "node-role" not in cluster.kubectl(pair.master, "get", "nodes", "-o", "jsonpath={.items[*].spec.taints}")
    address = cluster.apply_smoke(pair.master)
    assert address.startswith("10.64.")
    assert cluster.ask_service(pair.worker, address, of=pair.master) == "hello from node1"


def test_a_wrong_token_hash_or_master_is_refused_before_anything_changes(pair: Pair, fresh: Node) -> None:
    cluster.wait_ready(pair.master, [pair.master])
    token = cluster.join_line(deploy(pair.master, "token").stdout).split("--token ")[1].split()[0]
    before = snapshot(fresh)
    for words, told in (
        (f"--token zzzzzz.0123456789abcdef {pair.master.address}", "fault   token-valid"),
        (f"--token={token[:-1]}{'0' if token[-1] != '0' else '1'} {pair.master.address}:6443", "second half is wrong"),
        (f"--token {token} --ca-cert-hash sha256:{'0' * 64} {pair.master.address}", "fault   ca-hash"),
        (f"--token {token} 10.77.0.99", "10.77.0.99:6443 does not answer"),
        (f"--token {token} {fresh.address}", "fault   join-self"),
    ):
        began = time.monotonic()
        done = deploy(fresh, f"join {words}")
        assert (done.returncode, told in done.stderr) == (7, True), done.stderr
        assert time.monotonic() - began < 20
    ours = ("/var/lib/kubecarry", "/run/lock/kubecarry")
    assert [c for c in difference(before, snapshot(fresh)) if not any(o in c for o in ours)] == []


def test_preflight_names_every_fault_at_once(fresh: Node) -> None:
    fresh.run("mkdir -p /etc/kubernetes/manifests /etc/cni/net.d; touch /etc/kubernetes/manifests/etcd.yaml; "
              "touch /etc/cni/net.d/10-x.conf; ip link add cni0 type bridge", check=True)
    fresh.run("ip address add 10.100.0.1/24 dev eth0", check=True)
    fresh.run("systemd-run --quiet systemd-socket-activate -l 6443 /bin/true; sleep 0.5", check=True)
    done = deploy(fresh, "preflight --pod-subnet 10.77.0.0/16 --node-name bad_name")
    assert done.returncode == 7
    for check in ("residue", "cni-residue", "links", "hostname", "networks", "ports"):
        assert f"fault   {check}: " in done.stderr, done.stderr
    assert "10.96.0.0/12 is in use" in done.stderr
    assert "10.77.0.0/16 is in use" in done.stderr
    assert not fresh.run("ls /var/lib/kubecarry /var/log/kubecarry.log").stdout


def test_not_root(fresh: Node) -> None:
    done = fresh.run(f"setpriv --reuid 65534 --clear-groups bash -c '{LINE}master'")
    assert done.returncode == 7
    assert "not root" in done.stderr


def test_two_runs_do_not_collide(fresh: Node) -> None:
    first = threading.Thread(target=deploy, args=(fresh, "master"))
    first.start()
    assert until(lambda: fresh.run("test -s /run/lock/kubecarry.lock").returncode == 0, 30)
    second = deploy(fresh, "master")
    assert second.returncode == 7
    assert "another deploy.sh runs on this host" in second.stderr
    fresh.run("kill -9 $(cat /run/lock/kubecarry.lock)")
    first.join()


def kill(node: Node, words: str, after: float) -> None:
    """Run a verb and kill -9 deploy.sh itself after so many seconds; its children live on, as they would."""
    run = threading.Thread(target=deploy, args=(node, words))
    run.start()
    time.sleep(after)
    node.run("kill -9 $(cat /run/lock/kubecarry.lock)")
    run.join()


def test_killed_anywhere_the_same_line_recovers(fresh: Node) -> None:
    before = snapshot(fresh)
    for seconds in (1, 3, 6, 10, 18):
        kill(fresh, "master", seconds)
    done = deploy(fresh, "master")
    assert done.returncode == 0, done.stderr
    assert cluster.ready(fresh) == {"node3"}
    assert deploy(fresh, "status").returncode == 0
    for seconds in (0.7, 2):
        kill(fresh, "down", seconds)
    done = deploy(fresh, "down")
    assert done.returncode == 0, done.stderr
    assert difference(before, snapshot(fresh)) == []


def test_a_containerd_that_was_there_before_stays_as_it_was(fresh: Node) -> None:
    repo = f"--repofrompath=bundle,{cluster.URL}/packages/el7 --setopt=bundle.gpgcheck=0"
    fresh.run(f"dnf -yq {repo} install containerd.io && echo '# mine' > /etc/containerd/config.toml && "
              "systemctl enable -q --now containerd && mkdir -p /srv/hosts/k8s.gcr.io", check=True)
    hosts = f'server = "{cluster.URL}"\n[host."{cluster.URL}"]\n'  # without a host table containerd goes upstream
    fresh.run("cat > /srv/hosts/k8s.gcr.io/hosts.toml", input=hosts, check=True)
    fresh.run("ctr -n theirs images pull --hosts-dir /srv/hosts k8s.gcr.io/pause:3.2 >/dev/null && "
              "ctr -n theirs run -d k8s.gcr.io/pause:3.2 theirs", check=True)
    before = snapshot(fresh)
    assert "warning containerd" in deploy(fresh, "preflight").stderr
    cluster.deploy(fresh, "master")
    assert "RUNNING" in fresh.run("ctr -n theirs tasks list").stdout
    done = deploy(fresh, "down")
    assert done.returncode == 0, done.stderr
    assert "RUNNING" in fresh.run("ctr -n theirs tasks list").stdout
    assert fresh.run("ctr -n k8s.io images list -q; ctr -n k8s.io containers list -q").stdout == ""
    state = ("/var/lib/containerd/", "/run/containerd", "/opt/containerd")
    assert [c for c in difference(before, snapshot(fresh)) if not any(s in c for s in state)] == []


def test_containers_of_others_are_spared(fresh: Node) -> None:
    cluster.deploy(fresh, "master")
    fresh.run("ctr -n mine images pull --hosts-dir /etc/containerd/certs.d k8s.gcr.io/pause:3.2 >/dev/null && "
              "ctr -n mine run -d k8s.gcr.io/pause:3.2 theirs", check=True)
    done = deploy(fresh, "down")
    assert done.returncode == 7
    assert "namespaces: mine" in done.stderr
    assert "RUNNING" in fresh.run("ctr -n mine tasks list").stdout
    assert fresh.run("ctr -n k8s.io containers list -q").stdout == ""
    assert fresh.run("pgrep -x kubelet").returncode == 1
    fresh.run("ctr -n mine tasks kill -s 9 theirs; sleep 1; ctr -n mine containers rm theirs", check=True)
    assert deploy(fresh, "down").returncode == 0
