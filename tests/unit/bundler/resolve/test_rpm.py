from __future__ import annotations

import hashlib
from pathlib import Path

import createrepo_c as cr
import pytest

from bundler.errors import FetchError, IntegrityError, ResolveError
from bundler.lock import ArchLock
from bundler.manifest import Host, Repo
from bundler.resolve.repomd import Metadata
from bundler.resolve.rpm import compare_evr, resolve_arch
from tests.unit.bundler.resolve.yumrepo import FolderReader, Pkg, make_repo

BASE = Repo("base", "https://h/base/{rpmarch}", ())
COMPRESSIONS = ["NO", "GZ", "XZ", "BZ2", "ZSTD"]


def host(*master: str, node: tuple[str, ...] = (), installed: tuple[str, ...] = (), repos: tuple[Repo, ...] = (BASE,)):
    return Host("el7", "rpm", repos, installed, {"master": master, "node": node or master})


def make(
    folder: Path, *packages: Pkg, where: str = "base/x86_64", compression: int = cr.GZ_COMPRESSION
) -> FolderReader:
    make_repo(folder / where, list(packages), compression)
    return FolderReader(folder)


def names(lock: ArchLock, role: str = "master") -> set[str]:
    return {name.rsplit(".", 2)[0] for name in lock.roles[role]}


