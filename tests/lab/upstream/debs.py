"""Debs under upstream's names, Debian's own beside them, and the signed apt repositories that hold both."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote

from .home import EPOCH, HERE, Built, debian_versions, home, of_versions, run, step
from .keys import DEBIAN, debian_keys, gpg_words, keys, stop_agent
from .kube import binaries
from .standins import standins

ASSETS = HERE / "specs" / "files"
KUBERNETES = "packages.cloud.google.com/apt"
KEY_URLS = {f"{KUBERNETES}/doc/apt-key.gpg": "kubernetes-repo", "ftp-master.debian.org/keys/archive-key-12.asc": DEBIAN,
            "ftp-master.debian.org/keys/archive-key-12-security.asc": DEBIAN}  # fmt: skip
# What a release wants of Debian, and what is declared of a minimal host: with all that both depend on.
WANTED = ("containerd", "conntrack", "ebtables", "ethtool", "iptables", "socat")
MINIMAL = ("curl", "iproute2", "kmod", "libc6", "mount", "netbase", "openssl", "procps", "systemd", "util-linux")
ESSENTIAL = (
    "base-files", "base-passwd", "bash", "bsdutils", "coreutils", "dash", "debianutils", "diffutils", "dpkg",
    "findutils", "grep", "gzip", "hostname", "init-system-helpers", "libc-bin", "login", "ncurses-base", "ncurses-bin",
    "perl-base", "sed", "sysvinit-utils", "tar", "util-linux",
)  # fmt: skip
SUITES = {"debian": "bookworm", "debian-security": "bookworm-security"}
_UNIT = """#!/bin/sh
set -e
{body}
"""
_START = """if [ "$1" = configure ]; then
  deb-systemd-helper unmask kubelet.service >/dev/null || true
  deb-systemd-helper enable kubelet.service >/dev/null || true
  deb-systemd-helper update-state kubelet.service >/dev/null || true
  if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
    deb-systemd-invoke start kubelet.service >/dev/null || true
  fi
fi"""
_STOP = """if [ -d /run/systemd/system ] && [ "$1" = remove ]; then
  deb-systemd-invoke stop kubelet.service >/dev/null || true
fi"""
_PURGE = """if [ "$1" = purge ]; then
  deb-systemd-helper purge kubelet.service >/dev/null || true
  deb-systemd-helper unmask kubelet.service >/dev/null || true
fi
if [ -d /run/systemd/system ]; then systemctl --system daemon-reload >/dev/null || true; fi"""


@dataclass(frozen=True)
class Deb:
    """A package: its version (without one, that of Kubernetes), what it depends on, and its files by path."""

    name: str
    version: str = ""
    depends: str = ""
    files: tuple[tuple[str, str], ...] = ()  # path in the package, kube:NAME or standins:NAME or asset:NAME or a path
    service: bool = False


KUBE = (
    Deb("kubelet", "",
        "iptables (>= 1.4.21), kubernetes-cni (>= 0.8.7), iproute2, socat, util-linux, mount, ebtables, ethtool,"
        " conntrack",
        (("usr/bin/kubelet", "kube:kubelet"), ("lib/systemd/system/kubelet.service", "asset:kubelet.service")),
        service=True),
    Deb("kubeadm", "",
        "kubelet (>= 1.13.0), kubectl (>= 1.13.0), kubernetes-cni (>= 0.8.6), cri-tools (>= 1.13.0)",
        (("usr/bin/kubeadm", "kube:kubeadm"),
         ("etc/systemd/system/kubelet.service.d/10-kubeadm.conf", "asset:10-kubeadm.conf"))),
    Deb("kubectl", "", "", (("usr/bin/kubectl", "kube:kubectl"),)),
    Deb("kubernetes-cni", "0.8.7-00", "",
        (("opt/cni/bin/", "/usr/lib/cni"), ("opt/cni/bin/flannel", "standins:flannel"))),
    Deb("cri-tools", "1.13.0-01", "", (("usr/bin/crictl", "standins:crictl"),)),
    *(Deb(n, f"{v}-00") for n in ("kubelet", "kubeadm", "kubectl") for v in ("1.19.7", "1.20.1", "1.20.4")),
)  # fmt: skip


def kubernetes_apt(version: str = "v1.20.2") -> Built:
    """Return Google's apt repository: pool/ and dists/kubernetes-xenial, signed; other versions are empty."""
    built = {"kube": binaries(version), "standins": standins()}
    plugins = debian_versions("containernetworking-plugins")
    inputs = [*built.values(), KUBE, version, ASSETS, plugins, keys(), Path(__file__)]
    return step(of_versions("apt-kubernetes", [version]), inputs, lambda out: _kubernetes(version, built, out))


def debian_apt() -> Built:
    """Return the part of Debian that is needed, its own packages, under debian/ and debian-security/, signed anew."""
    every, base = _closure(WANTED), _closure(())
    inputs = [every, base, ESSENTIAL, debian_keys(), Path(__file__)]
    return step("apt-debian", inputs, lambda out: _debian(every, set(base), out))


