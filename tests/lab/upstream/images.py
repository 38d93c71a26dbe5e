"""The images under their upstream names: real programs where Debian has them, labelled stand-ins where it does not."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import oci
from .home import HERE, Built, debian_versions, of_versions, run, step
from .kube import binaries
from .servers import temporary_registry
from .standins import standins

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
NETWORK = ("iptables", "conntrack", "ipset", "iproute2", "netbase", "libxtables12")
BUSYBOX = ("busybox", "libc6", "base-files")
Contents = Callable[[Path, str], dict[str, object]]
ETCD = ("etcd-server", "etcd-client")


@dataclass(frozen=True)
class Image:
    """One image: its layers' names, what it says of itself, and the media types that its registry gives it."""

    layers: tuple[str, ...]
    about: str
    entrypoint: str = ""
    form: str = "v2s2"  # v2s2 (Docker schema 2) or oci
    many: bool = False  # an index: amd64, and a placeholder for arm64


def catalog(version: str = "v1.20.2") -> dict[str, Image]:
    """Return every image of the release and of its add-ons, by reference."""
    built = f"Kubernetes {version}, compiled from Debian's source"
    kube = {
        f"k8s.gcr.io/{n}:{version}": Image(("base", n), built, f"/usr/local/bin/{n}")
        for n in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    }
    return {
        **kube,
        f"k8s.gcr.io/kube-proxy:{version}": Image(("base", "shell", "network", "kube-proxy"), built),
        "k8s.gcr.io/etcd:3.4.13-0": Image(("base", "etcd"), "Debian's etcd 3.4", many=True),
        "k8s.gcr.io/pause:3.2": Image(("pause",), "pause of Kubernetes 1.20.2", "/pause", many=True),
        "k8s.gcr.io/coredns:1.7.0": Image(("base", "coredns"), "lab stand-in for CoreDNS", "/coredns", form="oci"),
        "quay.io/coreos/flannel:v0.13.0": Image(
            ("base", "shell", "network", "flannel"), "lab stand-in for flannel, host-gw only", "/opt/bin/flanneld"
        ),
        "docker.io/library/busybox:1.33": Image(("base", "shell"), "Debian's busybox", form="oci", many=True),
    }


def registry_data(versions: Sequence[str] = ("v1.20.2",)) -> Built:
    """Return the storage directory (data/) of a registry that holds the catalog of each version."""
    images = {ref: image for v in versions for ref, image in catalog(v).items()}
    layers = {(name, v): layer(name, v) for v in versions for one in catalog(v).values() for name in one.layers}
    versioned = {ref: v for v in versions for ref in catalog(v)}
    inputs = [images, *layers.values(), HERE / "oci.py", Path(__file__)]
    return step(of_versions("registry", versions), inputs, lambda out: _push(out, images, layers, versioned))


def layer(name: str, version: str) -> Built:
    """Return the directory of one layer, to be read by oci.Layer.load."""
    contents, debian, ours = _LAYERS.get(name, (_kube_binary, (), "kube"))
    needs = [binaries(version)] if ours == "kube" else [standins()] if ours else []
    label = f"{name}-{version}" if ours == "kube" else name
    inputs = [*needs, debian_versions(*debian) if debian else [], HERE / "oci.py", HERE / "files/wget", Path(__file__)]
    source = needs[0].path if needs else Path("/")
    return step(f"layers/{label}", inputs, lambda out: oci.write_layer(out, contents(source, name)))


def _base(_: Path, __: str) -> dict[str, object]:
    return {
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
        "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
        "etc/nsswitch.conf": b"hosts: files dns\n",
        "etc/ssl/certs": None,
        "tmp": None,
        "root": None,
        "run": None,
        "var/run": "../run",
    }


def _shell(_: Path, __: str) -> dict[str, object]:
    # The static busybox dies in getaddrinfo: only the dynamic one resolves names.
    busybox = Path("/usr/bin/busybox")
    applets = run(busybox, "--list").split()
    return {
        "bin/busybox": busybox,
        **_with_libraries(busybox),
        **{f"bin/{a}": "busybox" for a in applets if a != "busybox"},
        "bin/wget": HERE / "files/wget",
    }


