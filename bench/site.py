"""An upstream of a release's size, its lock, and the script that a person would write instead of the bundler."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import peers
from tests.integration.upstream import registry, rpms
from tests.serving import PROJECT

MIB = 1 << 20
IMAGES = {"kube-apiserver:v1.20.2": (30, 2), "kube-controller-manager:v1.20.2": (28, 2),
          "kube-scheduler:v1.20.2": (12, 2), "kube-proxy:v1.20.2": (30, 12, 3), "etcd:3.4.13-0": (60, 30),
          "coredns:1.7.0": (14, 1), "pause:3.2": (1,), "flannel:v0.13.0": (20, 3)}
BINARIES = {"kubeadm": 38, "kubectl": 38, "kubelet": 60}
PACKAGES = {"kubelet": 20, "kubeadm": 9, "kubectl": 9, "cri-tools": 6, "kubernetes-cni": 8, "runtime": 30,
            "selinux": 1, "conntrack": 1, "socat": 1, "libseccomp": 1}
MANIFEST = """
schema: 1
release: "1.20"
kubernetes: v1.20.2
date: 2021-01-13
arches: [amd64]
kubeadm_api: kubeadm.k8s.io/v1beta2
runtime: containerd
image_repository: images.test
pause: images.test/pause:3.2
pod_subnet: 10.244.0.0/16
service_subnet: 10.96.0.0/12
images:
{images}
binaries:
{binaries}
addons: []
hosts:
  el7:
    format: rpm
    repos: [{{id: kubernetes, baseurl: "http://files.test/repo", keys: []}}]
    installed: [bash]
    roles: {{master: [{packages}], node: [{packages}]}}
"""
BINARY = "- {{name: {0}, url: \"http://files.test/bin/{0}\", checksum: \"http://files.test/bin/{0}.sha256\"}}"
SCRIPT = r"""set -euo pipefail
mkdir -p stage/bin stage/packages
cd stage
for name in {images}; do
  skopeo --insecure-policy --override-arch=amd64 copy --quiet --src-tls-verify=false \
    docker://{registry}/$name oci:images:images.test/$name
done
dnf -q -y --installroot=$PWD/../root --releasever=7 --setopt=reposdir=/nonexistent --setopt=cachedir=$PWD/../dnf \
  --setopt=logdir=$PWD/.. --setopt=gpgcheck=0 --setopt=module_platform_id=platform:el7 \
  --repofrompath=up,http://{files}/repo --repo=up install --downloadonly --downloaddir=packages {packages}
for name in {binaries}; do
  curl -fsS -o bin/$name http://{files}/bin/$name
  echo "$(curl -fsS http://{files}/bin/$name.sha256)  bin/$name" | sha256sum --quiet -c -
done
createrepo_c --quiet packages
find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum > SHA256SUMS
tar cf ../script.tar .
"""


@dataclass(frozen=True)
class Site:
    """A locked upstream: `files` and `registry` are the ports of its servers."""

    root: Path
    files: int
    registry: int

    def build(self, output: Path, *options: str, files: int = 0, images: int = 0) -> list[str]:
        """The command that builds it, from other ports if they are given."""
        return [sys.executable, "-m", "bundler", "build", *self.options(files, images), "-o", str(output), *options]

    def options(self, files: int = 0, images: int = 0) -> list[str]:
        """What `lock` and `build` have in common."""
        return ["--version", "1.20", "--lock-dir", str(self.root / "locks"),
                "--manifests", str(self.root / "manifests"), "--cache-dir", str(self.root / "cache"), "--quiet",
                "--mirror", f"files.test=http://127.0.0.1:{files or self.files}",
                "--mirror", f"images.test=127.0.0.1:{images or self.registry}"]

    def change(self) -> int:
        """Publish another kubectl, as a binary and as a package, and lock it; how many bytes these are."""
        top = self.root / "upstream"
        binary = _binary(top / "bin", "kubectl")
        package = rpms.build(top / "repo", "kubectl", "1.20.2", size=PACKAGES["kubectl"] * MIB + 1)
        subprocess.run(["rm", "-r", top / "repo" / "top"], check=True)
        subprocess.run(["createrepo_c", "--quiet", top / "repo"], check=True)
        for lock in ("rpms.lock", "manifests/files.lock"):
            (self.root / "locks" / lock).unlink()
        self.lock()
        return binary.stat().st_size + package.stat().st_size

    def lock(self) -> None:
        """Lock what is not locked."""
        subprocess.run([sys.executable, "-m", "bundler", "lock", *self.options()], check=True, cwd=PROJECT,
                       capture_output=True)

    def script(self, files: int = 0, images: int = 0) -> str:
        """What a person would write, as a shell script for an empty directory."""
        return SCRIPT.format(images=" ".join(IMAGES), packages=" ".join(PACKAGES), binaries=" ".join(BINARIES),
                             files=f"127.0.0.1:{files or self.files}", registry=f"127.0.0.1:{images or self.registry}")


@contextlib.contextmanager
def serve(root: Path) -> Iterator[Site]:
    """Make the upstream below `root`, serve it by nginx and docker-registry, and lock it."""
    top = root / "upstream"
    _publish(top)
    _describe(root / "manifests")
    (root / "locks").mkdir()
    with peers.nginx(root, top) as files, registry.serve(root / "registry") as images:
        for name, layers in IMAGES.items():
            images.push(*name.split(":"), [size * MIB for size in layers], root / "layouts")
        subprocess.run(["rm", "-r", root / "layouts"], check=True)
        site = Site(root, files, int(images.address.rpartition(":")[2]))
        site.lock()
        yield site


def _publish(top: Path) -> None:
    repo, binaries = top / "repo", top / "bin"
    binaries.mkdir(parents=True)
    for name, size in PACKAGES.items():
        rpms.build(repo, name, "1.20.2", size=size * MIB)
    subprocess.run(["rm", "-r", repo / "top"], check=True)
    subprocess.run(["createrepo_c", "--quiet", repo], check=True)
    for name in BINARIES:
        _binary(binaries, name)
    (top / "SHA256SUMS").write_text("")  # what nginx is asked for, to see that it is up


def _binary(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(os.urandom(BINARIES[name] * MIB))
    done = subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True)
    path.with_name(f"{name}.sha256").write_text(done.stdout.split()[0] + "\n")
    return path


def _describe(folder: Path) -> None:
    (folder / "addons").mkdir(parents=True)
    images = "\n".join(f"- images.test/{name}" for name in IMAGES)
    binaries = "\n".join(map(BINARY.format, BINARIES))
    text = MANIFEST.format(images=images, packages=", ".join(PACKAGES), binaries=binaries)
    (folder / "1.20.yaml").write_text(text)
