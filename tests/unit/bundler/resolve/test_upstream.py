"""Images, binaries and whole releases, against a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.errors import FetchError, IntegrityError, ResolveError
from bundler.fetch.hosts import Hosts
from bundler.fetch.http import Client
from bundler.fetch.mirrors import Mirrors
from bundler.fetch.registry import Registry
from bundler.lock import HostLock, LockedFile, LockedImage, Locks, Unresolved, missing
from bundler.manifest import Addon, AddonFile, Binary, Host, Image, Release, Repo
from bundler.resolve import resolve
from bundler.resolve.binary import find_digest, resolve_binary, resolve_file
from bundler.resolve.image import resolve_image
from tests.servers.faults import Fault, Images, Upstream, always, on, sha256
from tests.unit.bundler.resolve.yumrepo import Pkg, make_repo

HEX = "0123456789abcdef" * 4
OTHER = "f" * 64


class TestFindDigest:
    @pytest.mark.parametrize(
        "text",
        [
            HEX,
            f"{HEX}\n",
            f"{HEX.upper()}\r\n",
            f"\ufeff{HEX}\n",
            f"{HEX}  kubectl\n",
            f"{HEX} *kubectl\n",
            f"{HEX}  ./bin/linux/kubectl\n",
            f"{OTHER}  kubectl.exe\n{HEX}  kubectl\n{OTHER}  kubectl-convert\n",
            f"SHA256 (kubectl) = {HEX}\nSHA256 (kubelet) = {OTHER}\n",
            f"SHA256(kubectl)= {HEX}\n",
            f"# sums of today\n{HEX}  kubectl\n{HEX}  kubectl\n",
            f"{'0' * 128}  kubectl\n{HEX}  kubectl\n",
        ],
    )
    def test_common_forms(self, text: str) -> None:
        assert find_digest(text, "kubectl", "https://h/sums") == HEX

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "gives no sha256 of kubectl"),
            (f"{HEX}  kubelet\n", "gives no sha256 of kubectl"),
            ("<html>not found</html>", "gives no sha256"),
            (HEX[:-1], "gives no sha256"),
            (f"{HEX}{HEX}", "gives no sha256"),
            (f"SHA512 (kubectl) = {HEX}{HEX}\n", "gives no sha256"),
            (f"{HEX}  kubectl\n{OTHER}  kubectl\n", "gives 2 different sha256 of kubectl"),
        ],
    )
    def test_refused(self, text: str, message: str) -> None:
        with pytest.raises(ResolveError, match=message) as caught:
            find_digest(text, "kubectl", "https://h/sums")
        assert caught.value.message.startswith("https://h/sums: ")


@pytest.fixture
def images() -> Images:
    return Images()


@pytest.fixture
def upstream(images: Images) -> Iterator[Upstream]:
    with Upstream(images.files, types=images.types) as server:
        yield server


@pytest.fixture
def client(upstream: Upstream) -> Iterator[Client]:
    rules = [f"{host}={upstream.url}" for host in ("files.test", "images.test", "https://yum.test/repo")]
    client = Client(Mirrors.parse(rules), backoff=0.001, retries=1, timeout=2.0, hosts=Hosts(pause=0.01))
    yield client
    client.close()


class TestFiles:
    def test_binary_is_not_fetched(self, upstream: Upstream, client: Client) -> None:
        upstream.files.update({"/b/kubectl": b"x" * 1000, "/b/kubectl.sha256": HEX.encode()})
        file = resolve_binary("https://files.test/b/kubectl", "https://files.test/b/kubectl.sha256", client)
        source = "https://files.test/b/kubectl.sha256"
        assert file == LockedFile("https://files.test/b/kubectl", HEX, 1000, source)
        assert [request.method for request in upstream.requests("/b/kubectl")] == ["HEAD"]

    def test_size_is_not_worth_failing_for(self, upstream: Upstream, client: Client) -> None:
        upstream.files["/b/kubectl.sha256"] = HEX.encode()
        file = resolve_binary("https://files.test/b/kubectl", "https://files.test/b/kubectl.sha256", client)
        assert (file.sha256, file.size) == (HEX, None)

    def test_no_checksum_file(self, client: Client) -> None:
        with pytest.raises(FetchError, match="sums: HTTP status 404"):
            resolve_binary("https://files.test/b/kubectl", "https://files.test/b/sums", client)

    def test_manifest_is_trusted_on_first_sight(self, upstream: Upstream, client: Client) -> None:
        upstream.files["/a.yaml"] = b"kind: List\n"
        file = resolve_file("https://files.test/a.yaml", client)
        assert (file.sha256, file.size) == (sha256(b"kind: List\n"), 11)


class TestImages:
    def test_index(self, images: Images, upstream: Upstream, client: Client) -> None:
        children = {f"linux/{arch}": images.image("k/pause", [b"l"], arch) for arch in ("arm64", "amd64")}
        children["unknown/unknown"] = images.image("k/pause", [b"attestation"])
        top = images.index("k/pause", children, "3.2")
        image = resolve_image("images.test/k/pause:3.2", Registry(client))
        assert image.digest == top["digest"]
        assert image.platforms == ("linux/amd64", "linux/arm64")
        assert image.offers("arm64")
        assert not image.offers("s390x")

    def test_single_image_says_its_platform_in_its_config(self, images: Images, client: Client) -> None:
        top = images.image("k/pause", [b"l"], "arm64", "3.2")
        image = resolve_image("images.test/k/pause:3.2", Registry(client))
        assert (image.digest, image.platforms) == (top["digest"], ("linux/arm64",))

    def test_config_of_other_bytes(self, images: Images, upstream: Upstream, client: Client) -> None:
        images.image("k/pause", [], "amd64", "3.2")
        upstream.plan = on("/blobs/", always(Fault(flip=True)))
        with pytest.raises(IntegrityError, match="gives a config that is not sha256:"):
            resolve_image("images.test/k/pause:3.2", Registry(client))

    @pytest.mark.parametrize("config", [b"[]", b"{}", b"\xff", b'{"os": "linux"}'])
    def test_config_without_a_platform(self, images: Images, client: Client, config: bytes) -> None:
        body = {"schemaVersion": 2, "config": images.blob("k/chart", config), "layers": []}
        images.manifest("k/chart", json.dumps(body).encode(), "application/vnd.oci.image.manifest.v1+json", "1")
        with pytest.raises(IntegrityError, match="k/chart:1"):
            resolve_image("images.test/k/chart:1", Registry(client))

    def test_empty_index(self, images: Images, client: Client) -> None:
        images.index("k/none", {}, "1")
        with pytest.raises(IntegrityError, match="names no platform"):
            resolve_image("images.test/k/none:1", Registry(client))

    def test_unknown_tag(self, client: Client) -> None:
        with pytest.raises(FetchError, match="k/pause"):
            resolve_image("images.test/k/pause:3.2", Registry(client))


YUM = Host(
    "el7",
    "rpm",
    (Repo("base", "https://yum.test/repo/{rpmarch}", ("https://files.test/key.gpg",)),),
    ("bash",),
    {"master": ("kubelet", "kubectl"), "node": ("kubelet",)},
)
RELEASE = Release(
    "1.20", "v1.20.2", 0, ("amd64", "arm64"), "kubeadm.k8s.io/v1beta2", "containerd", "images.test",
    "images.test/k/pause:3.2", "10.244.0.0/16", "10.96.0.0/12", (Image("images.test/k/pause:3.2", ("node",)),),
    (Binary("kubectl", "https://files.test/{arch}/kubectl", "https://files.test/{arch}/sums"),), ("net",), {"el7": YUM},
)  # fmt: skip
NET = Addon("net", "1", "network", ("1.20",), (), (AddonFile("https://files.test/net.yaml", None),), (), Path())


class TestRelease:
    @pytest.fixture(autouse=True)
    def site(self, images: Images, upstream: Upstream, client: Client, tmp_path: Path) -> None:
        self.upstream, self.client, self.folder, self.images = upstream, client, tmp_path, images
        children = {f"linux/{arch}": images.image("k/pause", [b"l"], arch) for arch in ("arm64", "amd64")}
        images.index("k/pause", children, "3.2")
        upstream.files.update({"/key.gpg": b"key", "/net.yaml": b"kind: List\n"})
        for arch in ("amd64", "arm64"):
            upstream.files[f"/{arch}/sums"] = f"{sha256(arch.encode())}  kubectl\n".encode()
        self.publish("1.20.2")

    def publish(self, version: str) -> None:
        """Publish kubelet and kubectl of this version, and nothing else."""
        for arch in ("x86_64", "aarch64"):
            folder = self.folder / version / arch
            make_repo(
                folder, [Pkg(f"{name}-{version}-0.{arch}", requires=("bash",)) for name in ("kubelet", "kubectl")]
            )
            for path in folder.rglob("*.*"):
                self.upstream.files[f"/{arch}/{path.relative_to(folder)}"] = path.read_bytes()

    def resolve(self, locks: Locks = Locks(), *arches: str, **options: object):  # noqa: B008
        arches = arches or ("amd64", "arm64")
        return resolve(RELEASE, [NET], ["el7"], arches, self.client, Registry(self.client), locks, **options)

    def test_result_is_complete(self) -> None:
        assert len(missing(RELEASE, [NET], Locks(), ["el7"], RELEASE.arches)) == 9
        found = self.resolve()
        assert missing(RELEASE, [NET], found.locks, ["el7"], RELEASE.arches) == []
        assert found.locks.files["https://files.test/arm64/kubectl"].sha256 == sha256(b"arm64")
        assert len(found.changes) == 1 + 3 + 1 + 4
        assert f"added key https://files.test/key.gpg sha256:{sha256(b'key')}" in found.changes
        assert any(
            line.startswith("added package kubelet (1.20 el7 x86_64) 1.20.2-0 sha256:") for line in found.changes
        )

    def test_twice_changes_nothing(self) -> None:
        once = self.resolve()
        again = self.resolve(once.locks)
        assert again.changes == ()
        assert again.locks == once.locks

    def test_other_releases_and_architectures_stay(self) -> None:
        image = LockedImage("images.test/x:1", f"sha256:{HEX}", ("linux/amd64",), "test")
        file = LockedFile("https://files.test/x", HEX, 1, "test")
        other = HostLock("1.8", "el7", {})
        old = Locks({image.ref: image}, {file.url: file}, {("1.8", "el7"): other})
        found = self.resolve(old, "amd64")
        assert found.locks.images[image.ref] == image
        assert found.locks.files[file.url] == file
        assert found.locks.hosts["1.8", "el7"] == other
        assert not [line for line in found.changes if not line.startswith("added")]
        both = self.resolve(found.locks, "arm64")
        assert set(both.locks.hosts["1.20", "el7"].arches) == {"x86_64", "aarch64"}
        assert all("aarch64" in line or "arm64" in line for line in both.changes)

    def test_unresolved_becomes_resolved(self) -> None:
        old = Locks(hosts={("1.20", "el7"): HostLock("1.20", "el7", {}, (), (Unresolved("kubelet", "no digest"),))})
        assert self.resolve(old).locks.hosts["1.20", "el7"].unresolved == ()

    def test_newer_version_is_taken_and_told(self) -> None:
        old = self.resolve(Locks(), "amd64").locks
        self.publish("1.20.10")
        changes = self.resolve(old, "amd64", upgrade=["kube*"]).changes
        assert [line.split(" sha256:")[0] for line in changes] == [
            "changed package kubectl (1.20 el7 x86_64) 1.20.2-0",
            "changed package kubelet (1.20 el7 x86_64) 1.20.2-0",
        ]
        assert all(" -> 1.20.10-0 sha256:" in line for line in changes)

    def test_older_version_is_refused_unless_allowed(self) -> None:
        old = self.resolve(Locks(), "amd64").locks
        self.publish("1.19.16")
        with pytest.raises(ResolveError, match=r"kubectl would go from 1\.20\.2-0 back to 1\.19\.16-0") as caught:
            self.resolve(old, "amd64")
        assert "--allow-downgrade" in caught.value.hint
        new = self.resolve(old, "amd64", allow_downgrade=True).locks
        assert {p.evr for p in new.hosts["1.20", "el7"].arches["x86_64"].packages} == {"1.19.16-0"}

    def test_moved_tag_is_told(self) -> None:
        old = self.resolve().locks
        moved = self.images.index("k/pause", {"linux/amd64": self.images.image("k/pause", [b"new"])}, "3.2")
        assert self.resolve(old, "amd64").changes == ()
        (line,) = self.resolve(old, "amd64", upgrade=["images.test/*"]).changes
        before = old.images["images.test/k/pause:3.2"].digest
        assert line == f"changed image images.test/k/pause:3.2 {before} -> {moved['digest']}"

    def test_image_for_too_few_platforms(self) -> None:
        self.images.image("k/pause", [b"l"], "amd64", "3.2")
        with pytest.raises(ResolveError, match=r"k/pause:3\.2: not made for linux/arm64, only for linux/amd64"):
            self.resolve()

    def test_upstream_without_the_key(self) -> None:
        del self.upstream.files["/key.gpg"]
        with pytest.raises(FetchError, match=r"key\.gpg: HTTP status 404"):
            self.resolve()

    def test_stale_lock_of_a_changed_manifest(self) -> None:
        locks = self.resolve().locks
        changed = replace(RELEASE, hosts={"el7": replace(YUM, roles={**YUM.roles, "node": ("kubelet", "socat")})})
        lines = missing(changed, [NET], locks, ["el7"], ["amd64"])
        assert lines == ["package socat (el7 x86_64)"]
