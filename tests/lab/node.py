"""A node: a machine made with systemd-nspawn, with its own init, network, processes, control groups and disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import cgroup, net, rootfs
from .lab import Lab, Process, launch, until
from .upstream.home import LabError

HERE = Path(__file__).parent
ENVIRONMENT = (
    "HOME=/root",
    "TERM=dumb",
    "LANG=C.UTF-8",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)
PROPAGATE = Path("/run/systemd/nspawn/propagate")
DATA = ("containerd", "docker", "etcd", "kubelet")


class Node:
    """Node NUMBER (from 1) of a lab: named nodeN, at 10.77.0.(10+N). It keeps its files until wiped."""

    def __init__(self, lab: Lab, number: int, variant: str = "el7") -> None:
        """Name a node; nothing is made or started yet."""
        self.lab, self.number, self.variant = lab, number, variant
        self.name, self.address = f"node{number}", f"10.77.0.{10 + number}"
        self.netns = f"{lab.id}-{self.name}"
        self.dir = lab.dir / "nodes" / self.name

    @property
    def init(self) -> Process | None:
        """The node's process 1 while it runs."""
        return Process.load(self.dir / "init.pid")

    def boot(self, seconds: float = 60) -> None:
        """Power on and wait until the node is up; does nothing when it runs. Raises LabError after the seconds."""
        if self.init:
            return
        self._furnish()
        net.up(self.lab)
        net.attach(self.lab, self.name, self.address)
        groups = cgroup.make(f"{self.lab.id}/{self.name}")
        words = ["unshare", "-m", "--propagation", "slave", str(HERE / "boot.sh"), self.name, str(self.dir), self.netns,
                 str(int(cgroup.unified()))]  # fmt: skip
        supervisor = launch([*cgroup.joining(groups), *words], self.dir / "console.log")
        supervisor.save(self.dir / "supervisor.pid")
        until(lambda: self._found_init(supervisor.pid) or not supervisor.alive(), seconds)
        if not until(self._is_up, seconds if self.init else 0, 0.1):
            raise LabError(f"{self.name} did not come up in {seconds:.0f} s, see {self.dir}/console.log")

    def run(
        self,
        command: str | Sequence[str],
        input: str | bytes | None = None,
        timeout: float = 120,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root in the node: words, or a line for bash; returns its status, stdout and stderr as text.

        Raises subprocess.TimeoutExpired (what it started in its session is killed) and, with check, LabError.
        """
        given = input.encode() if isinstance(input, str) else input
        words = self.entering(["bash", "-c", command] if isinstance(command, str) else command)
        pipe = subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True) as child:
            try:
                out, err = child.communicate(given, timeout)
            except BaseException:
                os.killpg(child.pid, signal.SIGKILL)
                raise
        done = subprocess.CompletedProcess(command, child.returncode, _text(out), _text(err))
        if check and done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            raise LabError(f"{self.name}: {command} ended with {done.returncode}:\n{tail}")
        return done

    def entering(self, command: Iterable[str]) -> list[str]:
        """Return the words that run a command inside the node, from outside; LabError when it is off."""
        init = self.init
        if not init:
            raise LabError(f"{self.name} of lab {self.lab.id} is not running: python -m tests.lab up")
        groups = cgroup.beside(init.pid, "lab-run")
        enter = ["nsenter", "-t", str(init.pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        return [*cgroup.joining(groups), *enter, "env", "-i", *ENVIRONMENT, *command]

    def stop(self, grace: float = 0) -> None:
        """Power off: cleanly if that takes no longer than grace seconds, else as if the plug were pulled."""
        supervisor, init = Process.load(self.dir / "supervisor.pid"), self.init
        if supervisor and grace:
            supervisor.kill(signal.SIGTERM)
            supervisor.ended(grace)
        for process in (init, supervisor):  # when process 1 of a pid namespace dies, so does all else in it
            if process:
                process.kill()
                if not process.ended(10):
                    raise LabError(f"{self.name}: process {process.pid} does not end")
        net.detach(self.lab, self.name)
        shutil.rmtree(PROPAGATE / self.netns, ignore_errors=True)  # systemd-nspawn leaves it when it is killed
        if not cgroup.remove(f"{self.lab.id}/{self.name}"):
            raise LabError(f"{self.name}: processes are left in its control group")

    def reboot(self, grace: float = 0) -> None:
        """Power off and on again; files stay."""
        self.stop(grace)
        self.boot()

    def wipe(self) -> None:
        """Power off and erase the disk: the next boot is of a fresh machine."""
        self.stop()
        if self.dir.exists():
            shutil.rmtree(self.dir)

    def _furnish(self) -> None:
        """Give a new node its disk and its names; one that has them keeps the tree it was made from."""
        if (self.dir / "lower").exists():
            return
        etc = self.dir / "upper" / "etc"
        for path in (etc, self.dir / "work", self.dir / "root", *(self.dir / "disk" / d for d in DATA)):
            path.mkdir(parents=True, exist_ok=True)
        machine = uuid.uuid4().hex
        (self.dir / "uuid").write_text(machine)
        (etc / "machine-id").write_text(f"{machine}\n")
        (etc / "hostname").write_text(f"{self.name}\n")
        (self.dir / "lower").write_text(os.pathsep.join(map(str, rootfs.layers(self.variant))))

    def _found_init(self, supervisor: int) -> bool:
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children")
        for pid in children.read_text().split() if children.exists() else ():
            comm, process = Path(f"/proc/{pid}/comm"), Process.of(int(pid))
            if process and comm.exists() and comm.read_text().strip() == "systemd":
                process.save(self.dir / "init.pid")
                return True
        return False

    def _is_up(self) -> bool:
        return bool(self.init) and self.run(["systemctl", "is-active", "-q", "multi-user.target"]).returncode == 0


def boot_all(nodes: Iterable[Node]) -> None:
    """Boot nodes in parallel."""
    each = list(nodes)
    for variant in {node.variant for node in each}:
        rootfs.layers(variant)
    with ThreadPoolExecutor(len(each) or 1) as pool:
        list(pool.map(Node.boot, each))


def nodes_of(lab: Lab) -> list[Node]:
    """Return the nodes that have a disk in this lab, running or not, by number."""
    numbers = sorted(int(d.name.removeprefix("node")) for d in (lab.dir / "nodes").glob("node[0-9]*"))
    return [Node(lab, n) for n in numbers]


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