class TestClosure:
    def test_what_is_needed_and_nothing_else(self, tmp_path: Path) -> None:
        reader = make(
            tmp_path,
            Pkg("app-1.0-1.x86_64", requires=("libfoo >= 2", "tool"), recommends=("extra",)),
            Pkg("libfoo-1-1.x86_64"),
            Pkg("libfoo-2-1.x86_64"),
            Pkg("tool-1-1.noarch"),
            Pkg("extra-1-1.noarch"),
            Pkg("other-1-1.noarch"),
        )
        lock = resolve_arch(host("app", node=("tool",)), "amd64", reader)
        assert names(lock) == {"app-1.0-1", "libfoo-2-1", "tool-1-1"}
        assert names(lock, "node") == {"tool-1-1"}
        assert [p.filename for p in lock.packages] == sorted(p.filename for p in lock.packages)

    def test_package_as_plain_data(self, tmp_path: Path) -> None:
        reader = make(tmp_path, Pkg("app-2:1.0-1.x86_64"))
        (package,) = resolve_arch(host("app"), "amd64", reader).packages
        assert package.url == "https://h/base/x86_64/Packages/app-1.0-1.x86_64.rpm"
        assert (package.repoid, package.name, package.evr) == ("base", "app", "2:1.0-1")
        assert package.sha256 == hashlib.sha256(b"app-2:1.0-1.x86_64").hexdigest()
        assert (package.size, package.sourcerpm) == (1018, "app-1.0-1.src.rpm")
        assert package.source == "https://h/base/x86_64/repodata/repomd.xml"

    @pytest.mark.parametrize(
        ("spec", "evr"),
        [
            ("app", "1:0.9-1"),
            ("app-1.10", "1.10-2"),
            ("app-1.10-1", "1.10-1"),
            ("app-1.9", "1.9-1"),
            ("app-1:0.9", "1:0.9-1"),
        ],
    )
    def test_forms_of_a_spec(self, tmp_path: Path, spec: str, evr: str) -> None:
        builds = ("1.10-1", "1.9-1", "1.10-2", "1:0.9-1")
        reader = make(tmp_path, *(Pkg(f"app-{build}.x86_64") for build in builds), Pkg("app-tools-9-9.x86_64"))
        (package,) = resolve_arch(host(spec), "amd64", reader).packages
        assert package.evr == evr

    def test_an_exact_dependency_pulls_the_older_build(self, tmp_path: Path) -> None:
        """The trap of Kubernetes 1.8: kubelet wants kubernetes-cni 0.5.1, although 0.6.0 is there."""
        cni = [Pkg(f"kubernetes-cni-{evr}.x86_64") for evr in ("0.5.1-0", "0.5.1-1", "0.6.0-0")]
        kubelet = Pkg("kubelet-1.8.14-0.x86_64", requires=("kubernetes-cni = 0.5.1",))
        kubeadm = Pkg("kubeadm-1.8.14-0.x86_64", requires=("kubernetes-cni", "kubelet >= 1.6.0"))
        late = Pkg("kubeadm-1.8.15-0.x86_64", requires=("kubernetes-cni >= 0.6.0", "kubelet >= 1.6.0"))
        reader = make(tmp_path, *cni, kubelet, kubeadm, late)
        lock = resolve_arch(host("kubelet-1.8.14", "kubeadm-1.8.14"), "amd64", reader)
        assert names(lock) == {"kubelet-1.8.14-0", "kubeadm-1.8.14-0", "kubernetes-cni-0.5.1-1"}
        with pytest.raises(ResolveError) as caught:
            resolve_arch(host("kubelet-1.8.14", "kubeadm-1.8.15"), "amd64", reader)
        assert "el7 master x86_64 cannot be installed" in caught.value.message
        assert "kubernetes-cni" in caught.value.message

    def test_only_the_architecture_that_was_asked_for(self, tmp_path: Path) -> None:
        packages = (Pkg("app-1-1.x86_64", requires=("lib",)), Pkg("lib-1-1.x86_64"), Pkg("lib-2-1.i686"))
        reader = make(tmp_path, *packages)
        make(tmp_path, Pkg("app-1-1.aarch64"), where="base/aarch64")
        assert names(resolve_arch(host("app"), "amd64", reader)) == {"app-1-1", "lib-1-1"}
        assert resolve_arch(host("app"), "arm64", reader).packages[0].filename == "app-1-1.aarch64.rpm"

    def test_same_answer_whatever_the_order(self, tmp_path: Path) -> None:
        packages = [Pkg("app-1-1.noarch", requires=("either",))]
        packages += [Pkg(f"p{number}-1-1.noarch", provides=("either",)) for number in range(9)]
        one = make(tmp_path / "one", *packages)
        two = make(tmp_path / "two", *packages)
        assert resolve_arch(host("app"), "amd64", one) == resolve_arch(host("app"), "amd64", two)

    def test_roles_share_a_provider(self, tmp_path: Path) -> None:
        """Alone, node would take the best of its own; beside master it takes what is carried already."""
        reader = make(
            tmp_path,
            Pkg("m-1-1.noarch", requires=("lib = 1",)),
            Pkg("n-1-1.noarch", requires=("lib",)),
            Pkg("lib-1-1.noarch"),
            Pkg("lib-2-1.noarch"),
        )
        lock = resolve_arch(host("m", node=("n",)), "amd64", reader)
        assert names(lock, "node") == {"n-1-1", "lib-1-1"}

    def test_two_builds_of_one_package_are_refused(self, tmp_path: Path) -> None:
        reader = make(tmp_path, Pkg("a-1-1.noarch"), Pkg("a-2-1.noarch"))
        with pytest.raises(ResolveError, match=r"two builds of one package, a [12]-1 and [12]-1"):
            resolve_arch(host("a-1", node=("a-2",)), "amd64", reader)

    def test_roles_may_conflict(self, tmp_path: Path) -> None:
        reader = make(tmp_path, Pkg("a-1-1.noarch", conflicts=("b",)), Pkg("b-1-1.noarch"))
        lock = resolve_arch(host("a", node=("b",)), "amd64", reader)
        assert (names(lock), names(lock, "node")) == ({"a-1-1"}, {"b-1-1"})
        with pytest.raises(ResolveError, match="conflicts"):
            resolve_arch(host("a", "b"), "amd64", reader)

    def test_several_repositories(self, tmp_path: Path) -> None:
        extras = Repo("extras", "https://h/extras", ())
        reader = make(tmp_path, Pkg("app-1-1.noarch", requires=("lib",)))
        make(tmp_path, Pkg("lib-1-1.noarch"), where="extras")
        lock = resolve_arch(host("app", repos=(BASE, extras)), "amd64", reader)
        assert [(p.name, p.repoid) for p in lock.packages] == [("app", "base"), ("lib", "extras")]


