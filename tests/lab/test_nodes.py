"""The machines themselves: what a node is, what it keeps, that nothing leaves it and nothing stays behind."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import net
from tests.lab.lab import Lab, Process
from tests.lab.node import PROPAGATE, Node, boot_all, nodes_of
from tests.lab.snapshot import difference, snapshot
from tests.lab.teardown import down
from tests.lab.upstream.home import LabError

pytestmark = [pytest.mark.root, pytest.mark.lab]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    place = Lab("test-nodes")
    down(place)
    yield place
    down(place)


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    machine = Node(lab, 1)
    machine.boot()
    yield machine
    for each in nodes_of(lab):
        each.wipe()


def traces(lab: Lab) -> list[str]:
    """Everything of a lab that the machine still holds: namespaces, mounts, control groups, processes."""
    groups = [str(p) for p in Path("/sys/fs/cgroup").glob(f"*/{lab.id}/node*")] + [
        str(p) for p in Path("/sys/fs/cgroup").glob(f"{lab.id}/node*")
    ]
    mounts = [m for m in Path("/proc/self/mounts").read_text().splitlines() if f"labs/{lab.id}/" in m]
    spaces = [str(p) for top in (Path("/run/netns"), PROPAGATE) for p in top.glob(f"{lab.id}-node*")]
    listed = subprocess.run(["ps", "-eo", "pid=,args="], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [*groups, *mounts, *spaces, *(line for line in listed.splitlines() if f"labs/{lab.id}/" in line)]


def test_it_looks_like_a_minimal_el7_host(node: Node) -> None:
    told = node.run(". /etc/os-release; echo $ID $ID_LIKE $VERSION_ID; uname -n; rpm -qa 2>/dev/null").stdout.split(
        "\n"
    )
    assert told[:3] == ["lab-el rhel centos 7", "node1", "lab-base-os-7-1.noarch"]
    assert node.run("dnf repolist").stdout + node.run("ls /etc/yum.repos.d").stdout == ""
    for missing in ("socat", "conntrack", "apt-get", "dpkg", "kubelet", "containerd"):
        assert node.run(["sh", "-c", f"command -v {missing}"]).returncode != 0, f"{missing} must come from the bundle"
    for present in ("curl", "openssl", "tar", "systemctl", "dnf", "rpm", "ip", "iptables", "modprobe"):
        assert node.run(["sh", "-c", f"command -v {present}"]).returncode == 0, f"{present} is part of any such host"


def test_dnf_installs_with_no_option_of_the_lab(node: Node, tmp_path: Path) -> None:
    spec = tmp_path / "greeting.spec"
    spec.write_text(
        "Name: greeting\nVersion: 1\nRelease: 1\nSummary: s\nLicense: L\nBuildArch: noarch\nRequires: bash, iptables\n"
        "%description\nd\n%install\ninstall -D /dev/null %{buildroot}/opt/greeting\n%files\n/opt/greeting\n"
    )
    subprocess.run(["rpmbuild", "--quiet", "-D", f"_topdir {tmp_path}", "-bb", spec], check=True)
    subprocess.run(["createrepo_c", "-q", tmp_path / "RPMS"], check=True)
    tar = subprocess.run(["tar", "-C", tmp_path, "-c", "RPMS"], stdout=subprocess.PIPE, check=True).stdout
    node.run(["tar", "-C", "/srv", "-x"], input=tar, check=True)
    repo = "[local]\nname=local\nbaseurl=file:///srv/RPMS\ngpgcheck=0\n"
    node.run(["tee", "/etc/yum.repos.d/local.repo"], input=repo, check=True)
    node.run(["dnf", "-y", "install", "greeting"], check=True)
    assert node.run(["rpm", "-q", "greeting"]).stdout == "greeting-1-1.noarch\n"
    assert node.run(["test", "-f", "/opt/greeting"]).returncode == 0


def test_run_hands_over_input_status_and_both_outputs(node: Node) -> None:
    done = node.run("cat; echo seen >&2; exit 3", input="given")
    assert (done.returncode, done.stdout, done.stderr) == (3, "given", "seen\n")


def test_run_ends_in_time_and_takes_what_it_started_along(node: Node) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        node.run(["sleep", "4711"], timeout=0.5)
    assert node.run("sleep 0.2; pgrep -f 'sleep 471[1]'").returncode == 1


@pytest.mark.parametrize("grace", [0, 20], ids=["pulled plug", "clean"])
def test_files_outlive_a_reboot_and_processes_do_not(node: Node, grace: float) -> None:
    node.run("echo kept > /srv/file; echo kept > /var/lib/etcd/file; systemd-run --unit=mortal sleep 1000", check=True)
    before = node.run(["cat", "/proc/sys/kernel/random/boot_id", "/etc/machine-id"]).stdout.split()
    started = time.monotonic()
    node.reboot(grace)
    assert time.monotonic() - started < 15, "it did not power off by itself"
    assert node.run(["cat", "/srv/file", "/var/lib/etcd/file"]).stdout == "kept\nkept\n"
    assert node.run(["systemctl", "is-active", "mortal"]).returncode != 0
    assert node.run(["cat", "/etc/machine-id"]).stdout.strip() == before[1]


def test_a_wiped_node_is_a_fresh_machine(node: Node) -> None:
    node.run("echo gone > /srv/file; echo gone > /var/lib/kubelet/file", check=True)
    machine = node.run(["cat", "/etc/machine-id"]).stdout
    node.wipe()
    node.boot()
    assert node.run("ls /root /var/lib/kubelet").stdout.split() == ["/root:", "/var/lib/kubelet:"]
    assert node.run(["cat", "/etc/machine-id"]).stdout != machine


def test_a_snapshot_sees_what_changed(node: Node) -> None:
    before = snapshot(node)
    assert difference(before, snapshot(node)) == []
    node.run(
        "echo x > /etc/new; chmod 600 /etc/hosts; iptables -t nat -N MINE; ip link add lab0 type bridge;"
        "sysctl -qw net.ipv4.ip_forward=1; mount -t tmpfs none /mnt; systemctl mask -q rescue.service",
        check=True,
    )
    changed = "\n".join(difference(before, snapshot(node)))
    for expected in (
        "files +f 644 0:0 2 /etc/new", "files -f 644 0:0 ", "firewall +iptables nat -N MINE", "network +lab0 DOWN",
        "settings +net.ipv4.ip_forward = 1", "mounts +/mnt", "units +rescue.service masked",
    ):  # fmt: skip
        assert expected in changed


def test_nodes_reach_each_other_and_nothing_else(lab: Lab, node: Node) -> None:
    second = Node(lab, 2)
    boot_all([node, second])
    seen = net.counters(lab)
    assert node.run(["ping", "-c", "3", "-i", "0.2", second.address]).returncode == 0
    assert net.counters(lab).inside - seen.inside >= 6
    for space in (lab.switch, node.netns, second.netns):
        assert net.default_routes(space) == ""
        assert net.way_out(space) == ""
        assert net.way_out(space, "2606:4700:4700::1111") == ""
    assert node.run(["curl", "-sS", "-m", "3", "http://1.1.1.1/"]).returncode == 7
    assert net.counters(lab).foreign == seen.foreign


def test_the_counters_see_a_packet_that_wants_to_leave(lab: Lab, node: Node) -> None:
    before = net.counters(lab)
    node.run("ip route add default via 10.77.0.1 && ping -c 1 -W 1 1.1.1.1")
    node.run("ip -6 neigh add 2606:4700::1 lladdr 02:00:00:00:00:01 dev eth0 && ip -6 route add default dev eth0 && "
             "ping -c 1 -W 1 2606:4700::1")  # fmt: skip
    after = net.counters(lab)
    assert after.foreign4 > before.foreign4
    assert after.foreign6 > before.foreign6


def test_two_labs_know_nothing_of_each_other(lab: Lab, node: Node) -> None:
    other = Lab(f"{lab.id}-2")
    twin = Node(other, 1)
    try:
        twin.boot()
        assert twin.address == node.address
        node.run(["touch", "/mnt/mine"], check=True)
        assert twin.run(["ls", "/mnt"]).stdout == ""
    finally:
        down(other)
    assert not net.exists(other.switch)
    assert node.init is not None


def test_nothing_is_left_of_a_wiped_node(lab: Lab) -> None:
    node = Node(lab, 3)
    node.boot()
    node.run(["systemd-run", "--unit=lingers", "sleep", "1000"], check=True)
    assert traces(lab)
    node.wipe()
    assert traces(lab) == []
    assert not node.dir.exists()


def test_a_node_that_is_off_says_so(lab: Lab) -> None:
    with pytest.raises(LabError, match="node9 of lab test-nodes is not running"):
        Node(lab, 9).run("true")


def test_a_reused_pid_is_not_taken_for_the_recorded_process(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        process = Process.of(child.pid)
        assert process is not None
        Process(process.pid, process.start - 1).kill()
        assert process.alive()
        process.kill()
    assert not process.alive()
