"""One run: bounded waits, what is shown and kept, one at a time, and how it ends."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from .stream import Shell


def test_a_wait_ends_when_its_time_is_up_and_says_what_it_waits_for(shell: Shell) -> None:
    began = time.monotonic()
    done = shell.run("wait_for 2 'the moon' false || echo late")
    assert done.stdout == "late\n"
    assert 1.5 < time.monotonic() - began < 6


def test_a_wait_that_is_long_shows_progress(shell: Shell) -> None:
    done = shell.run("wait_for 6 'the moon' false || true", timeout=20)
    assert "waiting for the moon (5 s, at most 6 s)" in done.stderr


def test_a_wait_ends_at_once_when_it_is_over(shell: Shell, tmp_path: Path) -> None:
    began = time.monotonic()
    shell.out(f"(sleep 0.5; : >{tmp_path}/there) & wait_for 20 it test -e {tmp_path}/there; wait")
    assert time.monotonic() - began < 5


def test_a_long_command_is_ended_when_its_time_is_up(shell: Shell) -> None:
    done = shell.run("supervise 1 'the long thing' sleep 30 || echo rc $?", timeout=15)
    assert done.stdout == "rc 124\n"


def test_of_a_failed_command_the_last_lines_are_shown_and_all_is_logged(shell: Shell) -> None:
    done = shell.run("supervise 9 thing bash -c 'seq 30; echo token abcdef.0123456789abcdef; exit 3' || echo rc $?")
    assert done.stdout == "rc 3\n"
    assert "thing failed (code 3); its last lines:\n20\n" in done.stderr
    assert "0123456789abcdef" not in done.stderr
    log = shell.log.read_text()
    assert "\n1\n2\n" in log
    assert "0123456789abcdef" not in log


def test_children_do_not_read_the_script(shell: Shell) -> None:
    """With the script on stdin, a child that read it would eat what is still to be run."""
    text = f"""set -euo pipefail; DEPLOY_SOURCED=1; . {shell.directory}/deploy.sh
