"""deploy.sh as the server joins it, without a server: for running whole, cut short, or function by function."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from installer.nodescript import NodeScript

PARTS = Path(__file__).parents[2] / "installer" / "node"
SETTINGS = {
    "SERVER": "http://127.0.0.1:9",
    "SUMS_SHA256": "0" * 64,
    "RELEASE": "1.20",
    "METHOD": "kubeadm",
    "KUBERNETES_VERSION": "v1.20.2",
    "KUBEADM_API": "kubeadm.k8s.io/v1beta2",
    "IMAGE_REPOSITORY": "k8s.gcr.io",
    "PAUSE_IMAGE": "k8s.gcr.io/pause:3.2",
    "POD_SUBNET": "10.244.0.0/16",
    "SERVICE_SUBNET": "10.96.0.0/12",
    "RUNTIME": "containerd",
    "BUNDLE_HOSTS": "el7",
    "BUNDLE_ARCHES": "amd64",
    "REGISTRIES": "docker.io k8s.gcr.io quay.io",
    "NETWORK_ADDON": "flannel",
    "NETWORK_MANIFESTS": "manifests/flannel/kube-flannel.yml",
    "ADDON_MANIFESTS": "",
    "MANIFEST_REPLACE": "",
}


def stream(settings: Mapping[str, str] | None = None) -> str:
    """Return deploy.sh with these settings in place of the sample's, SERVER and SUMS_SHA256 among them."""
    node = {**SETTINGS, **(settings or {})}
    server, sums = node.pop("SERVER"), node.pop("SUMS_SHA256")
    parts = {f"installer/node/{path.name}": path.read_bytes() for path in PARTS.glob("*.sh")}
    bundle = SimpleNamespace(
        members=parts, read=parts.__getitem__, digests={"SHA256SUMS": sums}, info=SimpleNamespace(node=node)
    )
    return NodeScript(bundle).render(server).decode()  # type: ignore[arg-type]


class Shell:
    """Runs the stream's functions in a directory of its own: state, log and temporary files lie below it."""

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        """Write the stream into the directory."""
        self.directory = directory
        self.state = directory / "state"
        self.log = directory / "kubecarry.log"
        for name in ("tmp", "lists", "backup"):
            (self.state / name).mkdir(parents=True)
        (directory / "bin").mkdir()
        (directory / "deploy.sh").write_text(stream(settings))

    def run(
        self, body: str, timeout: float = 30, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run shell text with the functions at hand, as strictly as main runs them; returns status and output."""
        text = f"""set -euo pipefail
            . {self.directory}/deploy.sh
            STATE={self.state} CACHE={self.state}/cache LOG={self.log} LOG_SINK={self.log} LOCK={self.directory}/lock
            clock; STARTED=$NOW
            {body}"""
        path = f"{self.directory}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run(
            ["bash", "-c", text],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env={"PATH": path, "DEPLOY_SOURCED": "1", "LC_ALL": "C", **(env or {})},
            check=False,
        )

    def out(self, body: str) -> str:
        """Run shell text that must succeed and return its stdout."""
        done = self.run(body)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stub(self, name: str, body: str) -> None:
        """Put a program before the real ones, for a host tool that cannot be had here (labelled where it is used)."""
        path = self.directory / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    @property
    def journal(self) -> list[str]:
        """The journal's lines."""
        path = self.state / "journal"
        return path.read_text().splitlines() if path.exists() else []


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()
