"""--sealed: what may pass unseen, what is refused, what is told. The kernel's part is proven on real nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from .stream import Shell

# Two lists as the kernel shows them (ipt_recent): four packets of one address, one of another.
RECENT = """src=192.0.2.1 ttl: 0 last_seen: 4295 oldest_pkt: 4 4291, 4292, 4294, 4295
src=10.9.9.9 ttl: 0 last_seen: 4299 oldest_pkt: 1 4299
"""


@pytest.fixture
def seen(shell: Shell) -> Path:
    (shell.directory / "seen").mkdir()
    return shell.directory / "seen"


def report(shell: Shell, given: str = ":") -> list[str]:
    told = shell.out(
        f"SEEN={shell.directory}/seen CERTS_D={shell.directory}/certs.d; cluster_addresses() {{ echo 10.9.9.9; }}; "
        f"is_watching() {{ true; }}; {given}; sealed_report; echo differs=$DIFFERS"
    )
    return told.splitlines()


def test_the_server_the_nodes_and_the_cluster_s_networks_are_inside(shell: Shell) -> None:
    told = shell.out(
        "ip() { echo '10.77.0.0/24 proto kernel src 10.77.0.11'; }; NODE_DEVICE=eth0 MASTER_HOST=10.78.0.1 "
        "SERVER=https://10.79.0.1:8000 SERVERS=http://10.79.0.2:8000; inside_networks"
    )
    networks = {"10.77.0.0/24", "10.78.0.1", "10.79.0.1", "10.79.0.2", "10.244.0.0/16", "10.96.0.0/12", "127.0.0.0/8"}
    assert networks <= set(told.splitlines())
    assert "0.0.0.0" not in told


def test_the_rules_let_everything_pass_and_keep_what_is_not_inside(shell: Shell) -> None:
    lines = shell.out("seal_rules kubecarry 10.77.0.0/24 10.96.0.0/12").splitlines()
    assert lines[:2] == ["*filter", ":KUBECARRY-SEALED - [0:0]"]
    assert lines.pop(2).startswith("-A KUBECARRY-SEALED -p udp --dport 53 ")
    assert lines[2:4] == [f"-A KUBECARRY-SEALED -d {net} -j RETURN" for net in ("10.77.0.0/24", "10.96.0.0/12")]
    assert lines[-2:] == ["-A KUBECARRY-SEALED -m recent --name kubecarry --set --rdest", "COMMIT"]
    assert not [line for line in lines if "DROP" in line or "REJECT" in line]


def test_nothing_seen_is_told_as_such(shell: Shell, seen: Path) -> None:
    assert report(shell)[-1] == "differs=0"
    (seen / "kubecarry").write_text("")
    assert report(shell)[0].startswith("sealed ")


def test_an_address_outside_is_told_and_one_of_a_node_is_not(shell: Shell, seen: Path) -> None:
    (seen / "kubecarry").write_text(RECENT)
    (seen / "kubecarry6").write_text("src=2001:0db8:0000:0000:0000:0000:0000:0001 ttl: 0 last_seen: 1 oldest_pkt: 1 1")
    told = report(shell)
    assert "differs    sealed: this host tried to reach 192.0.2.1 (4 packet(s) or more)" in told
    assert any("2001:0db8" in line for line in told)
    assert not any("10.9.9.9" in line for line in told)
    assert told[-1] == "differs=2"


def test_who_was_asked_for_names_is_told_and_is_no_breach(shell: Shell, seen: Path) -> None:
    (seen / "kubecarry-dns").write_text(f"{RECENT}src=10.244.0.7 ttl: 0 last_seen: 1 oldest_pkt: 1 1\n")
    told = report(shell, "state_set pods 10.244.0.0/16")
    assert "dns        192.0.2.1 was asked for names (4 times or more)" in told
    assert not any("10.244.0.7" in line for line in told), "the cluster's own"
    assert told[-1] == "differs=0"


def test_rules_that_are_gone_and_another_registry_are_told(shell: Shell, seen: Path) -> None:
    (shell.directory / "certs.d/quay.io").mkdir(parents=True)
    (shell.directory / "certs.d/quay.io/hosts.toml").write_text("")
    told = report(shell, "is_watching() { false; }")
    assert told[-1] == "differs=2"
    assert any("rules" in line and "gone" in line for line in told)
    assert any("certs.d/quay.io/hosts.toml" in line for line in told)
    told = report(shell, f"record file {shell.directory}/certs.d/quay.io/hosts.toml - x")
    assert told[-1] == "differs=0"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("docker_active() { true; }", "docker runs here"),
        ("NODE_RUNTIME=docker", "Docker asks an image's own registry"),
        ("foreign_hosts() { echo /etc/containerd/certs.d/quay.io/hosts.toml; }", "could pull from elsewhere by"),
        ("SEEN=/nowhere; has_module() { false; }", "xt_recent is not available"),
    ],
)
def test_a_host_that_cannot_be_sealed_is_refused(shell: Shell, given: str, told: str) -> None:
    check = f"docker_active() {{ false; }}; {given}; CHECKING=sealed; check_sealed; "
    check += 'printf "%s\\n" ${FAULTS[@]+"${FAULTS[@]}"}'
    assert told in shell.out(f"OPT_SEALED=1; {check}")
    assert shell.out(check).strip() == "", "only where it was asked for"


def test_it_stays_sealed_when_the_line_is_run_without_the_option(shell: Shell) -> None:
    shell.out("parse master --sealed; is_sealed")
    shell.out("state_set sealed yes; is_sealed")
    assert shell.run("is_sealed").returncode == 0
    assert shell.run("rm $STATE/state; is_sealed").returncode == 1


def test_sealed_on_a_host_that_was_not(shell: Shell) -> None:
    done = shell.run("id() { echo 0; }; verb_sealed")
    assert done.returncode == 7
    assert "not installed with --sealed" in done.stderr
