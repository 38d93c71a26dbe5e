"""An exported tree behind real nginx, asked by the clients that nodes have."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles import add_image, make_bundle
from tests.integration.managers import Dnf
from tests.integration.runtime import running_containerd
from tests.integration.test_serve_clients import layer, run, yum_repository
from tests.serving import PROJECT, PYTHON, free_port, serving
from tests.shell.stream import Shell

REFS = {"k8s.gcr.io/pause:3.2": False, "docker.io/library/busybox:1.33": True, "docker.io/library/busybox:V1": False,
        "docker.io/library/busybox:v1": True, "reg.local:5000/team/app:1.0": False}
LARGE, CHART = os.urandom(3_000_000), os.urandom(5_000)
HOSTS = {"el7": {"format": "rpm", "path": "packages/el7", "keys": [], "roles": {}},
         "noble": {"format": "deb", "path": "packages/noble", "keys": [], "roles": {}}}


def export(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PYTHON, "-m", "installer", "export", *words], cwd=PROJECT, capture_output=True, text=True,
                          timeout=60)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    members = {"bin/amd64/kubectl": LARGE, **yum_repository(tmp_path_factory.mktemp("rpms"))}
    members["charts/shop-1.2.3.tgz"], members["charts/index.yaml"] = CHART, b"apiVersion: v1\n"
    images = [add_image(members, ref, [layer(ref.rpartition("/")[2])], index) for ref, index in REFS.items()]
    return make_bundle(folder / "b.tar", members, images, hosts=HOSTS)


@pytest.fixture(scope="module")
def digests(bundle: Path) -> dict[str, str]:
    info = json.loads(subprocess.run(["tar", "xOf", bundle, "bundle.json"], capture_output=True, check=True).stdout)
    return {image["ref"]: image["digest"] for image in info["images"]}


@contextlib.contextmanager
def nginx(tree: Path, port: int) -> Iterator[None]:
    """Run nginx on a tree until the end of the block."""
    tree.parent.chmod(0o755)
    words = ["nginx", "-p", tree, "-c", "nginx.conf", "-g", "user root; daemon off;"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
                break
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def site(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The tree, and its URL."""
    port, tree = free_port(), tmp_path_factory.mktemp("site") / "tree"
    url = f"http://127.0.0.1:{port}"
    done = export(bundle, tree, "--servers", url, "http://127.0.0.1:9", "--objects")
    assert done.returncode == 0, done.stderr
    (tree.parent / "out").write_text(done.stdout)
    with nginx(tree, port):
        yield tree, url


@pytest.fixture
def url(site: tuple[Path, str]) -> str:
    return site[1]


