"""A server process to test against: `python3 -m installer serve`, as an operator starts it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PYTHON = os.environ.get("INSTALLER_PYTHON", sys.executable)  # to test with an older one


class Server:
    """A running server. `output` and `errors` are the files its stdout and stderr go to."""

    def __init__(
        self, process: subprocess.Popen[bytes], url: str, address: tuple[str, int], output: Path, errors: Path
    ) -> None:
        self.process = process
        self.url = url
        self.output = output
        self.errors = errors
        self.address = address

    def connect(self, timeout: float = 10) -> socket.socket:
        """A new TCP connection to it."""
        return socket.create_connection(self.address, timeout)

    def ask(self, data: bytes, timeout: float = 10) -> bytes:
        """All that comes back on a connection of its own until the server hangs up."""
        with self.connect(timeout) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20) -> int:
        """Send it a signal; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


def installer(*arguments: str, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    """Run the installer to its end."""
    return subprocess.run(
        [sys.executable, "-m", "installer", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60
    )


@contextlib.contextmanager
def serving(
    bundle: Path,
    folder: Path,
    *options: str,
    host: str = "127.0.0.1",
    port: int = 0,
    python: str = PYTHON,
    cwd: Path = PROJECT,
    more: Sequence[Path] = (),
) -> Iterator[Server]:
    """Serve `bundle` from a free port, until the end of the block; `folder` takes stdout and stderr."""
    output, errors = folder / "serve.out", folder / "serve.err"
    command = [python, "-m", "installer", "serve", str(bundle), *map(str, more), "--bind", host, "--port", str(port)]
    command += ["--state", str(folder / "state"), *options]
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
    try:
        url = _url(process, output, errors)
        address = (host, port) if port else (host, int(url.rpartition(":")[2]))
        yield Server(process, url, address, output, errors)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _url(process: subprocess.Popen[bytes], output: Path, errors: Path) -> str:
    """Wait for the lines that the server prints once it is ready; the URL in them."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"reach this machine at (\S+), as root", output.read_text())
        if found:
            return found.group(1)
        time.sleep(0.02)
    raise AssertionError(f"no server: {output.read_text()}{errors.read_text()}")


def read_all(sock: socket.socket) -> bytes:
    """What a socket gives until its end; a reset counts as one."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(1 << 16):
            data += piece
    return data


def read_reply(sock: socket.socket, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """One reply of a kept connection: status, fields (lower case names), body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(1)
        assert piece, f"hung up after {data!r}"
        data += piece
    lines = data.decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    status, left = int(lines[0].split()[1]), int(fields.get("content-length", 0))
    body = b""
    while method != "HEAD" and status != 304 and len(body) < left:
        piece = sock.recv(left - len(body))
        assert piece, f"hung up after {len(body)} of {left} bytes"
        body += piece
    return status, fields, body


def free_port() -> int:
    """A port that nothing listens on, for the moment."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def readable(sock: socket.socket, seconds: float) -> bool:
    """Whether something, or the end, arrives in time."""
    return bool(select.select([sock], [], [], seconds)[0])


def memory(pids: list[int]) -> int:
    """Resident bytes of processes."""
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in pids)


def descriptors(pids: list[int]) -> int:
    """Open file descriptors of processes."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
