"""Where a worker keeps what nodes report and what it has sent, and finds what the other workers have."""

import hmac
import re
import time
from typing import Any, Dict, List, Optional, Tuple

from .board import NODES, Board

MAX_REPORT = 4096
STEPS = {  # of deploy.sh, in their order; of containerd and docker, a node has one
    "master": ["preflight", "bundle", "sealed", "runtime", "containerd", "docker", "packages", "host", "images",
               "kubeadm", "network", "ready", "addons"],
    "node": ["preflight", "bundle", "sealed", "runtime", "containerd", "docker", "packages", "host", "images",
             "kubeadm", "ready"],
}
_STATES = ("started", "done", "failed")
_STEP = re.compile("[a-z][a-z-]{0,31}")  # other verbs and options have steps beyond STEPS
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_NUMBER = re.compile("[0-9]{1,15}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")  # and what turns the text round
_TEXT = 300  # characters of a message
_RATE = 50.0  # reports a second that a worker takes
_BURST = 200.0
_OLD_SECONDS = 3600  # a node that was silent so long makes room for another
_PEERS = 768


class Desk:
    """One worker's. `token` is what a report must show."""

    def __init__(self, board: Board, worker: int, token: str) -> None:
        self._board = board
        self._worker = worker
        self._token = token.encode("ascii")
        self._nodes: List[Dict[str, Any]] = [one or {} for one in board.read_nodes(worker)]
        self._cells: Dict[Tuple[str, str], int] = {
            (one.get("address", ""), one.get("node", "")): cell for cell, one in enumerate(self._nodes)}
        self._stats: Dict[str, Any] = board.read_stats(worker) or {"replies": [0] * 6, "sent": 0, "peers": {}}
        self._before = list(self._stats["replies"])
        self._allowed, self._filled = _BURST, time.monotonic()

    def take(self, body: bytes, peer: str) -> Tuple[int, str]:
        """Note a report of `key=value` lines from the address `peer`; the status of the reply, and why."""
        now = time.monotonic()
        self._allowed = min(_BURST, self._allowed + (now - self._filled) * _RATE)
        self._filled = now
        if self._allowed < 1:
            return 429, "too many reports: try again later"
        self._allowed -= 1
        lines = [line.partition("=") for line in body.decode("utf-8", "replace").split("\n")]
        given = {key: value for key, _, value in lines}
        if not hmac.compare_digest(given.get("token", "").encode("utf-8", "replace"), self._token):
            return 403, "not the token of this server's deploy.sh"
        report = _report(given, peer)
        if report is None:
            return 400, "not a report"
        return (204, "") if self._store(report) else (429, "too many nodes")

    def nodes(self) -> List[Dict[str, Any]]:
        """What each node reported last, to any worker; with `rate` and `sent` in bytes, `age` in seconds."""
        latest: Dict[Tuple[str, str], Dict[str, Any]] = {}
        for worker in range(self._board.workers):
            for one in self._board.read_nodes(worker):
                if one:
                    key = (one["address"], one["node"])
                    latest[key] = _later(latest.get(key), one)
        peers = self.totals()["peers"]
        now = time.time()
        for one in latest.values():
            one["sent"], one["rate"] = peers.get(one["address"], (0, 0))
            one["age"] = max(0, round(now - one["seen"]))
        return sorted(latest.values(), key=lambda one: (one["role"] != "master", one["node"], one["address"]))

    def totals(self) -> Dict[str, Any]:
        """`replies` by the first digit of their status, `sent` bytes, `connections`, `peers`: [sent, bytes/s]."""
        replies, sent, connections = [0] * 6, 0, 0
        peers: Dict[str, Tuple[int, int]] = {}
        for worker in range(self._board.workers):
            stats = self._board.read_stats(worker)
            if stats:
                replies = [a + b for a, b in zip(replies, stats["replies"])]
                sent += stats["sent"]
                connections += stats.get("connections", 0)
                for peer, (total, rate) in stats["peers"].items():
                    before = peers.get(peer, (0, 0))
                    peers[peer] = (before[0] + total, before[1] + rate)
        return {"replies": replies, "sent": sent, "connections": connections, "peers": peers}

    def tick(self, replies: List[int], connections: int, sent: Dict[str, int]) -> None:
        """Once a second: what this worker has done, `sent` since the last tick by client."""
        stats = self._stats
        stats["replies"] = [a + b for a, b in zip(self._before, replies)]
        stats["connections"] = connections
        stats["sent"] += sum(sent.values())
        peers = stats["peers"]
        for peer in list(peers):
            total, rate = peers[peer]
            now = sent.get(peer, 0)
            peers[peer] = [total + now, (rate + now) // 2 if rate + now > 1024 else 0]
        for peer, size in sent.items():
            if peer not in peers and len(peers) < _PEERS:
                peers[peer] = [size, size]
        self._board.write_stats(self._worker, stats)

    def _store(self, report: Dict[str, Any]) -> bool:
        key = (report["address"], report["node"])
        cell = self._cells.get(key)
        if cell is None:
            cell = self._room(report["seen"])
            if cell is None:
                return False
            self._cells[key] = cell
        kept = _later(self._nodes[cell], report)
        self._nodes[cell] = kept
        return self._board.write_node(self._worker, cell, kept)

    def _room(self, now: float) -> Optional[int]:
        """A cell for another node: a new one, or that of the node which has been silent for longest."""
        if len(self._nodes) < NODES:
            self._nodes.append({})
            return len(self._nodes) - 1
        cell = min(range(NODES), key=lambda at: float(self._nodes[at].get("seen", 0)))
        old = self._nodes[cell]
        if now - float(old.get("seen", 0)) < _OLD_SECONDS:
            return None
        self._cells.pop((old["address"], old["node"]), None)
        self._nodes[cell] = {}
        return cell


def _report(given: Dict[str, str], peer: str) -> Optional[Dict[str, Any]]:
    role, state, step = given.get("role", ""), given.get("state", ""), given.get("step", "")
    numbers = [given.get(name, "") for name in ("run", "at")]
    if not (_NAME.fullmatch(given.get("node", "")) and role in STEPS and state in _STATES
            and all(_NUMBER.fullmatch(one) for one in numbers)):
        return None
    if not _STEP.fullmatch(step) and state == "started":
        return None
    return {"node": given["node"], "address": peer, "role": role, "state": state,
            "step": step if _STEP.fullmatch(step) else "", "run": int(numbers[0]), "at": int(numbers[1]),
            "message": _clean(given.get("message", "")), "remedy": _clean(given.get("remedy", "")),
            "seen": time.time()}


def _clean(text: str) -> str:
    return _CONTROL.sub(" ", text)[:_TEXT].strip()


def _later(one: Optional[Dict[str, Any]], other: Dict[str, Any]) -> Dict[str, Any]:
    """Of two reports the later: of one run by the node's own clock, since they may overtake each other."""
    if not one:
        return other
    clock = "at" if one["run"] == other["run"] else "seen"
    return other if other[clock] >= one[clock] else one
