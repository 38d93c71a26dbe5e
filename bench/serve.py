"""The server, measured: `python -m bench.serve [--rounds 5] [--seconds 2] [--gib 5] [--only NAME…]`."""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench import peers
from bench.load import VARY, bytes_per_second, fleet, requests_per_second, transfer_rate
from bench.results import measure, rounds, row, seconds
from tests.bundles import MANIFEST, add_image, make_bundle, sparse_bundle, unpack
from tests.serving import PROJECT, Server, free_port, memory, read_reply, serving

MIB = 1 << 20
IMAGE = "quay.io/bench/app:1"
IDLE = 2000
Rows = list[dict[str, Any]]


class Bench(NamedTuple):
    """What every measurement gets: the server, a folder, the bundle, the same bundle unpacked, and how long."""

    server: Server
    folder: Path
    bundle: Path
    tree: Path
    rounds: int
    seconds: float
    gib: float

    @property
    def port(self) -> int:
        return self.server.address[1]


def small(bench: Bench) -> Rows:
    """2 KiB members over 64 kept connections."""
    with peers.nginx(bench.folder, bench.tree) as nginx, peers.http_server(bench.folder, bench.tree) as plain:

        def rate(port: int) -> Callable[[], float]:
            return lambda: requests_per_second(f"http://127.0.0.1:{port}/small", 64, bench.seconds)

        found = rounds(bench.rounds, ours=rate(bench.port), nginx=rate(nginx), plain=rate(plain))
    return [
        row("serve.small", found["ours"], "requests/s", "nginx", found["ours"] / found["nginx"]),
        row("serve.small", found["ours"], "requests/s", "http.server", found["ours"] / found["plain"]),
    ]


def varied(bench: Bench) -> Rows:
    """The same with a field that differs in each request."""
    script = bench.folder / "vary.lua"
    script.write_text(VARY)
    with peers.nginx(bench.folder, bench.tree) as nginx:

        def rate(port: int) -> Callable[[], float]:
            url = f"http://127.0.0.1:{port}/small"
            return lambda: requests_per_second(url, 64, bench.seconds, script=str(script))

        found = rounds(bench.rounds, ours=rate(bench.port), nginx=rate(nginx))
    return [row("serve.small.varied", found["ours"], "requests/s", "nginx", found["ours"] / found["nginx"])]


def tls(bench: Bench) -> Rows:
    """A 1 GiB member over TLS to 8 clients."""
    with (
        serving(bench.bundle, bench.folder, "--no-verify", "--tls") as server,
        peers.nginx_tls(bench.folder, bench.tree, bench.folder / "state") as nginx,
    ):

        def rate(port: int) -> Callable[[], float]:
            return lambda: transfer_rate(f"https://127.0.0.1:{port}/large", 8, 2 * bench.seconds) / MIB

        found = rounds(bench.rounds, ours=rate(server.address[1]), nginx=rate(nginx))
    return [row("serve.tls", found["ours"], "MiB/s", "nginx", found["ours"] / found["nginx"])]


