"""Addresses, networks and names."""

from __future__ import annotations

from pathlib import Path

import pytest

from .stream import Shell


@pytest.mark.parametrize(
    ("one", "other", "shares"),
    [
        ("10.244.0.0/16", "10.96.0.0/12", False),
        ("10.96.0.0/12", "10.111.255.255/32", True),
        ("10.96.0.0/12", "10.112.0.0/16", False),
        ("10.0.0.0/8", "10.77.0.11/24", True),
        ("192.168.1.0/24", "192.168.1.255", True),
        ("192.168.1.0/24", "192.168.2.0", False),
        ("0.0.0.0/0", "255.255.255.255", True),
        ("12.240.0.0/12", "12.255.1.0/24", True),
    ],
)
def test_overlap_is_symmetric(shell: Shell, one: str, other: str, shares: bool) -> None:
    for a, b in ((one, other), (other, one)):
        assert (shell.run(f"overlap {a} {b}").returncode == 0) is shares


def test_within(shell: Shell) -> None:
    assert shell.run("within 10.244.3.0/24 10.244.0.0/16").returncode == 0
    assert shell.run("within 10.244.0.0/15 10.244.0.0/16").returncode == 1


@pytest.mark.parametrize("text", ["1.2.3", "1.2.3.4.5", "a.b.c.d", "256.1.1.1", "01.2.3.4", "", "1.2.3.4/24"])
def test_what_is_no_address(shell: Shell, text: str) -> None:
    assert shell.run(f"is_address '{text}'").returncode == 1


@pytest.mark.parametrize("text", ["1.0.0.0", "1.0.0.0/33", "1.0.0.0/", "10.0.0/8", "/8", "1.0.0.0/08", "1.0.0.0/8/8"])
def test_what_is_no_network(shell: Shell, text: str) -> None:
    assert shell.run(f"is_cidr '{text}'").returncode == 1


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ('ID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="7"', "el7"),
        ('ID="rhel"\nVERSION_ID="8.10"', "el8"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"', "el9"),
        ("ID=debian\nVERSION_ID=12", "debian12"),
    ],
)
def test_hosts_by_os_release(shell: Shell, tmp_path: Path, release: str, name: str) -> None:
    (tmp_path / "os-release").write_text(release)
    assert shell.out(f"OS_RELEASE={tmp_path}/os-release; detect_os; echo $HOST_OS") == f"{name}\n"


def test_a_host_name_with_capitals_is_lowered(shell: Shell) -> None:
    assert shell.out("OPT_NODE_NAME=Node-A.Example; detect_name; echo $NODE_NAME") == "node-a.example\n"


@pytest.mark.parametrize(("server", "host"), [("http://10.1.1.1:8000", "10.1.1.1"), ("https://a.b:443/x", "a.b")])
def test_the_server_s_host(shell: Shell, server: str, host: str) -> None:
    assert shell.out(f"SERVER={server}; server_host") == host


IP = """case "$*" in
  *'route get'*) echo '10.77.0.1 dev eth1 src 10.77.0.11 uid 0' ;;
  *'addr show dev eth2'*) echo '4: eth2    inet 172.20.0.5/16 scope global eth2' ;;
  *'addr show'*) printf '3: eth1    inet 10.77.0.11/24 scope global\\n4: eth2    inet 172.20.0.5/16 scope global\\n' ;;
esac"""


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("", "10.77.0.11 eth1"),
        ("OPT_INTERFACE=eth2;", "172.20.0.5 eth2"),
        ("OPT_ADDRESS=172.20.0.5;", "172.20.0.5 eth2"),
        ("OPT_ADDRESS=9.9.9.9;", "9.9.9.9 "),
    ],
)
def test_the_node_s_address_by_route_option_or_interface(shell: Shell, given: str, found: str) -> None:
    """`ip` is a stub: interfaces like these cannot be had without a network namespace."""
    shell.stub("ip", IP)
    assert shell.out(f'{given} detect_address; echo "$NODE_ADDRESS $NODE_DEVICE"') == f"{found}\n"
