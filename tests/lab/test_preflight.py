"""Preflight on real nodes: every fault that was put into a host is found in one pass, with its remedy."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from tests.lab import cluster, net
from tests.lab.bundled import served
from tests.lab.lab import Lab, start, stop, until
from tests.lab.node import Node
from tests.lab.snapshot import difference, snapshot

pytestmark = [pytest.mark.root, pytest.mark.lab]

LINE = f"curl -fsSL {cluster.URL}/deploy.sh | bash -s preflight"
UNPRIVILEGED = "capsh --drop=cap_sys_admin -- -c '{}'"
NOBODY = "setpriv --reuid 65534 --clear-groups bash -c '{}'"
Finding = tuple[str, str]  # id of the check, and words of what it says

# How each is put into the node, and what must be told of it. A program or unit that stands for another says so.
SEEDS: tuple[tuple[str, tuple[Finding, ...]], ...] = (
    # the system and its tools
    ("mv /usr/bin/cmp /usr/bin/cmp.away", (("commands", "commands are missing: cmp"),)),
    ("mv /usr/bin/dnf /usr/bin/dnf.away", (("package-manager", "neither dnf nor yum"),)),
    ("sed -i 's/^VERSION_ID=.*/VERSION_ID=\"9\"/' /etc/os-release", (("os", "this host is el9"),)),
    ("printf '#!/bin/sh\\necho s390x\\n' >/usr/local/bin/uname; chmod +x /usr/local/bin/uname",  # a stand-in
     (("arch", "this host is s390x"),)),
    ("install -m 755 /bin/true /usr/local/bin/kubectl", (("shadowed", "/usr/local/bin/kubectl stands beside"),)),
    ("printf x >/var/lib/rpm/rpmdb.sqlite", (("package-db", "the rpm database cannot be read"),)),
    ("echo 'exclude=kubelet kubeadm kubectl' >>/etc/dnf/dnf.conf", (("package-excludes", "packages are excluded"),)),
    ("rm /var/lib/rpm/.rpm.lock; systemd-run -q --unit=packager python3 -c "
     "'import fcntl, time; f = open(\"/var/lib/rpm/.rpm.lock\", \"w\"); "
     "fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(10000)'", (("package-lock", "a package manager is at work"),)),
    ("touch /run/reboot-required", (("running-kernel", "a reboot is pending"),)),
    ("mount --bind /dev/null /etc/machine-id", (("machine-id", "/etc/machine-id holds no id"),)),
    # the kernel
    ("echo 2.6.32-754.el6 >/run/osrelease; mount --bind /run/osrelease /proc/sys/kernel/osrelease",
     (("kernel", "kernel 2.6.32-754.el6 is too old"),
      ("running-kernel", "the modules of the running kernel 2.6.32-754.el6 are gone"))),
    ("echo 'install overlay /bin/false' >/etc/modprobe.d/hardening.conf",
     (("modules-blocked", "overlay is not to be loaded (/etc/modprobe.d/hardening.conf)"),)),
    ("echo 50 >/run/few; mount --bind /run/few /proc/sys/user/max_net_namespaces",
     (("namespaces", "no more than 50 net namespaces"),)),
    ("umount /proc/sys/kernel/panic", (("kubelet-sysctls", "/proc/sys/kernel/panic is"),)),
    ("printf 'net.ipv4.ip_forward = 0\\nnet/bridge/bridge-nf-call-iptables=0\\n' >/etc/sysctl.d/99-hardening.conf",
     (("sysctl-boot", "99-hardening.conf sets net.ipv4.ip_forward to 0"),
      ("sysctl-boot", "99-hardening.conf sets net.bridge.bridge-nf-call-iptables to 0"))),
    ("sysctl -qw fs.inotify.max_user_instances=64 fs.inotify.max_user_watches=4000",
     (("kernel-limits", "fs.inotify.max_user_instances is 64"),
      ("kernel-limits", "fs.inotify.max_user_watches is 4000"))),
    ("umount -l /dev/kmsg; rm -f /dev/kmsg", (("devices", "/dev/kmsg is no device"),)),
    ("sed '/^pids/s/1$/0/' /proc/cgroups >/run/cgroups; mount --bind /run/cgroups /proc/cgroups",
     (("cgroup", "cgroup controller pids is disabled"),)),
    ("umount /sys/fs/cgroup/cpuset", (("cgroup-mounts", "cgroup controller cpuset is not mounted"),)),
    ("sed 's/^MemTotal:.*/MemTotal: 1200000 kB/; s/^MemAvailable:.*/MemAvailable: 900 kB/; s/^SwapTotal:.*/SwapTotal: "
     "9000 kB/; s/^SwapFree:.*/SwapFree: 90 kB/' /proc/meminfo >/run/meminfo; mount --bind /run/meminfo /proc/meminfo",
     (("memory", "1228 MB memory; a master needs 1700"),)),
    ("printf 'Filename\\n/dev/sdz2 partition 1 1 -1\\n' >/run/swaps; mount --bind /run/swaps /proc/swaps",
     (("swap", "swap is in use beyond what memory can take back (/dev/sdz2"),)),
    ("echo '[zram0]' >/etc/systemd/zram-generator.conf; touch /etc/systemd/system/extra.swap",
     (("swap-boot", "zram-generator.conf turns swap on again"), ("swap-boot", "extra.swap turns swap on again"))),
    # disks
    ("mount -t tmpfs -o size=300m,nr_inodes=3000 none /var/lib/containerd; fallocate -l 270m /var/lib/containerd/x",
     (("disk", "/var/lib/containerd: 30 MiB free, 3000 MiB needed"),
      ("disk-pressure", "/var/lib/containerd: 10 % free"),
      ("inodes", "/var/lib/containerd: 299"), ("memory-fs", "/var/lib/containerd is in memory"))),
    ("mount -t tmpfs -o size=100m none /var/lib/etcd",
     (("etcd-disk", "/var/lib/etcd: 100 MiB free"), ("memory-fs", "/var/lib/etcd is in memory"))),
    ("mkdir -p /opt/cni/bin; mount --bind /opt /opt; mount -o remount,bind,ro /opt; "
     "mount -t tmpfs -o noexec none /opt/cni/bin",
     (("read-only", "/opt (overlay) is mounted read-only"), ("noexec", "/opt/cni/bin (tmpfs) is mounted noexec"))),
    ("mount --make-private /", (("shared-root", "mounted private"),)),
    ("chmod 755 /var/tmp", (("tmp", "/var/tmp has the mode 755"),)),
    # what an earlier cluster left
    ("mkdir -p /etc/kubernetes/manifests /etc/cni/net.d /var/lib/cni/networks; "
     "touch /etc/kubernetes/manifests/etcd.yaml /var/lib/kubelet/config.yaml /var/lib/etcd/db /etc/cni/net.d/10-x.conf",
     (("residue", "/etc/kubernetes has files"), ("residue", "/var/lib/kubelet has files"),
      ("residue", "/var/lib/etcd has files"), ("cni-residue", "/etc/cni/net.d has 10-x.conf"))),
    ("for l in cni0 flannel.1 kube-ipvs0; do ip link add $l type bridge; done",
     (("links", "the interface cni0"), ("links", "the interface flannel.1"), ("links", "the interface kube-ipvs0"))),
    ("iptables -N KUBE-SERVICES", (("rules-residue", "iptables has 1 chains of an earlier cluster"),)),
    ("iptables-legacy -A INPUT -s 10.9.9.9 -j ACCEPT", (("rules-mixed", "there are rules in iptables-legacy"),)),
    ("mkdir -p /var/lib/kubelet/pods/x; mount -t tmpfs none /var/lib/kubelet/pods/x",
     (("mount-residue", "1 volume(s) of an earlier cluster"),)),
    ("ip netns add cni-0123", (("netns-residue", "cni-0123"),)),
    ("systemd-run -q --unit=kubelet sleep 10000", (("other-kubelet", "a kubelet runs"),)),  # sleep stands for each
    ("systemd-run -q --unit=k3s sleep 10000", (("other-cluster", "k3s runs here"),)),
    ("systemd-run -q --unit=fapolicyd sleep 10000; systemd-run -q --unit=falcon-sensor sleep 10000",
     (("scanners", "fapolicyd runs here"), ("scanners", "the scanner falcon-sensor runs here"))),
    ("systemd-run -q --unit=NetworkManager sleep 10000", (("networkmanager", "NetworkManager runs here"),)),
    ("printf '[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n' "
     ">/etc/systemd/system/nm-cloud-setup.service; systemctl -q enable nm-cloud-setup",
     (("networkmanager", "nm-cloud-setup is enabled"),)),
    ("systemctl -q mask containerd; mkdir /etc/systemd/system/kubelet.service.d; "
     "touch /etc/systemd/system/kubelet.service.d/own.conf",
     (("units", "containerd.service is masked"), ("units", "kubelet.service.d/own.conf changes the unit"))),
    ("mkdir -p /etc/sysconfig; printf 'KUBELET_EXTRA_ARGS=--x\\nHTTPS_PROXY=http://p\\n' >/etc/sysconfig/kubelet",
     (("kubelet-arguments", "/etc/sysconfig/kubelet has arguments"), ("proxy", "a proxy in its environment file"))),
    ("systemctl set-environment HTTP_PROXY=http://10.9.9.9:3128", (("proxy", "services have a proxy"),)),
    ("printf '#!/bin/sh\\necho containerd x v1.4.3 y\\n' >/usr/bin/containerd; chmod +x /usr/bin/containerd",
     (("containerd", "containerd 1.4 is installed"),)),
    ("systemd-run -q systemd-socket-activate -l 6443 /bin/true; "
     "systemd-run -q systemd-socket-activate -l 10250 /bin/true",
     (("ports", "port 6443 is in use"), ("ports", "port 10250 is in use"))),
    # names, addresses, time
    ("python3 -c 'import socket; socket.sethostname(\"bad_name\")'",
     (("hostname", '"bad_name" cannot be'), ("hostname-boot", "but node1 after the next boot"))),
    ("sed -i 's/^hosts:.*/hosts: dns/' /etc/nsswitch.conf",
     (("nsswitch", "/etc/hosts is not asked"), ("localhost", "localhost is not known"),
      ("hostname-resolves", "bad_name"))),
    ("{ seq -f 'nameserver 127.0.0.%.0f' 53 56; echo search a.x b.x c.x d.x; } >/etc/resolv.conf",
     (("resolver-limits", "names 4 nameservers"), ("resolver-limits", "searches 4 domains"),
      ("resolv-conf", "is this host itself"))),
    ("printf '0.0 0 0.0\\n0\\nLOCAL\\n' >/etc/adjtime", (("clock-source", "the hardware clock is in local time"),)),
    ("ip address change 10.77.0.11/24 dev eth0 valid_lft 36000 preferred_lft 36000",
     (("address-lease", "10.77.0.11 is leased"),)),
    ("ip link add lan1 type bridge; ip link set lan1 up; ip address add 10.100.0.1/24 dev lan1; "
     "ip route add 10.244.9.0/24 dev lan1; sysctl -qw net.ipv4.conf.all.rp_filter=1",
     (("rp-filter", "on a host of 2 interfaces"), ("networks", "10.96.0.0/12 is in use on this host: 10.100.0.1/24"),
      ("networks", "10.244.0.0/16 is in use on this host: 10.244.9.0/24"))),
    ("sysctl -qw net.ipv4.ip_local_port_range='20000 60999'", (("port-range", "the ports 20000-60999"),)),
    ("ip link set eth0 mtu 1000", (("mtu", "eth0 carries packets of 1000 bytes"),)),
    # last, because they hinder what comes before
    ("ip link set lo down", (("localhost", "the loopback interface is down"),)),
    ("chattr +i /etc/hosts", (("immutable", "/etc/hosts is immutable"),)),
    ("mount -o remount,bind,ro /proc/sys/net", (("proc-sys", "/proc/sys is read-only"),)),
)  # fmt: skip
GIVEN_TO_BASH: tuple[Finding, ...] = (
    ("cpu-count", "1 CPU; a master needs 2"),
    ("ulimits", "files may not grow beyond"),
    ("ulimits", "processes may not have more than"),
    ("ulimits", "no more than 300 files"),
    ("proxy", "a proxy is set in the environment (https_proxy)"),
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with served("test-preflight", tmp_path_factory.mktemp("preflight")) as site:
        yield site


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    machine = Node(lab, 1)
    machine.wipe()
    machine.boot()
    yield machine
    machine.run("chattr -i /etc/hosts")
    machine.wipe()


def findings(told: str) -> list[tuple[str, str, str]]:
    """Each finding: id, text and remedy."""
    return re.findall(r"^(?:fault  |warning) ([a-z0-9-]+): (.*)\n        -> (.+)$", told, re.M)


def missed(wanted: list[Finding], told: str) -> list[Finding]:
    """Those that were not told, or without a remedy."""
    found = findings(told)
    return [(check, text) for check, text in wanted
            if not any(c == check and text in t and len(r) > 10 for c, t, r in found)]  # fmt: skip


def preflight(node: Node, words: str = "", before: str = "{}") -> str:
    done = node.run(before.format(f"{LINE} {words}"), timeout=200)
    assert done.returncode == 7, done.stderr
    return done.stderr


def test_a_sound_host_is_not_blamed_and_little_time_is_spent(node: Node) -> None:
    done = node.run(f"TIMEFORMAT='cpu %U %S'; time ({LINE})", check=True)
    assert {check for check, _, _ in findings(done.stderr)} == {"resolv-conf", "default-route"}, done.stderr
    user, system = map(float, done.stderr.rsplit("cpu ", 1)[1].split())
    assert user + system < 3


def test_every_fault_of_a_host_is_found_in_one_pass(node: Node) -> None:
    for words, _ in SEEDS:
        node.run(words, check=True)
    before = snapshot(node)
    wanted = [finding for _, findings in SEEDS for finding in findings] + list(GIVEN_TO_BASH)
    told = preflight(node, before="export https_proxy=http://10.9.9.9:3128; ulimit -f 1000000 -v 9000000 -n 300; "
                                  "taskset -pc 0 $$ >/dev/null; {}")  # fmt: skip
    assert not missed(wanted, told), f"{missed(wanted, told)}\n{told}"
    assert len(wanted) >= 75
    assert len({check for check, _ in wanted}) >= 50
    assert difference(before, snapshot(node)) == []


def test_faults_of_a_host_that_is_to_join(node: Node) -> None:
    node.run("echo '10.9.9.9 localhost node1' >/etc/hosts; mkdir /srv/c && mount --bind /srv/c /var/lib/containerd; "
             "sed 's/^MemTotal:.*/MemTotal: 500000 kB/' /proc/meminfo >/run/meminfo; "
             "mount --bind /run/meminfo /proc/meminfo", check=True)  # fmt: skip
    told = preflight(node, f"join --token abc {node.address}", UNPRIVILEGED)
    assert missed([
        ("localhost", "localhost is 10.9.9.9 here"), ("hostname-elsewhere", "node1 resolves to 10.9.9.9"),
        ("container-fs", "/var/lib/containerd is on overlay"), ("node-memory", "512 MB memory"),
        ("privileges", "root lacks CAP_SYS_ADMIN"), ("token-form", "not of the form"),
        ("join-self", f"{node.address} is this host itself"),
        ("master-reachable", f"{node.address}:6443 does not answer"),
    ], told) == [], told  # fmt: skip


def test_a_way_that_loses_large_packets(node: Node) -> None:
    node.run("ip link set eth0 mtu 9000", check=True)
    assert missed([("path-mtu", f"packets of 9000 bytes (eth0) do not arrive at {node.address[:-2]}1")],
                  preflight(node)) == []  # fmt: skip


def test_addresses_and_networks_that_were_asked_for(node: Node) -> None:
    told = preflight(node, "--advertise-address 10.9.9.9 --pod-subnet 10.96.0.0/16")
    assert missed([("address", "10.9.9.9 is not an address of this host"),
                   ("networks", "the pod network 10.96.0.0/16 and the service network")], told) == []  # fmt: skip
    assert missed([("address", "127.0.0.1 is a loopback address"), ("networks", "public address space")],
                  preflight(node, "--advertise-address 127.0.0.1 --pod-subnet 12.240.0.0/12")) == []  # fmt: skip
    assert missed([("address", "no address of this host was found on eth7")], preflight(node, "--interface eth7")) == []


def test_not_root(node: Node) -> None:
    assert missed([("root", "not running as root")], preflight(node, before=NOBODY)) == []


CLOCK = """
import http.server, time
class Late(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()
    do_GET = do_HEAD
    def date_time_string(self, timestamp=None):
        return super().date_time_string(time.time() - 7200)
http.server.HTTPServer(("10.77.0.1", 8099), Late).serve_forever()
"""


def test_a_server_with_another_time_and_one_that_is_gone(lab: Lab, node: Node) -> None:
    """The server of the bundle does not lie about the time: another one does, whose clock is two hours late."""
    start(lab, "late", [*net.within(lab.switch), sys.executable, "-c", CLOCK])
    other = "sed \"s|^SERVER=.*|SERVER='http://10.77.0.1:8099'|\""
    line = f"curl -fsSL {cluster.URL}/deploy.sh | {other} | bash -s preflight"
    try:
        assert until(lambda: node.run("curl -fs http://10.77.0.1:8099/").returncode == 0, 30)
        assert missed([("clock", "the clock differs from the server's by 72")], node.run(line).stderr) == []
    finally:
        stop(lab, "late")
    assert missed([("server", "http://10.77.0.1:8099 does not answer")], node.run(line).stderr) == []
