"""Signed RPMs under upstream's names, one build step each, and the yum repositories that hold them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .home import EPOCH, HERE, Built, debian_versions, of_versions, run, step
from .keys import gpg_words, keys, stop_agent, user_id
from .kube import binaries
from .standins import standins

SPECS = HERE / "specs"


@dataclass(frozen=True)
class Rpm:
    """One package: its spec, and what of the lab's own (kube, standins) or of Debian goes into it."""

    spec: str
    needs: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()
    placeholder: str = ""  # NAME VERSION RELEASE, for the spec `placeholder`

    @property
    def name(self) -> str:
        """What tells this build from the others."""
        return self.placeholder.replace(" ", "-") or self.spec


@dataclass(frozen=True)
class Repo:
    """One yum repository: where it lies on the site, whose key signs it, and how its metadata is compressed."""

    path: str
    vendor: str
    compression: str
    packages: tuple[Rpm, ...]
    hashed_names: bool = False  # Google's repository puts the sha256 before each file name


def _others(*names: str) -> tuple[Rpm, ...]:
    return tuple(Rpm("placeholder", placeholder=n) for n in names)


REPOS = {
    "kubernetes": Repo(
        "packages.cloud.google.com/yum/repos/kubernetes-el7-x86_64",
        "kubernetes",
        "gz",
        (
            Rpm("kubelet", ("kube",)),
            Rpm("kubeadm", ("kube",)),
            Rpm("kubectl", ("kube",)),
            Rpm("kubernetes-cni", ("standins",), ("containernetworking-plugins",)),
            Rpm("cri-tools", ("standins",)),
            *_others(
                *(f"{n} {v} 0" for n in ("kubelet", "kubeadm", "kubectl") for v in ("1.19.7", "1.20.1", "1.20.4")),
                "kubernetes-cni 0.8.6 0",
                "cri-tools 1.12.0 0",
            ),
        ),
        hashed_names=True,
    ),
    "docker-ce-stable": Repo(
        "download.docker.com/linux/centos/7/x86_64/stable",
        "docker",
        "gz",
        (
            Rpm("containerd.io", (), ("containerd", "runc")),
            Rpm("docker-ce", (), ("docker.io", "tini")),
            Rpm("docker-ce-cli", (), ("docker.io",)),
            *_others(
                "containerd.io 1.4.3 3.1.el7",
                "containerd.io 1.6.33 3.1.el7",
                "docker-ce 20.10.2 3.el7",
                "docker-ce-cli 20.10.2 3.el7",
            ),
        ),
    ),
    "base": Repo(
        "vault.centos.org/7.9.2009/os/x86_64",
        "centos",
        "xz",
        (
            Rpm("socat", (), ("socat",)),
            Rpm("xz", (), ("xz-utils",)),
            Rpm("tcp_wrappers-libs", (), ("libwrap0",)),
            Rpm("conntrack-tools", (), ("conntrack",)),
            Rpm("libnetfilter_cthelper", (), ("libnetfilter-cthelper0",)),
            Rpm("libnetfilter_cttimeout", (), ("libnetfilter-cttimeout1",)),
            Rpm("libnetfilter_queue", (), ("libnetfilter-queue1",)),
            Rpm("keepalived", (), ("keepalived",)),
            Rpm("libnl3", (), ("libnl-3-200", "libnl-genl-3-200")),
            Rpm("lm_sensors-libs", (), ("libsensors5",)),
            Rpm("net-snmp-agent-libs", (), ("libsnmp40",)),
            Rpm("net-snmp-libs", (), ("libsnmp40",)),
            Rpm("pciutils-libs", (), ("libpci3",)),
            *_others("nano 2.3.1 10.el7", "tree 1.6.0 10.el7", "telnet 0.17 66.el7"),
        ),
    ),
    "extras": Repo(
        "vault.centos.org/7.9.2009/extras/x86_64",
        "centos",
        "bz2",
        (
            Rpm("container-selinux"),
            *_others("epel-release 7 11"),
        ),
    ),
    # What the release `1.8-packages` takes from one person's repository: the components as services of the host.
    "k8s-1.8": Repo(
        "onwalk.net/repo",
        "kubernetes",
        "gz",
        (
            Rpm("kubernetes-master", ("kube",)),
            Rpm("kubernetes-node", ("kube",)),
            Rpm("kubernetes-client", ("kube",)),
            Rpm("kubernetes-common", ("kube",)),
            Rpm("etcd", (), ("etcd-server", "etcd-client")),
            Rpm("flannel", ("standins",)),
            Rpm("docker", (), ("docker.io", "containerd", "runc")),
        ),
    ),
}