class TestMinimalHost:
    packages = (
        Pkg("app-1-1.x86_64", requires=("libc.so.6()(64bit)", "iptables >= 1.4", "/bin/sh", "socat")),
        Pkg("glibc-2.17-1.x86_64", requires=("basesystem",), provides=("libc.so.6()(64bit)",)),
        Pkg("basesystem-10-1.noarch"),
        Pkg("socat-1-1.x86_64", requires=("basesystem",)),
    )

    def test_nothing_of_it_is_carried(self, tmp_path: Path) -> None:
        reader = make(tmp_path, *self.packages)
        lock = resolve_arch(host("app", installed=("glibc", "iptables", "/bin/sh")), "amd64", reader)
        assert names(lock) == {"app-1-1", "socat-1-1"}

    def test_a_capability_is_enough(self, tmp_path: Path) -> None:
        reader = make(tmp_path, *self.packages)
        lock = resolve_arch(host("app", installed=("libc.so.6()(64bit)", "iptables", "/bin/sh")), "amd64", reader)
        assert names(lock) == {"app-1-1", "socat-1-1", "basesystem-10-1"}

    @pytest.mark.parametrize("relation", ["= 1.4.21-1", ">= 1.4", "= 1.4"])
    def test_a_version_that_fits(self, tmp_path: Path, relation: str) -> None:
        reader = make(tmp_path, *self.packages)
        installed = ("glibc", f"iptables {relation}", "/bin/sh")
        assert names(resolve_arch(host("app", installed=installed), "amd64", reader)) == {"app-1-1", "socat-1-1"}

    def test_a_version_that_does_not(self, tmp_path: Path) -> None:
        reader = make(tmp_path, *self.packages)
        with pytest.raises(ResolveError, match=r"nothing provides iptables >= 1\.4 needed by app-1-1"):
            resolve_arch(host("app", installed=("glibc", "iptables = 1.2", "/bin/sh")), "amd64", reader)

    def test_lacking_capability_is_named(self, tmp_path: Path) -> None:
        reader = make(tmp_path, *self.packages)
        with pytest.raises(ResolveError, match="nothing provides /bin/sh needed by app-1-1"):
            resolve_arch(host("app", installed=("glibc", "iptables")), "amd64", reader)

    def test_what_is_asked_for_by_name_is_carried_all_the_same(self, tmp_path: Path) -> None:
        reader = make(tmp_path, *self.packages)
        assert names(resolve_arch(host("glibc", installed=("glibc",)), "amd64", reader)) == {"glibc-2.17-1"}

    def test_an_installed_package_that_the_repositories_cannot_complete(self, tmp_path: Path) -> None:
        reader = make(
            tmp_path, Pkg("app-1-1.noarch", requires=("systemd",)), Pkg("systemd-1-1.noarch", requires=("x",))
        )
        assert names(resolve_arch(host("app", installed=("systemd",)), "amd64", reader)) == {"app-1-1"}


class TestFilelists:
    packages = (
        Pkg("app-1-1.noarch", requires=("/usr/bin/tool",)),
        Pkg("tool-1-1.noarch", files=("/usr/bin/tool",)),
        Pkg("data-1-1.noarch", files=("/usr/share/data/x",)),
        Pkg("new-1-1.noarch", requires=("/usr/share/data/x",)),
        Pkg("new-0-1.noarch"),
    )

    def test_not_fetched_without_need(self, tmp_path: Path) -> None:
        reader = make(tmp_path, *self.packages)
        assert names(resolve_arch(host("app"), "amd64", reader)) == {"app-1-1", "tool-1-1"}
        assert not [url for url in reader.asked if "filelists" in url]

    def test_fetched_for_a_file_that_primary_does_not_list(self, tmp_path: Path) -> None:
        reader = make(tmp_path, *self.packages)
        # without filelists, new-0 would be the only one that can be installed
        assert names(resolve_arch(host("new"), "amd64", reader)) == {"new-1-1", "data-1-1"}
        assert len([url for url in reader.asked if "filelists" in url]) == 1


