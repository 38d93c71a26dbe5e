"""The real firewalls of hosts take the cluster's rules, once, and are as before after undo."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.lab import rootfs
from tests.lab.debs import fetched
from tests.shell.stream import stream

pytestmark = [pytest.mark.root, pytest.mark.lab]

TOOLS = Path(__file__).parent / "inside" / "tools.sh"
ROUND = """
rules >/before
echo "kinds $(active_firewalls | tr '\\n' ' ')"
open_firewall; rules >/open; cp $STATE/journal /journal; sed 's/^/open /' /open
open_firewall; rules | diff /open - && cmp $STATE/journal /journal && echo 'again same'
undo_all; rules | diff /before - && echo 'undone same'
"""
OFF = """
OPT_FIREWALL=off; open_firewall; echo "off kinds $(active_firewalls | tr '\\n' ' ')"
undo_all; rules | diff /before - && echo 'on again same'
"""
NFT = """
cat >/etc/nftables.conf <<'C'
flush ruleset
table inet filter {
  chain input {
    type filter hook input priority 0; policy drop;
    iif lo accept
    tcp dport 22 accept comment "mine"
  }
  chain forward { type filter hook forward priority 0; policy drop; }
}
C
ACTIVE=nftables.service
nft -f /etc/nftables.conf
rules() { nft -s list ruleset; cat /etc/nftables.conf; ls /etc/kubecarry.nft 2>/dev/null || true; }
open_firewall; nft -s list ruleset >/live; nft -f /etc/nftables.conf
nft -s list ruleset | diff /live - && echo 'boot same'
undo_all
"""
IPTABLES = """
mkdir /etc/iptables
cat >/etc/iptables/rules.v4 <<'C'
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
COMMIT
C
iptables-restore /etc/iptables/rules.v4
rules() { iptables-save | sed -e '/^#/d' -e 's/ \\[.*//'; cat /etc/iptables/rules.v4; }
open_firewall; iptables-save | grep -v '^#' | sort >/live; iptables-restore /etc/iptables/rules.v4
iptables-save | grep -v '^#' | sort | diff /live - && echo 'boot same'
undo_all
"""
UFW = """
cp /usr/share/ufw/iptables/*.rules /usr/share/ufw/ufw.conf /etc/ufw/; chmod 640 /etc/ufw/*.rules
ufw --force enable >/dev/null; ufw allow 10250/tcp >/dev/null; ACTIVE=ufw
rules() { ufw show added; iptables-save | sed -e '/^#/d' -e 's/ \\[.*//'; cat /etc/ufw/*.rules /etc/ufw/ufw.conf; }
"""
FIREWALLD = """
mkdir -p /run/dbus; dbus-uuidgen --ensure; dbus-daemon --system --fork
firewalld --nofork >/log 2>&1 &
until firewall-cmd --state >/dev/null 2>&1; do sleep 0.2; done
ACTIVE=firewalld
rules() {
  firewall-cmd --list-all-zones; firewall-cmd --permanent --list-all-zones; find /etc/firewalld -type f | sort
}
"""


def run(tmp_path: Path, packages: list[str], script: str) -> str:
    """What the script prints in a root with these packages, and with the node functions of a master that has a VIP."""
    layer, base = rootfs.layers()
    deploy = tmp_path / "deploy.sh"
    deploy.write_text(stream({"MANIFEST_REPLACE": "x host-gw", "SERVER": "http://10.77.0.1:8000"}))
    (tmp_path / "place").mkdir()
    debs = fetched(*packages) if packages else []
    words = ["unshare", "-mnp", "--fork", "--kill-child", TOOLS, tmp_path / "place", base, layer, deploy, *debs]
    done = subprocess.run(words, input=script, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "packages", "setup", "opened"),
    [
        ("nft", ["nftables"], NFT, ['tcp dport 2379-2380 accept comment "kubecarry"', "ip protocol vrrp accept",
                                    "ip daddr 10.244.0.0/16 accept", 'include "/etc/kubecarry.nft"']),
        ("iptables", [], IPTABLES, ["-A INPUT -p tcp -m tcp --dport 2379:2380 -m comment --comment kubecarry -j ACCEPT",
                                    "-A INPUT -p vrrp", "-A FORWARD -d 10.244.0.0/16"]),
        ("ufw", ["ufw"], UFW, ["ufw allow 2379:2380/tcp", "ufw allow to any proto vrrp",
                               "ufw route allow to 10.244.0.0/16"]),
        pytest.param("firewalld", ["firewalld"], FIREWALLD,
                     ["ports: 6443/tcp 2379-2380/tcp 10250/tcp 10257/tcp 10259/tcp", "protocols: vrrp",
                      "sources: 10.244.0.0/16 10.96.0.0/12"], marks=pytest.mark.life),
    ],
)  # fmt: skip
def test_opened_for_the_cluster_and_given_back(
    tmp_path: Path, kind: str, packages: list[str], setup: str, opened: list[str]
) -> None:
    off = OFF if kind in ("iptables", "ufw") else ""  # the others are stopped by their units
    told = run(tmp_path, packages, f"{setup}OPT_VIP=10.77.0.99\n{ROUND}{off}")
    lines = told.splitlines()
    assert f"kinds {kind} " in lines
    for rule in opened:
        assert any(line.startswith("open ") and rule in line for line in lines), told
    assert "again same" in lines
    assert "undone same" in lines
    assert ("boot same" in lines) == (kind in ("nft", "iptables"))
    assert ("on again same" in lines) == bool(off)
