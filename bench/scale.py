"""How long a site takes to install, by its size: `python -m bench.scale [--seed N]` prints the tables of docs/scale.md.

A fluid model: flows between sources and nodes share the links max-min fairly, recomputed at each time step.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

FILES_MB = 100.0  # packages, metadata and scripts of a node: only servers have them
LAYERS_MB = (60.0, 45.0, 30.0, 20.0, 12.0, 9.0, 6.0, 3.0, 2.0, 1.0)  # image layers of a node, 188 MB in all
BYTES_MB = FILES_MB + sum(LAYERS_MB)
PULLS = 3  # layers at a time, as deploy.sh does
USE = 0.94  # of a link's bits that are payload
NODE_GBIT = 1.0
NODES = (10, 100, 1000, 5000)
GBITS = (1, 10, 25)
STEPS = 100


def megabytes(gbit: float) -> float:
    """Payload in MB/s of a link of so many Gbit/s."""
    return gbit * 1000 / 8 * USE


def fair(flows: Sequence[tuple[int, int]], capacity: Sequence[float]) -> list[float]:
    """Max-min fair rates of flows, each over two links; capacity is per link."""
    users: list[list[int]] = [[] for _ in capacity]
    for number, links in enumerate(flows):
        for link in links:
            users[link].append(number)
    left, waiting = list(capacity), [len(found) for found in users]
    heap = [(left[link] / waiting[link], link) for link in range(len(users)) if waiting[link]]
    heapq.heapify(heap)
    rates = [-1.0] * len(flows)
    while heap:
        share, link = heapq.heappop(heap)
        if not waiting[link]:
            continue
        now = left[link] / waiting[link]
        if now > share * (1 + 1e-9):  # it has gained since it was queued
            heapq.heappush(heap, (now, link))
            continue
        for number in users[link]:
            if rates[number] >= 0:
                continue
            rates[number] = now
            for each in flows[number]:
                left[each] = max(0.0, left[each] - now)
                waiting[each] -= 1
    return rates


@dataclass
class Flow:
    """What a node is fetching: `layer` -1 are the files; `source` and `sink` are links."""

    layer: int
    source: int
    sink: int
    left: float


class Site:
    """Nodes that begin within `spread` seconds, and `servers` of `gbit` each.

    With `peers`, nodes give layers to each other; `seeds` further nodes have them all from the start.
    """

    def __init__(self, nodes: int, servers: int, gbit: float, spread: float, seed: int, peers: bool = False,
                 seeds: int = 0) -> None:
        self.random = random.Random(seed)
        self.nodes, self.servers, self.peers = nodes, servers, peers
        # Links: servers, then each node's way down, then each node's way up, those of the seeds last.
        self.capacity = [megabytes(gbit)] * servers + [megabytes(NODE_GBIT)] * (2 * nodes + seeds)
        self.begins = sorted(self.random.uniform(0, spread) for _ in range(nodes))
        self.wanted = [list(range(len(LAYERS_MB))) for _ in range(nodes)]
        self.holders = [list(range(nodes, nodes + seeds)) for _ in LAYERS_MB]
        self.flows: list[list[Flow]] = [[] for _ in range(nodes)]
        self.done = [0.0] * nodes

    def run(self) -> list[float]:
        """Seconds that each node took."""
        floor = max(BYTES_MB / megabytes(NODE_GBIT), self.nodes * BYTES_MB / sum(self.capacity[:self.servers]))
        step = max(floor, self.begins[-1]) / STEPS if not self.peers else max(floor / 4, self.begins[-1]) / STEPS
        now, begun, running = 0.0, 0, 0
        while begun < self.nodes or running:
            while begun < self.nodes and self.begins[begun] <= now:
                self.flows[begun] = [Flow(-1, begun % self.servers, self._down(begun), FILES_MB)]
                begun, running = begun + 1, running + 1
            running -= self._step(begun, now, step)
            now += step
        return [end - begin for begin, end in zip(self.begins, self.done)]

    def _step(self, begun: int, now: float, step: float) -> int:
        """Move everything on by one step; how many nodes finished in it."""
        for node in range(begun):
            self._ask(node)
        active = [(node, flow) for node in range(begun) for flow in self.flows[node]]
        rates = fair([(flow.source, flow.sink) for _, flow in active], self.capacity)
        for (_, flow), rate in zip(active, rates):
            flow.left -= rate * step
        finished = 0
        for node in {node for node, flow in active if flow.left <= 0}:
            for flow in self.flows[node]:
                if flow.left <= 0 and flow.layer >= 0:
                    self.holders[flow.layer].append(node)
            self.flows[node] = [flow for flow in self.flows[node] if flow.left > 0]
            if not self.flows[node] and not self.wanted[node]:
                self.done[node], finished = now + step, finished + 1
        return finished

    def _ask(self, node: int) -> None:
        """Begin the next layers; from any node that has one, where nodes share, else from the node's server."""
        while self.wanted[node] and sum(flow.layer >= 0 for flow in self.flows[node]) < PULLS:
            layer = self.wanted[node].pop(0)
            source = node % self.servers
            if self.peers and self.holders[layer]:
                source = self.servers + self.nodes + self.random.choice(self.holders[layer])
            self.flows[node].append(Flow(layer, source, self._down(node), LAYERS_MB[layer]))

    def _down(self, node: int) -> int:
        return self.servers + node


def row(nodes: int, gbit: float, seed: int, spread: float) -> list[str]:
    """A line of the table: seconds of the slowest node (and of the median one) with each way to serve."""
    found = []
    for servers, peers, seeds in ((1, False, 0), (4, False, 0), (1, True, 0), (1, True, -(-nodes // 10))):
        taken = Site(nodes, servers, gbit, spread, seed, peers, seeds).run()
        found.append(f"{max(taken):,.0f} ({median(taken):,.0f})")
    return [f"{nodes:,}", f"{gbit:g}", f"{nodes * BYTES_MB / megabytes(gbit):,.0f}", *found]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spread", type=float, default=30, help="nodes begin within so many seconds")
    parser.add_argument("--most", type=int, default=NODES[-1], help="leave out larger sites")
    options = parser.parse_args(argv)
    print("| nodes | server, Gbit/s | n·B/C, s | one server, s | 4 mirrors, s | peers, cold, s | peers, warm, s |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for nodes in NODES:
        for gbit in GBITS:
            if nodes <= options.most:
                print("| " + " | ".join(row(nodes, gbit, options.seed, options.spread)) + " |", flush=True)


if __name__ == "__main__":
    main()
