"""A whole small upstream with a manifest for it, and a way to run the bundler against it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.upstream import files, registry, rpms

MANIFEST = """
schema: 1
release: "1.20"
kubernetes: v1.20.2
date: 2021-01-13
arches: [amd64, arm64]
kubeadm_api: kubeadm.k8s.io/v1beta2
runtime: containerd
image_repository: images.test
pause: images.test/pause:3.2
pod_subnet: 10.244.0.0/16
service_subnet: 10.96.0.0/12
images:
- {ref: "images.test/apiserver:v1.20.2", roles: [master]}
- images.test/pause:3.2
binaries:
- name: kubectl
  url: https://files.test/bin/{arch}/kubectl
  checksum: https://files.test/bin/{arch}/kubectl.sha256
addons: [net, sample]
hosts:
  el7:
    format: rpm
    repos: [{id: kubernetes, baseurl: "https://files.test/repo", keys: ["https://files.test/key.gpg"]}]
    installed: [bash]
    roles:
      master: [kubelet-1.20.2, kubectl-1.20.2]
      node: [kubelet-1.20.2]
"""
NET = """
schema: 1
addon: net
version: "1"
kind: network
releases: ["1.20"]
images: [images.test/net:v1]
manifests: [{url: "https://files.test/net.yml"}]
replace: [{from: '"Network": "10.244.0.0/16"', to: '"Network": "@POD_SUBNET@"'}]
"""
EXTRA = """
schema: 1
addon: {name}
version: "1"
kind: {kind}
releases: ["1.20"]
manifests: [{{file: {name}.yaml}}]
"""
OWN = "apiVersion: v1\nkind: Namespace\nmetadata: {name: own}\n"
OPTIONS = ("--version", "1.20", "--lock-dir", "locks", "--manifests", "manifests", "--cache-dir", "cache")


@dataclass
class Site:
    """A directory with ``manifests/`` and ``locks/``, and the servers that its manifest is mirrored to."""

    root: Path
    files: files.FileServer
    registry: registry.Registry

    @property
    def mirrors(self) -> list[str]:
        """The options that send the bundler to the servers."""
        return ["--mirror", f"files.test={self.files.url}", "--mirror", f"images.test={self.registry.address}"]

    def command(self, verb: str, *arguments: str | Path) -> list[str]:
        """Return a command line that locks or builds."""
        return [sys.executable, "-m", "bundler", verb, *OPTIONS, *self.mirrors, *map(str, arguments)]

    def run(
        self, verb: str, *arguments: str | Path, code: int = 0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``lock`` or ``build``, which must exit with ``code``."""
        return run(*self.command(verb, *arguments), cwd=self.root, code=code, env=env)


def run(
    *command: str | Path, cwd: Path | None = None, code: int = 0, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that must exit with ``code`` and never show a traceback."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **(env or {})}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@contextmanager
def serve(root: Path, rate: float = 0, payload: int = 100_000) -> Iterator[Site]:
    """Make and serve an upstream below ``root``, its files of about ``payload`` bytes; nothing is locked yet."""
    _write_upstream(root / "upstream", payload)
    _write_manifests(root / "manifests")
    (root / "locks").mkdir()
    with files.serve(root / "upstream", rate) as server, registry.serve(root / "registry") as images:
        for name, tag in (("apiserver", "v1.20.2"), ("pause", "3.2"), ("net", "v1")):
            images.push(name, tag, [payload, payload // 3], root / "layouts")
        yield Site(root, server, images)


def _write_upstream(top: Path, payload: int) -> None:
    repo = top / "repo"
    rpms.build(repo, "kubelet", "1.20.2", "kubernetes-cni >= 0.8", payload)
    rpms.build(repo, "kubectl", "1.20.2", size=payload)
    rpms.build(repo, "kubernetes-cni", "0.8.7", size=payload)
    rpms.build(repo, "kubelet", "1.19.0", size=1000)
    subprocess.run(["createrepo_c", "--quiet", repo], check=True)
    for arch in ("amd64", "arm64"):
        binary = top / "bin" / arch / "kubectl"
        binary.parent.mkdir(parents=True)
        binary.write_bytes(hashlib.sha256(arch.encode()).digest() * (payload // 32))
        binary.with_suffix(".sha256").write_text(hashlib.sha256(binary.read_bytes()).hexdigest())
    (top / "key.gpg").write_text("a key\n")
    (top / "net.yml").write_text('{"Network": "10.244.0.0/16"}\n')


def _write_manifests(top: Path) -> None:
    own = top / "addons" / "files"
    own.mkdir(parents=True)
    (top / "1.20.yaml").write_text(MANIFEST)
    (top / "addons" / "net-1.yaml").write_text(NET)
    for name, kind in (("sample", "sample"), ("extra", "addon")):
        (top / "addons" / f"{name}-1.yaml").write_text(EXTRA.format(name=name, kind=kind))
        (own / f"{name}.yaml").write_text(OWN)