STATE={shell.state} LOG_SINK={shell.log}; clock; STARTED=$NOW
logged cat; supervise 5 it cat; wait_for 5 it eval 'cat; true'; step it cat </dev/null
echo reached
"""
    done = subprocess.run(["bash", "-s"], input=text, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "reached\n"


def test_a_second_run_waits_for_nobody_while_the_first_lives(shell: Shell) -> None:
    done = shell.run(f"""take_lock; (unset BASHPID; DEPLOY_SOURCED=1 bash -c '. {shell.directory}/deploy.sh
        LOCK={shell.directory}/lock; take_lock; echo took' 9>&-) || echo "rc $?" """)
    assert done.stdout == "rc 7\n"
    assert "another deploy.sh runs on this host" in done.stderr


def test_what_a_killed_run_left_is_ended_before_the_next(shell: Shell, tmp_path: Path) -> None:
    """A child that outlives its deploy.sh still holds the lock; it is ours to end."""
    held = f"""DEPLOY_SOURCED=1; . {shell.directory}/deploy.sh; LOCK={shell.directory}/lock; take_lock
        sleep 300 & echo $! >{tmp_path}/orphan; kill -9 $$"""
    subprocess.run(["bash", "-c", held], stdin=subprocess.DEVNULL, check=False)
    orphan = (tmp_path / "orphan").read_text().strip()
    assert Path(f"/proc/{orphan}").exists()
    assert shell.out("take_lock; echo took") == "took\n"
    stat = Path(f"/proc/{orphan}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


def test_an_unexpected_failure_names_the_step_and_what_to_do(shell: Shell) -> None:
    done = shell.run("VERB=master; trap 'finish $?' EXIT; step 'the step' false")
    assert done.returncode == 1
    assert "error: the step failed unexpectedly (code 1)" in done.stderr
    assert "run the same line again" in done.stderr


def test_a_told_failure_keeps_its_code(shell: Shell) -> None:
    done = shell.run("VERB=master; trap 'finish $?' EXIT; step 'the step' die 6 'what' 'next'")
    assert done.returncode == 6
    assert "unexpectedly" not in done.stderr


def test_nothing_secret_is_left_whatever_the_end(shell: Shell) -> None:
    shell.run("VERB=master; trap 'finish $?' EXIT; echo secret >$STATE/tmp/kubeadm.yaml; false")
    assert not (shell.state / "tmp").exists()


def test_state_keeps_the_last_value(shell: Shell) -> None:
    assert shell.out("state_set a 1; state_set b 2; state_set a 3; state_get a; state_get b; state_get c") == "3\n2\n"


RPM = """case "$*" in
  *-qa*) cat {}/installed ;;
  *) exit 1 ;;
esac"""


def test_only_what_is_missing_is_installed_and_nothing_is_downgraded(shell: Shell, tmp_path: Path) -> None:
    """`rpm` is a stub: the packages of a host in some state."""
    (tmp_path / "installed").write_text(
        "have socat.x86_64 socat-9.9-1.x86_64\nhave kubelet.x86_64 kubelet-1.19.0-0.x86_64\n"
        "have containerd.io.x86_64 containerd.io-1.6.20-3.1.el7.x86_64\n"
    )
    wanted = ("kubelet-1.20.2-0", "socat-1.7-2", "conntrack-1.4-7", "containerd.io-1.6.20-3.1.el7")
    names = "".join(f"{name}.x86_64 {name.rsplit('-', 2)[0]}.x86_64\n" for name in wanted)
    (shell.state / "lists/packages-el7-node").write_text("digest\n" + names)
    shell.stub("rpm", RPM.format(tmp_path))
    told = shell.out("HOST_OS=el7 ROLE=node; missing_packages")
    assert told.split() == ["kubelet-1.20.2-0.x86_64", "conntrack-1.4-7.x86_64"]


def test_the_repository_is_local_and_its_signatures_are_checked(shell: Shell) -> None:
    keys = shell.state / "cache/packages/el7/keys"
    keys.mkdir(parents=True)
    for name in ("a.gpg", "b.gpg"):
        (keys / name).write_text("key")
    told = shell.out("HOST_OS=el7; repository")
    assert f"baseurl=file://{shell.state}/cache/packages/el7\n" in told
    assert "gpgcheck=1\n" in told
    assert f"gpgkey=file://{keys}/a.gpg file://{keys}/b.gpg\n" in told
    assert "http" not in told


def test_packages_of_other_architectures_are_passed_over(shell: Shell) -> None:
    names = shell.state / "cache/lists/el7/node.packages"
    names.parent.mkdir(parents=True)
    names.write_text("".join(f"packages/el7/p-1.{arch}.rpm\n" for arch in ("x86_64", "aarch64", "noarch", "s390x")))
    told = shell.out("HOST_OS=el7 ROLE=node; uname() { echo x86_64; }; role_packages")
    assert told.split() == ["packages/el7/p-1.x86_64.rpm", "packages/el7/p-1.noarch.rpm"]


def test_images_are_those_of_the_role_that_are_not_complete_at_their_digest(shell: Shell) -> None:
    lists = shell.state / "cache/lists"
    lists.mkdir(parents=True)
    digest = {name: "sha256:" + name * 64 for name in "abcd"}
    (lists / "images").write_text(
        f"{digest['a']} r/one:1 master,node\n{digest['b']} r/two:1 master\n{digest['c']} r/three:1 node\n"
        f"{digest['d']} r/four:1 node\n"
    )
    check = (
        "REF TYPE DIGEST STATUS SIZE UNPACKED\n"
        f"r/one:1 t {digest['a']} complete (3/3) 1.0 MiB/1.0 MiB true\n"
        f"r/three:1 t {digest['a']} complete (3/3) 1.0 MiB/1.0 MiB true\n"
        f"r/four:1 t {digest['d']} incomplete (1/3) 1.0 MiB/1.0 MiB false\n"
    )
    told = shell.out(f"ROLE=node; ctr_images() {{ cat <<'END'\n{check}END\n}}; missing_images")
    assert told == f"{digest['c']} r/three:1\n{digest['d']} r/four:1\n"


def test_a_package_that_comes_back_stays_on_the_list_that_it_was_on(shell: Shell) -> None:
    """So that down removes it in one transaction with what needs it."""
    shell.out("missing_packages() { printf 'kubelet-1\nsocat-1\n'; }; record_packages")
    shell.out("missing_packages() { echo socat-1; }; record_packages")
    assert len(shell.journal) == 1
    shell.out("missing_packages() { printf 'socat-1\nkubectl-2\n'; }; record_packages")
    lists = [(shell.state / "lists" / line.split("\t")[1]).read_text() for line in shell.journal]
    assert lists == ["kubelet-1\nsocat-1\nkubectl-2\n"]


def test_what_a_killed_rpm_left_half_unpacked_goes_with_the_packages(shell: Shell) -> None:
    place = shell.directory / "usr"
    place.mkdir()
    for name in ("containerd", "containerd;6b0193fe", "theirs;6b0193fe", "containerd;x", "containerd;6b0193fe.bak"):
        (place / name).touch()
    (shell.state / "lists/contents").write_text(f"{place}/containerd\n{place}/gone/x\n/\n")
    (shell.state / "lists/packages-1").touch()
    shell.out("systemctl() { :; }; ldconfig() { :; }; undo_packages packages-1")
    assert sorted(path.name for path in place.iterdir()) == [
        "containerd", "containerd;6b0193fe.bak", "containerd;x", "theirs;6b0193fe"
    ]  # fmt: skip
