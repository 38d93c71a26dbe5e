"""The lab's upstream, asked by the clients that people use: skopeo, dnf, curl; and that it is what it says it is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.lab import Process
from tests.lab.upstream import driver, servers
from tests.lab.upstream.home import LabError, home, step
from tests.lab.upstream.images import catalog

pytestmark = [pytest.mark.root, pytest.mark.lab]

MANIFESTS = Path(__file__).parents[2] / "manifests"
RELEASE = yaml.safe_load((MANIFESTS / "1.20.yaml").read_text())
ADDONS = [yaml.safe_load(p.read_text()) for p in sorted((MANIFESTS / "addons").glob("*.yaml"))]
EL7 = RELEASE["hosts"]["el7"]


@pytest.fixture(scope="module")
def mirrors() -> Iterator[dict[str, str]]:
    """Upstream -> where it is served; the servers run, and stop afterwards unless they ran before."""
    ran = all(servers.status().values())
    driver.build()
    yield yaml.safe_load(driver.start().read_text())["mirrors"]
    if not ran:
        servers.stop()


def wanted_images() -> list[str]:
    own = [a for a in ADDONS if a["addon"] in RELEASE["addons"] and "1.20" in a["releases"]]
    entries = [*RELEASE["images"], *(image for addon in own for image in addon["images"])]
    return [e if isinstance(e, str) else e["ref"] for e in entries]


def here(mirrors: dict[str, str], url: str) -> str:
    """Where the lab has an upstream URL; {arch} and {rpmarch} filled in."""
    url = url.format(arch="amd64", rpmarch="x86_64")
    prefix = next(m for m in mirrors if url.startswith(m + "/"))
    return mirrors[prefix] + url[len(prefix) :]


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def skopeo(*words: str) -> Any:
    out = subprocess.run(["skopeo", *words], check=True, capture_output=True).stdout
    return json.loads(out)


def program(name: str, *words: str) -> str:
    """What a built program prints, on stdout or stderr."""
    done = subprocess.run([home() / name, *words], check=True, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


def docker(mirrors: dict[str, str], ref: str) -> str:
    host, _, rest = ref.partition("/")
    return f"docker://{mirrors[host].removeprefix('http://')}/{rest}"


@pytest.mark.parametrize("ref", wanted_images())
def test_every_image_is_there_as_described(mirrors: dict[str, str], ref: str) -> None:
    image = catalog()[ref]
    manifest = skopeo("inspect", "--raw", "--tls-verify=false", docker(mirrors, ref))
    kind = {
        ("v2s2", False): "docker.distribution.manifest.v2",
        ("v2s2", True): "docker.distribution.manifest.list.v2",
        ("oci", False): "oci.image.manifest.v1",
        ("oci", True): "oci.image.index.v1",
    }[image.form, image.many]
    assert manifest["mediaType"] == f"application/vnd.{kind}+json"
    if image.many:
        assert [m["platform"]["architecture"] for m in manifest["manifests"]] == ["amd64", "arm64"]
    config = skopeo("inspect", "--config", "--tls-verify=false", docker(mirrors, ref))
    labels = config["config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == ref
    stand_in = ref.startswith(("k8s.gcr.io/coredns", "quay.io/coreos/flannel"))
    assert ("stand-in" in labels["org.opencontainers.image.description"]) is stand_in


def test_images_share_layers(mirrors: dict[str, str]) -> None:
    proxy, flannel = (
        skopeo("inspect", "--tls-verify=false", docker(mirrors, ref))["Layers"]
        for ref in ("k8s.gcr.io/kube-proxy:v1.20.2", "quay.io/coreos/flannel:v0.13.0")
    )
    assert len(set(proxy) & set(flannel)) == 3


@pytest.fixture(scope="module")
def unpacked(mirrors: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The root file systems of the images that bring a shell, as pulled."""
    roots = {}
    for name in ("docker.io/library/busybox:1.33", "k8s.gcr.io/kube-proxy:v1.20.2", "quay.io/coreos/flannel:v0.13.0"):
        pulled, root = tmp_path_factory.mktemp("pulled"), tmp_path_factory.mktemp("root")
        words = ["--override-arch", "amd64", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
        subprocess.run(["skopeo", *words, docker(mirrors, name), f"dir:{pulled}"], check=True)
        for one in json.loads((pulled / "manifest.json").read_text())["layers"]:
            with tarfile.open(pulled / one["digest"].partition(":")[2]) as tar:
                tar.extractall(root, filter="fully_trusted")
        roots[name.split("/")[-1].split(":")[0]] = root
    return roots


def inside(root: Path, script: str) -> str:
    done = subprocess.run(["chroot", root, "/bin/sh", "-ec", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_busybox_resolves_names_and_serves(mirrors: dict[str, str], unpacked: dict[str, Path]) -> None:
    (unpacked["busybox"] / "etc/hosts").write_text("127.0.0.1 dl.lab.test\n")
    url = here(mirrors, "https://dl.k8s.io/release/stable.txt").replace("127.0.0.1", "dl.lab.test")
    assert inside(unpacked["busybox"], f"wget -q -O - {url}") == "v1.20.2"
    assert inside(unpacked["busybox"], f"wget -q -T 5 {url} -O -") == "v1.20.2"
    assert {"httpd", "nslookup", "wget", "sh"} <= set(inside(unpacked["busybox"], "busybox --list").split())


@pytest.mark.parametrize("name", ["kube-proxy", "flannel"])
def test_iptables_of_an_image_has_the_libraries_of_its_plugins(unpacked: dict[str, Path], name: str) -> None:
    assert "nf_tables" in inside(unpacked[name], "iptables --version")
    # Services of two endpoints need `statistic`, whose plugin is linked with libm.
    assert "statistic match options" in inside(unpacked[name], "iptables -m statistic --help")


def test_kubernetes_says_its_version(mirrors: dict[str, str]) -> None:
    assert program("kube-v1.20.2/kubeadm", "version", "-o", "short") == "v1.20.2"
    assert program("kube-v1.20.2/kubelet", "--version") == "Kubernetes v1.20.2"


@pytest.mark.parametrize("name", ["coredns", "crictl", "flanneld"])
def test_stand_ins_say_that_they_are(mirrors: dict[str, str], name: str) -> None:
    assert "lab stand-in" in program(f"standins/{name}", "--version")


@pytest.mark.parametrize("name", ["kubectl", "kubeadm", "kubelet"])
def test_checksum_files_match(mirrors: dict[str, str], name: str) -> None:
    url = here(mirrors, f"https://dl.k8s.io/release/v1.20.2/bin/linux/{{arch}}/{name}")
    assert get(url + ".sha256").decode() == hashlib.sha256(get(url)).hexdigest()


def test_every_file_that_the_manifests_name_is_there(mirrors: dict[str, str]) -> None:
    urls = [u for b in RELEASE["binaries"] for u in (b["url"], b["checksum"])]
    urls += [m["url"] for a in ADDONS for m in a.get("manifests", []) if "url" in m and "1.20" in a["releases"]]
    urls += [u for r in EL7["repos"] for u in (r["baseurl"] + "/repodata/repomd.xml", *r["keys"])]
    for url in urls:
        request = urllib.request.Request(here(mirrors, url), method="HEAD")
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert int(answer.headers["Content-Length"]) > 0, url


def test_flannel_manifest_has_what_the_add_on_replaces(mirrors: dict[str, str]) -> None:
    addon = next(a for a in ADDONS if a["addon"] == "flannel")
    text = get(here(mirrors, addon["manifests"][0]["url"])).decode()
    for rule in addon["replace"]:
        assert rule["from"] in text
    objects = {(o["kind"], o["metadata"]["name"]) for o in yaml.safe_load_all(text) if o}
    assert {("ConfigMap", "kube-flannel-cfg"), ("DaemonSet", "kube-flannel-ds")} < objects


def test_metadata_is_compressed_in_several_ways(mirrors: dict[str, str]) -> None:
    repomds = (get(here(mirrors, r["baseurl"] + "/repodata/repomd.xml")).decode() for r in EL7["repos"])
    assert {re.search(r"primary\.xml\.(\w+)", text)[1] for text in repomds} == {"gz", "xz", "bz2"}  # type: ignore[index]


def host_package(directory: Path) -> Path:
    """An empty package that provides what the manifest takes as installed."""
    provides = "".join(f"Provides: {name}\n" for name in EL7["installed"])
    spec = directory / "host.spec"
    spec.write_text(
        f"Name: host\nVersion: 7\nRelease: 1\nSummary: -\nLicense: -\nBuildArch: noarch\n{provides}"
        "%description\n-\n%files\n"
    )
    subprocess.run(
        ["rpmbuild", "--quiet", "-bb", "-D", f"_topdir {directory}", "-D", f"_rpmdir {directory}", spec], check=True
    )
    return next(directory.glob("noarch/*.rpm"))


def dnf(directory: Path, mirrors: dict[str, str], *specs: str, key: str = "") -> subprocess.CompletedProcess[str]:
    """Install specs into directory/root with stock dnf, signatures checked; key is used instead of the right ones."""
    (directory / "repos").mkdir()
    for repo in EL7["repos"]:
        keys = [key] if key else [here(mirrors, k) for k in repo["keys"]]
        (directory / f"repos/{repo['id']}.repo").write_text(
            f"[{repo['id']}]\nname={repo['id']}\nbaseurl={here(mirrors, repo['baseurl'])}\nenabled=1\ngpgcheck=1\n"
            f"repo_gpgcheck={int(not key)}\ngpgkey={' '.join(keys)}\n"
        )
    settings = {
        "reposdir": directory / "repos",
        "cachedir": directory / "cache",
        "localpkg_gpgcheck": 0,
        "module_platform_id": "platform:el7",
        "tsflags": "noscripts",
    }
    words = ["dnf", "-y", "-q", f"--installroot={directory}/root", "--releasever=7"]
    words += [f"--setopt={name}={value}" for name, value in settings.items()]
    words += ["install", str(host_package(directory)), *specs]
    env = {**os.environ, "HOME": str(directory)}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=env)


def test_dnf_installs_the_master_role_with_signatures_checked(mirrors: dict[str, str], tmp_path: Path) -> None:
    done = dnf(tmp_path, mirrors, *EL7["roles"]["master"])
    assert done.returncode == 0, done.stderr
    query = ["rpm", "--root", str(tmp_path / "root"), "-qa", "--qf", "%{name}-%{version} "]
    names = subprocess.run(
        query, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "HOME": str(tmp_path)}
    )
    installed = {n for n in names.stdout.split() if not n.startswith("gpg-pubkey")}
    assert installed == {
        "host-7",
        "kubelet-1.20.2",
        "kubeadm-1.20.2",
        "kubectl-1.20.2",
        "kubernetes-cni-0.8.7",
        "cri-tools-1.13.0",
        "containerd.io-1.6.20",
        "container-selinux-2.119.2",
        "socat-1.7.3.2",
        "tcp_wrappers-libs-7.6",
        "conntrack-tools-1.4.4",
        "libnetfilter_cthelper-1.0.0",
        "libnetfilter_cttimeout-1.0.0",
        "libnetfilter_queue-1.0.2",
        "keepalived-1.3.5",
        "libnl3-3.2.28",
        "lm_sensors-libs-3.4.0",
        "net-snmp-agent-libs-5.7.2",
        "net-snmp-libs-5.7.2",
        "pciutils-libs-3.5.1",
    }
    kubeadm = subprocess.run(
        [tmp_path / "root/usr/bin/kubeadm", "version", "-o", "short"], capture_output=True, check=True
    )
    assert kubeadm.stdout == b"v1.20.2\n"


def test_dnf_refuses_packages_of_another_key(mirrors: dict[str, str], tmp_path: Path) -> None:
    done = dnf(tmp_path, mirrors, "kubeadm-1.20.2", key=here(mirrors, "https://download.docker.com/linux/centos/gpg"))
    assert done.returncode != 0
    assert "GPG" in done.stderr or "not correct" in done.stderr
    assert not (tmp_path / "root/usr/bin/kubeadm").exists()


def test_access_logs_record_what_was_asked(mirrors: dict[str, str]) -> None:
    url = here(mirrors, "https://dl.k8s.io/release/v1.20.2/bin/linux/amd64/kubectl")
    before = len(servers.accesses("files"))
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=100-199"}), timeout=5) as answer:
        assert answer.status == 206
        answer.read()
    entry = next(e for e in servers.accesses("files")[before:] if e["range"] == "bytes=100-199")
    assert (entry["method"], entry["status"], entry["bytes"]) == ("GET", 206, 100)
    assert entry["path"] == "/dl.k8s.io/release/v1.20.2/bin/linux/amd64/kubectl"
    get(mirrors["k8s.gcr.io"].replace("/k8s.gcr.io", "/v2/k8s.gcr.io/pause/tags/list"))
    assert servers.accesses("registry")[-1]["path"] == "/v2/k8s.gcr.io/pause/tags/list"


def test_building_and_starting_again_changes_nothing(mirrors: dict[str, str]) -> None:
    running, began = servers.status(), time.monotonic()
    stamps = {
        p: p.stat().st_mtime_ns for p in home().rglob("*.key") if "gnupg" not in p.parts and "labs" not in p.parts
    }
    driver.build()
    driver.start()
    assert time.monotonic() - began < 20, "what is built is only looked at: some seconds, on a busy machine"
    assert servers.status() == running
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_stop_spares_a_process_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    Process(os.getpid(), 1).save(
        tmp_path / "run/nginx.pid"
    )  # the number of a live process, which began at another time
    assert servers.status() == {"nginx": None, "registry": None}
    servers.stop()
    assert not (tmp_path / "run/nginx.pid").exists()


def test_a_step_runs_again_only_when_its_inputs_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    source, runs = tmp_path / "source", []

    def make(out: Path) -> None:
        runs.append(1)
        (out / "copy").write_bytes(source.read_bytes())

    for text, count in (("a", 1), ("a", 1), ("b", 2)):
        source.write_text(text)
        assert (step("made", [source], make).path / "copy").read_text() == text
        assert len(runs) == count


def test_a_step_that_fails_leaves_the_former_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))

    def good(out: Path) -> None:
        (out / "file").write_text("good")

    def fail(out: Path) -> None:
        raise LabError("no")

    step("made", [1], good)
    with pytest.raises(LabError):
        step("made", [2], fail)
    assert (tmp_path / "made/file").read_text() == "good"
