"""Two hundred builds against an upstream that fails: the right bundle, or an error that names the file."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bundler import data
from bundler.build import Order, Workshop, build
from bundler.errors import BundlerError
from bundler.fetch import pool
from bundler.fetch.hosts import Hosts
from bundler.fetch.http import Client
from bundler.fetch.mirrors import Mirrors
from bundler.fetch.registry import Registry
from bundler.options import select
from bundler.progress import Progress
from bundler.selection import Selection
from bundler.store import Partial, Store
from tests.integration.upstream.site import EXTRA, NET, OWN
from tests.lab.paper import write_repo
from tests.servers.faults import Chaos, Fault, Images, Plan, Upstream, sha256

PROJECT = Path(__file__).parents[2]
BUILDS = 200
LARGEST = 300_000
MANIFEST = """
schema: 1
release: "1.20"
method: packages
kubernetes: v1.20.2
date: 2021-01-13
arches: [amd64, arm64]
runtime: containerd
pause: images.test/pause:3.2
pod_subnet: 10.244.0.0/16
service_subnet: 10.96.0.0/12
images: [{ref: "images.test/app:v1", roles: [master]}, "images.test/pause:3.2"]
binaries: [{name: kubectl, url: "https://files.test/bin/{arch}/kubectl", checksum: "https://files.test/bin/{arch}.sha256"}]
addons: [net]
hosts:
  el7:
    format: rpm
    repos: [{id: base, baseurl: "https://files.test/repo/{rpmarch}", keys: ["https://files.test/key.gpg"]}]
    installed: [bash]
    roles: {master: [kubelet, tool], node: [kubelet]}
"""
IMAGES = ("app", "pause", "net")
PACKAGES = {"kubelet-1.20.2-0": ["bash", "cni"], "cni-0.8.7-0": [], "tool-1-1": ["cni"]}
KINDS = (*Chaos(0).kinds, "redirect", "missing")
# What passes if one asks again, however often it happens to a file.
HONEST = {"cut", "reset", "status", "retry", "date", "slow", "ignore", "wrong_range", "undeclared", "no_answer",
          "redirect"}  # fmt: skip


@dataclass
class Site:
    """What an upstream serves, what is locked of it, and the sha256 of the only right bundle."""

    root: Path
    files: dict[str, bytes]
    types: dict[str, str]
    selection: Selection | None = None
    installer: dict[str, Path] = field(default_factory=dict)
    right: str = ""

    def wanted(self) -> set[str]:
        """Paths that a build needs: what `lock` alone reads is not among them."""
        return {path for path in self.files if not path.endswith(".sha256") and "/repodata/" not in path}

    def build(self, upstream: Upstream, cache: Path, output: Path) -> str:
        """What `bundler build` does; returns the sha256 of the bundle."""
        assert self.selection
        mirrors = Mirrors.parse([f"files.test={upstream.url}", f"images.test={upstream.url}"])
        client = Client(mirrors, backoff=0.001, timeout=1, hosts=Hosts(pause=0.01))
        order = Order(self.selection, self.installer, self.selection.release.date, None, output)
        try:
            with Progress(quiet=True) as progress:
                build(order, Workshop(Store(cache), Registry(client), progress, 4))
        finally:
            client.close()
        return sha256(output.read_bytes())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Everything served without failures, locked, and built once."""
    root = tmp_path_factory.mktemp("faults")
    made = Site(root, *_contents(root))
    _write_manifests(root / "manifests")
    (root / "locks").mkdir()
    with Upstream(made.files, types=made.types) as upstream:
        words = ["--version", "1.20", "--arch", "amd64,arm64", "--manifests", "manifests", "--lock-dir", "locks"]
        places = ["--mirror", f"files.test={upstream.url}", "--mirror", f"images.test={upstream.url}"]
        command = [sys.executable, "-m", "bundler", "lock", *words, *places, "--cache-dir", "cache"]
        subprocess.run(command, cwd=root, env={"PYTHONPATH": str(PROJECT)}, check=True, capture_output=True)
        made.selection = select("1.20", (), ("amd64", "arm64"), (), root / "manifests", root / "locks")
        # One file of it, copied: the bundle must not change while somebody works on the installer.
        copied = Path(shutil.copy(data.installer_files()["installer/__init__.py"], root))
        made.installer = {"installer/__init__.py": copied}
        made.right = made.build(upstream, root / "cache", root / "right.tar")
    return made


