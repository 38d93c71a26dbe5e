"""The file server's content, laid out by host: dl.k8s.io, the yum repositories, their keys, flannel's manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from .debs import KEY_URLS, KUBERNETES, SUITES, debian_apt, kubernetes_apt
from .home import HERE, Built, of_versions, step
from .keys import DEBIAN, debian_keys, keys
from .kube import binaries
from .rpms import REPOS, repository

KEYS = {
    "packages.cloud.google.com/yum/doc/yum-key.gpg": "kubernetes-repo",
    "packages.cloud.google.com/yum/doc/rpm-package-key.gpg": "kubernetes",
    "download.docker.com/linux/centos/gpg": "docker",
    "vault.centos.org/RPM-GPG-KEY-CentOS-7": "centos",
}
DEBIAN_HOSTS = {"debian": "ftp.debian.org", "debian-security": "security.debian.org"}
FLANNEL = "raw.githubusercontent.com/coreos/flannel/v0.13.0/Documentation/kube-flannel.yml"


def site(versions: Sequence[str] = ("v1.20.2",)) -> Built:
    """Return the root directory of the file server, a directory for each host; the first version is the stable one."""
    kube = {v: binaries(v) for v in versions}
    repos = {name: repository(name, versions[0], versions[1:]) for name in REPOS}
    apt = [kubernetes_apt(versions[0]), debian_apt()]
    inputs = [list(versions), *kube.values(), *repos.values(), *apt, KEY_URLS, keys(), HERE / "files", Path(__file__)]
    return step(of_versions("site", versions), inputs, lambda out: _fill(out, kube, repos, apt))


def _fill(out: Path, kube: dict[str, Built], repos: dict[str, Built], apt: Sequence[Built]) -> None:
    for version, built in kube.items():
        for name in ("kubectl", "kubeadm", "kubelet"):
            _publish(built.path / name, out / f"dl.k8s.io/release/{version}/bin/linux/amd64/{name}")
    for name in ("stable.txt", "stable-1.20.txt"):
        (out / "dl.k8s.io/release" / name).write_text(next(iter(kube)))
    for name, built in repos.items():
        _link(built.path, out / REPOS[name].path)
    for url, vendor in KEYS.items():
        _link(keys().path / f"{vendor}.asc", out / url)
    for name in ("dists", "pool"):
        _link(apt[0].path / name, out / KUBERNETES / name)
    for top in SUITES:
        _link(apt[1].path / top, out / DEBIAN_HOSTS[top] / top)
    for url, vendor in KEY_URLS.items():
        ring = debian_keys() if vendor == DEBIAN else keys()
        _link(ring.path / f"{vendor}.asc", out / url)
    target = out / FLANNEL
    target.parent.mkdir(parents=True)
    target.write_bytes((HERE / "files/kube-flannel.yml").read_bytes())


def _publish(binary: Path, target: Path) -> None:
    """A binary and, like dl.k8s.io's, its checksum file: the bare digest, no name, no newline."""
    _link(binary, target)
    with binary.open("rb") as file:
        Path(f"{target}.sha256").write_text(hashlib.file_digest(file, "sha256").hexdigest())


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)