class TestKeep:
    packages = (Pkg("app-1-1.noarch", requires=("lib",)), Pkg("app-2-1.noarch", requires=("lib",)))
    packages += (Pkg("lib-1-1.noarch"), Pkg("lib-2-1.noarch"))

    def kept(self, *nevras: str) -> set[str]:
        return {hashlib.sha256(nevra.encode()).hexdigest() for nevra in nevras}

    def test_what_is_locked_stays(self, tmp_path: Path) -> None:
        reader = make(tmp_path, *self.packages)
        keep = self.kept("app-1-1.noarch", "lib-1-1.noarch")
        assert names(resolve_arch(host("app"), "amd64", reader)) == {"app-2-1", "lib-2-1"}
        assert names(resolve_arch(host("app"), "amd64", reader, keep)) == {"app-1-1", "lib-1-1"}
        assert names(resolve_arch(host("app"), "amd64", reader, self.kept("lib-1-1.noarch"))) == {"app-2-1", "lib-1-1"}

    def test_unless_something_newer_is_asked_for(self, tmp_path: Path) -> None:
        newer = Pkg("app-3-1.noarch", requires=("lib >= 2",))
        reader = make(tmp_path, *self.packages, newer)
        keep = self.kept("app-1-1.noarch", "lib-1-1.noarch")
        assert names(resolve_arch(host("app-3"), "amd64", reader, keep)) == {"app-3-1", "lib-2-1"}


class TestPolicies:
    """SELinux policies come in chains: a newer container policy wants a newer base policy, and tools to load it."""

    packages = (
        Pkg("engine-1-1.noarch", requires=("container-selinux >= 2:2.74",)),
        Pkg("container-selinux-2:2.119-1.noarch", requires=("selinux-policy-targeted >= 3.13.1-216", "policytools")),
        Pkg("selinux-policy-targeted-3.13.1-268.noarch", requires=("selinux-policy = 3.13.1-268",)),
        Pkg("selinux-policy-3.13.1-268.noarch"),
        Pkg("policytools-2.5-34.noarch", requires=("policycoreutils = 2.5-34",)),
        Pkg("policycoreutils-2.5-34.noarch"),
    )

    def test_an_older_host_gets_the_whole_chain(self, tmp_path: Path) -> None:
        installed = ("selinux-policy-targeted = 3.13.1-166", "policycoreutils = 2.5-17")
        lock = resolve_arch(host("engine", installed=installed), "amd64", make(tmp_path, *self.packages))
        assert {package.name for package in lock.packages} == {
            "engine", "container-selinux", "selinux-policy-targeted", "selinux-policy", "policytools",
            "policycoreutils",
        }  # fmt: skip

    def test_a_host_of_the_same_age_gets_what_it_lacks(self, tmp_path: Path) -> None:
        installed = ("selinux-policy-targeted = 3.13.1-268", "policycoreutils = 2.5-34")
        lock = resolve_arch(host("engine", installed=installed), "amd64", make(tmp_path, *self.packages))
        assert {package.name for package in lock.packages} == {"engine", "container-selinux", "policytools"}

    def test_a_policy_declared_without_a_version_is_told(self, tmp_path: Path) -> None:
        told: list[str] = []
        installed = ("selinux-policy-targeted", "policycoreutils = 2.5-34")
        reader = make(tmp_path, *self.packages)
        resolve_arch(host("engine", installed=installed), "amd64", reader, warn=told.append)
        (line,) = told
        assert line.startswith("el7 x86_64: container-selinux-2:2.119-1.noarch wants selinux-policy-targeted >= 3.13.1")
        assert "`selinux-policy-targeted = EVR`" in line

    def test_a_conditional_policy_follows_the_host(self, tmp_path: Path) -> None:
        packages = (Pkg("app-1-1.noarch", requires=("(app-selinux if selinux-policy)",)), Pkg("app-selinux-1-1.noarch"))
        reader = make(tmp_path, *packages)
        assert names(resolve_arch(host("app"), "amd64", reader)) == {"app-1-1"}
        found = names(resolve_arch(host("app", installed=("selinux-policy",)), "amd64", reader))
        assert found == {"app-1-1", "app-selinux-1-1"}


class TestKernelModules:
    @pytest.mark.parametrize(
        "pkg",
        [
            Pkg("kmod-x-1-1.x86_64", requires=("kernel-uname-r = 3.10.0-1127.el7",)),
            Pkg("kmod-x-1-1.x86_64", requires=("kernel(printk) = 0x27e1a049",)),
            Pkg("kmod-x-1-1.x86_64", provides=("kmod(x.ko)",)),
        ],
    )
    def test_they_are_told(self, tmp_path: Path, pkg: Pkg) -> None:
        told: list[str] = []
        reader = make(tmp_path, pkg, Pkg("app-1-1.noarch", requires=("kmod-x",)))
        installed = ("kernel-uname-r", "kernel(printk)")
        resolve_arch(host("app", installed=installed), "amd64", reader, warn=told.append)
        assert len(told) == 1
        assert told[0].startswith("el7 x86_64: kmod-x-1-1.x86_64 is for one kernel")

    def test_others_are_not(self, tmp_path: Path) -> None:
        told: list[str] = []
        resolve_arch(host("app"), "amd64", make(tmp_path, Pkg("app-1-1.noarch")), warn=told.append)
        assert told == []


