"""Faults that cannot be put into a node of the lab, which has one kernel and no clock of its own: shell stubs stand in.

Those that can are in tests/lab/test_preflight.py; docs/preflight.md lists all of them.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.lab.test_preflight import GIVEN_TO_BASH, SEEDS

from .stream import Shell
from .test_preflight import run_check, table

BOOTED = "[() { case $* in '-d /run/systemd/system ]') ;; *) builtin [ \"$@\" ;; esac; }"
TABLES = ("30-preflight.sh", "82-upgrade-checks.sh")
DOCS = Path(__file__).parents[2] / "docs" / "preflight.md"


@pytest.mark.parametrize(
    ("check", "given", "told"),
    [
        ("package-manager", "command() { builtin [ \"$2\" != rpm ]; }; package_manager() { :; }", "rpm is missing"),
        ("package-db", "command() { builtin [ \"$2\" = dpkg ]; }; dpkg() { echo half; }", "half installed"),
        ("modules-locked", "echo 1 >$STATE/f; MODULES_DISABLED=$STATE/f; module_there() { false; }",
         "br_netfilter is not loaded"),
        ("conntrack", "module_there() { false; }; has_module() { false; }", "nf_conntrack is not available"),
        ("systemd-state", f"{BOOTED}; systemctl() {{ echo systemd 208; }}", "systemd 208 is too old"),
        ("systemd-state", f"{BOOTED}; systemctl() {{ echo stopping; }}", "shutting down"),
        ("systemd-state", f"{BOOTED}; systemctl() {{ echo maintenance; }}", "rescue mode"),
        ("privileges", "id() { echo 0; }; echo 0 100000 65536 >$STATE/f; UID_MAP=$STATE/f", "root of a user namespace"),
        ("container-fs", "mount_of() { printf '/x\\txfs\\t,rw,'; }; xfs_info() { echo naming crc=0 ftype=0; }",
         "xfs without"),
        ("container-fs", "mount_of() { printf '/x\\tnfs4\\t,rw,'; }", "/var/lib/containerd is on nfs4"),
        ("etcd-fs", "mount_of() { printf '/x\\tnfs4\\t,rw,'; }", "/var/lib/etcd is on nfs4"),
        ("swap", "swap_devices() { echo /dev/x; }; command() { false; }", "swapoff is missing"),
        ("master-version", "CLUSTER_INFO=x; master_reply() { echo '{\"gitVersion\": \"v1.19.4\"}'; }",
         "may not be newer"),
        ("master-version", "CLUSTER_INFO=x; master_reply() { echo '{\"gitVersion\": \"v1.23.0\"}'; }",
         "two releases older"),
        ("master-clock", "CLUSTER_INFO=x; master_reply() { echo 'Date: Thu, 01 Jan 2026 00:00:00 GMT'; }",
         "the master's by"),
        ("name-taken", "CLUSTER_INFO=x; token_signs() { :; }; name_free() { false; }; ask_master() { "
                       "echo '{\"machineID\": \"00\"}'; }; NODE_NAME=n1", "a node n1, which is another machine"),
        ("units", "readlink() { echo /dev/null; }", "kubelet.service is masked"),
    ],
)  # fmt: skip
def test_a_fault_is_found(shell: Shell, check: str, given: str, told: str) -> None:
    faults, _ = run_check(shell, check, given)
    assert any(told in fault for fault in faults), faults
    assert all(len(fault.split("\t")[2]) > 5 for fault in faults)


@pytest.mark.parametrize(
    ("check", "given", "told"),
    [
        ("fips", "cat() { echo 1; }", "FIPS mode"),
        ("apparmor", "echo Y >$STATE/f; APPARMOR=$STATE/f; command() { false; }", "apparmor_parser is missing"),
        ("clock-source", "systemd-detect-virt() { false; }; systemctl() { false; }", "nothing sets the clock"),
        ("hostname-boot", "OPT_NODE_NAME=; grep() { echo localhost.localdomain; }", "comes from the network"),
    ],
)
def test_a_caution_is_given(shell: Shell, check: str, given: str, told: str) -> None:
    faults, cautions = run_check(shell, check, given)
    assert faults == []
    assert any(told in caution for caution in cautions), cautions


@pytest.mark.parametrize(
    ("check", "given"),
    [
        ("clock-source", "systemd-detect-virt() { false; }; systemctl() { [ $3 = chronyd ]; }"),
        ("master-version", "CLUSTER_INFO=x; master_reply() { echo '{\"gitVersion\": \"v1.20.9\"}'; }"),
        ("master-clock", "CLUSTER_INFO=x; master_reply() { date -u '+Date: %a, %d %b %Y %T GMT'; }"),
        ("resolv-conf", "has_nameserver() { true; }; names_beyond() { true; }"),
        ("hostname-boot", "OPT_NODE_NAME=; grep() { cat /proc/sys/kernel/hostname; }"),
        ("path-mtu", "NODE_DEVICE=lo"),
        ("name-taken", "CLUSTER_INFO=x; token_signs() { :; }; name_free() { true; }"),
        ("tmp", ":"), ("nsswitch", ":"), ("devices", ":"), ("namespaces", ":"), ("ulimits", ":"), ("modules-blocked",
         ":"),
    ],
)  # fmt: skip
def test_a_sound_host_is_not_blamed(shell: Shell, check: str, given: str) -> None:
    assert run_check(shell, check, given) == ([], [])


def certificate(start: datetime, end: datetime) -> str:
    """A CA's certificate, PEM."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, start, end).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(("start", "end", "told"), [
    (-9, -1, "the cluster's CA has expired"), (1, 9, "the cluster's CA is not yet valid"), (-1, 1, ""),
])  # fmt: skip
def test_a_ca_out_of_its_time(shell: Shell, tmp_path: Path, start: int, end: int, told: str) -> None:
    now = datetime.now(timezone.utc)
    (tmp_path / "ca").write_text(certificate(now + timedelta(start), now + timedelta(end)))
    faults, _ = run_check(shell, "ca-valid", f"CLUSTER_INFO=x; cluster_ca() {{ cat {tmp_path}/ca; }}")
    assert len(faults) == bool(told)
    assert all(told in fault for fault in faults)


def test_mounts_are_found_by_their_longest_path(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(
        "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n2 1 8:2 / /var rw - xfs /dev/b rw,ftype\n"
        "3 2 8:3 / /var/lib/my\\040store ro,noexec shared:2 master:3 - nfs4 s:/x rw\n"
        "4 1 8:4 / /var rw - btrfs /dev/c ro\n"
    )
    asked = "; echo; ".join(f"MOUNTINFO={tmp_path}/mounts mount_of '{p}'" for p in ("/etc", "/variant", "/var/lib/x"))
    assert shell.out(asked).split("\n") == ["/\text4\t,rw,rw,", "", "/\text4\t,rw,rw,", "", "/var\tbtrfs\t,rw,ro,", ""]
    assert "nfs4\t,ro,noexec,rw," in shell.out(f"MOUNTINFO={tmp_path}/mounts mount_of '/var/lib/my store/x'")


def test_the_table_of_the_documentation_has_every_check_and_names_what_a_node_proved() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.+?) \| (.+?) \| (node|shell) \|$", DOCS.read_text(), re.M)
    assert {row[0] for row in rows} == {name for part in TABLES for _, name in table(part)}
    assert len(rows) >= 75
    seeded = {check for _, findings in SEEDS for check, _ in findings} | {check for check, _ in GIVEN_TO_BASH}
    assert seeded <= {row[0] for row in rows if row[3] == "node"}
    assert sum(row[3] == "node" for row in rows) >= 40
