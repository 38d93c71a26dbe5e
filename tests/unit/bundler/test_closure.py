from __future__ import annotations

import re
from pathlib import Path

import pytest

from bundler import closure
from bundler.archive import Member
from bundler.closure.contents import Planned
from bundler.closure.images import Carried, Wish, kubeadm_gaps
from bundler.closure.rpm import RpmRepository
from bundler.fetch.registry import Reference
from bundler.manifest import Host, Repo
from bundler.resolve.rpm import resolve_arch
from tests.unit.bundler.resolve.yumrepo import FolderReader, Pkg, make_repo

NODE_SCRIPTS = Path(__file__).parents[3] / "installer/node"


def repository(tmp_path: Path, *packages: Pkg, host: tuple[str, ...] = ()) -> RpmRepository:
    make_repo(tmp_path / "p", list(packages))
    found = [Member.of(path.relative_to(tmp_path).as_posix(), path.read_bytes())
             for path in tmp_path.rglob("*") if path.is_file()]
    return RpmRepository(Planned(found), "p", "x86_64", host)


def files(*names: str) -> set[str]:
    return {f"Packages/{name}.rpm" for name in names}


class TestPackages:
    def test_what_is_needed_is_installed(self, tmp_path: Path) -> None:
        repo = repository(tmp_path, Pkg("a-1-1.x86_64", ("b >= 2", "/bin/sh")), Pkg("b-2-1.noarch"), host=("/bin/sh",))
        solved = repo.solve(["a-1"], files("a-1-1.x86_64", "b-2-1.noarch"))
        assert solved.installed == files("a-1-1.x86_64", "b-2-1.noarch")
        assert (solved.spare, solved.assumed, solved.gaps) == ((), (), ())

    def test_another_roles_package_is_no_help(self, tmp_path: Path) -> None:
        repo = repository(tmp_path, Pkg("a-1-1.x86_64", ("b",)), Pkg("b-1-1.x86_64"))
        solved = repo.solve(["a"], files("a-1-1.x86_64"))
        assert solved.gaps == ("nothing provides b needed by a-1-1.x86_64",)
        assert repo.solve(["a"], files("a-1-1.x86_64", "b-1-1.x86_64")).gaps == ()

    def test_wanted_package_that_is_not_listed(self, tmp_path: Path) -> None:
        solved = repository(tmp_path, Pkg("a-1-1.x86_64")).solve(["a", "gone-2"], files("a-1-1.x86_64"))
        assert solved.gaps == ("package gone-2 is wanted, and not in the role's list",)

    def test_conflict_is_a_gap(self, tmp_path: Path) -> None:
        repo = repository(tmp_path, Pkg("a-1-1.x86_64", ("b",)), Pkg("b-1-1.x86_64", conflicts=("a",)))
        assert repo.solve(["a"], files("a-1-1.x86_64", "b-1-1.x86_64")).gaps

    def test_listed_but_not_needed(self, tmp_path: Path) -> None:
        repo = repository(tmp_path, Pkg("a-1-1.x86_64"), Pkg("idle-1-1.x86_64"))
        solved = repo.solve(["a"], files("a-1-1.x86_64", "idle-1-1.x86_64"))
        assert (solved.installed, solved.spare) == (files("a-1-1.x86_64"), ())

    def test_alternative_is_reported_as_spare(self, tmp_path: Path) -> None:
        packages = (
            Pkg("a-1-1.x86_64", ("mail", "two")),
            Pkg("one-1-1.x86_64", provides=("mail",)),
            Pkg("two-1-1.x86_64", provides=("mail",)),
        )
        repo = repository(tmp_path, *packages)
        both = repo.solve(["a", "one"], files("a-1-1.x86_64", "one-1-1.x86_64", "two-1-1.x86_64"))
        assert both.spare == ()
        chosen = repo.solve(["a"], files("a-1-1.x86_64", "one-1-1.x86_64", "two-1-1.x86_64"))
        assert set(chosen.spare) == files("one-1-1.x86_64")
        assert repo.solve(["a"], files("a-1-1.x86_64", "two-1-1.x86_64")).gaps == ()
        assert repo.solve(["a"], files("a-1-1.x86_64", "one-1-1.x86_64")).gaps

    def test_file_dependency(self, tmp_path: Path) -> None:
        repo = repository(tmp_path, Pkg("a-1-1.x86_64", ("/opt/tool",)), Pkg("t-1-1.noarch", files=("/opt/tool",)))
        assert repo.solve(["a"], files("a-1-1.x86_64", "t-1-1.noarch")).gaps == ()

    def test_assumes_of_the_host_only_if_told(self, tmp_path: Path) -> None:
        repo = repository(tmp_path, Pkg("a-1-1.x86_64", ("libx.so.1",)))
        assert repo.solve(["a"], files("a-1-1.x86_64")).gaps
        solved = repo.solve(["a"], files("a-1-1.x86_64"), assume=True)
        assert (solved.gaps, solved.assumed) == ((), ("libx.so.1",))

    def test_shortest_chain(self, tmp_path: Path) -> None:
        repo = repository(tmp_path, Pkg("a-1-1.x86_64", ("b", "c")), Pkg("b-1-1.x86_64", ("c",)), Pkg("c-1-1.x86_64"))
        listed = files("a-1-1.x86_64", "b-1-1.x86_64", "c-1-1.x86_64")
        (target,) = files("c-1-1.x86_64")
        assert repo.chain(["a-1"], listed, target) == ["a-1", "a-1-1.x86_64 needs c", "c-1-1.x86_64"]
        assert repo.chain(["b"], listed - {target}, target) == []


