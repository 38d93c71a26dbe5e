"""The stand-ins against the real thing: flanneld and coredns with a real API server, crictl with a real containerd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.lab import until
from tests.lab.upstream import driver, servers
from tests.lab.upstream.home import HERE, home
from tests.lab.upstream.kube import binaries
from tests.lab.upstream.standins import standins

pytestmark = [pytest.mark.root, pytest.mark.lab]

SPACE = f"standins-{os.getpid()}"  # a network namespace that is one node, with an API server of its own
LINKS = """\
link set lo up
link add eth0 type veth peer name other
addr add 10.99.0.1/24 dev eth0
link set other up
link set eth0 up
"""
NODE = """
apiVersion: v1
kind: Node
metadata: {{name: {name}, annotations: {annotations}}}
spec: {{podCIDR: {cidr}}}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: flannel-x, namespace: kube-system}
spec: {nodeName: here, containers: [{name: c, image: i}]}
"""
SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.7.7, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: bare, namespace: default}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: bare, namespace: default}
subsets: [{addresses: [{ip: 10.244.3.4}, {ip: 10.244.3.5, hostname: five}], ports: [{name: http, port: 80}]}]
"""
TOKENS = """\
admin-token,admin,admin,system:masters
flannel-token,system:serviceaccount:kube-system:flannel,flannel
"""
NET_CONF = '{"Network": "10.244.0.0/16", "Backend": {"Type": "%s"}}'


