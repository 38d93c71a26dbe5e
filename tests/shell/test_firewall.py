"""Which firewall is active, and the rules that are wanted in it. The real ones run in tests/lab/test_firewall.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from .stream import Shell

RULESET = """
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		tcp dport { 22, 80 } accept comment "mine"
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		counter packets 1 bytes 2 jump strict
	}
	chain output {
		type filter hook output priority filter; policy drop;
	}
}
table ip open {
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport 22 accept
	}
}
table ip filter {
	chain INPUT {
		type filter hook input priority filter; policy drop;
	}
}
table ip6 six {
	chain input {
		type filter hook input priority filter; policy drop;
	}
}
table inet firewalld {
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		reject
	}
}
"""
HOST_GW = "MANIFEST_REPLACE='x host-gw y'"


@pytest.fixture
def nft(shell: Shell, tmp_path: Path) -> Shell:
    """`nft` is a stub that lists the rule set above."""
    (tmp_path / "ruleset").write_text(RULESET)
    shell.stub("nft", f"[ \"$1 $2\" != 'list ruleset' ] || cat {tmp_path}/ruleset")
    return shell


def test_only_chains_that_may_drop_get_rules(nft: Shell) -> None:
    assert nft.out("nft_chains input").splitlines() == ["inet filter input"]
    assert nft.out("nft_chains forward").splitlines() == ["inet filter forward"]


def test_rules_of_nft(nft: Shell) -> None:
    rules = nft.out(f"ROLE=node; {HOST_GW}; nft_script").splitlines()
    assert rules == [f'insert rule inet filter {rule} accept comment "kubecarry"' for rule in (
        "input ip saddr 10.244.0.0/16", "input tcp dport 10250", "input tcp dport 30000-32767",
        "forward ip daddr 10.244.0.0/16", "forward ip saddr 10.244.0.0/16")]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "ports"),
    [
        (f"{HOST_GW}; ports_of master", "6443/tcp 2379-2380/tcp 10250/tcp 10257/tcp 10259/tcp"),
        (f"{HOST_GW}; OPT_VIP=10.1.1.1; ports_of master", "6443/tcp 2379-2380/tcp 10250/tcp 10257/tcp 10259/tcp vrrp"),
        ("ports_of node", "10250/tcp 30000-32767/tcp 8472/udp"),
        ("NETWORK_ADDON=; ports_of node", "10250/tcp 30000-32767/tcp"),
        ("ports_of etcd; ROLE=etcd; pod_sources", "2378-2380/tcp"),
    ],
)
def test_ports_by_role(shell: Shell, given: str, ports: str) -> None:
    assert shell.out(f"OPT_VIP=; {given}").split() == ports.split()


@pytest.mark.parametrize(
    ("rules", "active"),
    [
        (":INPUT ACCEPT [0:0]\n-A KUBE-FIREWALL -m mark --mark 0x8000 -j DROP\n-A FORWARD -j REJECT", False),
        (":INPUT DROP [0:0]", True),
        (":INPUT ACCEPT [0:0]\n-A INPUT -p icmp -j ACCEPT\n-A INPUT -j REJECT --reject-with x", True),
        (":INPUT ACCEPT [0:0]\n-A INPUT -j OURS\n-A OURS -j DROP", True),
    ],
)
def test_whether_iptables_drops(shell: Shell, rules: str, active: bool) -> None:
    shell.stub("iptables-save", f"printf '%s\\n' '{rules}'")
    assert shell.run("iptables_active").returncode == (0 if active else 1)


def test_the_file_of_iptables_gets_them_first_and_once(shell: Shell, tmp_path: Path) -> None:
    """`iptables` is a stub to which nothing is known; the file is the test's own."""
    shell.stub("iptables", "[ $3 != -C ]")
    saved = "*nat\n-A X -j Y\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n"
    (tmp_path / "rules").write_text(saved)
    moved = f"declare -f iptables_keep | sed 's#/etc/sysconfig/iptables#{tmp_path}/rules#' >$STATE/fn; . $STATE/fn"
    body = f"{moved}; {HOST_GW}; ROLE=node; iptables_open; iptables_open"
    shell.out(body)
    lines = (tmp_path / "rules").read_text().splitlines()
    ours = [line for line in lines if "kubecarry" in line]
    assert ours[0] == "-A INPUT -p tcp -m tcp --dport 10250 -m comment --comment kubecarry -j ACCEPT"
    assert lines[5:10] == ours
    assert lines[10] == "-A INPUT -i lo -j ACCEPT"
    shell.out("undo_all")
    assert (tmp_path / "rules").read_text() == saved


def test_rules_of_ufw_are_added_once_and_deleted(shell: Shell, tmp_path: Path) -> None:
    """`ufw` is a stub that keeps what is added in a file, as the real one prints it."""
    (tmp_path / "added").write_text("ufw allow 10250/tcp\n")
    shell.stub("ufw", f"""cd {tmp_path}; case "$*" in
        'show added') cat added ;;
        'route delete '*) sed -i "\\|^ufw route ${{*:3}}\\$|d" added ;;
        'delete '*) sed -i "\\|^ufw ${{*:2}}\\$|d" added ;;
        *) echo "ufw $*" >>added ;;
      esac""")
    shell.out(f"{HOST_GW}; ROLE=node; ufw_open; ufw_open")
    assert (tmp_path / "added").read_text().splitlines() == ["ufw allow 10250/tcp"] + [f"ufw {rule}" for rule in (
        "allow 30000:32767/tcp", "allow from 10.244.0.0/16", "route allow from 10.244.0.0/16",
        "route allow to 10.244.0.0/16")]  # fmt: skip
    shell.out("undo_all")
    assert (tmp_path / "added").read_text() == "ufw allow 10250/tcp\n"
