"""Module streams and signed metadata, with real packages: what is locked is what dnf would install."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import createrepo_c as cr
import pytest

from bundler.errors import IntegrityError, ResolveError
from bundler.fetch.http import Client
from bundler.fetch.mirrors import Mirrors
from bundler.locked import ArchLock
from bundler.manifest import Host, Repo
from bundler.resolve.rpm import resolve_arch
from tests.integration.test_lock_real import run, spec

pytestmark = pytest.mark.root

LABEL = "ModularityLabel: {}:{}:{}:{}"
# name-version-release, then its tags
PACKAGES = {
    "minimal-1-1": [],
    "app-1-1": ["Requires: container-selinux, tools"],
    "engine-1-1": ["Requires: container-selinux >= 2.200"],
    "container-selinux-2.150-1.module": [LABEL.format("container-tools", "rhel8", 1, "c1")],
    "container-selinux-2.160-1.module": [LABEL.format("container-tools", "rhel8", 2, "c2")],
    "container-selinux-2.200-1.module": [LABEL.format("container-tools", "4.0", 1, "c3"), "Requires: perl"],
    "container-selinux-2.999-1": [],
    "tools-1-1.module": [LABEL.format("container-tools", "rhel8", 2, "c2")],
    "tools-9-1": ["Provides: other"],
    "alias-1-1": ["Provides: tools = 99"],
    "perl-5.26-1.module": [LABEL.format("perl", "5.26", 1, "p1")],
    "perl-5.30-1.module": [LABEL.format("perl", "5.30", 1, "p2")],
    "perl-9-1": [],
    "plain-1-1": [],
}
MODULE = """---
document: modulemd
version: 2
data:
  name: {name}
  stream: {stream}
  version: {version}
  context: {context}
  arch: x86_64
  summary: x
  description: x
  license: {{module: [MIT]}}
  dependencies:
  - requires: {{platform: [el8]{requires}}}
  artifacts:
    rpms: [{rpms}]