class TestErrors:
    def test_unknown_package_names_repository_and_versions(self, tmp_path: Path) -> None:
        reader = make(tmp_path, Pkg("kubelet-1.20.1-0.x86_64"), Pkg("kubelet-1.20.4-0.x86_64"))
        with pytest.raises(ResolveError) as caught:
            resolve_arch(host("kubelet-1.20.2"), "amd64", reader)
        assert caught.value.message == "el7: no package kubelet-1.20.2 for x86_64 in https://h/base/x86_64"
        assert caught.value.hint == "There is kubelet-1.20.1-0, kubelet-1.20.4-0."
        assert caught.value.exit_code == 4

    def test_digest_other_than_sha256(self, tmp_path: Path) -> None:
        reader = make(tmp_path, Pkg("app-1-1.noarch", sha="sha1"))
        with pytest.raises(ResolveError, match=r"gives no sha256 of app-1-1\.noarch"):
            resolve_arch(host("app"), "amd64", reader)


class TestMetadata:
    def metadata(self, folder: Path, reader: FolderReader) -> Metadata:
        (folder / "work").mkdir()
        return Metadata(BASE.for_arch("amd64"), reader, folder / "work")

    @pytest.mark.parametrize("name", COMPRESSIONS)
    def test_every_compression(self, tmp_path: Path, name: str) -> None:
        compression = getattr(cr, f"{name}_COMPRESSION")
        reader = make(tmp_path, *TestFilelists.packages, compression=compression)
        suffix = {"NO": ".xml", "GZ": ".gz", "XZ": ".xz", "BZ2": ".bz2", "ZSTD": ".zst"}[name]
        assert len(list((tmp_path / "base/x86_64/repodata").glob(f"*-primary*{suffix}"))) == 1
        metadata = self.metadata(tmp_path, reader)
        assert metadata.part("primary").read_bytes().startswith(b"<?xml")
        assert b"/usr/share/data/x" in metadata.part("filelists").read_bytes()
        assert names(resolve_arch(host("new"), "amd64", reader)) == {"new-1-1", "data-1-1"}

    def test_no_repository(self, tmp_path: Path) -> None:
        with pytest.raises(FetchError, match=r"https://h/base/x86_64/repodata/repomd\.xml"):
            self.metadata(tmp_path, FolderReader(tmp_path))

    @pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"<repomd>"])
    def test_no_repomd(self, tmp_path: Path, content: bytes) -> None:
        reader = make(tmp_path, Pkg("a-1-1.noarch"))
        (tmp_path / "base/x86_64/repodata/repomd.xml").write_bytes(content)
        with pytest.raises(ResolveError, match=r"repomd\.xml"):
            self.metadata(tmp_path, reader).part("primary")

    def test_flipped_byte(self, tmp_path: Path) -> None:
        reader = make(tmp_path, Pkg("a-1-1.noarch"))
        (path,) = (tmp_path / "base/x86_64/repodata").glob("*-primary.xml.gz")
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match=path.name):
            self.metadata(tmp_path, reader).part("primary")

    def test_lacking_part(self, tmp_path: Path) -> None:
        with pytest.raises(ResolveError, match="lists no modules"):
            self.metadata(tmp_path, make(tmp_path, Pkg("a-1-1.noarch"))).part("modules")


@pytest.mark.parametrize(
    ("one", "other", "sign"),
    [("1.10-1", "1.9-1", 1), ("1:1-1", "2-1", 1), ("1-1", "1-1", 0), ("1.0~rc1-1", "1.0-1", -1), ("1-1", "1-2", -1)],
)
def test_compare_evr(one: str, other: str, sign: int) -> None:
    found = compare_evr(one, other)
    assert (found > 0) - (found < 0) == sign