@dataclass(frozen=True)
class Cluster:
    """A network namespace with etcd and kube-apiserver in it."""

    dir: Path

    def run(self, *words: str | Path, given: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace."""
        return subprocess.run(
            ["ip", "netns", "exec", SPACE, *words], input=given, capture_output=True, text=True, check=check
        )

    def kubectl(self, *words: str, given: str = "") -> str:
        """Run kubectl as the administrator."""
        return self.run(
            binaries().path / "kubectl", "--server=https://127.0.0.1:6443", "--token=admin-token",
            f"--certificate-authority={self.dir}/api.crt", f"--cache-dir={self.dir}/cache", *words, given=given,
        ).stdout  # fmt: skip

    def pod(self, name: str, words: Sequence[str | Path], token: str, env: dict[str, str]) -> subprocess.Popen[str]:
        """Start a program as in a pod of the host's network: the API by environment and service account files."""
        account, run = self.dir / f"{name}-account", self.dir / f"{name}-run"
        for directory in (account, run):
            directory.mkdir(exist_ok=True)
        (account / "token").write_text(token)
        (account / "ca.crt").write_bytes((self.dir / "api.crt").read_bytes())
        script = (
            "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount /run/flannel"
            ' && mount --bind "$1" /run/secrets/kubernetes.io/serviceaccount && mount --bind "$2" /run/flannel'
            ' && shift 2 && exec "$@"'
        )
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{SPACE}", "unshare", "-m", "sh", "-c", script, "-", account, run, *words],
            env={**os.environ, "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "6443", **env},
            stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip


@contextmanager
def running(*processes: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()


def wait(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    assert until(condition, seconds, 0.1), f"{what}: not within {seconds} s"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    one = Cluster(tmp_path_factory.mktemp("cluster"))
    subprocess.run(["ip", "netns", "add", SPACE], check=True)
    try:
        one.run("ip", "-batch", "-", given=LINKS)
        with running(*start_api(one)):
            wait(lambda: one.run(*health(one), check=False).stdout == "ok", "API server", 60)
            one.kubectl("apply", "-f", str(HERE / "files/kube-flannel.yml"))
            one.kubectl("apply", "-f", "-", given=NODE.format(name="here", cidr="10.244.0.0/24", annotations="{}"))
            one.kubectl("apply", "-f", "-", given=POD)
            yield one
    finally:
        subprocess.run(["ip", "netns", "del", SPACE], check=True)


def health(one: Cluster) -> list[str | Path]:
    return ["curl", "-sf", "--cacert", one.dir / "api.crt", "https://127.0.0.1:6443/readyz"]


def start_api(one: Cluster) -> list[subprocess.Popen[str]]:
    key, certificate = one.dir / "api.key", one.dir / "api.crt"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=api"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    (one.dir / "tokens.csv").write_text(TOKENS)
    etcd: list[str | Path] = ["etcd", "--data-dir", one.dir / "etcd", "--log-level", "error"]
    api: list[str | Path] = [
        binaries().path / "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443",
        "--insecure-port=0", f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}",
        "--service-account-issuer=lab", f"--service-account-signing-key-file={key}",
        f"--service-account-key-file={key}", f"--token-auth-file={one.dir}/tokens.csv", "--authorization-mode=RBAC",
        "--disable-admission-plugins=ServiceAccount", "--service-cluster-ip-range=10.96.0.0/16",
        "--advertise-address=10.99.0.1",
    ]  # fmt: skip
    started = []
    for words in (etcd, api):
        with (one.dir / "log").open("a") as log:
            started.append(subprocess.Popen(["ip", "netns", "exec", SPACE, *words], stdout=log, stderr=log, text=True))
    return started


def flanneld(cluster: Cluster, backend: str = "host-gw", **env: str) -> subprocess.Popen[str]:
    (cluster.dir / "net-conf.json").write_text(NET_CONF % backend)
    words: list[str | Path] = [
        standins().path / "flanneld",
        "--ip-masq",
        "--kube-subnet-mgr",
        f"--net-config-path={cluster.dir}/net-conf.json",
    ]
    identity = {"POD_NAME": "flannel-x", "POD_NAMESPACE": "kube-system"}
    return cluster.pod("flanneld", words, "flannel-token", {**identity, **env})


def add_node(cluster: Cluster, name: str, cidr: str, address: str) -> None:
    prefix = "flannel.alpha.coreos.com"
    announced = {
        f"{prefix}/kube-subnet-manager": "true",
        f"{prefix}/backend-type": "host-gw",
        f"{prefix}/public-ip": address,
    }
    cluster.kubectl("apply", "-f", "-", given=NODE.format(name=name, cidr=cidr, annotations=json.dumps(announced)))


def routes(cluster: Cluster) -> str:
    return cluster.run("ip", "route").stdout


def test_flanneld_needs_a_default_route_or_an_interface(cluster: Cluster) -> None:
    out, _ = flanneld(cluster).communicate(timeout=30)
    assert (
        "Failed to find any valid interface to use: failed to get default interface: Unable to find default route"
        in out
    )


def test_flanneld_refuses_other_backends(cluster: Cluster) -> None:
    process = flanneld(cluster, "vxlan", FLANNELD_IFACE="10.99.0.1")
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert 'backend "vxlan": this stand-in for flannel has only host-gw' in out


def test_flanneld_connects_the_nodes(cluster: Cluster) -> None:
    """With no more rights than flannel's own ClusterRole gives, as its manifest has it."""
    add_node(cluster, "there", "10.244.1.0/24", "10.99.0.2")
    with running(flanneld(cluster, FLANNELD_IFACE="10.99.0.1")):
        wait(lambda: "10.244.1.0/24 via 10.99.0.2 dev eth0" in routes(cluster), "route to the other node")
        add_node(cluster, "third", "10.244.2.0/24", "10.99.0.3")
        wait(lambda: "10.244.2.0/24 via 10.99.0.3 dev eth0" in routes(cluster), "route to a node that came later")
        cluster.run("ip", "route", "del", "10.244.2.0/24")
        wait(lambda: "10.244.2.0/24" in routes(cluster), "a route that someone removed")
        cluster.kubectl("delete", "node", "third")
        wait(lambda: "10.244.2.0/24" not in routes(cluster), "removal of a node's route")
    assert (cluster.dir / "flanneld-run/subnet.env").read_text() == (
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.0.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=true\n"
    )
    annotations = json.loads(cluster.kubectl("get", "node", "here", "-o", "json"))["metadata"]["annotations"]
    assert annotations["flannel.alpha.coreos.com/public-ip"] == "10.99.0.1"
    assert annotations["flannel.alpha.coreos.com/backend-type"] == "host-gw"
    rules = cluster.run("iptables", "-t", "nat", "-S", "POSTROUTING").stdout
    assert "-A POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully" in rules


def test_flannel_plugin_gives_a_pod_its_address(cluster: Cluster, tmp_path: Path) -> None:
    """ADD and DEL of the CNI configuration that flannel's manifest installs, by the plugins of kubernetes-cni."""
    (tmp_path / "subnet.env").write_text(
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.0.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n"
    )
    plugins = f"{standins().path}:/usr/lib/cni"
    delegate = {"hairpinMode": True, "isDefaultGateway": True}
    conf = {"cniVersion": "0.3.1", "name": "cbr0", "type": "flannel", "subnetFile": str(tmp_path / "subnet.env"),
            "dataDir": str(tmp_path / "flannel"), "delegate": delegate}  # fmt: skip
    pod = f"{SPACE}-pod"
    subprocess.run(["ip", "netns", "add", pod], check=True)

    def cni(command: str) -> str:
        variables = {"CNI_COMMAND": command, "CNI_CONTAINERID": pod, "CNI_NETNS": f"/run/netns/{pod}",
                     "CNI_IFNAME": "eth0", "CNI_PATH": plugins}  # fmt: skip
        env = [f"{k}={v}" for k, v in variables.items()]
        private = f'mount --bind "{tmp_path}" /var/lib && exec "$@"'  # where host-local keeps its leases
        words: list[str | Path] = ["unshare", "-m", "sh", "-c", private, "-", "env", *env, standins().path / "flannel"]
        done = cluster.run(*words, given=json.dumps(conf), check=False)
        assert done.returncode == 0, done.stdout
        return done.stdout

    try:
        address = json.loads(cni("ADD"))["ips"][0]["address"]
        assert address.startswith("10.244.0.")
        inside = subprocess.run(["ip", "-n", pod, "route"], capture_output=True, text=True, check=True).stdout
        assert "default via 10.244.0.1 dev eth0" in inside
        assert "10.244.0.0/16 via 10.244.0.1" in inside
        subprocess.run(
            ["ip", "netns", "exec", pod, "busybox", "ping", "-c1", "-W2", "10.244.0.1"], check=True, capture_output=True
        )
        (tmp_path / "subnet.env").unlink()  # DEL works after a reboot, too, when the file is gone
        assert cni("DEL") == ""
        assert cni("DEL") == ""
        assert not (tmp_path / "flannel" / pod).exists()
    finally:
        subprocess.run(["ip", "netns", "del", pod], check=True)


@pytest.fixture
def dns(cluster: Cluster) -> Iterator[Callable[..., str]]:
    corefile = cluster.dir / "Corefile"
    corefile.write_text(".:53 {\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n    }\n}\n")
    cluster.kubectl("apply", "-f", "-", given=SERVICES)

    def ask(name: str, kind: str = "a") -> str:
        return cluster.run("busybox", "nslookup", f"-type={kind}", name, "127.0.0.1", check=False).stdout

    with running(cluster.pod("coredns", [standins().path / "coredns", "-conf", corefile], "admin-token", {})):
        ready = ["curl", "-sf", "http://127.0.0.1:8181/ready"]
        wait(lambda: cluster.run(*ready, check=False).returncode == 0, "readiness of coredns")
        yield ask


def test_coredns_answers_for_services(dns: Callable[..., str]) -> None:
    assert "Address: 10.96.0.1" in dns("kubernetes.default.svc.cluster.local")
    assert "Address: 10.96.7.7" in dns("WEB.default.svc.cluster.local")
    bare = dns("bare.default.svc.cluster.local")
    assert "10.244.3.4" in bare
    assert "10.244.3.5" in bare
    assert "10.244.3.5" in dns("five.bare.default.svc.cluster.local")
    assert "10.244.9.9" in dns("10-244-9-9.default.pod.cluster.local")
    assert "web.default.svc.cluster.local" in dns("7.7.96.10.in-addr.arpa", "ptr")
    assert "five.bare.default.svc.cluster.local" in dns("_http._tcp.bare.default.svc.cluster.local", "srv")


def test_coredns_tells_what_does_not_exist_from_what_it_does_not_know(dns: Callable[..., str]) -> None:
    assert "NXDOMAIN" in dns("nothing.default.svc.cluster.local")
    assert "SERVFAIL" in dns("example.org")


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Path]:
    address = tmp_path / "containerd.sock"
    config = tmp_path / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n[grpc]\n  address = "{address}"\n'
        f'[plugins."io.containerd.grpc.v1.cri"]\n  stream_server_port = "0"\n'
        f'[plugins."io.containerd.grpc.v1.cri".cni]\n  conf_dir = "{tmp_path}/cni"\n'
        f'[plugins."io.containerd.internal.v1.opt"]\n  path = "{tmp_path}/opt"\n'
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log, text=True)
    with running(process):
        wait(lambda: crictl(address, "info", check=False).returncode == 0, "containerd")
        yield address


def crictl(address: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [standins().path / "crictl", "--runtime-endpoint", f"unix://{address}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=check)


def test_crictl_handles_images(containerd: Path) -> None:
    ran = all(servers.status().values())
    driver.build()
    driver.start()
    try:
        ref = f"127.0.0.1:{servers.ports()[1]}/k8s.gcr.io/pause:3.2"
        assert "RuntimeName:  containerd" in crictl(containerd, "version").stdout
        assert "Image is up to date" in crictl(containerd, "pull", ref).stdout
        assert json.loads(crictl(containerd, "inspecti", ref).stdout)["image"]["repo_tags"] == [ref]
        assert ref.rpartition(":")[0] in crictl(containerd, "images").stdout
        identity = crictl(containerd, "images", "-q").stdout.split()
        assert len(identity) == 1
        crictl(containerd, "rmi", identity[0])
        missing = crictl(containerd, "inspecti", ref, check=False)
        assert (missing.returncode, "no such image" in missing.stderr) == (1, True)
        assert crictl(containerd, "ps", "-a", "-q").stdout == crictl(containerd, "pods", "-q").stdout == ""
    finally:
        if not ran:
            servers.stop()


def test_crictl_refuses_what_it_does_not_have() -> None:
    unknown = crictl(home() / "none.sock", "--frobnicate", "ps", check=False)
    assert (unknown.returncode, "--frobnicate" in unknown.stderr) == (1, True)
    began = time.monotonic()
    nobody = crictl(home() / "none.sock", "ps", check=False)
    assert nobody.returncode == 1
    assert "make sure you are running as root and the endpoint has been started" in nobody.stderr
    assert time.monotonic() - began < 10
