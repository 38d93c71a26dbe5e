"""The virtual address of several masters: its options, its checks, keepalived's files, and what status makes of it."""

from __future__ import annotations

import re
import subprocess

import pytest

from .stream import Shell, stream
from .test_preflight import run_check

TOKEN, KEY, HASH = "abcdef.0123456789abcdef", "a" * 64, f"sha256:{'b' * 64}"
HOST = ("NODE_DEVICE=eth0 NODE_ADDRESS=10.77.0.11; link_source() { case $1 in 10.77.0.*) echo 10.77.0.11 ;; esac; }; "
        "device_of() { if [ \"$1\" = 10.77.0.11 ]; then echo eth0; fi; }")  # fmt: skip


def test_options_of_several_masters(shell: Shell) -> None:
    body = 'parse {}; echo "$VERB $OPT_VIP $OPT_VRID $OPT_PEERS $MASTER_HOST"'
    given = "m --vip 10.0.0.9 --vrid=7 --peers=10.0.0.1,10.0.0.2"
    assert shell.out(body.format(given)) == "master 10.0.0.9 7 10.0.0.1,10.0.0.2 \n"
    given = f"r --token {TOKEN} --certificate-key {KEY} 10.0.0.9:6443"
    assert shell.out(body.format(given)) == "replica    10.0.0.9\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("master --vip 10.0.0.300", "does not do"),
        ("master --vip 10.0.0.9 --vrid 256", "does not do"),
        ("master --vip 10.0.0.9 --vrid 0", "does not do"),
        ("master --vip 10.0.0.9 --peers 10.0.0.1,10.0.0.1", "does not do"),
        ("master --vip 10.0.0.9 --peers 10.0.0.1,", "does not do"),
        ("master --peers 10.0.0.1,10.0.0.2", "go with --vip"),
        ("join --vip 10.0.0.9", "join has no option --vip"),
        (f"replica --token {TOKEN} 10.0.0.9", "replica needs --certificate-key"),
        (f"replica --token {TOKEN} --certificate-key abc 10.0.0.9", "does not do"),
        (f"replica --certificate-key {KEY} 10.0.0.9", "replica needs --token"),
        (f"replica --token {TOKEN} --certificate-key {KEY}", "replica needs the address"),
    ],
)
def test_what_does_not_do_ends_with_2(words: str, told: str) -> None:
    done = subprocess.run(
        ["/bin/bash", "-s", *words.split()], input=stream(), capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("vip", "given", "told"),
    [
        ("10.99.0.1", "true", "lies in none of this host's networks"),
        ("10.77.0.11", "true", "is one of this host's own"),
        ("10.244.0.9", "link_source() { echo 10.77.0.11; }", "lies in the cluster's own network 10.244.0.0/16"),
        ("10.96.0.9", "link_source() { echo 10.77.0.11; }", "lies in the cluster's own network 10.96.0.0/12"),
        ("10.77.0.9", "NODE_DEVICE=eth1 NODE_ADDRESS=10.88.0.11", "lies on eth0, this node's 10.88.0.11 on eth1"),
        ("10.77.0.9", "systemctl() { true; }", "keepalived runs here for something else"),
        ("10.77.0.9", "state_set cluster done", "was not made with the virtual address 10.77.0.9"),
        ("10.77.0.9", "KUBEADM_API=kubeadm.k8s.io/v1alpha1", "knows no further masters"),
    ],
)
def test_an_address_that_does_not_do(shell: Shell, vip: str, given: str, told: str) -> None:
    faults, _ = run_check(shell, "vip", f"systemctl() {{ false; }}; {HOST}; {given}; OPT_VIP={vip}")
    assert [told in fault for fault in faults].count(True) == 1, faults


def test_a_free_address_of_the_masters_network_will_do(shell: Shell) -> None:
    assert run_check(shell, "vip", f"systemctl() {{ false; }}; {HOST}; OPT_VIP=10.77.0.9") == ([], [])


