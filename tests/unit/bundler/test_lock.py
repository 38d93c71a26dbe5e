from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bundler.errors import HostError, LockError
from bundler.lock import (
    ArchLock,
    HostLock,
    LockedFile,
    LockedImage,
    LockedPackage,
    Locks,
    Unresolved,
    missing,
    read_locks,
    satisfies,
    write_locks,
)
from bundler.manifest import load_addons, load_release

ROOT = Path(__file__).parents[3]
SUM = "0123456789abcdef" * 4


def package(name: str, evr: str = "1-1", arch: str = "x86_64", sha256: str = SUM) -> LockedPackage:
    file_name = f"{name}-{evr.split(':')[-1]}.{arch}.rpm"
    return LockedPackage(f"https://h/p/{file_name}", "base", sha256, 10, name, evr, f"{name}.src.rpm", "test")


def arch_lock(*packages: LockedPackage, arch: str = "x86_64") -> ArchLock:
    names = tuple(sorted(p.filename for p in packages))
    return ArchLock(arch, tuple(sorted(packages, key=lambda p: p.url)), {"master": names, "node": names})


KEY = LockedFile("https://h/key.gpg", SUM, 975, "test")
LOCKS = Locks(
    images={
        ref: LockedImage(ref, f"sha256:{SUM}", ("linux/amd64", "linux/arm/v7"), "test")
        for ref in ("docker.io/library/busybox:1.33", "k8s.gcr.io/pause:3.2", "localhost:5000/a:1")
    },
    files={url: LockedFile(url, SUM, None, "test: with a colon") for url in ("https://h/a", "https://h/ü#x")},
    hosts={
        ("1.20", "el7"): HostLock(
            "1.20",
            "el7",
            {
                "aarch64": arch_lock(package("b", arch="noarch"), arch="aarch64"),
                "x86_64": arch_lock(package("a", "1:2-3"), package("b", arch="noarch")),
            },
            (KEY,),
            (Unresolved("kubelet-1.20.2", "no public digest"),),
        ),
        ("1.8", "el7"): HostLock("1.8", "el7", {}),
    },
)


