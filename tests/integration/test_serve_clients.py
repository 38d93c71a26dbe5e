"""Stock clients, unmodified, against the server: curl, wget, skopeo, dnf, containerd."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import createrepo_c
import pytest

from tests.bundles import add_image, complete, make_bundle
from tests.integration.runtime import running_containerd
from tests.integration.upstream import rpms
from tests.serving import Server, serving

PODMAN = ["podman", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs"]
LARGE = os.urandom(40_000_000)
REFS = {"k8s.gcr.io/pause:3.2": False, "docker.io/library/busybox:1.33": True, "quay.io/coreos/flannel:v0.13.0": False}


def run(*command: str | Path, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def layer(name: str) -> bytes:
    """A real layer, as a registry keeps it: a gzip'd tar with one file."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo(f"etc/{name}")
        info.size = 200_000
        tar.addfile(info, io.BytesIO(os.urandom(info.size)))
    return gzip.compress(data.getvalue(), mtime=0)


def yum_repository(folder: Path) -> dict[str, bytes]:
    """Members of a repository of two real packages, one of which needs the other."""
    rpms.build(folder, "app", "1.0", requires="lib >= 2")
    rpms.build(folder, "lib", "2.0")
    shutil.rmtree(folder / "top")
    packages = sorted(folder.glob("*.rpm"))
    with createrepo_c.RepositoryWriter(str(folder), num_packages=2, compression=createrepo_c.GZ_COMPRESSION) as writer:
        for path in packages:
            writer.add_pkg(createrepo_c.package_from_rpm(str(path), location_href=path.name))
    return {
        f"packages/el7/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    found = {"bin/amd64/kubectl": LARGE, **yum_repository(tmp_path_factory.mktemp("rpms"))}
    images = [add_image(found, ref, [layer(ref.rpartition("/")[2])], index) for ref, index in REFS.items()]
    return complete(found, images)


@pytest.fixture(scope="module")
def digests(members: dict[str, bytes]) -> dict[str, str]:
    """Digest by reference, out of bundle.json."""
    return {image["ref"]: image["digest"] for image in json.loads(members["bundle.json"])["images"]}


@pytest.fixture(scope="module")
def server(members: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    contract = json.loads(members["bundle.json"])
    rest = {path: data for path, data in members.items() if path not in ("bundle.json", "SHA256SUMS")}
    with serving(make_bundle(folder / "b.tar", rest, contract["images"]), folder) as found:
        yield found


def test_curl_resumes_and_ranges(server: Server, tmp_path: Path) -> None:
    url, target = f"{server.url}/bin/amd64/kubectl", tmp_path / "kubectl"
    target.write_bytes(LARGE[:3_000_000])
    run("curl", "-fsS", "-C", "-", "-o", target, url)
    assert target.read_bytes() == LARGE
    run("curl", "-fsS", "-C", "-", "-o", target, url, check=False)  # whole already: curl gets a 416
    assert target.read_bytes() == LARGE
    run("curl", "-fsS", "-r", "5-9", "-o", target, url)
    assert target.read_bytes() == LARGE[5:10]
    head = run("curl", "-fsSI", url).stdout
    assert f"Content-Length: {len(LARGE)}" in head
    assert f'ETag: "sha256:{hashlib.sha256(LARGE).hexdigest()}"' in head
    etag = tmp_path / "etag"
    run("curl", "-fsS", "--etag-save", etag, "-o", target, url)
    assert run("curl", "-fsS", "--etag-compare", etag, "-o", "/dev/null", "-w", "%{http_code}", url).stdout == "304"
    run("curl", "-fsSR", "-o", target, url)
    assert run("curl", "-fsS", "-z", target, "-o", "/dev/null", "-w", "%{http_code}", url).stdout == "304"
    os.utime(target, (0, 0))
    assert run("curl", "-fsS", "-z", target, "-o", "/dev/null", "-w", "%{http_code}", url).stdout == "200"


def test_curl_resumes_after_the_server_was_killed(members: dict[str, bytes], server: Server, tmp_path: Path) -> None:
    bundle = server.output.parent / "b.tar"
    target, port = tmp_path / "kubectl", 0
    with serving(bundle, tmp_path) as first:
        port = first.address[1]
        slow = subprocess.Popen(
            ["curl", "-sS", "--limit-rate", "20M", "-o", target, f"{first.url}/bin/amd64/kubectl"],
            stderr=subprocess.DEVNULL,
        )
        while not target.exists() or target.stat().st_size < 2_000_000:
            time.sleep(0.02)
        first.process.kill()
        assert slow.wait(10) != 0
    assert 0 < target.stat().st_size < len(LARGE)
    with serving(bundle, tmp_path, port=port) as second:
        run("curl", "-fsS", "-C", "-", "-o", target, f"{second.url}/bin/amd64/kubectl")
    assert target.read_bytes() == LARGE


def test_curl_pipes_deploy_into_bash(server: Server) -> None:
    done = run("bash", "-c", f"curl -fsSL {server.url}/deploy.sh | bash -s master --flag")
    assert done.stdout.splitlines() == [server.url, "master", "--flag"]


def test_the_printed_lines_work(server: Server, tmp_path: Path) -> None:
    lines = [line.strip() for line in server.output.read_text().splitlines() if line.strip().startswith("curl ")]
    assert len(lines) == 4
    for line in lines:
        done = run("bash", "-c", line, cwd=tmp_path)
        assert server.url in done.stdout
        assert ("master" in done.stdout) or ("MASTER:6443" in done.stdout)


def test_wget_resumes(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "kubectl"
    target.write_bytes(LARGE[:37_000_000])
    run("wget", "-q", "-c", f"{server.url}/bin/amd64/kubectl", cwd=tmp_path)
    assert target.read_bytes() == LARGE
    target.unlink()
    run("wget", "-q", "-N", f"{server.url}/bin/amd64/kubectl", cwd=tmp_path)
    assert "304 Not Modified" in run("wget", "-N", f"{server.url}/bin/amd64/kubectl", cwd=tmp_path).stderr
    assert target.read_bytes() == LARGE


@pytest.mark.root
@pytest.mark.parametrize("ref", REFS)
@pytest.mark.parametrize("short", [False, True])
def test_skopeo_copies_every_image(
    server: Server, tmp_path: Path, digests: dict[str, str], ref: str, short: bool
) -> None:
    name = ref.partition("/")[2] if short else ref
    source = f"docker://{server.url[7:]}/{name}"
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", source).stdout
    assert "sha256:" + hashlib.sha256(raw.encode()).hexdigest() == digests[ref]
    run("skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", source, f"dir:{tmp_path}/image")
    manifest = json.loads((tmp_path / "image/manifest.json").read_text())
    for blob in (manifest["config"], *manifest["layers"]):
        data = (tmp_path / "image" / blob["digest"].partition(":")[2]).read_bytes()
        assert "sha256:" + hashlib.sha256(data).hexdigest() == blob["digest"]
    by_digest = f"docker://{server.url[7:]}/{name.rpartition(':')[0]}@{digests[ref]}"
    assert run("skopeo", "inspect", "--raw", "--tls-verify=false", by_digest).stdout == raw


@pytest.mark.root
def test_skopeo_lists_tags_and_names_what_is_missing(server: Server) -> None:
    listed = run("skopeo", "list-tags", "--tls-verify=false", f"docker://{server.url[7:]}/pause")
    assert json.loads(listed.stdout)["Tags"] == ["3.2"]
    failed = run("skopeo", "inspect", "--tls-verify=false", f"docker://{server.url[7:]}/pause:9", check=False)
    assert "manifest unknown" in failed.stderr


@pytest.mark.root
def test_skopeo_copies_a_chart_as_an_artifact(tmp_path: Path) -> None:
    chart = layer("Chart.yaml")
    with serving(make_bundle(tmp_path / "c.tar", {"charts/shop-1.2.3.tgz": chart}), tmp_path) as found:
        source = f"docker://{found.url[7:]}/charts/shop:1.2.3"
        run("skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", source, f"dir:{tmp_path}/chart")
    (descriptor,) = json.loads((tmp_path / "chart/manifest.json").read_text())["layers"]
    assert (tmp_path / "chart" / descriptor["digest"].partition(":")[2]).read_bytes() == chart


@pytest.mark.root
def test_podman_pulls_by_the_server_s_name_and_through_a_mirror(
    server: Server, tmp_path: Path, digests: dict[str, str]
) -> None:
    with tempfile.TemporaryDirectory(prefix="podman-") as short:  # podman takes no longer one
        _podman_pulls([*PODMAN, "--root", short, "--runroot", f"{short}/run"], server, tmp_path, digests)


def _podman_pulls(podman: list[str], server: Server, tmp_path: Path, digests: dict[str, str]) -> None:
    inspect = [*podman, "image", "inspect", "--format", "{{.Digest}}"]
    host, ref = server.url[7:], "k8s.gcr.io/pause:3.2"
    run(*podman, "pull", "--tls-verify=false", f"{host}/{ref}")
    assert run(*inspect, f"{host}/{ref}").stdout.strip() == digests[ref]
    mirrors = "".join(
        f'[[registry]]\nlocation = "{name}"\n[[registry.mirror]]\nlocation = "{host}/{name}"\ninsecure = true\n'
        for name in ("k8s.gcr.io", "docker.io", "quay.io")
    )
    (tmp_path / "registries.conf").write_text(mirrors)
    env = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(tmp_path / "registries.conf")}
    for one, digest in digests.items():
        run(*podman, "pull", one, env=env)
        assert f"{one.rpartition(':')[0]}@{digest}" in run(*podman, "image", "inspect", one).stdout


@pytest.mark.root
def test_dnf_installs_with_nothing_but_a_baseurl(server: Server, tmp_path: Path) -> None:
    (tmp_path / "repos").mkdir()
    (tmp_path / "repos/bundle.repo").write_text(
        f"[bundle]\nname=bundle\nbaseurl={server.url}/packages/el7/\ngpgcheck=0\n"
    )
    (tmp_path / "dnf.conf").write_text("[main]\n")
    dnf = [
        "dnf",
        "-y",
        "-c",
        tmp_path / "dnf.conf",
        "--installroot",
        tmp_path / "root",
        "--releasever=7",
        f"--setopt=reposdir={tmp_path}/repos",
        f"--setopt=cachedir={tmp_path}/cache",
        f"--setopt=logdir={tmp_path}",
        "--setopt=module_platform_id=platform:el7",
        "--setopt=persistdir=/var/lib/dnf",
    ]
    run(*dnf, "install", "app", env={**os.environ, "HOME": str(tmp_path)})
    assert (tmp_path / "root/opt/app/payload").stat().st_size == 100_000
    assert (tmp_path / "root/opt/lib/payload").stat().st_size == 100_000
    done = run(*dnf, "makecache", "--refresh", env={**os.environ, "HOME": str(tmp_path)})
    assert "Metadata cache created" in done.stdout


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Path]:
    with running_containerd(tmp_path) as path:
        yield path


@pytest.mark.root
def test_containerd_pulls_through_hosts_toml(
    server: Server, tmp_path: Path, containerd: Path, digests: dict[str, str]
) -> None:
    for registry in ("k8s.gcr.io", "docker.io", "quay.io"):
        folder = tmp_path / "certs.d" / registry
        folder.mkdir(parents=True)
        (folder / "hosts.toml").write_text(
            f'server = "{server.url}"\n[host."{server.url}"]\n  capabilities = ["pull", "resolve"]\n'
        )
    for ref, digest in digests.items():
        run(
            "ctr",
            "-a",
            containerd,
            "images",
            "pull",
            "--snapshotter",
            "native",
            "--hosts-dir",
            tmp_path / "certs.d",
            "--platform",
            "linux/amd64",
            ref,
        )
        listed = run("ctr", "-a", containerd, "images", "ls", f"name=={ref}").stdout
        assert digest in listed
    log = (tmp_path / "containerd.log").read_text()
    assert "level=error" not in log.replace("failed to load cni", ""), log
