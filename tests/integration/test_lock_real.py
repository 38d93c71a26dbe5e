"""libsolv against dnf: the same real packages, the same repository, the same minimal host, the same answer."""

from __future__ import annotations

import functools
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import createrepo_c
import pytest

from bundler.errors import ResolveError
from bundler.fetch.http import Client
from bundler.fetch.mirrors import Mirrors
from bundler.manifest import Host, Repo
from bundler.resolve.rpm import resolve_arch

pytestmark = pytest.mark.root

# name-[epoch:]version-release, then its tags and files
PACKAGES = {
    "minimal-1-1": ["Requires: shell"],
    "shell-4-1": ["Provides: /bin/sh", "/usr/bin/shell"],
    "kubelet-1.20.2-0": ["Requires: /bin/sh, cni >= 0.8.6, conntrack, /usr/share/zones/utc", "Recommends: extra"],
    "kubelet-1.20.4-0": ["Requires: /bin/sh, cni >= 0.8.6"],
    "cni-0.8.6-0": [],
    "cni-0.8.7-0": ["Requires: (policy if selinux)"],
    "cni-1.2.0-0": ["Requires: nowhere-to-be-found"],
    "conntrack-tools-1.4-1": ["Provides: conntrack", "Requires: /usr/sbin/nft"],
    "nft-1-1": ["/usr/sbin/nft"],
    "zones-2020-1": ["/usr/share/zones/utc"],
    "extra-1-1": [],
    "engine-1:1.12-1": ["Requires: selinux, engine-policy = 1:1.12-1"],
    "engine-2.0-1": ["Requires: selinux"],
    "engine-policy-1:1.12-1": ["Provides: policy = 2"],
    "engine-policy-1:1.13-1": [],
    "policy-1-1": ["Conflicts: engine-policy"],
    "selinux-3-1": [],
    "old-1-1": [],
    "new-2-1": ["Obsoletes: old < 2", "Provides: old = 2"],
    "wants-old-1-1": ["Requires: old"],
    "broken-1-1": ["Requires: not-here >= 3"],
}
ROLES = [
    ["kubelet-1.20.2"],
    ["kubelet"],
    ["engine", "kubelet-1.20.2-0"],
    ["engine-2.0", "cni-0.8.6"],
    ["wants-old", "conntrack-tools", "shell"],
    ["cni", "selinux"],
]
COMPRESSIONS = {"gz": "GZ", "xz": "XZ", "bz2": "BZ2", "zst": "ZSTD"}


