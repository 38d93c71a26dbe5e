"""The unit file, as systemd itself reads it; and the service for real, on a node of the lab."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer import service
from tests.bundles import add_image, complete, make_bundle, write_members
from tests.lab.lab import Lab, until
from tests.lab.node import Node
from tests.lab.teardown import down
from tests.serving import PROJECT

PLAIN = service.Choices("0.0.0.0", 8000, "", [], False)
PYTHON = "/usr/bin/python3"


def checked(text: str, folder: Path) -> str:
    """What `systemd-analyze verify` says of a unit; nothing if it is right."""
    path = folder / "kubecarry.service"
    path.write_text(text.replace(f"WorkingDirectory={service.CODE}", "WorkingDirectory=/"))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True,
                          env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"})
    return "\n".join(line for line in done.stderr.splitlines() if "kubecarry" in line)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
@pytest.mark.parametrize("choices", [
    PLAIN, service.Choices("::", 80, "http://site:80", ["http://10.0.0.2", "http://10.0.0.3"], True),
])  # fmt: skip
def test_systemd_finds_nothing_wrong_with_the_unit(choices: service.Choices, tmp_path: Path) -> None:
    text = service.unit("1.20", PYTHON, ["/srv/50% of $all \"bundles\"/b.tar"], choices)
    assert checked(text, tmp_path) == ""
    broken = text.replace("Restart=on-failure", "Restart=now and then")
    assert "Failed to parse service restart specifier" in checked(broken, tmp_path)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
def test_the_unit_is_hardened(tmp_path: Path) -> None:
    path = tmp_path / "kubecarry.service"
    path.write_text(service.unit("1.20", PYTHON, ["/srv/b.tar"], PLAIN))
    done = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--threshold=45", path],
                          capture_output=True, text=True, env={**os.environ, "SYSTEMD_PAGER": ""})
    assert done.returncode == 0, done.stdout[-500:]


def test_low_ports_get_the_one_capability_that_they_need() -> None:
    assert "CapabilityBoundingSet=\n" in service.unit("1.20", PYTHON, ["/srv/b.tar"], PLAIN)
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE\n" in service.unit("1.20", PYTHON, ["/b"], PLAIN._replace(port=80))
    assert "ProtectHome=read-only\n" in service.unit("1.20", PYTHON, ["/srv/b.tar", "/home/me/d.tar"], PLAIN)
    assert "ProtectHome=yes\n" in service.unit("1.20", PYTHON, ["/srv/b.tar"], PLAIN)


def test_python_is_one_that_stays() -> None:
    assert service.python_of_system().startswith(("/usr/", "/opt/"))


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="for machines without systemd")
def test_without_systemd_it_says_so_and_does_nothing(tmp_path: Path) -> None:
    for words in (["status"], ["remove"], ["install", str(make_bundle(tmp_path / "b.tar", {}))]):
        done = subprocess.run([sys.executable, "-m", "installer", "service", *words], cwd=PROJECT, capture_output=True,
                              text=True)
        assert done.returncode == 7
        assert "does not run systemd" in done.stderr
    assert not Path(service.UNIT).exists()


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    lab = Lab("test-service")
    down(lab)
    machine = Node(lab, 1)
    machine.boot()
    yield machine
    down(lab)


@pytest.mark.root
@pytest.mark.lab
def test_it_serves_across_a_crash_and_a_reboot_and_leaves_nothing(node: Node, tmp_path: Path) -> None:
    members: dict[str, bytes] = {"bin/amd64/tool": os.urandom(100_000)}
    image = add_image(members, "k8s.gcr.io/pause:3.2", [os.urandom(100_000)])
    make_bundle(tmp_path / "b.tar", members, [image])
    shutil.copytree(PROJECT / "installer", tmp_path / "installer", ignore=shutil.ignore_patterns("__pycache__"))
    tar = subprocess.run(["tar", "-C", tmp_path, "-c", "."], stdout=subprocess.PIPE, check=True).stdout
    node.run(["mkdir", "/srv/carried"], check=True)
    node.run(["tar", "-C", "/srv/carried", "-x"], input=tar, check=True)
    before = node.run("getent passwd; find /etc/systemd /usr/local /var/lib -newer /srv/carried/b.tar").stdout
    run = "cd /srv/carried && python3 -m installer service"
    assert node.run(f"{run} status").returncode == 7
    done = node.run(f"{run} install b.tar", check=True)
    assert "kubecarry serves release 1.20 from /var/lib/kubecarry-server/bundle.tar" in done.stdout
    pid = main_pid(node)
    node.run(f"{run} install b.tar", check=True)
    assert main_pid(node) == pid, "what is installed already is not restarted"
    node.run("rm -r /srv/carried/b.tar", check=True)
    assert node.run("curl -fsS http://10.77.0.11:8000/deploy.sh | grep -c ^SERVER=").stdout == "1\n"
    status = node.run(f"cat /proc/{pid}/status").stdout
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    assert "Uid:\t0\t" not in status
    node.run(["kill", "-9", pid], check=True)
    assert until(lambda: main_pid(node) not in ("0", pid) and answers(node), 60)
    node.reboot(20)
    assert until(lambda: answers(node), 60)
    assert node.run(f"{run} status", check=True).stdout == "kubecarry: active, enabled\n"
    node.run(f"{run} remove", check=True)
    assert not answers(node)
    after = node.run("getent passwd; ls /etc/systemd/system/kubecarry.service /usr/local/lib/kubecarry "
                     "/var/lib/kubecarry-server 2>/dev/null").stdout
    assert "kubecarry" not in before + after
    assert node.run(f"{run} remove", check=True).stdout == "kubecarry: removed\n"


@pytest.mark.root
@pytest.mark.lab
def test_a_low_port_works_and_a_file_that_its_user_cannot_read_is_named(node: Node, tmp_path: Path) -> None:
    node.run("mkdir -p /srv/carried /home/me && chmod 755 /home/me", check=True)
    bundle = make_bundle(tmp_path / "b.tar", {"bin/amd64/tool": b"x"})
    node.run(["tee", "/home/me/b.tar"], input=bundle.read_bytes(), check=True)
    run = "cd /srv/carried && python3 -m installer service"
    node.run(f"{run} remove", check=True)
    node.run(f"{run} install /home/me/b.tar --in-place --port 80", check=True)
    assert node.run("curl -fsS http://10.77.0.11/healthz").stdout == "ok\n"
    assert node.run("ls /var/lib/kubecarry-server/bundle.tar").returncode != 0
    node.run("chmod 600 /home/me/b.tar", check=True)
    done = node.run(f"{run} install /home/me/b.tar --in-place --port 80")
    assert done.returncode == 7
    assert "user kubecarry cannot read it" in done.stderr
    node.run(f"{run} remove", check=True)


@pytest.mark.root
@pytest.mark.lab
def test_a_delta_beside_its_base_becomes_one_copy(node: Node, tmp_path: Path) -> None:
    old = make_bundle(tmp_path / "old.tar", {"files/a": b"a" * 5000})
    whole = complete({"files/a": b"a" * 5000, "files/b": b"b" * 5000})
    base = hashlib.sha256(complete({"files/a": b"a" * 5000})["SHA256SUMS"]).hexdigest()
    note = json.dumps({"schema": 1, "base": base, "release": "1.20"}).encode()
    order = ["bundle.json", "SHA256SUMS", "files/b"]
    write_members(tmp_path / "delta.tar", [("delta.json", note), *((name, whole[name]) for name in order)])
    for path in (old, tmp_path / "delta.tar"):
        node.run(["tee", f"/srv/{path.name}"], input=path.read_bytes(), check=True)
    run = "cd /srv/carried && python3 -m installer service"
    node.run(f"{run} install /srv/old.tar /srv/delta.tar", check=True)
    assert node.run("curl -fsS http://10.77.0.11:8000/files/b").stdout == "b" * 5000
    pid = main_pid(node)
    node.run(f"{run} install /srv/old.tar /srv/delta.tar", check=True)
    assert main_pid(node) == pid
    node.run(f"{run} install /srv/old.tar /srv/delta.tar --in-place", check=True)
    assert node.run("curl -fsS http://10.77.0.11:8000/files/a").stdout == "a" * 5000
    node.run(f"{run} remove", check=True)


def main_pid(node: Node) -> str:
    return node.run("systemctl show -p MainPID kubecarry").stdout.strip().partition("=")[2]


def answers(node: Node) -> bool:
    return node.run("curl -fsS -m 3 http://10.77.0.11:8000/healthz").stdout == "ok\n"
