"""Who holds a virtual address, sampled on all nodes at once, and how long a cluster was out of reach."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from .node import Node

SIOCGIFCONF = 0x8912
CLONE_NEWNET = 0x40000000
RECORD = 40  # bytes of a struct ifreq


class Holders:
    """Samples which nodes have an address, every `pause` seconds, from start until stop."""

    def __init__(self, address: str, nodes: Iterable[Node], pause: float = 0.02) -> None:
        """Name what is sampled; nothing runs yet."""
        self.address, self.nodes, self.pause = socket.inet_aton(address), list(nodes), pause
        self.samples: list[tuple[float, tuple[str, ...]]] = []  # (time, names of the holders)
        self._sockets = {node.name: _socket_in(node.netns) for node in self.nodes}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Holders:
        """Begin."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End; the samples stay."""
        self._ended.set()
        self._thread.join()
        for each in self._sockets.values():
            each.close()

    def reopen(self, node: Node) -> None:
        """Look at a node that was powered on again: it has another network namespace by now."""
        old, self._sockets[node.name] = self._sockets[node.name], _socket_in(node.netns)
        old.close()

    def release(self, node: Node) -> None:
        """Let a node's network namespace go."""
        self._sockets[node.name].close()

    def now(self) -> tuple[str, ...]:
        """The holders of the last sample."""
        return self.samples[-1][1] if self.samples else ()

    def since(self, moment: float) -> list[tuple[float, tuple[str, ...]]]:
        """The samples from a moment on."""
        return [sample for sample in self.samples if sample[0] >= moment]

    def twice(self) -> list[tuple[float, tuple[str, ...]]]:
        """The samples in which more than one node had the address: must be none."""
        return [sample for sample in self.samples if len(sample[1]) > 1]

    def rate(self) -> float:
        """Samples per second, on average."""
        return (len(self.samples) - 1) / (self.samples[-1][0] - self.samples[0][0])

    def longest(self) -> float:
        """Seconds between two samples, at most: a busy machine lets a sampler wait."""
        times = [moment for moment, _ in self.samples]
        return max(later - earlier for earlier, later in zip(times, times[1:]))

    def taken(self, since: float, by_other_than: str) -> float:
        """Seconds from a moment until another node had the address; infinite if none did."""
        for moment, names in self.since(since):
            if any(name != by_other_than for name in names):
                return moment - since
        return float("inf")

    def _run(self) -> None:
        while not self._ended.wait(self.pause):
            names = tuple(name for name, each in self._sockets.items() if self._has(each))
            self.samples.append((time.time(), names))

    def _has(self, each: socket.socket) -> bool:
        try:
            return self.address in _addresses(each)
        except (OSError, ValueError):  # closed: the node was powered off
            return False


@dataclass(frozen=True)
class Try:
    """One request: when it began and ended (seconds since the epoch), and whether it was answered."""

    began: float
    ended: float
    good: bool


class Requests:
    """kubectl in a loop on a node, from start until stop: reads that need etcd's majority."""

    LOOP = """while :; do b=$(date +%s.%N); timeout 4 kubectl --kubeconfig={0} --request-timeout=2s get nodes \
        >/dev/null 2>&1; r=$?; echo "$b $(date +%s.%N) $r"; sleep 0.05; done"""

    def __init__(self, node: Node, config: str) -> None:
        """Begin at once, with this kubeconfig of the node."""
        words = node.entering(["bash", "-c", self.LOOP.format(config)])
        self._child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.tries: list[Try] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End."""
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._thread.join()
        assert self._child.stdout
        self._child.stdout.close()

    def recovered(self, fault: float, quiet: float = 5) -> float | None:
        """Seconds from a fault to the end of the first good request that began after it and after the last bad one.

        None until that many seconds have passed with good ones alone.
        """
        later = [each for each in self.tries if each.ended > fault]
        last_bad = max((each.ended for each in later if not each.good), default=fault)
        good = [each for each in later if each.good and each.began >= last_bad]
        return good[0].ended - fault if good and good[-1].ended >= last_bad + quiet else None

    def failed(self, since: float) -> int:
        """How many were not answered since a moment."""
        return sum(not each.good for each in self.tries if each.ended > since)

    def _read(self) -> None:
        assert self._child.stdout
        for line in self._child.stdout:
            began, ended, code = line.split()
            self.tries.append(Try(float(began), float(ended), code == "0"))


def _socket_in(space: str) -> socket.socket:
    """A socket of another network namespace; a namespace is a thread's own, so one is made for it."""
    made: list[socket.socket] = []

    def make() -> None:
        handle = os.open(f"/run/netns/{space}", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET) == 0:
            made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        os.close(handle)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def _addresses(each: socket.socket) -> list[bytes]:
    """The IPv4 addresses of a socket's network namespace."""
    room = bytearray(RECORD * 128)
    start = (ctypes.c_char * len(room)).from_buffer(room)
    asked = bytearray(struct.pack("iP", len(room), ctypes.addressof(start)))
    fcntl.ioctl(each, SIOCGIFCONF, asked, True)
    size, _ = struct.unpack("iP", asked)
    return [bytes(room[at + 20 : at + 24]) for at in range(0, size, RECORD)]