"""
DEFAULTS = """---
document: modulemd-defaults
version: 1
data: {{module: {}, stream: {}}}
"""
BUILDS = [
    ("container-tools", '"rhel8"', 1, "c1", "", ["container-selinux-0:2.150-1.module.noarch"]),
    ("container-tools", '"rhel8"', 2, "c2", "",
     ["container-selinux-0:2.160-1.module.noarch", "tools-0:1-1.module.noarch"]),
    ("container-tools", '"4.0"', 1, "c3", ', perl: ["5.30"]', ["container-selinux-0:2.200-1.module.noarch"]),
    ("perl", '"5.26"', 1, "p1", "", ["perl-0:5.26-1.module.noarch"]),
    ("perl", '"5.30"', 1, "p2", "", ["perl-0:5.30-1.module.noarch"]),
]  # fmt: skip
MODULES = "".join(
    MODULE.format(name=name, stream=stream, version=version, context=context, requires=requires, rpms=", ".join(rpms))
    for name, stream, version, context, requires, rpms in BUILDS
) + DEFAULTS.format("container-tools", "rhel8")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """/repo with modules and a good signature, /plain without modules."""
    root, work = tmp_path_factory.mktemp("upstream"), tmp_path_factory.mktemp("rpmbuild")
    specs = []
    for number, (nvr, lines) in enumerate(PACKAGES.items()):
        specs.append(work / f"{number}.spec")
        specs[-1].write_text(spec(nvr, lines))
    run("rpmbuild", "-bb", "--quiet", "--define", f"_topdir {work}", "--define", f"_rpmdir {root}/repo",
        "--define", "_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm", *specs)  # fmt: skip
    make_repo(root / "repo", work, MODULES)
    (root / "plain").mkdir()
    (root / "plain/plain.rpm").write_bytes((root / "repo/perl-9-1.noarch.rpm").read_bytes())
    make_repo(root / "plain", work, "")
    gnupg = work / "gnupg"
    gnupg.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", gnupg, "--batch", "--passphrase", ""]
    for user in ("repo@example.org", "other@example.org"):
        run(*gpg, "--quick-generate-key", user, "rsa2048")
        run(*gpg, "--armor", "--output", root / f"{user}.asc", "--export", user)
    run(*gpg, "--armor", "--local-user", "repo@example.org", "--detach-sign", root / "repo/repodata/repomd.xml")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
    run("gpgconf", "--homedir", gnupg, "--kill", "gpg-agent")


def make_repo(folder: Path, work: Path, modules: str) -> None:
    rpms = sorted(folder.glob("*.rpm"))
    with cr.RepositoryWriter(str(folder), num_packages=len(rpms)) as writer:
        for rpm in rpms:
            writer.add_pkg(cr.package_from_rpm(str(rpm), location_href=rpm.name))
        if modules:
            (work / "modules.yaml").write_text(modules)
            writer.repomd.set_record(add_record(folder, work / "modules.yaml"))


def add_record(folder: Path, path: Path) -> cr.RepomdRecord:
    record = cr.RepomdRecord("modules", str(path)).compress_and_fill(cr.SHA256, cr.GZ_COMPRESSION)
    record.rename_file()
    target = folder / "repodata" / Path(record.location_href).name
    target.write_bytes(Path(record.location_real).read_bytes())
    record.location_href = f"repodata/{target.name}"
    return record


def resolve(upstream: str, specs: list[str], streams: tuple[str, ...] = (), **changes: object) -> ArchLock:
    repo = replace(Repo("base", f"{upstream}/repo", ()), **changes)
    host = Host("el8", "rpm", (repo,), ("minimal",), {"master": tuple(specs), "node": ("plain",)}, streams)
    client = Client(Mirrors.parse(), retries=0)
    try:
        return resolve_arch(host, "amd64", client)
    finally:
        client.close()


def dnf(upstream: str, root: Path, specs: list[str], streams: tuple[str, ...], hotfixes: bool) -> set[str]:
    (root / "dnf.conf").write_text(
        f"[main]\ngpgcheck=0\nbest=0\ninstall_weak_deps=0\nreposdir={root}/none\ncachedir={root}/cache\n"
        f"logdir={root}/log\npersistdir={root}/state\npluginpath={root}/none\nmodule_platform_id=platform:el8\n"
        f"[base]\nname=base\nbaseurl={upstream}/repo\nmodule_hotfixes={int(hotfixes)}\n"
    )
    command = ["dnf", "-y", "-c", f"{root}/dnf.conf", "--releasever=8", f"--installroot={root}/root",
               "--forcearch=x86_64"]  # fmt: skip
    if streams:
        run(*command, "module", "enable", *streams)
    run(*command, "install", "--downloadonly", f"--downloaddir={root}/got", *specs)
    return {path.name for path in (root / "got").iterdir()}


CASES = [
    (["app"], (), False, {"app-1-1", "container-selinux-2.160-1.module", "tools-1-1.module"}),
    (["app"], (), True, {"app-1-1", "container-selinux-2.999-1", "alias-1-1"}),
    (["engine"], ("container-tools:4.0",), False,
     {"engine-1-1", "container-selinux-2.200-1.module", "perl-5.30-1.module"}),
    (["perl"], (), False, {"perl-9-1"}),
    (["perl"], ("perl:5.26",), False, {"perl-5.26-1.module"}),
]  # fmt: skip


@pytest.mark.parametrize(("specs", "streams", "hotfixes", "expected"), CASES)
def test_same_set_as_dnf(
    upstream: str, tmp_path: Path, specs: list[str], streams: tuple[str, ...], hotfixes: bool, expected: set[str]
) -> None:
    lock = resolve(upstream, specs, streams, module_hotfixes=hotfixes)
    assert set(lock.roles["master"]) == {f"{name}.noarch.rpm" for name in expected}
    assert dnf(upstream, tmp_path, specs, streams, hotfixes) == set(lock.roles["master"])


def test_modular_packages_bring_their_metadata(upstream: str) -> None:
    (part,) = resolve(upstream, ["app"]).modules
    assert (part.repoid, part.url.rpartition("-")[2]) == ("base", "modules.yaml.gz")
    assert part.url.startswith(f"{upstream}/repo/repodata/{part.sha256}")
    assert resolve(upstream, ["perl"]).modules == ()


def test_unknown_stream(upstream: str) -> None:
    with pytest.raises(ResolveError, match=r"no module stream container-tools:9\.9") as caught:
        resolve(upstream, ["app"], ("container-tools:9.9",))
    assert caught.value.hint == "There is container-tools:4.0, container-tools:rhel8."


class TestSignedMetadata:
    def test_good(self, upstream: str) -> None:
        keys = (f"{upstream}/other@example.org.asc", f"{upstream}/repo@example.org.asc")
        assert resolve(upstream, ["plain"], signed_metadata=True, keys=keys).packages

    def test_by_somebody_else(self, upstream: str) -> None:
        keys = (f"{upstream}/other@example.org.asc",)
        with pytest.raises(IntegrityError, match=r"repomd\.xml: its signature is not good: .*No public key"):
            resolve(upstream, ["plain"], signed_metadata=True, keys=keys)

    def test_not_signed(self, upstream: str) -> None:
        keys = (f"{upstream}/repo@example.org.asc",)
        with pytest.raises(IntegrityError, match=r"plain/repodata/repomd\.xml: is not signed"):
            resolve(upstream, ["perl"], signed_metadata=True, keys=keys, baseurl=f"{upstream}/plain")

    def test_no_gpgv(self, upstream: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(Exception, match="no gpgv to check its signature with") as caught:
            resolve(upstream, ["plain"], signed_metadata=True, keys=(f"{upstream}/repo@example.org.asc",))
        assert caught.value.exit_code == 7