def repository(repo_id: str, version: str = "v1.20.2", extra: Sequence[str] = ()) -> Built:
    """Return the repository repo_id (a key of REPOS): Packages/ and repodata/, everything signed.

    version is that of the Kubernetes packages; extra adds the Kubernetes packages of further versions.
    """
    repo = REPOS[repo_id]
    built = [_package(p, repo.vendor, v) for p in repo.packages for v in _versions(p, version, extra)]
    name = f"repos/{repo_id}"
    if any("kube" in p.needs for p in repo.packages):
        name = of_versions(name, (version, *extra))
    return step(name, [*built, repo.compression, keys(), Path(__file__)], lambda out: _publish(repo, built, out))


def _versions(package: Rpm, version: str, extra: Sequence[str]) -> list[str]:
    return [version, *extra] if "kube" in package.needs else [version]


def _package(package: Rpm, vendor: str, version: str) -> Built:
    have = {"kube": binaries, "standins": lambda _: standins()}
    needs = {n: have[n](version) for n in package.needs}
    name = f"{package.name}-{version}" if "kube" in needs else package.name
    versions = debian_versions(*package.debian) if package.debian else []
    inputs = [
        SPECS / f"{package.spec}.spec",
        SPECS / "files",
        SPECS / "macros",
        package,
        vendor,
        keys(),
        versions,
        *needs.values(),
    ]
    defines = {
        "assets": str(SPECS / "files"),
        "kube_version": version.lstrip("v"),
        **{n: str(b.path) for n, b in needs.items()},
        **dict(zip(("placeholder", "placeholder_version", "placeholder_release"), package.placeholder.split())),
    }
    return step(f"rpms/{name}", inputs, lambda out: _rpmbuild(package.spec, defines, vendor, out))


def _rpmbuild(spec: str, defines: dict[str, str], vendor: str, out: Path) -> None:
    work = out / "work"
    words = ["rpmbuild", "-bb", "--quiet", "--load", str(SPECS / "macros")]
    for name, value in {**defines, "_topdir": str(work), "_rpmdir": str(work / "RPMS")}.items():
        words += ["--define", f"{name} {value}"]
    run(*words, SPECS / f"{spec}.spec", env={"SOURCE_DATE_EPOCH": EPOCH, "HOME": str(work)})
    (rpm,) = (work / "RPMS").glob("*/*.rpm")
    rpm = rpm.rename(out / rpm.name)
    shutil.rmtree(work)
    _sign(rpm, vendor)


def _sign(rpm: Path, vendor: str) -> None:
    ring = keys().path / "gnupg"
    extra = " ".join(gpg_words(ring)[3:])
    try:
        run(
            "rpmsign",
            "--addsign",
            "--define",
            f"_gpg_name {user_id(vendor)}",
            "--define",
            f"_gpg_path {ring}",
            "--define",
            "__gpg /usr/bin/gpg",
            "--define",
            "_gpg_digest_algo sha256",
            "--define",
            f"_gpg_sign_cmd_extra_args {extra}",
            rpm,
        )
    finally:
        stop_agent(ring)


def _publish(repo: Repo, built: Sequence[Built], out: Path) -> None:
    (out / "Packages").mkdir()
    for rpm in sorted(f for b in built for f in b.path.glob("*.rpm")):
        prefix = hashlib.sha256(rpm.read_bytes()).hexdigest() + "-" if repo.hashed_names else ""
        target = out / "Packages" / (prefix + rpm.name)
        os.link(rpm, target)
        os.utime(target, (int(EPOCH), int(EPOCH)))
    run(
        "createrepo_c",
        "--quiet",
        "--no-database",
        "--general-compress-type",
        repo.compression,
        "--revision",
        EPOCH,
        "--set-timestamp-to-revision",
        out,
    )
    _sign_metadata(out / "repodata/repomd.xml", f"{repo.vendor}-repo" if repo.hashed_names else repo.vendor)


def _sign_metadata(repomd: Path, vendor: str) -> None:
    ring = keys().path / "gnupg"
    try:
        run(
            *gpg_words(ring),
            "--local-user",
            f"{vendor}@lab.invalid",
            "--digest-algo",
            "sha256",
            "--armor",
            "--detach-sign",
            repomd,
        )
    finally:
        stop_agent(ring)
