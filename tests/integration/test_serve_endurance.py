"""The server in the long run: clients that live through its restart, and a week's requests without growth."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bundles import add_image, make_bundle
from tests.serving import Server, descriptors, free_port, memory, serving

CLIENTS = 50
SECONDS = int(os.environ.get("ENDURANCE_SECONDS", "12"))  # a week of 1,000 nodes asks for some 3 million files
LARGE = os.urandom(12_000_000)
# What nodes, package managers and runtimes ask for: found and not, whole, in ranges, known already, and reports.
LOAD = """
local n = 0
local paths = {"/small", "/deploy.sh", "/healthz", "/nope", "/v2/", "/v2/k8s.gcr.io/pause/manifests/3.2", "/metrics",
               "/v2/k8s.gcr.io/pause/tags/list", "/v2/pause/blobs/sha256:0", "/api/nodes", "/SHA256SUMS", "/"}
request = function()
  n = n + 1
  local path = paths[n % #paths + 1]
  if n % 97 == 0 then
    return wrk.format("POST", "/report", {}, "token=x\\nnode=n" .. n .. "\\n")
  elseif n % 7 == 0 then
    local fields = {["Range"] = "bytes=" .. (n % 100) .. "-", ["X-Request"] = tostring(n)}
    return wrk.format("GET", path .. "?n=" .. n, fields)
  elseif n % 5 == 0 then
    return wrk.format("GET", path, {["If-None-Match"] = "*", ["Accept-Encoding"] = "gzip"})
  end
  return wrk.format("GET", path)
end
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    members = {"large": LARGE, "small": b"s" * 2048}
    image = add_image(members, "k8s.gcr.io/pause:3.2", [os.urandom(20_000)])
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b.tar", members, [image])


@contextlib.contextmanager
def clients(url: str, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Stock curls that fetch the large member, each slowly, and go on where they were cut off."""
    script = 'until curl -fsS --limit-rate 600k --no-buffer -C - -o "$1" "$2" 2>>"$1.log"; do sleep 0.1; done'
    running = [subprocess.Popen(["sh", "-c", script, "sh", folder / f"{number:02}", f"{url}/large"])
               for number in range(CLIENTS)]  # fmt: skip
    try:
        yield running
    finally:
        for one in running:
            one.kill()
            one.wait()


def test_downloads_go_on_where_a_killed_server_left_them(bundle: Path, tmp_path: Path) -> None:
    port = free_port()
    files = [tmp_path / f"{number:02}" for number in range(CLIENTS)]
    with clients(f"http://127.0.0.1:{port}", tmp_path) as running:
        with serving(bundle, tmp_path, port=port) as server:
            wait_for(lambda: all(sizes(files)))
            kill(server)
        cut = [size for size in sizes(files) if size < len(LARGE)]
        assert len(cut) > CLIENTS * 0.8, "a busy machine lets a few run ahead, and end before"
        with serving(bundle, tmp_path, port=port):
            wait_for(lambda: all(one.poll() == 0 for one in running))
    wanted = hashlib.sha256(LARGE).digest()
    assert all(hashlib.sha256(path.read_bytes()).digest() == wanted for path in files)
    cuts = [re.findall(r"curl: \((?:18|56)\)", path.with_suffix(".log").read_text()) for path in files]  # short, reset
    assert sum(map(len, cuts)) > CLIENTS / 2, cuts


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.05)


def sizes(files: list[Path]) -> list[int]:
    return [path.stat().st_size if path.exists() else 0 for path in files]


def kill(server: Server) -> None:
    """As power failing would: parent and workers, in no order, without a word."""
    for pid in (*server.workers(), server.process.pid):
        os.kill(pid, signal.SIGKILL)
    server.process.wait()


def load(server: Server, script: Path, seconds: int) -> int:
    """Ask over 64 connections for some time; how many requests were answered."""
    command = ["wrk", "-t1", "-c64", f"-d{seconds}", "-s", script, server.url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"(\d+) requests in", said)
    assert found and "Socket errors" not in said, said
    return int(found.group(1))


def test_a_week_of_requests_leaves_memory_and_descriptors_as_they_were(bundle: Path, tmp_path: Path) -> None:
    script = tmp_path / "load.lua"
    script.write_text(LOAD)
    with serving(bundle, tmp_path, "--workers", "2", "--access-log", "/dev/null") as server:
        pids = [server.process.pid, *server.workers()]
        files = descriptors(pids)
        load(server, script, 4)  # what is kept for speed has its bounds, and reaches them here
        before = memory(pids)
        asked = load(server, script, SECONDS)
        after = memory(pids)
        print(f"{asked} requests; {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after")
        assert asked > 3000 * SECONDS
        assert after - before < 2 << 20
        wait_for(lambda: descriptors(pids) <= files)
        assert server.workers() == pids[1:]
        assert "unexpected" not in server.errors.read_text()
