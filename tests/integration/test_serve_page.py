"""The page in a real browser: its own code runs, a node's words do not, and light and dark differ."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.bundles import make_bundle
from tests.serving import Server, serving
from tests.shell.stream import Shell

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--enable-logging=stderr"),
]
EVIL = "<img src=x onerror=\"document.title='evil'\"><script>document.title='evil'</script>"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    bundle = make_bundle(tmp_path / "b.tar", {"large": bytes(5_000_000)})
    with serving(bundle, tmp_path, "--workers", "2") as found:
        yield found


def report(server: Server, **values: str) -> int:
    token = (server.output.parent / "state/report.token").read_text().strip()
    given = {"token": token, "node": "n1", "role": "node", "step": "images", "state": "started", "run": "1", "at": "1"}
    body = "\n".join(f"{key}={value}" for key, value in {**given, **values}.items()).encode()
    try:
        with urlopen(Request(server.url + "/report", body, method="POST")) as reply:
            return int(reply.status)
    except HTTPError as error:
        return error.code


def browse(server: Server, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}/profile", *options, server.url + "/"]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True, cwd=folder)


def test_every_worker_shows_a_report(server: Server) -> None:
    assert report(server) == 204
    assert report(server, token="0" * 32) == 403
    for _ in range(20):  # each on a connection of its own, so by either worker
        with urlopen(server.url + "/api/nodes") as reply:
            assert b'"node":"n1"' in reply.read()


def test_a_report_may_come_in_pieces_and_be_followed(server: Server) -> None:
    token = (server.output.parent / "state/report.token").read_text().strip()
    body = f"token={token}\nnode=slow\nrole=node\nstep=ready\nstate=started\nrun=1\nat=1".encode()
    with server.connect() as sock:
        for piece in (b"POST /report HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(body), b"\r\n", body[:30]):
            sock.sendall(piece)
            time.sleep(0.1)
        sock.sendall(body[30:] + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := sock.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"Content-Length" not in answer.partition(b"\r\n\r\n")[0]
    assert answer.endswith(b"\r\n\r\nok\n")


def test_what_was_sent_is_counted(server: Server) -> None:
    report(server)
    with urlopen(server.url + "/large") as reply:
        reply.read()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with urlopen(server.url + "/metrics") as reply:
            text = reply.read().decode()
        if int(text.partition("\nkubecarry_sent_bytes_total ")[2].split()[0]) > 5_000_000:
            break
        time.sleep(0.2)
    else:
        raise AssertionError(text)


def test_nodes_report_each_step_and_what_failed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    token = (server.output.parent / "state/report.token").read_text().strip()
    node = Shell(tmp_path / "node", {"SERVER": server.url, "REPORT_TOKEN": token})

    def reported(state: str) -> dict[str, object]:
        for _ in range(50):
            with urlopen(server.url + "/api/nodes") as reply:
                for one in json.load(reply)["nodes"]:
                    if one["state"] == state:
                        return dict(one)
            time.sleep(0.1)
        raise AssertionError(state)

    node.out("NODE_NAME=n7 REPORTING=node; step packages true")
    assert reported("started")["step"] == "packages"
    secret = "abcdef.0123456789abcdef"  # a bootstrap token must not travel to the page
    node.run(f"NODE_NAME=n7 REPORTING=node; step kubeadm die 7 $'no way\\nwith {secret}' 'try again'")
    failed = reported("failed")
    assert (failed["node"], failed["step"], failed["remedy"]) == ("n7", "kubeadm", "try again")
    assert failed["message"] == "no way with ******.****************"
    node.out("NODE_NAME=n7 REPORTING=node; report 'done'")
    assert reported("done")["address"] == "127.0.0.1"


def test_a_server_that_takes_no_reports_delays_nobody(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        node = Shell(tmp_path, {"SERVER": url, "REPORT_TOKEN": "0" * 32})
        begun = time.monotonic()
        assert node.out("NODE_NAME=n REPORTING=node; step a true; step b true; echo through") == "through\n"
        assert time.monotonic() - begun < 3


@needs_chromium
def test_the_page_runs_its_own_code_alone(server: Server, tmp_path: Path) -> None:
    report(server, state="failed", message=EVIL, remedy=EVIL)
    done = browse(server, tmp_path, "--virtual-time-budget=3000", "--dump-dom")
    assert "<title>Kubecarry 1.20</title>" in done.stdout  # and not 'evil'
    assert done.stdout.count('<button type="button">Copy</button>') == 4
    assert "Content Security Policy" not in done.stderr
    assert "Uncaught" not in done.stderr


@needs_chromium
def test_light_and_dark(server: Server, tmp_path: Path) -> None:
    report(server)
    shots = []
    for name, scheme in (("light", "1"), ("dark", "0")):
        browse(server, tmp_path, f"--blink-settings=preferredColorScheme={scheme}", "--window-size=600,400",
               f"--screenshot={tmp_path}/{name}.png")  # fmt: skip
        shots.append((tmp_path / f"{name}.png").read_bytes())
    assert shots[0] != shots[1]