class TestRoundTrip:
    def test_everything_comes_back(self, tmp_path: Path) -> None:
        write_locks(tmp_path, LOCKS)
        assert read_locks(tmp_path) == LOCKS

    def test_same_bytes_whatever_the_order(self, tmp_path: Path) -> None:
        host = LOCKS.hosts["1.20", "el7"]
        x86 = host.arches["x86_64"]
        shuffled_arch = ArchLock("x86_64", x86.packages[::-1], {k: v[::-1] for k, v in reversed(x86.roles.items())})
        shuffled_host = replace(host, arches={"x86_64": shuffled_arch, "aarch64": host.arches["aarch64"]})
        shuffled = Locks(
            dict(reversed(LOCKS.images.items())),
            dict(reversed(LOCKS.files.items())),
            {("1.8", "el7"): LOCKS.hosts["1.8", "el7"], ("1.20", "el7"): shuffled_host},
        )
        write_locks(tmp_path / "one", LOCKS)
        write_locks(tmp_path / "two", shuffled)
        for name in ("rpms.lock", "images.lock", "manifests/files.lock"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        assert (tmp_path / "one/rpms.lock").stat().st_mode & 0o777 == 0o644

    def test_releases_are_in_order_of_version(self, tmp_path: Path) -> None:
        write_locks(tmp_path, LOCKS)
        assert re.findall(r"^release: '(.*)'$", (tmp_path / "rpms.lock").read_text(), re.M) == ["1.8", "1.20"]

    def test_konflux_and_imgpkg_fields(self, tmp_path: Path) -> None:
        write_locks(tmp_path, LOCKS)
        document = list(yaml.safe_load_all((tmp_path / "rpms.lock").read_text()))[1]
        assert (document["lockfileVersion"], document["lockfileVendor"]) == (1, "redhat")
        assert [arch["arch"] for arch in document["arches"]] == ["aarch64", "x86_64"]
        entry = document["arches"][1]["packages"][0]
        assert list(entry)[:7] == ["url", "repoid", "size", "checksum", "name", "evr", "sourcerpm"]
        assert entry["checksum"] == f"sha256:{SUM}"
        images = yaml.safe_load((tmp_path / "images.lock").read_text())
        assert (images["apiVersion"], images["kind"]) == ("imgpkg.carvel.dev/v1alpha1", "ImagesLock")
        assert images["images"][0]["image"] == f"docker.io/library/busybox@sha256:{SUM}"
        assert images["images"][0]["annotations"]["kbld.carvel.dev/id"] == "docker.io/library/busybox:1.33"

    def test_absent_and_empty_locks(self, tmp_path: Path) -> None:
        assert read_locks(tmp_path) == Locks()
        write_locks(tmp_path, Locks())
        assert read_locks(tmp_path) == Locks()

    def test_unwritable_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(HostError, match=r"file/rpms\.lock"):
            write_locks(tmp_path / "file", LOCKS)

    def test_failed_write_leaves_the_old_lock(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_locks(tmp_path, LOCKS)
        before = (tmp_path / "rpms.lock").read_bytes()
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(HostError, match="No space left"):
            write_locks(tmp_path, Locks())
        assert (tmp_path / "rpms.lock").read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["images.lock", "manifests", "rpms.lock"]


# file, what is changed, what the message must name
BAD = [
    ("rpms.lock", "lockfileVersion: 1", "lockfileVersion: 2", r"document 1: lockfileVersion: must be 1"),
    ("rpms.lock", "lockfileVendor: redhat", "lockfileVendor: suse", "lockfileVendor"),
    ("rpms.lock", "release: '1.20'", "release: 1.20", r"document 2: release: must be text"),
    ("rpms.lock", "release: '1.20'", "release: '1.8'", "two documents for release 1.8 on el7"),
    ("rpms.lock", f"checksum: sha256:{SUM}", f"checksum: {SUM}", r"arches\[0\]\.packages\[0\]\.checksum"),
    ("rpms.lock", f"checksum: sha256:{SUM}", f"checksum: sha256:{'1' * 64}", "two packages are named b-1-1.noarch.rpm"),
    ("rpms.lock", "evr: 1:2-3", "evr: 1:2", r"packages\[0\]\.evr"),
    ("rpms.lock", "size: 10", "size: ten", "size: must be a size in bytes"),
    ("rpms.lock", "size: 10", "size: -1", "size: must be a size in bytes"),
    ("rpms.lock", "repoid: base", "", r"repoid: is missing"),
    ("rpms.lock", "https://h/p/a-2-3.x86_64.rpm", "https://h/p/b-1-1.noarch.rpm", "given twice"),
    ("rpms.lock", "https://h/p/a-2-3.x86_64.rpm", "a-2-3.x86_64.rpm", r"packages\[0\]\.url"),
    ("rpms.lock", "    - a-2-3.x86_64.rpm", "    - c.rpm", r"roles\.master: c\.rpm is not among packages"),
    ("rpms.lock", "source: []", "source: [{url: x}]", "source: must be empty"),
    ("rpms.lock", "reason: ", "why: ", r"unresolved\[0\]\.reason: is missing"),
    ("rpms.lock", "name: a", "name: a\n    extra: 1", r"packages\[0\]\.extra: unknown key"),
    ("rpms.lock", "os: el7", "os: [", r"line \d+: "),
    ("images.lock", "kind: ImagesLock", "kind: BundleLock", "kind: must be 'ImagesLock'"),
    ("images.lock", f"busybox@sha256:{SUM}", "busybox:1.33", r"images\[0\]\.image"),
    ("images.lock", "id: docker.io/library/busybox:1.33", "id: docker.io/library/other:1", "is not of docker.io"),
    ("images.lock", "linux/amd64,linux/arm/v7", "amd64", "platforms"),
    ("images.lock", "kubecarry.dev/source: test", "kubecarry.dev/by: test", "source: is missing"),
    ("manifests/files.lock", SUM, SUM.upper(), r"files\[0\]\.sha256"),
    ("manifests/files.lock", "https://h/ü#x", "https://h/a", r"files\[1\]: https://h/a is given twice"),
    ("manifests/files.lock", "size: null", "size: 1.5", r"files\[0\]\.size"),
    ("manifests/files.lock", "files:", "binaries:", "binaries: unknown key"),
]


class TestStrict:
    @pytest.mark.parametrize(("name", "old", "new", "message"), BAD)
    def test_malformed(self, tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
        write_locks(tmp_path, LOCKS)
        path = tmp_path / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        with pytest.raises(LockError, match=message) as caught:
            read_locks(tmp_path)
        assert caught.value.message.startswith(str(path))
        assert caught.value.exit_code == 3


class TestSatisfies:
    @pytest.mark.parametrize("spec", ["a", "a-1.2", "a-1.2-3.el7", "a-4:1.2", "a-4:1.2-3.el7"])
    def test_yes(self, spec: str) -> None:
        assert satisfies(spec, "a", "4:1.2-3.el7")

    @pytest.mark.parametrize("spec", ["a-1", "a-1.2-3", "a-1.2-", "b", "a-5:1.2", "", "a-1.20"])
    def test_no(self, spec: str) -> None:
        assert not satisfies(spec, "a", "4:1.2-3.el7")


class TestMissing:
    release = load_release(ROOT / "manifests", "1.20")
    addons = load_addons(ROOT / "manifests", release, ())
    specs = (
        ("kubelet", "1.20.2"), ("kubeadm", "1.20.2"), ("kubectl", "1.20.2"), ("containerd.io", "1.6.20"),
        ("keepalived", ""),
    )  # fmt: skip

    def complete(self) -> Locks:
        """Return a lock with all that 1.20 wants on amd64."""
        packages = [package(name, f"{version or '1.3.5'}-0") for name, version in self.specs]
        host = self.release.hosts["el7"]
        keys = tuple(replace(KEY, url=url) for url in host.keys)
        refs = [image.ref for part in (self.release, *self.addons) for image in part.images]
        urls = [self.release.binaries[0].for_arch("amd64").url]
        urls += [file.url for addon in self.addons for file in addon.manifests if file.url]
        return Locks(
            {ref: LockedImage(ref, f"sha256:{SUM}", ("linux/amd64",), "test") for ref in refs},
            {url: LockedFile(url, SUM, None, "test") for url in urls},
            {("1.20", "el7"): HostLock("1.20", "el7", {"x86_64": arch_lock(*packages)}, keys)},
        )

    def lacks(self, locks: Locks, *arches: str) -> list[str]:
        return missing(self.release, self.addons, locks, ["el7"], arches or ["amd64"])

    def test_nothing(self) -> None:
        assert self.lacks(self.complete()) == []

    def test_every_single_entry_counts(self) -> None:
        locks = self.complete()
        for ref in locks.images:
            less = replace(locks, images={key: value for key, value in locks.images.items() if key != ref})
            assert self.lacks(less) == [f"image {ref}"]
        for url in locks.files:
            less = replace(locks, files={key: value for key, value in locks.files.items() if key != url})
            assert self.lacks(less) == [f"file {url}"]
        host = locks.hosts["1.20", "el7"]
        for key in host.keys:
            less_host = replace(host, keys=tuple(other for other in host.keys if other != key))
            assert self.lacks(replace(locks, hosts={("1.20", "el7"): less_host})) == [f"key {key.url} (el7)"]
        for gone in host.arches["x86_64"].packages:
            rest = arch_lock(*(p for p in host.arches["x86_64"].packages if p != gone))
            less_host = replace(host, arches={"x86_64": rest})
            wanted = "-".join(filter(None, (gone.name, dict(self.specs)[gone.name])))
            found = self.lacks(replace(locks, hosts={("1.20", "el7"): less_host}))
            assert found == [f"package {wanted} (el7 x86_64)"]

    def test_other_architecture(self) -> None:
        found = self.lacks(self.complete(), "amd64", "arm64")
        assert "image k8s.gcr.io/pause:3.2 for linux/arm64 (offers linux/amd64)" in found
        assert "file https://dl.k8s.io/release/v1.20.2/bin/linux/arm64/kubectl" in found
        assert "package kubelet-1.20.2 (el7 aarch64)" in found

    def test_lock_of_an_older_manifest(self) -> None:
        locks = self.complete()
        host = locks.hosts["1.20", "el7"]
        old = [replace(p, evr="1.20.1-0") if p.name == "kubelet" else p for p in host.arches["x86_64"].packages]
        older = replace(host, arches={"x86_64": arch_lock(*old)})
        assert self.lacks(replace(locks, hosts={("1.20", "el7"): older})) == ["package kubelet-1.20.2 (el7 x86_64)"]

    def test_unresolved_says_why_and_a_dependency_counts(self) -> None:
        locks = self.complete()
        host = locks.hosts["1.20", "el7"]
        unresolved = (Unresolved("kubelet-1.20.2", "nobody says"), Unresolved("socat", "gone"))
        rest = arch_lock(*(p for p in host.arches["x86_64"].packages if p.name != "kubelet"))
        less = replace(host, unresolved=unresolved, arches={"x86_64": rest})
        assert self.lacks(replace(locks, hosts={("1.20", "el7"): less})) == [
            "package kubelet-1.20.2 (el7 x86_64): nobody says",
            "package socat (el7): gone",
        ]