def run(*command: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def spec(nevr: str, lines: list[str]) -> str:
    name, evr, release = nevr.rsplit("-", 2)
    epoch, _, version = evr.rpartition(":")
    files = [line for line in lines if line.startswith("/")]
    tags = [line for line in lines if not line.startswith("/")] + ([f"Epoch: {epoch}"] if epoch else [])
    install = [f"install -D /dev/null %{{buildroot}}{path}" for path in files]
    head = f"Name: {name}\nVersion: {version}\nRelease: {release}\nSummary: x\nLicense: x\nBuildArch: noarch"
    return "\n".join([head, "AutoReqProv: no", *tags, "%description", "x", "%install", *install, "%files", *files, ""])


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real packages, without metadata."""
    folder = tmp_path_factory.mktemp("packages")
    work = tmp_path_factory.mktemp("rpmbuild")
    specs = []
    for number, (nevr, lines) in enumerate(PACKAGES.items()):
        specs.append(work / f"{number}.spec")
        specs[-1].write_text(spec(nevr, lines))
    run("rpmbuild", "-bb", "--quiet", "--define", f"_topdir {work}", "--define", f"_rpmdir {folder}",
        "--define", "_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm", *specs)  # fmt: skip
    assert len(list(folder.iterdir())) == len(PACKAGES)
    return folder


@pytest.fixture(scope="module")
def upstream(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same packages under /gz, /xz, /bz2 and /zst, each with metadata so compressed."""
    root = tmp_path_factory.mktemp("upstream")
    rpms = sorted(packages.iterdir())
    for name, constant in COMPRESSIONS.items():
        (root / name).mkdir()
        compression = getattr(createrepo_c, f"{constant}_COMPRESSION")
        writer = createrepo_c.RepositoryWriter(str(root / name), num_packages=len(rpms), compression=compression)
        with writer:
            for rpm in rpms:
                os.link(rpm, root / name / rpm.name)
                writer.add_pkg(createrepo_c.package_from_rpm(str(rpm), location_href=rpm.name))
        (primary,) = (root / name / "repodata").glob("*-primary.xml.*")
        assert primary.suffix == f".{name}"
    handler = functools.partial(_Quiet, directory=str(root))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def dnf(upstream: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """dnf with an installroot that holds the minimal host, and nothing of this machine's configuration."""
    root = tmp_path_factory.mktemp("dnf")
    (root / "dnf.conf").write_text(
        f"[main]\ngpgcheck=0\nbest=0\ninstall_weak_deps=0\nreposdir={root}/none\ncachedir={root}/cache\n"
        f"logdir={root}/log\npersistdir={root}/state\npluginpath={root}/none\nmodule_platform_id=platform:el7\n"
        f"[base]\nname=base\nbaseurl={upstream}/gz\n"
    )
    command = [
        "dnf",
        "-y",
        "-c",
        f"{root}/dnf.conf",
        "--releasever=7",
        f"--installroot={root}/root",
        "--forcearch=x86_64",
    ]
    run(*command, "install", "minimal")
    assert sorted(run("rpm", "--root", root / "root", "-qa", "--qf", "%{NAME}\n").split()) == ["minimal", "shell"]
    return command


def resolve(upstream: str, specs: list[str], compression: str = "gz") -> set[str]:
    repo = Repo("base", f"{upstream}/{compression}", ())
    host = Host("el7", "rpm", (repo,), ("minimal",), {"master": tuple(specs), "node": ("nft",)})
    client = Client(Mirrors.parse())
    try:
        return set(resolve_arch(host, "amd64", client).roles["master"])
    finally:
        client.close()


@pytest.mark.parametrize("specs", ROLES, ids=" ".join)
def test_same_set_as_dnf(upstream: str, dnf: list[str], tmp_path: Path, specs: list[str]) -> None:
    run(*dnf, "install", "--downloadonly", f"--downloaddir={tmp_path}", *specs)
    expected = {path.name for path in tmp_path.iterdir()}
    # What is asked for by name is carried, even if the minimal host has it.
    assert resolve(upstream, specs) - {"shell-4-1.noarch.rpm"} == expected
    assert len(expected) > 1


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_same_set_from_every_compression(upstream: str, compression: str) -> None:
    assert resolve(upstream, ROLES[0], compression) == {
        "kubelet-1.20.2-0.noarch.rpm",
        "cni-0.8.7-0.noarch.rpm",
        "conntrack-tools-1.4-1.noarch.rpm",
        "nft-1-1.noarch.rpm",
        "zones-2020-1.noarch.rpm",
    }


def test_both_refuse_what_cannot_be_installed(upstream: str, dnf: list[str], tmp_path: Path) -> None:
    said = run(*dnf, "install", "--downloadonly", f"--downloaddir={tmp_path}", "broken", code=1)
    assert "nothing provides not-here >= 3" in said
    with pytest.raises(ResolveError, match="nothing provides not-here >= 3 needed by broken-1-1"):
        resolve(upstream, ["broken"])


def test_carried_set_installs_with_rpm_alone(upstream: str, dnf: list[str], packages: Path, tmp_path: Path) -> None:
    """The closure is enough: rpm, which fetches nothing, accepts it on the minimal host."""
    root = next(option for option in dnf if option.startswith("--installroot=")).partition("=")[2]
    for specs in ROLES:
        carried = [packages / name for name in sorted(resolve(upstream, specs))]
        run("rpm", "--root", root, "-U", "--test", "--replacepkgs", "--nodigest", *carried)