def get(url: str, **fields: str) -> tuple[int, dict[str, str], bytes]:
    """Status, fields (lower case) and body of a GET."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=fields), timeout=10) as reply:
            return reply.status, {key.lower(): value for key, value in reply.headers.items()}, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, {key.lower(): value for key, value in error.headers.items()}, error.read()


def test_every_member_is_there_byte_for_byte(site: tuple[Path, str], bundle: Path, tmp_path: Path) -> None:
    tree, url = site
    sums = get(f"{url}/SHA256SUMS")[2].decode()
    checked = subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=tree / "www")
    assert checked.returncode == 0
    assert len(sums.splitlines()) > 20
    done = run("curl", "-fsS", "-r", "1000000-", f"{url}/bin/amd64/kubectl", "-o", tmp_path / "part")
    assert done.returncode == 0
    assert (tmp_path / "part").read_bytes() == LARGE[1_000_000:]
    assert get(f"{url}/SHA256SUMS")[1]["content-type"] == "text/plain"
    assert (tree / "www/bin/amd64/kubectl").stat().st_mode & 0o777 == 0o755


def test_deploy_sh_is_one_and_the_same_for_every_server(site: tuple[Path, str], tmp_path: Path) -> None:
    tree, url = site
    script = get(f"{url}/deploy.sh")[2].decode()
    assert f"SERVER='{url}'\n" in script
    assert "SERVERS='http://127.0.0.1:9'\n" in script
    lines = [line.strip() for line in (tree.parent / "out").read_text().splitlines() if url in line and "curl" in line]
    assert len(lines) == 2
    for line in lines:
        assert run("bash", "-c", line, cwd=tmp_path).stdout.splitlines()[-2:] == [url, "master"]


@pytest.mark.root
@pytest.mark.parametrize("ref", REFS)
def test_skopeo_copies_every_image(url: str, tmp_path: Path, digests: dict[str, str], ref: str) -> None:
    host = url[7:]
    if ":" not in ref.partition("/")[0]:  # skopeo cannot spell a second port
        source = f"docker://{host}/{ref}"
        run("skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", source, f"dir:{tmp_path}/image")
        raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", source).stdout
        assert "sha256:" + hashlib.sha256(raw.encode()).hexdigest() == digests[ref]
    registry, _, rest = ref.partition("/")
    name, _, tag = rest.rpartition(":")
    for what in (tag, digests[ref]):
        mirrored = f"{name}/manifests/{what}?ns={registry.replace(':', '%3A')}"
        for asked in (mirrored, f"{ref.rpartition(':')[0]}/manifests/{what}"):
            status, fields, body = get(f"{url}/v2/{asked}")
            assert (status, fields["docker-content-digest"]) == (200, digests[ref]), asked
            assert "sha256:" + hashlib.sha256(body).hexdigest() == digests[ref]
            assert fields["content-type"] == json.loads(body)["mediaType"]


@pytest.mark.root
def test_tags_short_names_and_mirrors_are_as_the_server_has_them(url: str) -> None:
    listed = run("skopeo", "list-tags", "--tls-verify=false", f"docker://{url[7:]}/busybox")
    assert json.loads(listed.stdout)["Tags"] == ["1.33", "V1", "v1"]
    assert get(f"{url}/v2/busybox/manifests/1.33?ns=docker.io")[0] == 200
    assert get(f"{url}/v2/library/busybox/manifests/1.33?ns=registry-1.docker.io")[0] == 200
    assert get(f"{url}/v2/pause/manifests/3.2?ns=docker.io")[0] == 404, "another registry's"
    assert json.loads(get(f"{url}/v2/_catalog")[2])["repositories"] == [
        "charts/shop", "docker.io/library/busybox", "k8s.gcr.io/pause", "reg.local:5000/team/app"]
    assert get(f"{url}/v2/")[:1] == (200,)


@pytest.mark.parametrize(("path", "code"), [
    ("pause/manifests/9", "MANIFEST_UNKNOWN"), ("nothing/manifests/1", "MANIFEST_UNKNOWN"),
    ("pause/blobs/sha256:" + "0" * 64, "BLOB_UNKNOWN"), ("nothing/tags/list", "NAME_UNKNOWN"),
])  # fmt: skip
def test_what_is_missing_is_said_as_the_protocol_has_it(url: str, path: str, code: str) -> None:
    status, _, body = get(f"{url}/v2/{path}")
    assert status == 404
    assert json.loads(body)["errors"][0]["code"] == code


def test_nothing_but_the_tree_is_served(url: str) -> None:
    for path in ("nginx.conf", "../nginx.conf", "%2e%2e/nginx.conf", "run/nginx.pid", ".v2/none", ".v2/tags/x"):
        assert get(f"{url}/{path}")[0] in (400, 404), path
    for method in ("POST", "PUT", "DELETE"):
        for path in ("/v2/pause/blobs/uploads/", "/v2/", "/healthz"):
            done = run("curl", "-sS", "-X", method, "-o", "/dev/null", "-w", "%{http_code}", url + path)
            assert done.stdout == "405"


@pytest.mark.root
def test_dnf_installs_from_it(url: str, tmp_path: Path) -> None:
    text = get(f"{url}/repo/el7.repo")[2].decode()
    assert f"baseurl={url}/packages/el7/\n" in text
    dnf = Dnf(tmp_path, text)
    dnf("install", "app")
    assert (dnf.root / "opt/lib/payload").stat().st_size == 100_000
    assert f"deb [trusted=yes] {url}/packages/noble/ ./\n" in get(f"{url}/repo/noble.list")[2].decode()
    assert get(f"{url}/repo/noble.sources")[1]["content-type"] == "text/plain"


@pytest.mark.root
def test_a_chart_is_pulled_as_from_the_server(url: str, site: tuple[Path, str], tmp_path: Path) -> None:
    source = f"docker://{url[7:]}/charts/shop:1.2.3"
    run("skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", source, f"dir:{tmp_path}/chart")
    manifest = json.loads((tmp_path / "chart/manifest.json").read_text())
    layer = manifest["layers"][0]
    assert layer["mediaType"] == "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
    assert (tmp_path / "chart" / layer["digest"].partition(":")[2]).read_bytes() == CHART
    assert get(f"{url}/charts/index.yaml")[2] == b"apiVersion: v1\n"
    tree = site[0] / "www"
    assert (tree / f"v2/charts/shop/blobs/{layer['digest']}").samefile(tree / "charts/shop-1.2.3.tgz")


def test_the_page_says_what_is_inside_and_knows_of_no_node(url: str) -> None:
    status, fields, body = get(f"{url}/")
    assert (status, fields["content-type"]) == (200, "text/html")
    page = body.decode()
    assert f"curl -fsSL {url}/deploy.sh" in page
    assert "k8s.gcr.io/pause:3.2" in page
    for live in ("api/nodes", "metrics", "fetch(", "http-equiv", "Nodes</h2>"):
        assert live not in page
    status, fields, body = get(f"{url}/api/bundle")
    assert (fields["content-type"], json.loads(body)["release"]) == ("application/json", "1.20")


def test_the_servers_ca_goes_with_deploy_sh(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, "--tls"):
        ca = tmp_path / "state/ca.pem"
    done = export(bundle, tmp_path / "tree", "--servers", "https://site", "--tls-ca", ca)
    assert done.returncode == 0, done.stderr
    script = (tmp_path / "tree/www/deploy.sh").read_text()
    assert f"SERVER_CA='{ca.read_text()}'\n" in script
    assert (tmp_path / "tree/www/ca.pem").read_text() == ca.read_text()
    assert "sslcacert=" in (tmp_path / "tree/www/repo/el7.repo").read_text()
    assert "| bash" not in done.stdout
    assert f'curl -fsSL -k https://site/deploy.sh -o deploy.sh && echo "{hashlib.sha256(script.encode()).hexdigest()}' \
        in done.stdout
    for servers, given in (("http://site", ca), ("https://site", bundle), ("https://site", tmp_path / "none")):
        assert export(bundle, tmp_path / "x", "--servers", servers, "--tls-ca", given).returncode == 2


def test_objects_lie_where_a_server_without_maps_looks(site: tuple[Path, str], digests: dict[str, str]) -> None:
    tree, _ = site
    lines = [line.split("\t") for line in (tree / "headers.tsv").read_text().splitlines()]
    assert ["v2/k8s.gcr.io/pause/manifests/3.2", "application/vnd.oci.image.manifest.v1+json",
            digests["k8s.gcr.io/pause:3.2"]] in lines
    for path, _, digest in lines:
        assert "sha256:" + hashlib.sha256((tree / "www" / path).read_bytes()).hexdigest() == digest
        assert (tree / "www" / path).stat().st_nlink > 1, "a link, no copy"


def test_two_exports_are_the_same_bytes_and_times(bundle: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert export(bundle, tmp_path / name, "--servers", "http://10.0.0.1").returncode == 0
    assert subprocess.run(["diff", "-r", tmp_path / "a/www", tmp_path / "b/www"]).returncode == 0
    files = [path for name in ("a", "b") for path in (tmp_path / name / "www").rglob("*") if path.is_file()]
    times = {path.stat().st_mtime for path in files}
    assert times == {1610496000.0}


def test_a_full_directory_a_wrong_url_and_a_damaged_bundle_are_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    assert export(bundle, tmp_path / "full", "--servers", "http://10.0.0.1").returncode == 2
    assert (tmp_path / "full/file").read_text() == "mine"
    assert export(bundle, tmp_path / "x", "--servers", "10.0.0.1").returncode == 2
    data = bytearray(bundle.read_bytes())
    data[data.index(LARGE[:100])] ^= 1
    (tmp_path / "bad.tar").write_bytes(data)
    done = export(tmp_path / "bad.tar", tmp_path / "x", "--servers", "http://10.0.0.1")
    assert done.returncode == 6
    assert "bin/amd64/kubectl differs" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tar", "full"], "nothing half made stays"


def test_serve_names_the_servers_beside_it(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, "--also", "http://10.0.0.2:8000/", "--also", "http://10.0.0.3") as server:
        script = get(f"{server.url}/deploy.sh")[2].decode()
    assert f"SERVER='{server.url}'\n" in script
    assert "SERVERS='http://10.0.0.2:8000 http://10.0.0.3'\n" in script


@pytest.mark.root
def test_containerd_turns_to_the_next_server_of_its_hosts_toml(
    url: str, tmp_path: Path, digests: dict[str, str]
) -> None:
    node = Shell(tmp_path, {"SERVER": "http://127.0.0.1:9", "SERVERS": url})
    hosts = node.out("registry_hosts")
    assert hosts.index('[host."http://127.0.0.1:9"]') < hosts.index(f'[host."{url}"]')
    for registry in ("k8s.gcr.io", "docker.io"):
        (tmp_path / "certs.d" / registry).mkdir(parents=True)
        (tmp_path / "certs.d" / registry / "hosts.toml").write_text(hosts)
    with running_containerd(tmp_path) as socket:
        for ref in ("k8s.gcr.io/pause:3.2", "docker.io/library/busybox:1.33"):
            by_digest = f"{ref.rpartition(':')[0]}@{digests[ref]}"
            run("ctr", "-a", socket, "images", "pull", "--snapshotter", "native", "--platform", "linux/amd64",
                "--hosts-dir", tmp_path / "certs.d", by_digest)
            assert digests[ref] in run("ctr", "-a", socket, "images", "ls").stdout
