"""The runtime: which one is chosen, with which cgroup driver, and what of a Docker that was here is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .stream import Shell
from .test_preflight import run_check

ACTIVE = "systemctl() {{ case \"$*\" in 'is-active -q {}'*) true ;; *) false ;; esac; }}; "
DEFAULT = "systemd" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "cgroupfs"
INSTALLED = "state_set runtime containerd; state_set cgroup-driver cgroupfs; "
CHOSEN = 'choose_runtime; echo "$NODE_RUNTIME $CGROUP_DRIVER"'
# `docker` is a stub in this file, and so is `systemctl`: a real dockerd is in lab/test_docker.py.
NO_DOCKER = "systemctl() { false; }; "


def settings(tmp_path: Path, text: str) -> str:
    (tmp_path / "daemon.json").write_text(text)
    return f"DOCKER_SETTINGS={tmp_path}/daemon.json; "


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (NO_DOCKER, "containerd systemd"),
        (NO_DOCKER + "RUNTIME=docker; ", "docker systemd"),
        (NO_DOCKER + "RUNTIME=docker OPT_RUNTIME=containerd; ", "containerd systemd"),
        (NO_DOCKER + "OPT_CGROUP_DRIVER=cgroupfs; ", "containerd cgroupfs"),
        (ACTIVE.format("docker") + "timeout() { echo ' Cgroup Driver: cgroupfs'; }; ", "docker cgroupfs"),
        (ACTIVE.format("docker") + "timeout() { echo 'Cgroup Driver: systemd'; }; ", "docker systemd"),
        (ACTIVE.format("docker") + "timeout() { echo systemd; }; OPT_RUNTIME=containerd; ", "containerd systemd"),
        (ACTIVE.format("docker") + "KUBERNETES_VERSION=v1.24.0; ", "containerd systemd"),
        (ACTIVE.format("containerd") + "RUNTIME=docker; ", "containerd systemd"),
        (NO_DOCKER + "RUNTIME=docker; docker_owner() { echo theirs; }; ", f"docker {DEFAULT}"),
        (ACTIVE.format("docker") + INSTALLED, "containerd cgroupfs"),
    ],
)
def test_what_is_chosen(shell: Shell, given: str, chosen: str) -> None:
    assert shell.out(f"DOCKER_SETTINGS=/nowhere; {given}{CHOSEN}") == chosen + "\n"


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        ('{"exec-opts": ["native.cgroupdriver=systemd"]}', "systemd"),
        ('{"exec-opts": ["native.cgroupdriver=cgroupfs"]}', "cgroupfs"),
        ('{"log-driver": "journald"}', DEFAULT),
    ],
)
def test_settings_that_wait_for_docker_decide(shell: Shell, tmp_path: Path, text: str, driver: str) -> None:
    body = NO_DOCKER + settings(tmp_path, text) + "RUNTIME=docker; "
    assert shell.out(body + CHOSEN) == f"docker {driver}\n"
    body += "docker_trust_server() { :; }; configure_crictl() { :; }; docker_start() { :; }; "
    done = shell.run(body + "state_set docker-settings theirs; docker_configure")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "daemon.json").read_text() == text, "an operator's own settings are never written to"


def test_our_settings_are_json_and_make_no_network(shell: Shell) -> None:
    for driver in ("systemd", "cgroupfs"):
        made = json.loads(shell.out(f"CGROUP_DRIVER={driver}; docker_settings"))
        assert made["exec-opts"] == [f"native.cgroupdriver={driver}"]
        assert (made["bridge"], made["iptables"], made["ip-forward"]) == ("none", False, False)
        assert (made["storage-driver"], made["log-opts"]) == ("overlay2", {"max-file": "3", "max-size": "100m"})
        assert not {"insecure-registries", "registry-mirrors", "hosts"} & set(made)


@pytest.mark.parametrize(("driver", "said"), [("systemd", "true"), ("cgroupfs", "false")])
def test_containerd_is_told_the_driver(shell: Shell, driver: str, said: str) -> None:
    assert f"SystemdCgroup = {said}\n" in shell.out(f"CGROUP_DRIVER={driver}; containerd_config")


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("NODE_RUNTIME=containerd", ["containerd.io", "kubelet"]),
        ("NODE_RUNTIME=docker; state_set docker ours", ["containerd.io", "docker-ce", "docker-ce-cli", "kubelet"]),
        ("NODE_RUNTIME=docker; state_set docker theirs", ["kubelet"]),
    ],
)
def test_packages_of_the_runtime_that_is_not_wanted_or_is_theirs_are_left_out(
    shell: Shell, given: str, left: list[str]
) -> None:
    names = ("containerd.io-1.6.20-3", "docker-ce-18.09.4-3", "docker-ce-cli-18.09.4-3", "kubelet-1.20.2-0")
    lines = "".join(f"{name}.x86_64 {name.rsplit('-', 2)[0]}.x86_64\n" for name in names)
    (shell.state / "lists/packages-el7-node").write_text("digest\n" + lines)
    shell.stub("rpm", "true")  # a host without any of them
    told = shell.out(f"HOST_OS=el7 ROLE=node; {given}; missing_packages")
    assert [name.rsplit("-", 2)[0] for name in told.split()] == left


@pytest.mark.parametrize(
    ("check", "given", "told"),
    [
        ("docker", "KUBERNETES_VERSION=v1.24.0; docker_owner() { echo ours; }; RUNTIME=docker", "has no dockershim"),
        ("docker", "docker_owner() { echo ours; }", "the bundle carries no Docker, and this host has none"),
        ("docker", "docker_owner() { echo theirs; }; docker_active() { :; }; timeout() { echo '  driver-type: "
         "io.containerd.snapshotter.v1'; }", "in the store of containerd"),
        ("runtime", "docker_active() { :; }; timeout() { echo Cgroup Driver: cgroupfs; }; docker_containers() { :; }",
         "docker of this host uses the cgroup driver cgroupfs, not systemd"),
        ("runtime", "docker_active() { false; }; DOCKER_SETTINGS=/nowhere; docker_containers() { echo x; }",
         "docker has containers of an earlier cluster"),
        ("runtime", "OPT_RUNTIME=containerd; state_set runtime docker", "this host is installed with docker"),
        ("runtime", "OPT_CGROUP_DRIVER=cgroupfs; state_set runtime docker", "and the cgroup driver systemd"),
    ],
)  # fmt: skip
def test_what_docker_cannot_be_is_a_fault(shell: Shell, check: str, given: str, told: str) -> None:
    faults, _ = run_check(shell, check, f"NODE_RUNTIME=docker; {given}")
    assert any(told in fault for fault in faults), faults


BOUND = """docker_active() { :; }; docker_ids() { echo x; }; docker_says() { echo ${LIVE:-false}; }
    systemctl() { echo 'BindsTo=containerd.service'; }"""


def test_containerd_is_not_restarted_under_containers_of_docker(shell: Shell) -> None:
    (fault,) = run_check(shell, "docker", BOUND)[0]
    assert "docker runs containers, which end with a restart of containerd" in fault
    for harmless in ("LIVE=true", "docker_ids() { :; }", "systemctl() { echo BindsTo=; }", "ours() { :; }"):
        assert run_check(shell, "docker", f"{BOUND}; {harmless}")[0] == []


def test_a_run_killed_before_its_settings_were_written_is_no_fault(shell: Shell) -> None:
    given = "NODE_RUNTIME=docker; state_set docker ours; state_set docker-settings ours; docker_containers() { :; }; "
    for left in ("docker_active() { false; }; docker_owner() { echo theirs; }",
                 "docker_active() { :; }; timeout() { echo Cgroup Driver: cgroupfs; }"):  # fmt: skip
        assert run_check(shell, "runtime", given + left)[0] == []


def test_docker_that_fits_is_no_fault(shell: Shell) -> None:
    given = "NODE_RUNTIME=docker; docker_owner() { echo theirs; }; docker_active() { :; }; "
    given += "timeout() { echo Cgroup Driver: systemd; }"
    faults, cautions = run_check(shell, "docker", given)
    assert (faults, len(cautions)) == ([], 1)
    assert run_check(shell, "runtime", given + "; docker_containers() { :; }")[0] == []


def test_a_docker_that_was_installed_gets_no_settings_though_it_does_not_run(shell: Shell) -> None:
    given = "DOCKER_SETTINGS=/nowhere; getent() { :; }; "
    told = shell.out(NO_DOCKER + given + "docker_owner() { echo theirs; }; docker_note_host; cat $STATE/state")
    assert told == "docker-settings=theirs\ndocker-ran=no\n"
    (shell.state / "state").unlink()
    told = shell.out(NO_DOCKER + given + "docker_owner() { echo ours; }; docker_note_host; cat $STATE/state")
    assert told == "docker-settings=ours\ndocker-ran=no\n"


def test_a_docker_that_ran_before_is_never_restarted(shell: Shell) -> None:
    """`systemctl` and `docker` are stubs that write down what they are asked."""
    shell.stub("systemctl", f"echo \"$*\" >>{shell.directory}/calls; case $* in *is-enabled*) exit 1 ;; esac")
    shell.stub("docker", "echo ' Cgroup Driver: systemd'")
    body = "NODE_RUNTIME=docker; docker_note_host; docker_trust_server; docker_start 0; "
    shell.out(body + body + "undo_all")
    calls = (shell.directory / "calls").read_text()
    assert "enable docker.service" in calls
    assert "disable docker.service" in calls
    for word in ("restart", "stop", "start docker"):
        assert word not in calls
    assert "unit\tdocker.service" not in "\n".join(shell.journal)


def test_what_came_with_us_is_stopped_again_whatever_its_package_did(shell: Shell) -> None:
    shell.stub("systemctl", f"echo \"$*\" >>{shell.directory}/calls")  # all of it active already, as debs leave it
    shell.stub("docker", "echo ' Cgroup Driver: systemd'")
    ours = "".join(f"state_set {program} ours; " for program in ("docker", "containerd"))
    shell.out(f"NODE_RUNTIME=docker; state_set docker-ran no; {ours}docker_start 1")
    assert [line for line in shell.journal if line.startswith("unit")] == [
        f"unit\t{name}\tabsent\tinactive" for name in ("containerd.service", "docker.socket", "docker.service")
    ]
    assert "restart docker.service" in (shell.directory / "calls").read_text()


def test_a_unit_is_restarted_once_for_a_configuration_even_if_a_kill_came_between(shell: Shell, tmp_path: Path) -> None:
    """`systemctl` is a stub: the unit is active and enabled already."""
    shell.stub("systemctl", f"case $1 in start|restart) echo $1 >>{tmp_path}/calls ;; esac")
    (tmp_path / "config").write_text("one")
    calls = tmp_path / "calls"
    start = f"start_unit it 0 {tmp_path}/config; "
    shell.out(start + start)  # written by a run that was killed then: nothing changes in this one
    assert calls.read_text() == "restart\n"
    shell.out(f"start_unit it 1 {tmp_path}/config; {start}")
    assert calls.read_text() == "restart\nrestart\n"
    (tmp_path / "config").write_text("two")
    shell.out(start + start)
    assert calls.read_text() == "restart\nrestart\nrestart\n"


@pytest.mark.parametrize(("units", "told"), [("docker kubelet", []), ("docker kubelet containerd", ["containerd"])])
def test_status_asks_for_the_units_that_there_are(shell: Shell, units: str, told: list[str]) -> None:
    """`systemctl` is a stub: everything is active and enabled but containerd, which an old Docker has no unit for."""
    shell.stub("systemctl", f"""case "$1 $2" in
          'cat '*) case " {units} " in *" ${{2%.service}} "*) exit 0 ;; *) exit 1 ;; esac ;;
          'is-active containerd') echo inactive; exit 3 ;;
          is-active*) echo active ;;
        esac""")
    lines = shell.out("NODE_RUNTIME=docker; status_units").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("differs")] == told


def test_certs_d_of_every_server(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"SERVER": "https://10.1.1.1:8000", "SERVERS": "https://b.example:443", "SERVER_CA": "PEM"})
    told = shell.out('put_file() { echo "$1 $2 $(cat)"; }; docker_trust_server')
    hosts = ("10.1.1.1:8000", "b.example:443")
    assert told == "".join(f"0644 /etc/docker/certs.d/{host}/ca.crt PEM\n" for host in hosts)
    plain = Shell(tmp_path / "plain")
    assert plain.out('put_file() { echo "$2"; }; docker_trust_server') == ""