def test_a_cluster_without_a_virtual_address_takes_no_further_master(shell: Shell) -> None:
    faults, _ = run_check(shell, "vip", f"{HOST}; REPLICA=replica CLUSTER_ENDPOINT=lb.example:6443")
    assert "the cluster's endpoint lb.example:6443 is no virtual address" in faults[0]
    silent = f"{HOST}; hears_vrrp() {{ return 1; }}; OPT_VIP=10.77.0.9"
    (fault,), _ = run_check(shell, "vip-heard", silent)
    assert "this master would hold the address a second time" in fault
    assert "--peers" in fault


@pytest.mark.parametrize(
    ("arp", "vrrp", "faults", "cautions"),
    [("false", 1, 0, 0), ("true", 1, 1, 0), ("false", 0, 1, 0), ("false", 2, 0, 1)],
)
def test_what_is_taken_on_the_link(shell: Shell, arp: str, vrrp: int, faults: int, cautions: int) -> None:
    given = f"{HOST}; answers_arp() {{ {arp}; }}; hears_vrrp() {{ return {vrrp}; }}; OPT_VIP=10.77.0.9"
    found = run_check(shell, "vip-free", given)
    assert (len(found[0]), len(found[1])) == (faults, cautions)
    assert run_check(shell, "vip-free", f"{given}; record vip 10.77.0.9 eth0") == ([], []), "ours since an earlier run"


def test_peers_name_this_master_and_never_the_virtual_address(shell: Shell) -> None:
    for peers, told in (("10.77.0.12,10.77.0.13", "is not among the peers"),
                        ("10.77.0.11,10.77.0.9", "the virtual address 10.77.0.9 is among the peers")):  # fmt: skip
        (fault,), _ = run_check(shell, "peers", f"{HOST}; OPT_VIP=10.77.0.9 OPT_PEERS={peers}")
        assert told in fault
    assert run_check(shell, "peers", f"{HOST}; OPT_VIP=10.77.0.9 OPT_PEERS=10.77.0.11,10.77.0.12") == ([], [])


def test_certificates_that_have_expired_are_told(shell: Shell) -> None:
    """`ask_master` is a stub: two hours cannot be waited for."""
    ask = "CLUSTER_INFO=x; ask_master() {{ printf {}; [ {} = 200 ]; }}"
    assert run_check(shell, "certificates", ask.format(200, 200)) == ([], [])
    (fault,), _ = run_check(shell, "certificates", ask.format(404, 404))
    assert "they expire after 2 h" in fault
    assert "deploy.sh token" in fault


def config(shell: Shell, address: str, given: str = "") -> str:
    return shell.out(f"NODE_DEVICE=eth0 NODE_ADDRESS={address} OPT_VIP=10.77.0.100 {given}; keepalived_config")


def test_keepalived_s_file(shell: Shell) -> None:
    text = config(shell, "10.77.0.11")
    assert text.count("{") == text.count("}")
    for line in ("state BACKUP", "nopreempt", "interface eth0", "virtual_router_id 100", "mcast_src_ip 10.77.0.11",
                 "10.77.0.100/32 dev eth0", "enable_script_security"):  # fmt: skip
        assert re.search(rf"^ *{re.escape(line)}$", text, re.M), line
    assert "unicast" not in text
    assert "auth" not in text
    assert "virtual_router_id 7\n" in config(shell, "10.77.0.11", "OPT_VRID=7")


def test_priorities_of_one_network_all_differ_and_are_none_that_vrrp_reserves(shell: Shell) -> None:
    told = shell.out("for n in $(seq 1 254); do NODE_ADDRESS=192.168.5.$n; vrrp_priority; echo; done").split()
    assert len(set(told)) == 254
    assert {int(number) for number in told} == set(range(1, 255))


