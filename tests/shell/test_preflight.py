"""Preflight: every fault in one pass, each with its remedy, and the checks one by one."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from .stream import PARTS, Shell

FINDINGS = 'printf "F %s\\n" ${FAULTS[@]+"${FAULTS[@]}"}; printf "C %s\\n" ${CAUTIONS[@]+"${CAUTIONS[@]}"}'


def run_check(shell: Shell, check: str, given: str = "", role: str = "master") -> tuple[list[str], list[str]]:
    """Faults and cautions of one check, with what `given` sets up before."""
    out = shell.out(f"ROLE={role}; {given}; CHECKING={check}; check_{check.replace('-', '_')}; {FINDINGS}")
    lines = [line for line in out.splitlines() if "\t" in line]
    return [x[2:] for x in lines if x[0] == "F"], [x[2:] for x in lines if x[0] == "C"]


def table(part: str = "30-preflight.sh") -> list[tuple[str, str]]:
    text = (PARTS / part).read_text()
    return re.findall(r"^(all|any|etcd|master|node|first|replica|joins) +([a-z-]+)$", text, re.M)


def test_every_check_of_the_table_is_there_and_every_check_is_in_the_table() -> None:
    text = "".join(path.read_text() for path in PARTS.glob("*.sh"))
    defined = {name.replace("_", "-") for name in re.findall(r"^check_([a-z_]+)\(\)", text, re.M)}
    tables = [[name for _, name in table(part)] for part in ("30-preflight.sh", "82-upgrade-checks.sh")]
    for listed in tables:
        assert len(listed) == len(set(listed)), "an id must be stable, so it names one check"
    assert set(tables[0]) | set(tables[1]) == defined - {"combination"}


def test_all_faults_in_one_pass_with_their_remedies(shell: Shell) -> None:
    body = """CHECKS=$'any one\\nmaster two\\nnode three\\nany four'
        check_one() { fault 'first thing' 'mend it'; }; check_two() { fault 'second thing' 'mend that'; }
        check_three() { fault 'not of this role' 'x'; }; check_four() { caution 'a note' 'look'; }
        preflight master"""
    done = shell.run(body)
    assert done.returncode == 7
    assert "fault   one: first thing\n        -> mend it\n" in done.stderr
    assert "fault   two: second thing" in done.stderr
    assert "warning four: a note" in done.stderr
    assert "not of this role" not in done.stderr
    assert "2 fault(s)" in done.stderr


def test_ignored_faults_become_warnings(shell: Shell) -> None:
    done = shell.run("CHECKS=$'any one'; check_one() { fault 'thing' 'mend'; }; OPT_IGNORE=,one; preflight master")
    assert done.returncode == 0
    assert "warning one: thing (ignored)" in done.stderr


@pytest.mark.parametrize(
    ("check", "given", "told"),
    [
        ("root", "id() { echo 1000; }", "not running as root"),
        ("os", "HOST_OS=ubuntu22", "the bundle carries packages for: el7"),
        ("arch", "HOST_ARCH=s390x", "this host is s390x"),
        ("release", "RUNTIME=cri-o", "runtime cri-o"),
        ("release", "unset KUBEADM_API", "kubeadm API none"),
        ("cgroup", "unified_cgroup() { false; }; KUBERNETES_VERSION=v1.36.2", "cgroup v1, with which the kubelet"),
        ("cpu-count", "nproc() { echo 1; }", "1 CPU; a master needs 2"),
        ("memory", "memory_mb() { echo 1600; }", "1600 MB memory"),
        ("node-memory", "memory_mb() { echo 500; }", "500 MB memory"),
        ("disk", "free_mb() { echo 100; }", "/var/lib/containerd: 100 MiB free, 3000 MiB needed"),
        ("etcd-disk", "free_mb() { echo 100; }", "/var/lib/etcd"),
        ("hostname", "NODE_NAME=bad_name", '"bad_name" cannot be a node\'s name'),
        ("hostname", "NODE_NAME=localhost", '"localhost" cannot'),
        ("hostname", "NODE_NAME=-x", '"-x" cannot'),
        ("hostname", f"NODE_NAME={'a' * 64}", "at most 63"),
        ("address", "NODE_ADDRESS= NODE_DEVICE=", "no address of this host was found"),
        ("address", "NODE_ADDRESS=9.9.9.9 NODE_DEVICE=", "9.9.9.9 is not an address of this host"),
        ("address", "NODE_ADDRESS=127.0.0.1 NODE_DEVICE=lo", "loopback"),
        ("address", "NODE_ADDRESS=1.1.1.1 NODE_DEVICE=a OPT_INTERFACE=b", "on a, not on b"),
        ("networks", "POD_SUBNET=10.0.0.0/8", "the pod network 10.0.0.0/8 and the service network"),
        ("networks", "used_networks() { echo 10.244.7.1/24 address of eth9; }", "10.244.0.0/16 is in use on this host"),
        ("networks", "used_networks() { echo 10.111.0.0/16 route; }", "10.96.0.0/12 is in use on this host"),
        ("same-link", "crosses_router() { true; }; MANIFEST_REPLACE=host-gw", "all nodes on one link"),
        ("cni-residue", "has_files() { [[ $1 = *cbr0 ]]; }", "that an earlier cluster reserved"),
        ("swap", "swap_devices() { echo /dev/x; }; swap_fits() { false; }; swapoff() { :; }", "swap is in use beyond"),
        ("clock", "date() { echo 1970; }; curl() { :; }", "the clock says 1970"),
        ("clock", "curl_server() { echo 'Date: Thu, 01 Jan 2026 00:00:00 GMT'; }", "clock differs"),
        ("token-form", "OPT_TOKEN=abc", "not of the form"),
        ("other-role", "state_get() { echo node; }", "this host is installed as node"),
        ("other-kubelet", "systemctl() { true; }", "a kubelet runs"),
        ("other-cluster", "systemctl() { case $* in *k3s) true ;; *) false ;; esac; }", "k3s runs here"),
        ("containerd", "containerd() { echo containerd c 1.4.3 x; }", "1.4 is installed"),
        ("runtime", "containerd_containers() { echo x; }", "containerd has containers of an earlier cluster"),
        ("server", "SERVER=http://127.0.0.1:9", "http://127.0.0.1:9 does not answer"),
        ("systemd", "[() { builtin [ ! -d / ]; }", "systemd does not run"),
        ("package-manager", "command() { false; }", "neither dnf nor yum"),
        ("kernel-modules", "has_module() { false; }; grep() { false; }", "overlay is not available"),
        ("kernel", "cat() { echo 2.6.32-754.el6; }", "too old"),
        ("kernel", "cat() { echo 3.9.0; }", "too old"),
        ("commands", "command() { builtin [ \"$2\" != openssl ]; }", "missing: openssl"),
        ("proc-sys", "id() { echo 0; }; rewritable() { false; }", "/proc/sys is read-only"),
    ],
)
def test_a_fault_is_found(shell: Shell, check: str, given: str, told: str) -> None:
    faults, _ = run_check(shell, check, given)
    assert any(told in fault for fault in faults), faults
    for fault in faults:
        assert fault.split("\t")[0] == check
        assert len(fault.split("\t")[2]) > 10, "a fault without a remedy"


@pytest.mark.parametrize(
    ("check", "given"),
    [
        ("kernel", "cat() { echo 3.10.0-1160.el7.x86_64; }"),
        ("kernel", "cat() { echo 6.1.0; }"),
        ("hostname", "NODE_NAME=node-1.example"),
        ("cpu-count", "nproc() { echo 2; }"),
        ("memory", "memory_mb() { echo 1700; }"),
        ("other-role", "state_get() { echo master; }"),
        ("networks", "used_networks() { printf '10.77.0.11/24 address of eth0\\n10.77.0.0/24 route\\n'; }"),
        ("token-form", "OPT_TOKEN=abcdef.0123456789abcdef"),
        ("same-link", "MASTER_HOST=127.0.0.1; MANIFEST_REPLACE=host-gw"),
        ("same-link", "crosses_router() { true; }; MANIFEST_REPLACE=vxlan"),
        ("proc-sys", "id() { echo 1000; }; rewritable() { false; }"),
        ("cgroup", "unified_cgroup() { true; }; KUBERNETES_VERSION=v1.36.2"),
        ("cgroup", "unified_cgroup() { true; }; KUBERNETES_VERSION=v1.20.2"),
    ],
)
def test_a_sound_host_is_not_blamed(shell: Shell, check: str, given: str) -> None:
    assert run_check(shell, check, given)[0] == []


@pytest.mark.parametrize(
    ("check", "given", "told"),
    [
        ("swap", "swap_devices() { echo /dev/x; }; OPT_SWAP=keep", "swap stays on"),
        ("default-route", "has_default_route() { false; }", "no default route"),
        ("resolv-conf", "has_nameserver() { false; }", "names no nameserver"),
        ("networks", "POD_SUBNET=12.240.0.0/12", "12.240.0.0/12 is public address space"),
        ("networks", "POD_SUBNET=10.244.0.0/24", "has room for one node"),
        ("proxy", "PROXIES=http_proxy", "a proxy is set"),
        ("firewall", "firewalld_active() { true; }", "a firewall is active (firewalld)"),
        ("selinux", "getenforce() { echo Enforcing; }; rpm() { false; }", "SELinux is enforcing"),
        ("docker", "systemctl() { true; }; timeout() { echo Cgroup Driver: cgroupfs; }", "cgroup driver cgroupfs"),
        ("containerd", "containerd() { echo containerd c v1.6.2 x; }", "is here already"),
        ("firewall", "iptables-save() { echo ':INPUT DROP [0:0]'; }; firewalld_active() { false; }", "6443/tcp"),
    ],
)
def test_a_caution_is_given(shell: Shell, check: str, given: str, told: str) -> None:
    faults, cautions = run_check(shell, check, f"PROXIES=; {given}")
    assert faults == []
    assert any(told in caution for caution in cautions), cautions


def test_a_port_in_use_is_found_for_real(shell: Shell) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert str(port) in shell.out("listening").splitlines()
    assert str(port) not in shell.out("listening").splitlines()


def test_what_is_ours_is_no_residue(shell: Shell) -> None:
    given = "has_files() { true; }; listening() { echo 6443; }"
    assert len(run_check(shell, "residue", given)[0]) == 3
    assert len(run_check(shell, "ports", given)[0]) == 1
    shell.out("record cluster master list 10.244.0.0/16")
    for check in ("residue", "ports", "links", "cni-residue", "other-kubelet", "networks"):
        assert run_check(shell, check, given + "; systemctl() { true; }")[0] == []


def test_firewalld_gets_exactly_the_ports_it_lacks_and_loses_them_again(shell: Shell, tmp_path: Path) -> None:
    """`firewall-cmd` and `systemctl` are stubs that keep what is allowed in a file: firewalld needs D-Bus and EL."""
    shell.stub("systemctl", "[ \"$1 $2\" != 'is-active -q' ] || exit 0")
    shell.stub("firewall-cmd", f"""for a; do case $a in
          --get-zone-of-interface=*) echo public; exit 0 ;;
          --permanent) p=permanent ;; --zone=*) z=${{a#*=}} ;;
          --query-*=*) grep -qx "${{p:-runtime}} $z ${{a#--query-}}" {tmp_path}/rules; exit $? ;;
          --add-*=*) echo "${{p:-runtime}} $z ${{a#--add-}}" >>{tmp_path}/rules ;;
          --remove-*=*) sed -i "\\|^${{p:-runtime}} $z ${{a#--remove-}}\\$|d" {tmp_path}/rules ;;
        esac; done""")
    (tmp_path / "rules").write_text("runtime public port=6443/tcp\n")
    shell.out("ROLE=master NODE_DEVICE=eth0 NETWORK_ADDON=; open_firewall; open_firewall")
    rules = (tmp_path / "rules").read_text().splitlines()
    ports = {"6443/tcp", "2379-2380/tcp", "10250/tcp", "10257/tcp", "10259/tcp"}
    for when in ("runtime", "permanent"):
        assert {r.split("port=")[1] for r in rules if r.startswith(f"{when} public port=")} == ports
        assert f"{when} trusted source=10.244.0.0/16" in rules
        assert f"{when} trusted source=10.96.0.0/12" in rules
    assert len(rules) == len(set(rules)) == 14
    shell.out("undo_all")
    assert (tmp_path / "rules").read_text() == "runtime public port=6443/tcp\n"


def test_selinux_turns_permissive_only_without_a_policy_and_comes_back(shell: Shell, tmp_path: Path) -> None:
    """`getenforce`, `setenforce` and `rpm` are stubs: there is no SELinux here."""
    mode = tmp_path / "mode"
    mode.write_text("Enforcing\n")
    shell.stub("getenforce", f"cat {mode}")
    shell.stub("setenforce", f"case $1 in 0) echo Permissive ;; 1) echo Enforcing ;; esac >{mode}")
    shell.stub("rpm", "exit 0")
    shell.out("relax_selinux")
    assert mode.read_text() == "Enforcing\n"
    shell.stub("rpm", "exit 1")
    done = shell.run("relax_selinux")
    assert mode.read_text() == "Permissive\n"
    assert "SELinux is set to permissive" in done.stderr
    shell.out("undo_all")
    assert mode.read_text() == "Enforcing\n"


def test_our_own_route_of_an_interrupted_run_is_no_clash(shell: Shell) -> None:
    route = "used_networks() { echo 10.96.0.0/12 route; }"
    assert run_check(shell, "networks", route)[0] != []
    assert run_check(shell, "networks", f"record route 10.96.0.0/12 eth0; {route}")[0] == []
