"""A bundle served inside a lab, nodes that install from it, and the cluster that they become."""

from __future__ import annotations

import json
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import net
from .lab import SWITCH_ADDRESS, Lab, launch, start, until
from .node import Node
from .show import watch
from .upstream.home import LabError, run

PORT = 8000
URL = f"http://{SWITCH_ADDRESS}:{PORT}"
KUBECONFIG = "/etc/kubernetes/admin.conf"


def unpack_installer(bundle: Path, into: Path) -> None:
    """Take the installer out of a bundle, as on the machine that it was carried to."""
    into.mkdir(parents=True, exist_ok=True)
    run("tar", "-C", into, "-xf", bundle, "installer")


def serve(lab: Lab, bundle: Path, carried: Path, *options: str, at: str = SWITCH_ADDRESS) -> None:
    """Start `python3 -m installer serve` at an address of the switch, with the installer under carried.

    Options are those of `serve`. Raises LabError if it does not answer.
    """
    net.up(lab)
    name = "installer" if at == SWITCH_ADDRESS else f"installer-{at}"
    words = ["/usr/bin/python3", "-m", "installer", "serve", "--bind", at, *options, str(bundle)]
    process = start(lab, name, [*net.within(lab.switch), *words], cwd=carried)
    answers = [*net.within(lab.switch), "curl", "-fsS", "-m", "2", f"http://{at}:{PORT}/healthz"]
    if not until(lambda: _succeeds(lambda: run(*answers)) or not process.alive(), 120) or not process.alive():
        raise LabError(f"the server did not start:\n{(lab.dir / f'{name}.log').read_text()[-2000:]}")


def deploy(node: Node, words: str, seconds: float = 600) -> str:
    """Run `curl … | bash -s WORDS` on a node, shown as it goes, and return its stdout. Raises LabError."""
    line = f"curl -fsSL {URL}/deploy.sh | bash -s {words}"
    return install(node, line, seconds)


def install(node: Node, line: str, seconds: float = 600) -> str:
    """Run one line of shell on a node, shown as it goes, and return its stdout. Raises LabError."""
    return watch(node.entering(["bash", "-o", "pipefail", "-c", line]), f"{node.name}# {line}", seconds=seconds)


def join_line(output: str) -> str:
    """Return the line that `master` printed for the nodes that are to join."""
    lines = [line.strip() for line in output.splitlines() if "deploy.sh" in line and " join " in f"{line} "]
    if not lines:
        raise LabError(f"master printed no line for joining:\n{output}")
    return lines[0]


def kubectl(master: Node, *words: str, input: str | None = None, timeout: float = 60) -> str:
    """Run kubectl on a master as its administrator and return its stdout. Raises LabError."""
    return master.run(
        ["kubectl", f"--kubeconfig={KUBECONFIG}", *words], input=input, timeout=timeout, check=True
    ).stdout


def ready(master: Node) -> set[str]:
    """Return the names of the nodes that the cluster holds ready; empty while its API does not answer."""
    got = master.run(["kubectl", f"--kubeconfig={KUBECONFIG}", "get", "nodes", "-o", "json"])
    if got.returncode:
        return set()
    return {
        item["metadata"]["name"]
        for item in json.loads(got.stdout)["items"]
        if any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", ()))
    }


def wait_ready(master: Node, nodes: Iterable[Node], seconds: float = 120) -> None:
    """Wait until the cluster holds all these nodes ready. Raises LabError with what it says of them."""
    wanted = {node.name for node in nodes}
    if not until(lambda: wanted <= ready(master), seconds, 0.2):
        told = master.run(f"kubectl --kubeconfig={KUBECONFIG} get nodes,pods -A -o wide").stdout
        raise LabError(f"not Ready after {seconds:.0f} s: {', '.join(sorted(wanted - ready(master)))}\n{told}")


def apply_smoke(master: Node) -> str:
    """Apply the sample workload out of the bundle, wait until it runs everywhere, and return its Service's address."""
    manifest = master.run(["curl", "-fsS", f"{URL}/manifests/smoke/smoke.yaml"], check=True).stdout
    kubectl(master, "apply", "-f", "-", input=manifest)
    kubectl(master, "rollout", "status", "daemonset/smoke", "--timeout=120s", timeout=130)
    return kubectl(master, "get", "service", "smoke", "-o", "jsonpath={.spec.clusterIP}")


def ask_service(asking: Node, address: str, of: Node) -> str:
    """Ask the Service from one node until the pod of another node answers; return the answer. Raises LabError."""
    answers: list[str] = []

    def answered() -> bool:
        answers.append(asking.run(["curl", "-sS", "-m", "3", f"http://{address}/"]).stdout.strip())
        return answers[-1] == f"hello from {of.name}"

    if not until(answered, 30, 0.1):
        raise LabError(f"no answer of {of.name} through {address}, asked from {asking.name}: {set(answers)}")
    return answers[-1]


def ask_by_name(master: Node, on: Node, name: str = "smoke.default.svc.cluster.local") -> str:
    """Ask the Service by its DNS name from the sample's pod on a node; return the answer. Raises LabError."""
    kubectl(master, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s", timeout=130)
    pod = kubectl(
        master, "get", "pods", "-l", "app=smoke", f"--field-selector=spec.nodeName={on.name}", "-o", "name"
    ).strip()  # fmt: skip
    return kubectl(master, "exec", pod, "--", "wget", "-q", "-T", "5", "-O", "-", f"http://{name}/").strip()


def show_kubectl(master: Node, words: str) -> None:
    """Print what kubectl answers."""
    print(f"   {master.name}# kubectl {words}")
    for line in kubectl(master, *words.split()).splitlines():
        print(f"   | {line}", flush=True)


@contextmanager
def on_loopback(bundle: Path, carried: Path) -> Iterator[str]:
    """Serve a bundle on a free port of this machine's loopback while the block runs; yields the URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["python3", "-m", "installer", "serve", str(bundle), "--bind", "127.0.0.1", "--port", str(port)]
    process = launch(words, carried / "server.log", cwd=carried)
    try:
        if not until(lambda: _succeeds(lambda: fetch(f"http://127.0.0.1:{port}/healthz")) or not process.alive(), 120):
            raise LabError(f"the server does not answer, see {carried / 'server.log'}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill(signal.SIGTERM)
        process.ended(5)


def fetch(url: str) -> bytes:
    """Return what a URL of this machine's own loopback answers. Raises OSError."""
    with urllib.request.urlopen(url, timeout=10) as reply:
        return bytes(reply.read())


def _succeeds(act: Callable[[], object]) -> bool:
    try:
        act()
    except (LabError, OSError):
        return False
    return True