def test_named_peers_are_spoken_to_directly_and_the_own_address_is_none(shell: Shell) -> None:
    text = config(shell, "10.77.0.12", "OPT_PEERS=10.77.0.11,10.77.0.12,10.77.0.13")
    peers = re.search(r"unicast_src_ip 10\.77\.0\.12\n  unicast_peer \{\n((?:    \S+\n)+)  \}", text)
    assert peers
    assert peers[1].split() == ["10.77.0.11", "10.77.0.13"]
    assert "mcast" not in text


@pytest.mark.parametrize(
    ("code", "ready", "good"),
    [("200", None, True), ("403", None, True), ("000", "now", False), ("500", "now", True),
     ("500", "1 minute ago", False), ("500", None, False)],
)  # fmt: skip
def test_the_check_asks_the_api_server_of_this_host(shell: Shell, code: str, ready: str | None, good: bool) -> None:
    """`curl` is a stub that answers with the code: an API server in each of these states cannot be had at will."""
    shell.stub("curl", f'echo "$*" >{shell.directory}/asked; printf {code}')
    last = shell.directory / "last"
    if ready:
        subprocess.run(["touch", "-d", ready, last], check=True)
    paths = f"INSTALLING={shell.directory}/installing LAST_READY={last} NODE_ADDRESS=10.77.0.11"
    done = shell.run(f"{paths}; api_check >$STATE/check; sh $STATE/check")
    assert (done.returncode == 0) == good
    assert "https://10.77.0.11:6443/readyz" in (shell.directory / "asked").read_text()
    assert "--max-time 3" in (shell.directory / "asked").read_text()


def test_until_the_first_api_server_is_up_the_run_vouches_as_long_as_it_lives(shell: Shell) -> None:
    shell.stub("curl", "printf 000")
    flag = shell.directory / "installing"
    body = f"INSTALLING={flag} NODE_ADDRESS=10.1.1.1; api_check >$STATE/check; echo {{}} >{flag}; sh $STATE/check {{}}"
    assert shell.run(body.format("$$", "")).returncode == 0
    assert shell.run(body.format("$$", "api")).returncode == 1, "what settles the address asks the API server itself"
    assert shell.run(body.format("4194304", "")).returncode == 1, "a run that was killed vouches for nothing"


def test_the_address_goes_with_keepalived_however_it_ends(shell: Shell) -> None:
    unit = shell.out("OPT_VIP=10.77.0.100 NODE_DEVICE=eth0; keepalived_unit")
    assert re.search(r"^ExecStopPost=-/\S+ip address del 10\.77\.0\.100/32 dev eth0$", unit, re.M)
    assert "Restart=always" in unit


def test_the_address_is_found_where_this_host_holds_it(shell: Shell) -> None:
    """`ip` is a stub: a host that holds the virtual address finds its own by the network, not by the route."""
    shell.stub("ip", """case "$*" in
        *route*) echo 'local 10.77.0.100 dev lo src 10.77.0.100' ;;
        *addr*) printf '2: eth0 inet 10.77.0.11/24 x\\n2: eth0 inet 10.77.0.100/32 x\\n' ;;
      esac""")
    assert shell.out("MASTER_HOST=10.77.0.100; detect_address; echo $NODE_ADDRESS $NODE_DEVICE") == "10.77.0.11 eth0\n"


def test_a_firewall_lets_vrrp_in_where_there_is_a_virtual_address(shell: Shell) -> None:
    asked = "firewalld_active() { true; }; firewall-cmd() { true; }; allow() { echo $*; }; ROLE=master NODE_DEVICE=e"
    assert "protocol vrrp" in shell.out(f"{asked} OPT_VIP=10.0.0.9; open_firewall")
    assert "vrrp" not in shell.out(f"{asked}; open_firewall")