def test_what_lock_calls_given_is_what_the_proof_lacks(tmp_path: Path) -> None:
    packages = [
        Pkg("app-1-1.x86_64", ("libbase.so.1", "dep", "bash", "(extra if base)", "deep >= 2")),
        Pkg("dep-1-1.x86_64"),
        Pkg("base-1-1.x86_64", ("deep",), provides=("libbase.so.1",)),
        Pkg("deep-2-1.x86_64"),
        Pkg("extra-1-1.x86_64"),
    ]
    make_repo(tmp_path / "up", packages)
    roles = {"master": ("app",), "node": ("app",)}
    host = Host("el7", "rpm", (Repo("up", "https://h/up", ()),), ("bash", "base"), roles)
    lock = resolve_arch(host, "amd64", FolderReader(tmp_path))
    assert set(lock.given or ()) >= {"libbase.so.1", "deep >= 2"}
    assert "bash" not in (lock.given or ())
    carried = [package for package in packages if any(package.nevra in name for name in lock.roles["master"])]
    repo = repository(tmp_path / "bundle", *carried, host=(*host.installed, *(lock.given or ())))
    listed = {f"Packages/{name}" for name in lock.roles["master"]}
    solved = repo.solve(["app"], listed)
    assert (solved.gaps, solved.installed) == ((), frozenset(listed))
    for gone in listed:
        assert repo.solve(["app"], listed - {gone}).gaps, gone


@pytest.mark.parametrize(
    ("wished", "carried", "met"),
    [
        ("r.test/a:1", "r.test/a:1", True),
        ("r.test/a:2", "r.test/a:1", False),
        ("r.test/b:1", "r.test/a:1", False),
        ("busybox:1", "docker.io/library/busybox:1", True),
        (f"r.test/a:9@sha256:{'a' * 64}", "r.test/a:1", True),
        (f"r.test/a@sha256:{'b' * 64}", "r.test/a:1", False),
    ],
)
def test_image_is_the_one_by_digest_or_tag(wished: str, carried: str, met: bool) -> None:
    image = Carried(Reference.parse(carried), ("master",), {f"sha256:{'a' * 64}"})
    assert Wish(Reference.parse(wished), "x").met_by(image) is met


KUBEADM = {
    "v1.8.14": ["kube-apiserver-amd64:v1.8.14", "kube-controller-manager-amd64:v1.8.14", "kube-scheduler-amd64:v1.8.14",
                "kube-proxy-amd64:v1.8.14", "etcd-amd64:3.0.17", "k8s-dns-kube-dns-amd64:1.14.5",
                "k8s-dns-dnsmasq-nanny-amd64:1.14.5", "k8s-dns-sidecar-amd64:1.14.5"],
    "v1.20.2": ["kube-apiserver:v1.20.2", "kube-controller-manager:v1.20.2", "kube-scheduler:v1.20.2",
                "kube-proxy:v1.20.2", "etcd:3.4.13-0", "coredns:1.7.0"],
    "v1.36.2": ["kube-apiserver:v1.36.2", "kube-controller-manager:v1.36.2", "kube-scheduler:v1.36.2",
                "kube-proxy:v1.36.2", "etcd:3.6.8-0", "coredns/coredns:v1.14.2"],
}


@pytest.mark.parametrize("version", KUBEADM)
def test_images_of_kubeadm(version: str) -> None:
    contract = {"kubernetes": version, "arches": ["amd64"], "node": {"IMAGE_REPOSITORY": "r.test/k"}}
    carried = [Carried(Reference.parse(f"r.test/k/{name}"), ("master", "node")) for name in KUBEADM[version]]
    assert kubeadm_gaps(contract, carried) == []
    for number, gone in enumerate(KUBEADM[version]):
        (gap,) = kubeadm_gaps(contract, carried[:number] + carried[number + 1 :])
        assert gone.split(":")[0] in gap
        assert "wanted by kubeadm" in gap


def test_every_fixed_path_that_a_node_script_fetches_is_proven() -> None:
    contract = {
        "hosts": {"$HOST_OS": {"keys": [], "roles": {"r": "lists/$HOST_OS/$ROLE.packages"}}},
        "addons": [],
        "node": {"NETWORK_MANIFESTS": "", "ADDON_MANIFESTS": ""},
    }
    proven = {path for path, _ in closure.fetched(contract)}
    asked = set()
    for script in NODE_SCRIPTS.glob("*.sh"):
        for line in script.read_text().splitlines():
            if match := re.match(r"\s*fetch (\S.*)$", line):
                asked |= set(match[1].replace('"', "").split())
    # NETWORK_MANIFESTS and ADDON_MANIFESTS; the role's list, repodata and keys; a layer of an image, proven with it.
    lists = {"$@", "${paths[@]}", "images/blobs/sha256/$hex"}
    assert asked >= {"lists/images", "lists/$HOST_OS/$ROLE.packages"}
    assert asked - lists <= proven
