"""The file system that every node starts from: a Debian tree, and a layer that makes it a host of some kind."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import yaml

from .upstream.home import LabError, digest_of, home, lock, run, step

HERE = Path(__file__).parent
MANIFEST = HERE.parent.parent / "manifests" / "1.20.yaml"
FILES = HERE / "inside"
PUT_IN = ("lab-prep.service", "lab-prep.sh", "runc.sh")  # of FILES, by golden.sh
SUITE = "bookworm"
# What a minimal host offers, by variant. No socat, no conntrack: the bundle brings them, and iptables to Debian.
PACKAGES = {
    "el7": (
        "ca-certificates", "curl", "dbus", "dnf", "ebtables", "ethtool", "gpg", "hostname", "iproute2", "iptables",
        "iputils-ping", "kmod", "libnss-myhostname", "libseccomp2", "netbase", "openssl", "procps", "rpm", "systemd",
        "systemd-sysv", "tar", "util-linux",
    ),
    "debian12": (
        "ca-certificates", "curl", "dbus", "hostname", "iproute2", "iputils-ping", "kmod", "libnss-myhostname",
        "netbase", "nftables", "openssl", "procps", "systemd", "systemd-sysv", "udev", "util-linux",
    ),
}  # fmt: skip


def layers(variant: str = "el7") -> list[Path]:
    """Return the read-only directories of a node's overlay, topmost first, building what is missing (about 60 s).

    variant is a function of golden.sh. Raises LabError when no Debian mirror is configured or a step fails.
    """
    provided = _installed_on(variant)
    with lock("rootfs"):
        (base_name, inputs), (name, golden) = _steps(variant)
        base = step(base_name, inputs, lambda out: _debootstrap(variant, out))
        top = step(name, golden, lambda out: _golden(variant, base.path, provided, out))
        _prune(keep={home() / name for each in PACKAGES for name, _ in _steps(each)})
    return [top.path / "layer", base.path]


def _steps(variant: str) -> list[tuple[str, list[object]]]:
    """Return name and inputs of a variant's two trees: the Debian one, and the layer upon it."""
    inputs: list[object] = [SUITE, PACKAGES[variant]]
    golden = [*inputs, variant, _installed_on(variant), HERE / "golden.sh", *(FILES / name for name in PUT_IN),
              platform.release()]  # fmt: skip
    return [(f"rootfs-base-{digest_of(inputs)[:12]}", inputs), (f"rootfs-{variant}-{digest_of(golden)[:12]}", golden)]


def mirror() -> str:
    """Return the URI of the first Debian mirror that this machine's apt is configured with; LabError if none."""
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    for line in run("apt-get", "indextargets", "--format", form, "Created-By: Packages").splitlines():
        uri, release, component = line.split()
        if (release, component) == (SUITE, "main"):
            return uri
    raise LabError(f"apt is configured with no mirror of Debian {SUITE} main: add one to /etc/apt, then apt-get update")


def _installed_on(variant: str) -> list[str]:
    """The capabilities that the release manifest takes as given on such a host: an rpm database names just these."""
    return list(yaml.safe_load(MANIFEST.read_text())["hosts"][variant]["installed"])


def _debootstrap(variant: str, out: Path) -> None:
    run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES[variant])}", SUITE, out, mirror())
    # Where dpkg is still asked, it must find every directory that its packages have in common.
    spare = ("doc", "man", "locale", "info") if variant.startswith("el") else ()
    for pattern in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", *(f"usr/share/{name}/*" for name in spare)):
        for path in out.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _golden(variant: str, base: Path, provided: list[str], out: Path) -> None:
    package = [_base_package(provided, out / "rpm")] if variant.startswith("el") else []
    run("unshare", "-m", "--propagation", "private", HERE / "golden.sh", variant, base, out / "layer", FILES,
        *package)  # fmt: skip


def _base_package(provided: list[str], top: Path) -> Path:
    """Build the one package of the rpm database: empty, but providing what the Debian tree has."""
    spec = top / "lab-base-os.spec"
    top.mkdir()
    spec.write_text(
        "Name: lab-base-os\nVersion: 7\nRelease: 1\nSummary: What the base system of a lab node provides\n"
        "License: Apache-2.0\nBuildArch: noarch\nAutoReqProv: no\n"
        + "".join(f"Provides: {name}\n" for name in provided)
        + "%description\nStands for the packages of a minimal EL7 installation.\n%files\n"
    )
    run("rpmbuild", "--quiet", "--define", f"_topdir {top}", "--define", f"_rpmdir {top}", "-bb", spec)
    return next(top.glob("noarch/*.rpm"))


def _prune(keep: set[Path]) -> None:
    """Remove trees of former inputs, except those that a node still stands on."""
    used = {line for file in home().glob("labs/*/nodes/*/lower") for line in file.read_text().split(os.pathsep)}
    for tree in home().glob("rootfs-*"):
        if tree.is_dir() and tree not in keep and not any(Path(u).is_relative_to(tree) for u in used):
            shutil.rmtree(tree)
            tree.with_name(f"{tree.name}.key").unlink(missing_ok=True)