def _network(_: Path, __: str) -> dict[str, object]:
    programs = {p: Path(f"/usr/sbin/{p}") for p in ("xtables-nft-multi", "xtables-legacy-multi", "conntrack", "ipset")}
    programs["ip"] = Path("/usr/bin/ip")
    names = [f"{p}{s}" for p in ("iptables", "ip6tables") for s in ("", "-save", "-restore")]
    links = {f"usr/sbin/{name}": "xtables-nft-multi" for name in names}
    # A plugin that lacks a library of its own (libm, for `statistic`) breaks every rule set of two endpoints or more.
    plugins = sorted((LIBRARIES / "xtables").glob("*.so"))
    return {
        **{f"usr/sbin/{name}": path for name, path in programs.items()},
        **links,
        **{str(p)[1:]: p for p in plugins},
        **_with_libraries(*programs.values(), *plugins),
        **{f"etc/{n}": Path(f"/etc/{n}") for n in ("protocols", "ethertypes")},
    }


def _etcd(_: Path, __: str) -> dict[str, object]:
    programs = [Path("/usr/bin/etcd"), Path("/usr/bin/etcdctl")]
    return {**{f"usr/local/bin/{p.name}": p for p in programs}, **_with_libraries(*programs), "var/etcd": None}


def _kube_binary(source: Path, name: str) -> dict[str, object]:
    return {f"usr/local/bin/{name}": source / name}


def _at(path: str) -> Contents:
    return lambda source, _: {path: source / Path(path).name}


# What is in a layer, the Debian packages that it depends on, and whose build it is from (kube, standins or neither).
_LAYERS: Mapping[str, tuple[Contents, tuple[str, ...], str]] = {
    "base": (_base, (), ""),
    "shell": (_shell, BUSYBOX, ""),
    "network": (_network, NETWORK, ""),
    "etcd": (_etcd, ETCD, ""),
    "pause": (_at("pause"), (), "standins"),
    "coredns": (_at("coredns"), (), "standins"),
    "flannel": (_at("opt/bin/flanneld"), (), "standins"),
}


def _with_libraries(*programs: Path) -> dict[str, object]:
    """Return the shared libraries of programs, and the loader, at the paths where the loader looks."""
    found = re.findall(r"(/\S+) \(0x", run("ldd", *programs))
    return {path[1:]: Path(path) for path in found}


def _push(
    out: Path, images: Mapping[str, Image], layers: Mapping[tuple[str, str], Built], versioned: Mapping[str, str]
) -> None:
    layout_path = out / "layout"
    layout_path.mkdir()
    layout = oci.Layout(layout_path)
    with temporary_registry(out / "data") as address:
        for ref, image in images.items():
            own = [oci.Layer.load(layers[name, versioned[ref]].path) for name in image.layers]
            layout.add(ref, _write(layout, ref, image, own))
            run(
                "skopeo",
                "copy",
                "--quiet",
                "--all",
                "--insecure-policy",
                "--dest-tls-verify=false",
                "--format",
                image.form,
                f"oci:{layout_path}:{ref}",
                f"docker://{address}/{ref}",
            )
    shutil.rmtree(layout_path)


def _write(layout: oci.Layout, ref: str, image: Image, layers: Sequence[oci.Layer]) -> dict[str, object]:
    labels = {"org.opencontainers.image.title": ref, "org.opencontainers.image.description": f"{image.about} (lab)"}
    config: dict[str, object] = {"Env": [PATH], "Labels": labels}
    if image.entrypoint:
        config["Entrypoint"] = [image.entrypoint]
    elif "shell" in image.layers:
        config["Cmd"] = ["sh"]
    amd64 = layout.image(layers, config)
    return layout.list([amd64, _placeholder(layout, ref)]) if image.many else amd64


def _placeholder(layout: oci.Layout, ref: str) -> dict[str, object]:
    """An arm64 image without a program: it is there to be chosen, or not, by platform."""
    text = f"{ref} for arm64: a placeholder of the lab, nothing runs here"
    directory = layout.root / re.sub("[/:]", "_", ref)
    directory.mkdir()
    oci.write_layer(directory, {"PLACEHOLDER": f"{text}\n".encode()})
    labels = {"org.opencontainers.image.title": ref, "org.opencontainers.image.description": text}
    return layout.image([oci.Layer.load(directory)], {"Labels": labels}, "arm64")