def _contents(root: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    make = random.Random(0)
    images = Images()
    for name, tag, size in (("app", "v1", LARGEST), ("pause", "3.2", 700), ("net", "v1", 90_000)):
        children = {f"linux/{a}": images.image(name, [make.randbytes(size)], a) for a in ("amd64", "arm64")}
        images.index(name, children, tag)
    files = {**images.files, "/key.gpg": b"a key\n", "/net.yml": b'{"Network": "10.244.0.0/16"}\n'}
    for arch, rpmarch in (("amd64", "x86_64"), ("arm64", "aarch64")):
        files[f"/bin/{arch}/kubectl"] = make.randbytes(150_000)
        files[f"/bin/{arch}.sha256"] = sha256(files[f"/bin/{arch}/kubectl"]).encode()
        (root / rpmarch).mkdir()
        write_repo(root / rpmarch, PACKAGES, [rpmarch])
        repo = (path for path in (root / rpmarch).rglob("*") if path.is_file())
        files.update({f"/repo/{path.relative_to(root)}": path.read_bytes() for path in repo})
    return files, images.types


def _write_manifests(top: Path) -> None:
    (top / "addons/files").mkdir(parents=True)
    (top / "1.20.yaml").write_text(MANIFEST)
    (top / "addons/net-1.yaml").write_text(NET)
    (top / "addons/sample-1.yaml").write_text(EXTRA.format(name="sample", kind="sample"))
    (top / "addons/files/sample.yaml").write_text(OWN)


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LEAST", 200_000)
    monkeypatch.setattr(pool, "SEGMENT", 70_000)


class Watch:
    """Sees when a blob is finished, and whether anybody asks for it afterwards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.upstream: Upstream | None = None
        self.finished: dict[str, int] = {}
        genuine = Partial.finish

        def finish(partial: Partial, size: int | None = None) -> bool:
            done = genuine(partial, size)
            if done and self.upstream:
                self.finished.setdefault(partial.sha256, len(self.upstream.log))
            return done

        monkeypatch.setattr(Partial, "finish", finish)

    def over(self, upstream: Upstream) -> Watch:
        """Watch another run; what was finished in the former one is finished from the beginning."""
        self.upstream, self.finished = upstream, dict.fromkeys(self.finished, 0)
        return self

    def fetched_again(self, files: dict[str, bytes]) -> list[str]:
        """Paths that were asked for when their content was already in the cache."""
        assert self.upstream
        digests = {path: sha256(content) for path, content in files.items()}
        late = enumerate(request.path for request in self.upstream.log)
        return [path for number, path in late if self.finished.get(digests.get(path, ""), number + 1) <= number]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@dataclass
class Failures(Chaos):
    """With redirects to another host, too."""

    cdn: str = ""

    def __call__(self, path: str, number: int) -> Fault:
        fault = super().__call__(path, number)
        return Fault(redirect=fault.redirect + path) if fault.redirect else fault

    def _fault(self, kind: str, place: int) -> Fault:
        return Fault(redirect=self.cdn) if kind == "redirect" else super()._fault(kind, place)


def plan_of(seed: int, cdn: str) -> tuple[str, Plan]:
    """A kind of failure, alone or all together, from now and then to nearly always; or a mirror that lies."""
    kinds = ("all", *KINDS, "liar")
    kind = kinds[seed % len(kinds)]
    if kind == "liar":
        return kind, liar(seed)
    share = (0.05, 0.2, 0.5, 0.9)[seed // len(kinds) % 4]
    return kind, Failures(seed, share, KINDS if kind == "all" else (kind,), LARGEST, cdn)


def liar(seed: int) -> Plan:
    """Some files are always others, of the same length."""

    def plan(path: str, number: int) -> Fault:
        del number
        return Fault(flip=path != "/token" and random.Random(f"{seed} {path}").random() < 0.1)

    return plan


@pytest.fixture(scope="module")
def cdn(site: Site) -> Iterator[str]:
    """Another host, to which requests are redirected."""
    with Upstream(site.files, types=site.types) as other:
        yield other.url


@pytest.mark.parametrize("batch", range(10))
def test_builds_end_right_or_say_so(site: Site, cdn: str, watch: Watch, tmp_path: Path, batch: int) -> None:
    ended = []
    for seed in range(batch * BUILDS // 10, (batch + 1) * BUILDS // 10):
        kind, plan = plan_of(seed, cdn)
        cache, output = tmp_path / f"cache-{seed}", tmp_path / f"{seed}.tar"
        watch.finished = {}
        with Upstream(site.files, plan, site.types, token_uses=seed % 3 * 7, etag=seed % 2 == 0) as upstream:
            code = attempt(site, watch.over(upstream), cache, output, (seed, kind))
        ended.append(code)
        assert not watch.fetched_again(site.files), (seed, kind)
        if code:
            mend(site, watch, cache, output, seed)
        shutil.rmtree(cache)
        output.unlink()
    # Both ends must occur, or the test tests nothing.
    assert {0, 5, 6} >= set(ended) > {0}


def attempt(site: Site, watch: Watch, cache: Path, output: Path, case: tuple[int, str]) -> int:
    """Build once; returns the exit code. Whatever is wrong, no bundle may be there, and the error names a file."""
    assert watch.upstream
    try:
        assert site.build(watch.upstream, cache, output) == site.right, case
        return 0
    except BundlerError as error:
        assert error.exit_code in (5, 6), (case, error)
        assert any(name in error.message for name in names(site, watch.upstream)), (case, error)
        assert error.exit_code == 5 or case[1] not in HONEST, (case, error)
        assert error.exit_code == 6 or case[1] != "liar", (case, error)
        assert not output.exists(), case
        return error.exit_code


def names(site: Site, upstream: Upstream) -> set[str]:
    """What an error may call a file by: its path, or the repository of the image that it belongs to."""
    return site.wanted() | {f"{host}/{name}" for host in ("images.test", upstream.url) for name in IMAGES}


def mend(site: Site, watch: Watch, cache: Path, output: Path, seed: int) -> None:
    """The same build once the upstream is well: it ends right, and fetches only what it had not finished."""
    with Upstream(site.files, types=site.types) as healthy:
        watch.over(healthy)
        assert site.build(healthy, cache, output) == site.right, seed
        assert not watch.fetched_again(site.files), seed