def _kubernetes(version: str, built: dict[str, Built], out: Path) -> None:
    (out / "pool").mkdir()
    for deb in KUBE:
        places = {name: one.path for name, one in built.items()}
        made = _build(deb, deb.version or f"{version.lstrip('v')}-00", places, out / "work")
        digest = hashlib.sha256(made.read_bytes()).hexdigest()
        made.rename(out / "pool" / f"{made.stem}_{digest}.deb")  # as upstream's pool names them
    run("rm", "-r", out / "work")
    packages = run("dpkg-scanpackages", "-m", "pool", cwd=out)
    _publish(out / "dists/kubernetes-xenial", "kubernetes-xenial", packages, keys(), "kubernetes-repo")


def _build(deb: Deb, version: str, built: dict[str, Path], work: Path) -> Path:
    root = work / f"{deb.name}-{version}"
    control = root / "DEBIAN"
    control.mkdir(parents=True)
    fields = [f"Package: {deb.name}", f"Version: {version}", "Architecture: amd64", "License: Apache-2.0",
              *([f"Depends: {deb.depends}"] if deb.depends else []), "Maintainer: Kubecarry lab <lab@lab.invalid>",
              f"Description: {deb.name}, lab build", ""]  # fmt: skip
    (control / "control").write_text("\n".join(fields))
    for path, source in deb.files:
        _put(root / path, source, built)
    conffiles = [f"/{path}\n" for path, _ in deb.files if path.startswith("etc/")]
    if conffiles:
        (control / "conffiles").write_text("".join(conffiles))
    for name, body in (("postinst", _START), ("prerm", _STOP), ("postrm", _PURGE)) if deb.service else ():
        (control / name).write_text(_UNIT.format(body=body))
        (control / name).chmod(0o755)
    path = work / f"{deb.name}_{version}_amd64.deb"
    run("dpkg-deb", "--build", "-Zgzip", "-z1", "--root-owner-group", root, path, env={"SOURCE_DATE_EPOCH": EPOCH})
    return path


def _put(target: Path, source: str, built: dict[str, Path]) -> None:
    kind, _, name = source.partition(":")
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind == "asset":
        run("install", "-m644", ASSETS / name, target)
    elif name:
        run("install", "-m755", built[kind] / name, target)
    else:
        run("cp", "-LrT", source, target)


def _closure(names: Sequence[str]) -> list[str]:
    """Return `URL name version` of these Debian packages, a minimal host's, and all that they depend on."""
    place = home() / "apt" / "closure"
    (place / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    (place / "status").write_text("")
    words = ["apt-get", "-qq", "-y", "--no-install-recommends", "--print-uris", "-o", "Debug::NoLocking=1",
             "-o", f"Dir::State::status={place}/status", "-o", f"Dir::Cache={place}/cache"]  # fmt: skip
    lines = run(*words, "install", *names, *MINIMAL, *ESSENTIAL).splitlines()
    found = [line.split() for line in lines if line.startswith("'http")]
    return sorted(f"{url.strip(chr(39))} {' '.join(unquote(file).split('_')[:2])}" for url, file, *_ in found)


def _debian(every: Sequence[str], base: set[str], out: Path) -> None:
    # One call for all: apt reads its whole index each time
    told = run("apt-cache", "show", *("=".join(line.split()[1:]) for line in every)).strip().split("\n\n")
    stanzas = {(fields["Package"], fields["Version"]): (fields["Filename"], text) for text in told
               for fields in [dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)]}  # fmt: skip
    wanted = [tuple(line.split()) for line in every if line not in base]
    run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *(f"{n}={v}" for _, n, v in wanted), cwd=out)
    for url, name, version in wanted:
        path = out / url.split("/")[3] / stanzas[name, version][0]
        path.parent.mkdir(parents=True, exist_ok=True)
        next(out.glob(f"{name}_{version.replace(':', '%3a')}_*.deb")).rename(path)
    for top, suite in SUITES.items():
        mine = [tuple(line.split()[1:]) for line in every if f"/{top}/pool/" in line]
        _publish(out / top / "dists" / suite, suite, "\n\n".join([*(stanzas[m][1] for m in mine), ""]),
                 debian_keys(), DEBIAN)  # fmt: skip


def _publish(top: Path, suite: str, packages: str, ring: Built, vendor: str) -> None:
    """Write main's Packages for amd64, and Release, InRelease and Release.gpg over it."""
    folder = top / "main/binary-amd64"
    folder.mkdir(parents=True)
    files = {"Packages": packages.encode(), "Packages.gz": gzip.compress(packages.encode(), mtime=0)}
    sums = ""
    for name, data in files.items():
        (folder / name).write_bytes(data)
        sums += f" {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/{name}\n"
    date = formatdate(int(EPOCH), usegmt=True)
    (top / "Release").write_text(f"Suite: {suite}\nCodename: {suite}\nComponents: main\nArchitectures: amd64\n"
                                 f"Date: {date}\nSHA256:\n{sums}")  # fmt: skip
    home_of_ring = ring.path / "gnupg"
    try:
        for how, name in (("--clearsign", "InRelease"), ("--detach-sign", "Release.gpg")):
            run(*gpg_words(home_of_ring), "--local-user", f"{vendor}@lab.invalid", "--digest-algo", "sha256", "--armor",
                "--output", top / name, how, top / "Release")  # fmt: skip
    finally:
        stop_agent(home_of_ring)
    os.utime(top / "Release", (int(EPOCH), int(EPOCH)))
