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
