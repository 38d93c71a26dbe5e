"""A container runtime to test against."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def running_containerd(folder: Path) -> Iterator[Path]:
    """A containerd of our own, with its state and log in `folder`; the path of its socket."""
    config, socket = folder / "config.toml", folder / "c.sock"
    config.write_text(
        f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.overlayfs"]\n'
        f'[grpc]\n  address = "{socket}"\n'
    )
    with (folder / "containerd.log").open("wb") as log:
        process = subprocess.Popen(["containerd", "-c", config], stdout=log, stderr=log)
    try:
        for _ in range(200):
            done = subprocess.run(["ctr", "-a", socket, "version"], capture_output=True, check=False)
            if socket.exists() and done.returncode == 0:
                break
            time.sleep(0.05)
        yield socket
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def running_docker(folder: Path, netns: str) -> Iterator[str]:
    """A dockerd of our own in a network namespace, without a bridge; what DOCKER_HOST must be.

    Its /etc/docker is `folder`/etc, its state and log lie in `folder` too.
    """
    (folder / "etc").mkdir()
    socket = folder / "docker.sock"
    places = ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "-p", f"{folder}/docker.pid"]
    words = ["dockerd", "-H", f"unix://{socket}", *places, "--bridge=none", "--iptables=false", "--ip-forward=false",
             "--ip-masq=false"]  # fmt: skip
    own = f'mount --bind {folder}/etc /etc/docker && exec nsenter --net=/run/netns/{netns} "$@"'
    with (folder / "docker.log").open("wb") as log:
        process = subprocess.Popen(["unshare", "-m", "sh", "-c", own, "own", *words], stdout=log, stderr=log)
    try:
        for _ in range(600):
            done = subprocess.run(["/usr/bin/docker", "-H", f"unix://{socket}", "info"], capture_output=True)
            if done.returncode == 0 or process.poll() is not None:
                break
            time.sleep(0.1)
        assert process.poll() is None, (folder / "docker.log").read_text()[-2000:]
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(60)
