"""What a host hears of VRRP and ARP on its link, from a real keepalived, before it is installed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import net
from tests.lab.lab import until
from tests.lab.upstream.home import run
from tests.shell.stream import Shell

pytestmark = [pytest.mark.root, pytest.mark.lab]

HOLDER, HOST = "test-ear-holder", "test-ear-host"
VIP = "10.9.0.100"


@pytest.fixture
def link() -> Iterator[None]:
    """Two network namespaces with one wire between them."""
    for space in (HOLDER, HOST):
        subprocess.run(["ip", "netns", "del", space], stderr=subprocess.DEVNULL, check=False)
        run("ip", "netns", "add", space)
    run("ip", "link", "add", "eth0", "netns", HOLDER, "type", "veth", "peer", "name", "eth0", "netns", HOST)
    for number, space in enumerate((HOLDER, HOST), 1):
        run("ip", "-n", space, "addr", "add", f"10.9.0.{number}/24", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "up")
    yield
    for space in (HOLDER, HOST):
        run("ip", "netns", "del", space)


@pytest.fixture(params=["", "10.9.0.1,10.9.0.2"], ids=["multicast", "unicast"])
def holder(link: None, shell: Shell, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """keepalived with the file that a master gets, but for the API server that it has not."""
    given = f"NODE_DEVICE=eth0 NODE_ADDRESS=10.9.0.1 OPT_VIP={VIP} OPT_PEERS={request.param}"
    text = shell.out(f"{given}; keepalived_config")
    file = tmp_path / "keepalived.conf"
    file.write_text(text.replace("  track_script {\n    kubecarry_api\n  }\n", ""))
    words = ["keepalived", "-P", "-n", "-l", "-f", file, "-p", tmp_path / "pid", "-r", tmp_path / "vrrp.pid"]
    with (tmp_path / "log").open("w") as log:
        daemon = subprocess.Popen([*net.within(HOLDER), *words], stdout=log, stderr=log)
    assert until(lambda: VIP in run("ip", "-n", HOLDER, "addr"), 20), (tmp_path / "log").read_text()
    yield
    daemon.terminate()
    daemon.wait(10)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    place = tmp_path / "shell"
    place.mkdir()
    return Shell(place)


def heard(shell: Shell, body: str) -> str:
    """What a body of shell says in the host's network."""
    text = f"""DEPLOY_SOURCED=1; . {shell.directory}/deploy.sh; STATE={shell.state}; LOG_SINK=/dev/null
        clock; STARTED=$NOW; NODE_DEVICE=eth0 OPT_VIP={VIP}; {body} 2>/dev/null && echo yes || echo "no $?" """
    return run(*net.within(HOST), "bash", "-c", text).strip()


def test_a_number_and_an_address_that_are_taken_are_heard(holder: None, shell: Shell) -> None:
    assert heard(shell, "hears_vrrp 6") == "yes"
    assert heard(shell, "OPT_VRID=101; hears_vrrp 3") == "no 1"
    assert heard(shell, f"answers_arp {VIP}") == "yes"
    assert heard(shell, "answers_arp 10.9.0.77") == "no 1"


def test_on_a_silent_link_nothing_is_heard_and_no_rule_stays(link: None, shell: Shell) -> None:
    began = time.monotonic()
    assert heard(shell, "hears_vrrp 2") == "no 1"
    assert time.monotonic() - began < 20
    assert heard(shell, f"answers_arp {VIP}") == "no 1"
    assert "kubecarry" not in run(*net.within(HOST), "iptables-save")
    assert "01:00:5e:00:00:12" not in run("ip", "-n", HOST, "maddress")