MEMBERS = """{"header":{"member_id":"1"},"members":[{"ID":"5","name":"node3","peerURLs":["https://10.0.0.3:2380"],\
"clientURLs":["https://10.0.0.3:2379"]},{"ID":"9","peerURLs":["https://10.0.0.4:2380"]},\
{"ID":"2","name":"node1","peerURLs":["https://10.0.0.1:2380"],"clientURLs":["https://10.0.0.1:2379"]}]}"""


def test_each_member_of_etcd_is_told_and_one_that_never_started_too(shell: Shell) -> None:
    told = shell.out(f"printf %s '{MEMBERS}' | etcd_members").splitlines()
    assert told == ["node3 https://10.0.0.3:2379", "https://10.0.0.4:2380 -", "node1 https://10.0.0.1:2379"]


def test_the_line_for_a_further_master_has_what_differs_from_the_default(shell: Shell) -> None:
    given = f"OPT_VIP=10.0.0.9 OPT_CERTIFICATE_KEY={KEY}; own_ca_hash() {{ printf {HASH}; }}"
    line = f"replica --token {TOKEN} --ca-cert-hash {HASH} --certificate-key {KEY}"
    ask = f"replica_arguments {TOKEN} 10.0.0.9:6443"
    assert shell.out(f"{given}; {ask}") == f"{line} 10.0.0.9:6443"
    assert shell.out(f"{given}; OPT_VRID=9; {ask}") == f"{line} 10.0.0.9:6443"
    told = shell.out(f"{given}; OPT_VRID=8 OPT_PEERS=10.0.0.1,10.0.0.2; {ask}")
    assert told == f"{line} --vrid 8 --peers 10.0.0.1,10.0.0.2 10.0.0.9:6443"


@pytest.mark.parametrize(("endpoint", "vip"), [("10.0.0.9:6443", "10.0.0.9"), ('"10.0.0.1:6443"', "")])
def test_a_backup_of_several_masters_comes_back_with_their_address(shell: Shell, endpoint: str, vip: str) -> None:
    (shell.directory / "backup").write_text("address=10.0.0.1\n")
    (shell.directory / "kubeadm-config.yaml").write_text(f"controlPlaneEndpoint: {endpoint}\nnetworking: {{}}\n")
    assert shell.out(f"RESTORING={shell.directory}; backup_vip") == vip


def test_keepalived_is_stopped_before_its_files_go_and_the_address_last(shell: Shell) -> None:
    """`systemctl` is a stub, and no file is put: the order of the journal counts, which `down` reads backwards."""
    shell.stub("systemctl", "case $1 in is-active) exit 3 ;; is-enabled) exit 1 ;; esac")
    shell.stub("keepalived", "")
    shell.out(f"""put_file() {{ cat >/dev/null; record file "$2" - x; CHANGED=1; }}; INSTALLING={shell.directory}/flag
        OPT_VIP=10.77.0.9 NODE_DEVICE=eth0 NODE_ADDRESS=10.77.0.11; raise_vip""")
    kinds = [line.split("\t")[0] for line in shell.journal]
    assert kinds == ["vip", *["file"] * 4, "unit"]
    assert (shell.directory / "flag").exists(), "the first master's own run vouches for the address"


def test_a_further_master_has_nobody_to_vouch_for_it(shell: Shell) -> None:
    shell.stub("systemctl", "exit 0")
    shell.stub("keepalived", "")
    given = f"put_file() {{ cat >/dev/null; CHANGED=0; }}; INSTALLING={shell.directory}/flag"
    shell.out(f"{given}; REPLICA=replica OPT_VIP=10.77.0.9 NODE_DEVICE=eth0 NODE_ADDRESS=10.77.0.11; raise_vip")
    assert not (shell.directory / "flag").exists()
    shell.out(f"{given}; state_set cluster done; OPT_VIP=10.77.0.9 NODE_DEVICE=eth0 NODE_ADDRESS=10.77.0.11; raise_vip")
    assert not (shell.directory / "flag").exists(), "nor has one whose cluster is made"