def nodes(bench: Bench) -> Rows:
    """200 nodes that pull 210 MiB each, half through /v2/ and half as files; and how unlike their times are."""
    digest = max((bench.tree / "images/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size).name
    paths = [f"/v2/bench/app/blobs/sha256:{digest}", "/layer", "/layer", "/layer"] * 3 + ["/layer", "/layer", "/layer"]
    unlike = []

    def pull() -> float:
        rate, times = fleet(bench.port, paths, 200)
        assert len(times) == 200
        unlike.append(times[197] / times[99])
        return rate / MIB

    found = rounds(
        max(1, bench.rounds // 2),
        ours=pull,
        large=lambda: bytes_per_second(bench.port, "/large", 8, 16) / MIB,
    )
    return [
        row("serve.fleet", found["ours"], "MiB/s", "serve.large", found["ours"] / found["large"]),
        row("serve.fleet.p99/p50", statistics.median(unlike), ""),
    ]


def large(bench: Bench) -> Rows:
    """A 1 GiB member to 8 clients."""
    return _transfer(bench, "serve.large", "/large", 8, 8)


def layers(bench: Bench) -> Rows:
    """10 MiB members over 64 connections."""
    return _transfer(bench, "serve.layers", "/layer", 64, 512)


def manifest(bench: Bench) -> Rows:
    """Manifests by tag over 64 connections."""
    with peers.registry(bench.folder, f"127.0.0.1:{bench.port}", [IMAGE.partition("/")[2]]) as registry:

        def rate(port: int) -> Callable[[], float]:
            url = f"http://127.0.0.1:{port}/v2/bench/app/manifests/1"
            return lambda: requests_per_second(url, 64, bench.seconds, f"Accept: {MANIFEST}")

        found = rounds(bench.rounds, ours=rate(bench.port), registry=rate(registry))
    return [row("serve.manifest", found["ours"], "requests/s", "docker-registry", found["ours"] / found["registry"])]


def blob(bench: Bench) -> Rows:
    """30 MiB blobs over 16 connections."""
    digest = max((bench.tree / "images/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size).name
    with peers.registry(bench.folder, f"127.0.0.1:{bench.port}", [IMAGE.partition("/")[2]]) as registry:

        def rate(port: int) -> Callable[[], float]:
            return lambda: bytes_per_second(port, f"/v2/bench/app/blobs/sha256:{digest}", 16, 96) / MIB

        found = rounds(bench.rounds, ours=rate(bench.port), registry=rate(registry))
    return [row("serve.blob", found["ours"], "MiB/s", "docker-registry", found["ours"] / found["registry"])]


def idle(bench: Bench) -> Rows:
    """Memory of the server with 2,000 idle connections, and the time of a new request beside them."""
    held = []
    for _ in range(IDLE):
        sock = bench.server.connect()
        sock.sendall(b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n")
        held.append(sock)
    for sock in held:
        read_reply(sock)
    times = []
    for _ in range(500):
        begun = time.perf_counter()
        with bench.server.connect() as sock:
            sock.sendall(b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n")
            read_reply(sock)
        times.append(time.perf_counter() - begun)
    resident = memory([bench.server.process.pid, *bench.server.workers()])
    for sock in held:
        sock.close()
    return [row("serve.idle.rss", resident / 1e6, "MB"), row("serve.idle.p99", sorted(times)[494] * 1e3, "ms")]


def ready(bench: Bench) -> Rows:
    """From start to the first 200, the verification apart."""
    bundle = _big(bench)
    times = []
    for _ in range(bench.rounds):
        begun = time.perf_counter()
        with serving(bundle, bench.folder, "--no-verify", port=free_port()) as server:
            assert server.ask(b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"ok\n")
            times.append(time.perf_counter() - begun)
    return [row("serve.ready", statistics.median(times), "s")]


def verify(bench: Bench) -> Rows:
    """Verification of a bundle, beside `sha256sum -c` in the unpacked tree; both in memory, so that no disk is
    measured."""
    bundle, tree = _big(bench), bench.folder / "big"
    ours = [sys.executable, "-m", "installer", "verify", str(bundle)]
    seconds(["cat", str(bundle), *map(str, sorted(tree.glob("files/*")))], tree)
    found = rounds(
        bench.rounds,
        ours=lambda: seconds(ours, PROJECT),
        sums=lambda: seconds(["sha256sum", "--quiet", "-c", "SHA256SUMS"], tree),
    )
    return [row("serve.verify", found["ours"], "s", "sha256sum", found["sums"] / found["ours"])]


def _transfer(bench: Bench, name: str, path: str, connections: int, transfers: int) -> Rows:
    with peers.nginx(bench.folder, bench.tree) as nginx:

        def rate(port: int) -> Callable[[], float]:
            return lambda: bytes_per_second(port, path, connections, transfers) / MIB

        found = rounds(bench.rounds, ours=rate(bench.port), nginx=rate(nginx))
    return [row(name, found["ours"], "MiB/s", "nginx", found["ours"] / found["nginx"])]


def _big(bench: Bench) -> Path:
    """A bundle of `gib` GiB in members of 64 MiB, and its tree beside it; holes, so that no disk is measured."""
    path = bench.folder / "big.tar"
    if not path.exists():
        sparse_bundle(path, bench.folder / "big", 64 * MIB, max(1, round(bench.gib * 1024 / 64)))
    return path


_ALL = (small, varied, large, nodes, tls, layers, manifest, blob, idle, ready, verify)
MEASUREMENTS = {one.__name__: one for one in _ALL}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print each row, and merge them into bench/results.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--gib", type=float, default=5)
    parser.add_argument("--only", nargs="*", choices=sorted(MEASUREMENTS), default=list(MEASUREMENTS))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kubecarry-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # for the workers of nginx
        members = {"small": os.urandom(2048), "layer": os.urandom(10 * MIB), "large": os.urandom(1024 * MIB)}
        image = add_image(members, IMAGE, [gzip.compress(os.urandom(30 * MIB), 1)])
        bundle = make_bundle(folder / "b.tar", members, [image])
        tree = unpack(bundle, folder / "tree")
        del members
        with serving(bundle, folder, "--no-verify") as server:
            bench = Bench(server, folder, bundle, tree, options.rounds, options.seconds, options.gib)
            measure([MEASUREMENTS[name] for name in options.only], bench)


if __name__ == "__main__":
    main()
