"""TLS: stock clients that trust the server's CA alone, what they refuse, and what a restart keeps."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import add_image, make_bundle
from tests.integration.runtime import running_containerd
from tests.serving import Server, installer, read_all, read_reply, readable, serving
from tests.shell.stream import Shell, sha256

LARGE = os.urandom(20_000_000)
GET_LARGE = b"GET /bin/amd64/tool HTTP/1.1\r\nHost: x\r\n\r\n"


def run(*command: str | Path, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **kwargs)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tls")
    members = {"bin/amd64/tool": LARGE, "small": b"s" * 2048}
    image = add_image(members, "quay.io/coreos/flannel:v1", [gzip.compress(bytes(10240))])
    with serving(make_bundle(folder / "b.tar", members, [image]), folder, "--tls", "--workers", "2") as found:
        yield found
        assert found.stop() == 0
        assert found.errors.read_text().count("\n") == 1, found.errors.read_text()


@pytest.fixture
def ca(server: Server, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text((server.output.parent / "state/ca.pem").read_text())
    return path


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Path]:
    with running_containerd(tmp_path) as path:
        yield path


@pytest.fixture
def client(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca))


def connect(server: Server, client: ssl.SSLContext) -> ssl.SSLSocket:
    return client.wrap_socket(server.connect(), server_hostname="127.0.0.1")


def test_the_printed_lines_work(server: Server, tmp_path: Path) -> None:
    lines = [line.strip() for line in server.output.read_text().splitlines() if line.strip().startswith("curl ")]
    assert len(lines) == 4
    for line in lines:
        assert server.url in run("bash", "-c", line, cwd=tmp_path).stdout


def test_the_printed_lines_refuse_another_server(server: Server, tmp_path: Path) -> None:
    with serving(server.output.parent / "b.tar", tmp_path, "--tls") as other:  # with a state, so a key, of its own
        pinned, _, checked, _ = (
            line.replace(server.url, other.url)
            for line in server.output.read_text().splitlines()
            if line.strip().startswith("curl ")
        )
        assert "public key does not match" in run("bash", "-c", pinned, cwd=tmp_path, check=False).stderr
        assert "deploy.sh: FAILED" in run("bash", "-c", checked, cwd=tmp_path, check=False).stdout


def test_curl_and_wget_trust_the_ca_alone(server: Server, ca: Path, tmp_path: Path) -> None:
    target = tmp_path / "tool"
    url = f"{server.url}/bin/amd64/tool"
    target.write_bytes(LARGE[:3_000_000])
    run("curl", "-fsS", "--cacert", ca, "--capath", "/dev/null", "-C", "-", "-o", target, url)
    assert target.read_bytes() == LARGE
    target.unlink()
    run("wget", "-q", f"--ca-certificate={ca}", url, cwd=tmp_path)
    assert target.read_bytes() == LARGE
    assert run("curl", "-fsS", url, "-o", target, check=False).returncode == 60
    assert run("curl", "-fsS", "--tls-max", "1.1", "-k", url, "-o", target, check=False).returncode != 0
    assert run("curl", "-fsS", "--tls-max", "1.2", "--cacert", ca, server.url + "/healthz").stdout == "ok\n"


def test_large_small_pipelined_and_slow(server: Server, client: ssl.SSLContext) -> None:
    with connect(server, client) as sock:
        for byte in b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert read_reply(sock)[2] == b"s" * 2048
        sock.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n" * 20 + GET_LARGE * 2)
        for _ in range(20):
            assert read_reply(sock)[2] == b"s" * 2048
        time.sleep(0.3)  # the server's buffers are full by now
        assert read_reply(sock)[2] == LARGE
        assert read_reply(sock)[2] == LARGE
        sock.sendall(GET_LARGE[:-2] + b"Range: bytes=5-9\r\nConnection: close\r\n\r\n")
        assert read_reply(sock)[2] == LARGE[5:10]
        assert sock.recv(1) == b""  # closed as TLS demands, or this raises


def test_many_at_once(server: Server, client: ssl.SSLContext) -> None:
    socks = [connect(server, client) for _ in range(30)]
    for number, sock in enumerate(socks):
        sock.sendall(GET_LARGE[:-2] + b"Range: bytes=%d-%d\r\n\r\n" % (number * 500_000, number * 500_000 + 999_999))
    for number, sock in enumerate(socks):
        assert read_reply(sock)[2] == LARGE[number * 500_000 :][:1_000_000]
        sock.close()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00" + b"x" * 600, b"\0" * 50])
def test_what_is_no_tls_is_refused_at_once(server: Server, data: bytes) -> None:
    with server.connect() as sock:
        sock.sendall(data)
        answer = read_all(sock)
        assert (b"400 Bad Request" in answer and b"https://" in answer) is data.startswith(b"GET")
    assert server.errors.read_text().count("unexpected") == 0


def test_a_handshake_that_stalls_is_cut(server: Server) -> None:
    with server.connect(30) as sock:
        sock.sendall(b"\x16\x03")
        assert readable(sock, 14)  # by the deadline of a request head
        assert sock.recv(10) == b""


def test_a_restart_keeps_key_and_token(server: Server, tmp_path: Path) -> None:
    bundle, port = server.output.parent / "b.tar", 0
    told = []
    for _ in range(2):
        with serving(bundle, tmp_path, "--tls", port=port) as found:
            port = found.address[1]
            told.append(found.output.read_text().rstrip())  # read while its last line end may be on its way
    assert told[0] == told[1]  # with the digest of deploy.sh, and the pin
    assert [path.stat().st_mode & 0o077 for path in (tmp_path / "state").iterdir()] == [0] * 6


def test_a_given_pair_is_served(server: Server, tmp_path: Path) -> None:
    state = server.output.parent / "state"
    pair = ["--tls-cert", str(state / "server.pem"), "--tls-key", str(state / "server.key")]
    with serving(server.output.parent / "b.tar", tmp_path, *pair, "--tls-ca", str(state / "ca.pem")) as found:
        assert run("curl", "-fsS", "--cacert", state / "ca.pem", found.url + "/healthz").stdout == "ok\n"
        assert run("curl", "-fsSk", found.url + "/ca.pem").stdout == (state / "ca.pem").read_text()
    for wrong, code in ((pair[:2], 2), ([*pair[:3], str(state / "ca.key")], 7), ([*pair[:3], "/nowhere"], 7)):
        done = installer("serve", str(server.output.parent / "b.tar"), "--bind", "127.0.0.1", "--port", "0", *wrong)
        assert (done.returncode, done.stderr.count("\n")) == (code, 2), done.stderr


def test_nodes_fetch_with_the_ca_of_deploy(server: Server, ca: Path, tmp_path: Path) -> None:
    def node(name: str, pem: str) -> Shell:
        (tmp_path / name).mkdir()
        sums = run("curl", "-fsSk", f"{server.url}/SHA256SUMS").stdout.encode()
        settings = {"SERVER": server.url, "SUMS_SHA256": sha256(sums), "SERVER_CA": pem}
        return Shell(tmp_path / name, settings)

    script = run("curl", "-fsS", "--cacert", ca, f"{server.url}/deploy.sh").stdout
    (given,) = re.findall(r"(?s)\nSERVER_CA='(.*?)'\n", script)
    assert given == ca.read_text()
    good = node("good", given)
    good.out("trust_server; fetch_sums; fetch bin/amd64/tool; check_server; rm $CA_FILE")
    assert (good.state / "cache/bin/amd64/tool").read_bytes() == LARGE
    done = node("bad", "").run('get_patiently() { get "$1" "$2"; }; trust_server; fetch_sums')
    assert done.returncode == 5
    hosts = good.out("registry_hosts")
    assert hosts == (
        f'server = "{server.url}"\nca = "/etc/containerd/kubecarry-ca.pem"\n\n[host."{server.url}"]\n'
        '  capabilities = ["pull", "resolve"]\n  ca = "/etc/containerd/kubecarry-ca.pem"\n'
    )
    assert "ca =" not in node("plain", "").out("registry_hosts")


@pytest.mark.root
def test_skopeo_and_containerd_pull(server: Server, ca: Path, tmp_path: Path, containerd: Path) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs/ca.crt").write_text(ca.read_text())
    source = f"docker://{server.url[8:]}/quay.io/coreos/flannel:v1"
    run("skopeo", "copy", f"--src-cert-dir={tmp_path}/certs", source, f"dir:{tmp_path}/image")
    assert json.loads((tmp_path / "image/manifest.json").read_text())["layers"]
    assert run("skopeo", "inspect", source, check=False).returncode != 0
    folder = tmp_path / "certs.d/quay.io"
    folder.mkdir(parents=True)
    hosts = f'server = "{server.url}"\nca = "{ca}"\n[host."{server.url}"]\n  ca = "{ca}"\n'
    (folder / "hosts.toml").write_text(hosts)
    pull = ["ctr", "-a", str(containerd), "images", "pull", "--snapshotter", "native", "--hosts-dir",
            str(folder.parent), "--platform", "linux/amd64", "quay.io/coreos/flannel:v1"]  # fmt: skip
    run(*pull)
    (folder / "hosts.toml").write_text(hosts.replace(f'ca = "{ca}"', ""))
    run("ctr", "-a", containerd, "images", "rm", "quay.io/coreos/flannel:v1")
    assert "certificate" in run(*pull, check=False).stderr


def test_clients_that_vanish_leave_nothing(server: Server) -> None:
    def files() -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in server.workers())

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    time.sleep(0.3)
    before = files()
    for number in range(60):
        sock = server.connect()
        if number % 3 == 0:
            sock.close()
        elif number % 3 == 1:
            sock.sendall(b"\x16\x03\x01")
            sock.close()
        else:
            tls = context.wrap_socket(sock)
            tls.sendall(GET_LARGE)
            tls.recv(100)
            tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            tls.close()
    deadline = time.monotonic() + 5
    while files() > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert files() <= before
