"""Three registries over one storage behind nginx, filled by `push`; one dies in the middle of a node's pull."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles import add_image, make_bundle
from tests.integration.runtime import running_containerd
from tests.lab import net
from tests.lab.lab import SWITCH_ADDRESS, Lab, until
from tests.lab.teardown import down
from tests.serving import PROJECT

pytestmark = [pytest.mark.root, pytest.mark.lab]

FRONT = f"{SWITCH_ADDRESS}:5000"
PORTS = (5001, 5002, 5003)
REF = "k8s.gcr.io/etcd:3.4.13-0"
REGISTRY = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}", secret: shared}}
log: {{level: error}}
"""
NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; user root;
events {{ }}
http {{
  log_format all '$status $request_method $uri $upstream_addr $body_bytes_sent';
  access_log {folder}/access.log all;
  upstream registries {{ {servers} }}
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  server {{
    listen {front};
    client_max_body_size 0;
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_max_temp_file_size 0;
    limit_rate 20m;
    location / {{ proxy_pass http://registries; }}
  }}
}}
"""


def layer(size: int) -> bytes:
    """A layer as registries keep it: a gzip'd tar of one file that cannot be packed any smaller."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("usr/bin/etcd")
        info.size = size
        tar.addfile(info, io.BytesIO(os.urandom(size)))
    return gzip.compress(data.getvalue(), 0, mtime=0)


LAYER = layer(60_000_000)


@contextlib.contextmanager
def started(lab: Lab, *words: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server at the switch until the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen([*net.within(lab.switch), *words], stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def lab() -> Iterator[Lab]:
    place = Lab("test-registries")
    down(place)
    net.up(place)
    net.attach(place, "node1", "10.77.0.11")
    yield place
    net.detach(place, "node1")
    down(place)


@pytest.fixture
def registries(lab: Lab, tmp_path: Path) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """The three, by port, with nginx before them."""
    with contextlib.ExitStack() as stack:
        found = {}
        for port in PORTS:
            config = tmp_path / f"{port}.yml"
            config.write_text(REGISTRY.format(root=tmp_path / "storage", port=port))
            found[port] = stack.enter_context(
                started(lab, "docker-registry", "serve", config, log=tmp_path / f"{port}.log"))
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=1 fail_timeout=5s;" for port in PORTS)
        (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, servers=servers, front=FRONT))
        stack.enter_context(started(lab, "nginx", "-c", tmp_path / "nginx.conf", log=tmp_path / "nginx.log"))
        asked = [*net.within(lab.switch), "curl", "-fs", "-o", "/dev/null"]
        for address in (FRONT, *(f"127.0.0.1:{port}" for port in PORTS)):
            url = f"http://{address}/v2/"
            assert until(lambda url=url: subprocess.run([*asked, url]).returncode == 0, 20), url
        yield found


def push(lab: Lab, bundle: Path, tmp_path: Path) -> dict[str, int]:
    """Push a bundle from the switch; what it says in JSON."""
    words = [sys.executable, "-m", "installer", "push", bundle, FRONT, "--plain-http", "--json", "--chunk=4",
             f"--state={tmp_path}/state.json"]
    done = subprocess.run([*net.within(lab.switch), *words], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told: dict[str, int] = json.loads(done.stdout)
    return told


def sent_by(lab: Lab, port: int) -> int:
    """Bytes that the registry of a port has sent over its open connections."""
    words = [*net.within(lab.switch), "ss", "-Htni", "state", "established", f"sport = :{port}"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return sum(int(found) for found in re.findall(r"bytes_sent:(\d+)", told))


def test_a_pull_outlives_the_registry_that_it_came_from(
    lab: Lab, registries: dict[int, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    members: dict[str, bytes] = {}
    image = add_image(members, REF, [LAYER])
    bundle = make_bundle(tmp_path / "b.tar", members, [image])
    assert push(lab, bundle, tmp_path)["uploaded"] == 2, "its chunks went to all three in turn"
    assert push(lab, bundle, tmp_path)["missing_blobs"] == 0
    (tmp_path / "access.log").write_bytes(b"")
    with running_containerd(tmp_path) as socket:
        ctr = [*net.within(f"{lab.id}-node1"), "ctr", "-a", socket]
        name = f"{FRONT}/{REF}"
        idle = {port: sent_by(lab, port) for port in PORTS}
        words = [*ctr, "images", "pull", "--plain-http", "--snapshotter", "native", "--platform", "linux/amd64", name]
        pull = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        more: dict[int, int] = {}

        def under_way() -> bool:
            more.update((port, sent_by(lab, port) - idle[port]) for port in PORTS)
            return max(more.values()) > 8_000_000

        assert until(under_way, 30), more
        assert pull.poll() is None
        busy = max(more, key=lambda port: more[port])
        registries[busy].kill()
        registries[busy].wait()
        output, _ = pull.communicate(timeout=90)
        assert pull.returncode == 0, output[-600:]
        got = subprocess.run([*ctr, "content", "get", f"sha256:{hashlib.sha256(LAYER).hexdigest()}"],
                             stdout=subprocess.PIPE, check=True).stdout
        assert got == LAYER
        check = [*ctr, "images", "check", "--snapshotter", "native"]
        listed = subprocess.run(check, capture_output=True, text=True, check=True).stdout
        assert re.search(rf"{re.escape(name)}.*{image['digest']}.*complete", listed)
    blob = [line.split() for line in (tmp_path / "access.log").read_text().splitlines()
            if hashlib.sha256(LAYER).hexdigest() in line and " GET " in line]
    assert len(blob) >= 2, "the blob was asked for once more"
    assert int(blob[0][4]) < len(LAYER)
    assert f":{busy}" in blob[0][3]
    assert blob[-1][0] == "206", "only what was missing"
    assert not blob[-1][3].endswith(f":{busy}")
