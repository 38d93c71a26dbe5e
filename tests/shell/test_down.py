"""down: which firewall rules go, which stay; when it asks."""

from __future__ import annotations

from pathlib import Path

from .stream import Shell

BEFORE = """*filter
:INPUT ACCEPT [0:0]
:MINE - [0:0]
-A INPUT -s 10.244.0.0/16 -j MINE
-A MINE -m comment --comment "an old KUBE- word" -j ACCEPT
COMMIT
"""
AFTER = """*nat
:PREROUTING ACCEPT [5:300]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-X - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8080
-A POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
-A POSTROUTING -s 10.24.0.0/16 -j MASQUERADE
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-X
COMMIT
*filter
:INPUT ACCEPT [9:900]
:KUBE-FIREWALL - [0:0]
:MINE - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -s 10.244.0.0/16 -j MINE
-A MINE -m comment --comment "an old KUBE- word" -j ACCEPT
-A FORWARD -d 10.244.0.0/16 -j ACCEPT
COMMIT
"""
REMOVAL = """*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-X - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-D POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
-X KUBE-SERVICES
-X KUBE-SVC-X
-X CNI-HOSTPORT-DNAT
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-D INPUT -j KUBE-FIREWALL
-D FORWARD -d 10.244.0.0/16 -j ACCEPT
-X KUBE-FIREWALL
COMMIT
"""


def test_only_the_cluster_s_rules_are_removed(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "before").write_text(BEFORE)
    (tmp_path / "after").write_text(AFTER)
    told = shell.out(
        f"rule_lines <{tmp_path}/before >{tmp_path}/old; "
        f"rule_lines <{tmp_path}/after | removal {tmp_path}/old '10.244.0.0/16'"
    )
    assert told == REMOVAL


def test_nothing_is_done_where_nothing_was_added(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "before").write_text(BEFORE)
    told = shell.out(
        f"rule_lines <{tmp_path}/before >{tmp_path}/old; "
        f"rule_lines <{tmp_path}/before | removal {tmp_path}/old 10.244.0.0/16"
    )
    assert told == ""


def test_down_where_nothing_is_installed(shell: Shell) -> None:
    done = shell.run("down")
    assert done.returncode == 0
    assert "nothing to undo" in done.stderr
    assert not shell.state.exists()
    assert not shell.log.exists()


def test_a_state_directory_that_is_a_mount_point_is_emptied(shell: Shell) -> None:
    (shell.state / "lists/x").touch()
    done = shell.run("mountpoint() { true; }; rm() { case $* in *state) false ;; esac; }; down")
    assert done.returncode == 0, done.stderr
    assert list(shell.state.iterdir()) == []


def test_down_makes_room_for_its_journal_first(shell: Shell) -> None:
    (shell.state / "cache").mkdir()
    (shell.state / "cache/a.rpm").touch()
    told = shell.out(f"record look x; undo_look() {{ ls {shell.state}; }}; down")
    assert "journal" in told
    assert "cache" not in told


def test_down_that_cannot_undo_all_keeps_the_rest_and_ends_with_7(shell: Shell) -> None:
    done = shell.run("record bad one; undo_bad() { return 1; }; down")
    assert done.returncode == 7
    assert "could not undo: bad one" in done.stderr
    assert shell.journal == ["bad\tone"]


def test_keep_packages_leaves_packages_and_their_keys(shell: Shell) -> None:
    shell.out("record packages x; record rpmkey gpg-pubkey-1-1; record dir /nowhere")
    told = shell.out("undo_packages() { echo PACKAGES; }; undo_rpmkey() { echo KEY; }; OPT_KEEP_PACKAGES=1; down")
    assert told == ""


def test_through_a_pipe_it_does_not_ask(shell: Shell) -> None:
    shell.out("confirm </dev/null")


def test_foreign_containers_are_spared(shell: Shell, tmp_path: Path) -> None:
    """`ctr` and `crictl` are stubs: the containers that were listed before us must never be named to them."""
    (shell.state / "lists/before").write_text("theirs\n")
    shell.stub("systemctl", "exit 0")
    for tool in ("crictl", "ctr"):
        shell.stub(tool, f'echo "{tool} $*" >>{tmp_path}/calls')
    shell.run(
        "containerd_containers() { grep -q 'container rm ours' $LOG.calls 2>/dev/null || echo ours; echo theirs; }; "
        f"remove_pods {shell.state}/lists/before"
    )
    calls = (tmp_path / "calls").read_text()
    assert "crictl rmp -f ours" in calls
    assert "ctr -n k8s.io container rm ours" in calls
    assert "theirs" not in calls


def test_a_runtime_of_the_host_must_run_for_its_containers_to_be_removed(shell: Shell) -> None:
    """`systemctl` is a stub: the unit is there, and not active."""
    shell.stub("systemctl", "[ $1 = cat ]")
    done = shell.run("NODE_RUNTIME=docker; state_set docker theirs; remove_pods || echo left")
    assert done.stdout == "left\n"
    assert "docker does not run: start it" in done.stderr
    assert shell.out("NODE_RUNTIME=docker; state_set docker ours; remove_pods || echo left") == ""
    shell.stub("systemctl", "false")
    assert shell.out("NODE_RUNTIME=docker; state_set docker theirs; remove_pods || echo left") == ""
