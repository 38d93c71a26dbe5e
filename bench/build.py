"""The build, measured: `python -m bench.build [--rounds 5] [--gib 5] [--only NAME…]`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bench.results import measure, rounds, row, seconds
from bench.site import Site, serve
from bench.slow import far
from tests.serving import PROJECT

MIB = 1 << 20
DELAY, RATE = 0.020, 20e6
# By a small process in between: a child's figure begins with what its parent had.
_PEAK = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
         "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
Rows = list[dict[str, Any]]


class Bench(NamedTuple):
    """What every measurement gets."""

    site: Site
    folder: Path
    rounds: int
    gib: float


def cold(bench: Bench) -> Rows:
    """With an empty cache, the upstream on this machine; beside a person's script."""
    return _cold(bench, "build.cold", bench.site.files, bench.site.registry)


def distant(bench: Bench) -> Rows:
    """The same with 20 ms more for each request and 20 MB/s for each connection."""
    with far(bench.site.files, DELAY, RATE) as files, far(bench.site.registry, DELAY, RATE) as images:
        return _cold(bench, "build.cold.far", files, images)


def _cold(bench: Bench, name: str, files: int, images: int) -> Rows:
    folder, output = bench.folder / "script", bench.folder / "cold.tar"

    def ours() -> float:
        _clear(bench.site.root / "cache", output)
        return seconds(bench.site.build(output, files=files, images=images), PROJECT)

    def script() -> float:
        _clear(folder)
        folder.mkdir()
        return seconds(["bash", "-c", bench.site.script(files, images)], folder)

    found = rounds(bench.rounds, ours=ours, script=script)
    _clear(folder, output)
    return [row(name, found["ours"], "s", "script", found["script"] / found["ours"])]


def warm(bench: Bench) -> Rows:
    """With everything in the cache, beside `cp` of a bundle of 2 GiB."""
    build, output, copy = _padded(bench, 2.0), bench.folder / "warm.tar", bench.folder / "copy.tar"
    seconds(build, PROJECT)

    def ours() -> float:
        _clear(output)
        return seconds(build, PROJECT)

    def cp() -> float:
        _clear(copy)
        return seconds(["cp", str(output), str(copy)], bench.folder)

    found = rounds(bench.rounds, ours=ours, cp=cp)
    _clear(output, copy, bench.folder / "padded")
    return [row("build.warm", found["ours"], "s", "cp", found["cp"] / found["ours"])]


def delta(bench: Bench) -> Rows:
    """Bytes of a delta that brings another binary and another package, beside the bytes of these."""
    old, new, small = (bench.folder / name for name in ("old.tar", "new.tar", "delta.tar"))
    seconds(bench.site.build(old), PROJECT)
    changed = bench.site.change()
    seconds(bench.site.build(new), PROJECT)
    seconds(bench.site.build(small, "--since", str(old)), PROJECT)
    size = small.stat().st_size
    _clear(old, new, small)
    return [row("delta.bytes", size / MIB, "MiB", "changed files", changed / size)]


def memory(bench: Bench) -> Rows:
    """Peak memory of a build of 5 GiB that fetches everything."""
    build = _padded(bench, bench.gib)
    done = subprocess.run([sys.executable, "-c", _PEAK, *build], cwd=PROJECT, check=True, capture_output=True)
    _clear(bench.folder / "padded", bench.folder / "warm.tar")
    return [row("build.memory", int(done.stdout.split()[-1]) * 1024 / 1e6, "MB")]


def _padded(bench: Bench, gib: float) -> list[str]:
    """The command that builds a bundle of `gib` GiB: files of random bytes as binaries, from a folder."""
    folder = bench.folder / "padded"
    (folder / "manifests" / "addons").mkdir(parents=True)
    (folder / "locks" / "manifests").mkdir(parents=True)
    (folder / "files").mkdir()
    manifest = yaml.safe_load((bench.site.root / "manifests" / "1.20.yaml").read_text())
    locked = yaml.safe_load((bench.site.root / "locks" / "manifests" / "files.lock").read_text())
    for number in range(round(gib * 4)):
        path, url = folder / "files" / f"{number:02}", f"http://files.test/pad/{number:02}"
        with path.open("wb") as file:
            for _ in range(4):
                file.write(os.urandom(64 * MIB))
        digest = subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout.split()[0]
        manifest["binaries"].append({"name": f"pad{number:02}", "url": url, "checksum": url + ".sha256"})
        locked["files"].append({"url": url, "sha256": digest, "size": path.stat().st_size, "source": url + ".sha256"})
    locked["files"].sort(key=lambda file: file["url"])
    (folder / "manifests" / "1.20.yaml").write_text(yaml.safe_dump(manifest))
    (folder / "locks" / "manifests" / "files.lock").write_text(yaml.safe_dump(locked))
    for name in ("rpms.lock", "images.lock"):
        shutil.copy(bench.site.root / "locks" / name, folder / "locks" / name)
    site = Site(folder, bench.site.files, bench.site.registry)
    return site.build(bench.folder / "warm.tar", "--source", str(folder / "files"))


def _clear(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


MEASUREMENTS: dict[str, Callable[[Bench], Rows]] = {one.__name__: one for one in (cold, distant, warm, memory, delta)}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print each row, and merge them into bench/results.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.build", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gib", type=float, default=5)
    parser.add_argument("--only", nargs="*", choices=sorted(MEASUREMENTS), default=list(MEASUREMENTS))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kubecarry-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # for the workers of nginx
        with serve(folder / "site") as site:
            bench = Bench(site, folder, options.rounds, options.gib)
            measure([MEASUREMENTS[name] for name in options.only], bench)


if __name__ == "__main__":
    sys.exit(main())
