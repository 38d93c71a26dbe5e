"""What is done to a host before the cluster, and taken back: firewall, swap, kernel settings, modules, cgroups."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .stream import Shell

MANIFESTS = Path(__file__).parents[2] / "manifests" / "addons" / "files"


@pytest.mark.parametrize("role", ["master", "node"])
def test_a_firewall_turned_off_is_off_on_either_role_and_comes_back(shell: Shell, tmp_path: Path, role: str) -> None:
    """`systemctl` is a stub that keeps firewalld's state in two files: firewalld needs D-Bus and EL."""
    shell.stub("systemctl", f"""cd {tmp_path}; case "$*" in
          is-active*) [ -e active ] && echo active ;;
          is-enabled*) [ -e enabled ] && echo enabled ;;
          *'disable --now firewalld.service') rm -f active enabled ;;
          'restart firewalld.service') : >active ;;
          *'enable firewalld.service') : >enabled ;;
        esac""")
    states = [tmp_path / "active", tmp_path / "enabled"]
    for state in states:
        state.touch()
    shell.out(f"ROLE={role} OPT_FIREWALL=off; open_firewall; open_firewall")
    assert [state.exists() for state in states] == [False, False]
    shell.out("undo_all")
    assert [state.exists() for state in states] == [True, True]


def test_a_worker_s_ports_are_the_kubelet_s_and_the_node_ports(shell: Shell) -> None:
    assert shell.out("NETWORK_ADDON=; ports_of node").split() == ["10250/tcp", "30000-32767/tcp"]


@pytest.fixture
def swap(shell: Shell, tmp_path: Path) -> str:
    """Shell text that moves swap to a file of the test; `swapon` and `swapoff` are stubs: this machine's stay as is."""
    (tmp_path / "swaps").write_text("/dev/a\n/dev/b\n")
    (tmp_path / "fstab").write_text("/dev/a none swap sw 0 0\n")
    shell.stub("swapoff", f"sed -i \"\\|^$1\\$|d\" {tmp_path}/swaps")
    shell.stub("swapon", f"echo $1 >>{tmp_path}/swaps")
    return (f"declare -f swap_off | sed 's#/etc/fstab#{tmp_path}/fstab#g' >{tmp_path}/fn; . {tmp_path}/fn; "
            f"swap_devices() {{ cat {tmp_path}/swaps; }}; ")  # fmt: skip


def test_swap_goes_off_at_once_and_comes_back(shell: Shell, tmp_path: Path, swap: str) -> None:
    shell.out(swap + "swap_off; swap_off")
    assert (tmp_path / "swaps").read_text() == ""
    assert (tmp_path / "fstab").read_text().startswith("#kubecarry# /dev/a")
    shell.out(swap + "undo_all")
    assert sorted((tmp_path / "swaps").read_text().split()) == ["/dev/a", "/dev/b"]


def test_swap_that_is_kept_is_not_touched(shell: Shell, tmp_path: Path, swap: str) -> None:
    shell.out(swap + "OPT_SWAP=keep; swap_off")
    assert (tmp_path / "swaps").read_text() == "/dev/a\n/dev/b\n"
    assert shell.journal == []


def test_kernel_settings_are_made_once_and_get_their_old_values_back(shell: Shell, tmp_path: Path) -> None:
    """`sysctl` is a stub over files, so that this machine's settings stay; the drop-in's file is put nowhere."""
    shell.stub("sysctl", f"""cd {tmp_path}; case $1 in
          -n) cat "$2" ;;
          -q) echo "$*" >>calls; echo "${{3#*=}}" >"${{3%%=*}}" ;;
        esac""")
    before = {"net.ipv4.ip_forward": "0\n", "net.bridge.bridge-nf-call-iptables": "0\n",
              "net.bridge.bridge-nf-call-ip6tables": "1\n"}  # fmt: skip
    for key, value in before.items():
        (tmp_path / key).write_text(value)
    shell.out("put_file() { cat >/dev/null; }; set_sysctls; set_sysctls")
    assert {(tmp_path / key).read_text() for key in before} == {"1\n"}
    assert len((tmp_path / "calls").read_text().splitlines()) == 2, "what is right already is not written again"
    shell.out("undo_all")
    assert {key: (tmp_path / key).read_text() for key in before} == before


def test_a_kernel_without_ipvs_will_do(shell: Shell) -> None:
    done = shell.run("put_file() { cat >/dev/null; }; load_module() { [ $1 != ip_vs ]; }; load_modules")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no ip_vs" in shell.log.read_text()


def test_runtime_and_kubelet_agree_on_cgroups_and_the_pause_image(shell: Shell) -> None:
    config = shell.out("containerd_config")
    assert "SystemdCgroup = true" in config
    assert 'sandbox_image = "k8s.gcr.io/pause:3.2"' in config
    assert "cgroupDriver: systemd" in shell.out("component_configs")


def test_the_version_is_pinned_and_a_node_holds_no_more_pods_than_addresses(shell: Shell) -> None:
    """kubeadm asks the internet for a version that it is not given; a node's /24 has 254 addresses, its default 110."""
    init = shell.out("NODE_NAME=n NODE_ADDRESS=10.1.1.1; kubeadm_config init abcdef.0123456789abcdef")
    assert 'kubernetesVersion: "v1.20.2"' in init
    assert not re.search("(?i)max-?pods", init)


def test_no_shipped_manifest_pulls_what_is_here() -> None:
    policies = [(path.name, policy) for path in MANIFESTS.glob("*.yaml")
                for policy in re.findall(r"imagePullPolicy: *(\S+)", path.read_text())]  # fmt: skip
    assert policies
    assert [name for name, policy in policies if policy != "IfNotPresent"] == []
