"""The network of a lab: one bridge in a namespace of its own, wired to nodes and to nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .lab import NETWORK, SWITCH_ADDRESS, Lab
from .upstream.home import LabError, lock, run

# Every frame that the switch receives or sends itself is counted once: what is not known to be inside is foreign.
COUNTERS = f"""
table bridge lab {{
  set inside {{
    type ipv4_addr; flags interval
    elements = {{ {NETWORK}, 10.244.0.0/16, 10.96.0.0/12, 224.0.0.0/4, 255.255.255.255 }}
  }}
  counter inside {{}}
  counter address {{}}
  counter local6 {{}}
  counter foreign4 {{}}
  counter foreign6 {{}}
  counter other {{}}
  chain count {{
    ether type ip ip daddr @inside counter name inside return
    ether type arp arp daddr ip @inside counter name address return
    ether type ip6 ip6 daddr {{ fe80::/10, ff02::/16 }} counter name local6 return
    ether type {{ ip, arp }} counter name foreign4 return
    ether type ip6 counter name foreign6 return
    counter name other
  }}
  chain received {{ type filter hook prerouting priority -300; policy accept; jump count; }}
  chain sent {{ type filter hook output priority -300; policy accept; jump count; }}
}}
"""


@dataclass(frozen=True)
class Counters:
    """Frames at the switch, by where they were going."""

    inside: int  # IPv4 to the lab, its pods and services
    address: int  # ARP about such addresses
    local6: int  # IPv6 that never leaves a link
    foreign4: int  # IPv4, and ARP, for any other address
    foreign6: int
    other: int  # anything that is neither IP nor ARP

    @property
    def foreign(self) -> int:
        """Frames meant for anywhere else: what must be zero."""
        return self.foreign4 + self.foreign6 + self.other


def up(lab: Lab) -> None:
    """Make the switch and start counting; nothing changes when it is there already."""
    with lock(lab.switch):
        if not exists(lab.switch):
            try:
                _make_switch(lab)
            except LabError:
                down(lab)
                raise


def _make_switch(lab: Lab) -> None:
    run("ip", "netns", "add", lab.switch)
    _ip(lab.switch, "link set lo up")
    # Of a fixed address: one derived from its ports would change, and ARP go stale, with every node that reboots.
    _ip(lab.switch, "link add br0 address 02:00:00:4d:00:01 type bridge")
    _ip(lab.switch, f"addr add {SWITCH_ADDRESS}/24 dev br0")
    _ip(lab.switch, "link set br0 up")
    run(*within(lab.switch), "nft", "-f", "-", given=COUNTERS)


def down(lab: Lab) -> None:
    """Remove the switch."""
    if exists(lab.switch):
        run("ip", "netns", "del", lab.switch)


def attach(lab: Lab, node: str, address: str) -> None:
    """Give a node (`node1`) a network namespace with one wire to the switch, and no default route."""
    if exists(f"{lab.id}-{node}"):
        return
    try:
        _wire(lab.switch, f"{lab.id}-{node}", f"v-{node}", address)
    except LabError:
        detach(lab, node)
        raise


def _wire(switch: str, space: str, port: str, address: str) -> None:
    run("ip", "netns", "add", space)
    run("ip", "link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", port, "netns", switch)
    _ip(switch, f"link set {port} master br0 up")
    _ip(space, "link set lo up")
    _ip(space, f"addr add {address}/24 dev eth0")
    _ip(space, "link set eth0 up")


def detach(lab: Lab, node: str) -> None:
    """Take the node's wire and namespace away."""
    if exists(lab.switch) and f"v-{node}@" in _ip(lab.switch, "link show"):
        _ip(lab.switch, f"link del v-{node}")
    if exists(f"{lab.id}-{node}"):
        run("ip", "netns", "del", f"{lab.id}-{node}")


def counters(lab: Lab) -> Counters:
    """Return what the switch has seen so far."""
    found = json.loads(run(*within(lab.switch), "nft", "-j", "list", "counters", "table", "bridge", "lab"))
    return Counters(**{c["counter"]["name"]: c["counter"]["packets"] for c in found["nftables"] if "counter" in c})


def default_routes(space: str) -> str:
    """Return the default routes (IPv4 and IPv6) of a network namespace as `ip route` prints them; empty is right."""
    return _ip(space, "-4 route show default") + _ip(space, "-6 route show default")


def way_out(space: str, address: str = "1.1.1.1") -> str:
    """Return the route that a packet to a public address would take; empty when there is none."""
    return run("sh", "-c", 'ip -n "$1" route get "$2" 2>/dev/null || true', "way_out", space, address)


def exists(space: str) -> bool:
    """Say whether there is a network namespace of that name."""
    return (Path("/run/netns") / space).exists()


def within(space: str) -> list[str]:
    """Return the words that run a command in a network namespace and leave all else as it is (cgroups, /sys)."""
    return ["nsenter", f"--net=/run/netns/{space}", "--"]


def _ip(space: str, words: str) -> str:
    return run("ip", "-n", space, *words.split())
