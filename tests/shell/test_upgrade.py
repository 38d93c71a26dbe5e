"""Upgrades, function by function: what may follow what, what is refused, and what a run that was cut short leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from .stream import Shell
from .test_preflight import run_check

NODES = "node1 v1.20.2 True master -\nnode2 v1.20.2 True node -"


def cluster(nodes: str = NODES, served: str = "v1.20.2") -> str:
    return f"CLUSTER_NODES=$'{nodes}'; SERVED_VERSION={served}; NODE_NAME=node1; KUBERNETES_VERSION=v1.20.3"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("v1.20.2", "v1.20.2", ""),
        ("v1.20.2", "v1.20.15", ""),
        ("v1.20.15", "v1.21.0", ""),
        ("v1.20.2", "v1.21.0-rc.1", ""),
        ("v1.20.3", "v1.20.2", "cannot go back"),
        ("v1.21.0", "v1.20.9", "cannot go back"),
        ("v1.20.2", "v1.22.0", "one minor release at a time"),
        ("v1.9.8", "v1.11.0", "one minor release at a time"),
        ("v1.9.8", "v1.10.08", ""),
    ],
)
def test_what_may_follow_what(shell: Shell, old: str, new: str, told: str) -> None:
    said = shell.out(f"skew {old} {new}")
    assert told in said
    assert bool(told) == bool(said)


def test_every_node_s_version_counts_and_the_api_server_s(shell: Shell) -> None:
    faults, _ = run_check(shell, "upgrade-version", cluster())
    assert faults == []
    faults, _ = run_check(shell, "upgrade-version", cluster(NODES + "\\nnode3 v1.21.0 True node -"))
    assert [fault.split("\t")[1][:16] for fault in faults] == ["node3 is v1.21.0"]
    faults, _ = run_check(shell, "upgrade-version", cluster(served="v1.20.4"))
    assert "the-API-server is v1.20.4" in faults[0]
    faults, _ = run_check(shell, "upgrade-version", cluster("node1 v1.18.2 True master -"))
    assert "one minor release" in faults[0]


def test_nodes_come_after_all_masters(shell: Shell) -> None:
    two = "node1 v1.20.3 True master -\\nnode2 v1.20.2 True master -\\nnode3 v1.20.2 True node -"
    faults, _ = run_check(shell, "upgrade-masters", cluster(two, "v1.20.3"), "node")
    assert [fault.split("\t")[1] for fault in faults] == ["node2 is v1.20.2 still"]
    faults, _ = run_check(shell, "upgrade-masters", cluster(two.replace(".2 True m", ".3 True m"), "v1.20.3"), "node")
    assert faults == []


def test_nodes_that_are_away_or_cordoned_are_told(shell: Shell) -> None:
    nodes = "node1 v1.20.2 True master -\\nnode2 v1.20.2 False master -\\nnode3 v1.20.2 Unknown node cordoned"
    faults, cautions = run_check(shell, "upgrade-nodes", cluster(nodes))
    assert len(faults) == 1
    assert "the master node2 is not Ready" in faults[0]
    assert ["node3 is not Ready" in cautions[0], "node3 is cordoned" in cautions[1]] == [True, True]
    faults, cautions = run_check(shell, "upgrade-nodes", cluster(nodes), "node")
    assert faults == []
    assert len(cautions) == 3


@pytest.mark.parametrize("role", ["master", "node"])
def test_another_address_of_the_server_concerns_masters(shell: Shell, role: str) -> None:
    _, cautions = run_check(shell, "upgrade-server", "state_set server http://10.0.0.9:8000", role)
    assert [("upgrade --fetch-only" in caution) for caution in cautions] == ([True] if role == "master" else [])


def test_a_member_of_etcd_that_is_not_healthy_is_named(shell: Shell) -> None:
    given = """api_flag() { case $1 in etcd-servers) echo https://10.0.0.3:2379,https://127.0.0.1:2379 ;; *) echo /x ;; esac; }
        curl() { case $* in
          *127.0.0.1*member/list*) echo '{"members":[{"clientURLs":["https://10.0.0.1:2379"]},{"clientURLs":["https://10.0.0.2:2379"]}]}' ;;
          *10.0.0.1:2379/health*) echo '{"health":"true"}' ;;
          *) return 7 ;; esac; }"""  # noqa: E501
    faults, _ = run_check(shell, "upgrade-etcd", given)
    assert [fault.split("\t")[1] for fault in faults] == ["etcd at https://10.0.0.2:2379 is not healthy"]
    faults, _ = run_check(shell, "upgrade-etcd", "api_flag() { echo /x; }; curl() { return 7; }")
    assert "does not tell its members" in faults[0]


def test_a_cluster_that_is_not_well_is_not_upgraded(shell: Shell) -> None:
    faults, _ = run_check(shell, "upgrade-api", "wait_for() { return 1; }")
    assert "the API server does not answer" in faults[0]
    faults, _ = run_check(shell, "upgrade-disk", "free_mb() { echo 100; }")
    assert any("/var/lib/containerd: 100 MiB free, 1500 MiB needed" in fault for fault in faults)
    away = """control_lines() { printf 'etcd-a node1 x:1 true\\nkube-scheduler-a node1 x:1 false\\n'; }
        wait_for() { shift 2; "$@"; }"""
    faults, _ = run_check(shell, "upgrade-control-plane", f"SERVED_VERSION=v1; {away}")
    assert [fault.split("\t")[1] for fault in faults] == ["kube-scheduler-a is not Ready"]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("state_set version v1.20.3", ""),
        ("state_set version v1.20.2", "this host has Kubernetes v1.20.2, the bundle is v1.20.3"),
        ("state_set version v1.20.3; state_set upgrading v1.20.4", "an upgrade of this host to v1.20.4 is unfinished"),
    ],
)
def test_master_and_join_leave_another_version_to_the_verb_for_it(shell: Shell, state: str, told: str) -> None:
    given = f"KUBERNETES_VERSION=v1.20.3; state_set cluster 'done'; {state}"
    faults, _ = run_check(shell, "other-version", given)
    assert bool(faults) == bool(told)
    assert all(told in fault and "| bash -s upgrade" in fault for fault in faults)
    faults, _ = run_check(shell, "other-version", "KUBERNETES_VERSION=v1.20.3; state_set cluster ''; " + state)
    assert faults == [], "what is unfinished may be finished by another bundle"


def test_a_component_that_a_power_cut_left_out_comes_back(shell: Shell, tmp_path: Path) -> None:
    etc = tmp_path / "kubernetes"
    (etc / "manifests").mkdir(parents=True)
    (etc / "manifests/etcd.yaml").write_text("new")
    for time, names in (("2026-01-01", ("kube-apiserver", "etcd")), ("2026-01-02", ("kube-apiserver",))):
        kept = etc / f"tmp/kubeadm-backup-manifests-{time}"
        kept.mkdir(parents=True)
        for name in names:
            (kept / f"{name}.yaml").write_text(f"{name} of {time}")
    shell.out(f"ADMIN_CONF={etc}/admin.conf; restore_static_pods; restore_static_pods")
    found = {path.name: path.read_text() for path in (etc / "manifests").iterdir()}
    assert found == {"etcd.yaml": "new", "kube-apiserver.yaml": "kube-apiserver of 2026-01-02"}


def test_who_leads_goes_on_leading(shell: Shell) -> None:
    """Killed after kubeadm wrote the new version, before the add-ons: the cluster's own word would call it done."""
    given = "KUBERNETES_VERSION=v1.20.3; cluster_version() { echo $THERE; }"
    told = f"{given}; for THERE in v1.20.2 v1.20.3; do if leads; then echo leads; else echo follows; fi; done"
    assert shell.out(told).split() == ["leads", "follows"]
    assert shell.out(f"state_set leads v1.20.3; {told}").split() == ["leads", "leads"]


def test_the_backup_is_of_the_state_before_the_first_change(shell: Shell, tmp_path: Path) -> None:
    etc = tmp_path / "kubernetes"
    (etc / "manifests").mkdir(parents=True)
    body = f"""ADMIN_CONF={etc}/admin.conf BACKUPS={tmp_path}/b NODE_NAME=node1 KUBERNETES_VERSION=v1.20.3
        room_for_backup() {{ :; }}; take_etcd_tools() {{ :; }}; write_backup() {{ echo x >"$1"; }}
        backup_before_upgrade; umask"""
    done = shell.run(body)
    assert (done.returncode, "etcd runs elsewhere" in done.stderr) == (0, True)
    (etc / "manifests/etcd.yaml").write_text("")
    assert shell.out(body) == "0022\n"
    (first,) = (tmp_path / "b").iterdir()
    assert first.stat().st_mode & 0o777 == 0o600
    shell.out(body)
    assert list((tmp_path / "b").iterdir()) == [first]
    first.unlink()
    shell.out(body)
    assert len(list((tmp_path / "b").iterdir())) == 1


def test_pods_stay_where_no_other_node_could_take_them(shell: Shell) -> None:
    given = "NODE_NAME=node1; node_upgraded() { false; }; drain_node() { echo drained $1 $2; }"
    done = shell.run(f"{given}; other_hosts() {{ :; }}; upgrade_drain")
    assert (done.stdout, "they stay" in done.stderr) == ("", True)
    assert shell.out(f"{given}; other_hosts() {{ echo node2; }}; upgrade_drain") == "drained node1 300\n"
    assert shell.out(f"{given}; node_upgraded() {{ true; }}; other_hosts() {{ echo node2; }}; upgrade_drain") == ""


@pytest.mark.parametrize(("client", "stale"), [("1.6.20", False), ("1.6.33", True)])
def test_containerd_is_restarted_where_it_is_not_the_installed_one(shell: Shell, client: str, stale: bool) -> None:
    shell.stub("ctr", f"printf 'Client:\\n  Version:  {client}\\n  Revision: a\\nServer:\\n  Version:  1.6.20\\n"
                      "  Revision: a\\n  UUID: b\\n'")  # fmt: skip
    assert shell.out("if runtime stale; then echo stale; fi") == ("stale\n" if stale else "")


def test_a_finished_upgrade_is_that_of_this_very_bundle(shell: Shell) -> None:
    done = "state_set version $KUBERNETES_VERSION; state_set sums $SUMS_SHA256"
    assert shell.out(f"{done}; if upgraded; then echo yes; fi") == "yes\n"
    assert shell.out(f"{done}; state_set upgrading v1.20.3; if upgraded; then echo yes; fi") == ""
    assert shell.out(f"{done}; state_set upgrading ''; state_set sums old; if upgraded; then echo yes; fi") == ""


def test_nothing_is_upgraded_that_is_not_installed(shell: Shell) -> None:
    done = shell.run("identify() { :; }; adopt_installation")
    assert done.returncode == 7
    assert "no finished installation" in done.stderr


def test_later_directories_are_undone_after_the_packages_and_a_file_keeps_its_line(
    shell: Shell, tmp_path: Path
) -> None:
    shell.out(
        "record tree a; record packages p; record cluster c; record_before packages dir d; record_before packages dir d"
    )
    assert [line.split("\t")[0] for line in shell.journal] == ["tree", "dir", "packages", "cluster"]
    file = tmp_path / "f"
    shell.out(f"put_file 0644 {file} <<<1; record cluster e; put_file 0644 {file} <<<2")
    kinds = [line.split("\t")[0] for line in shell.journal]
    assert kinds == ["tree", "dir", "packages", "cluster", "file", "cluster"]
    assert file.read_text() == "2\n"


def test_our_older_packages_are_upgraded_and_the_host_s_are_not(shell: Shell) -> None:
    """`rpm` is a stub: conntrack came with us, socat with the host, and the bundle has both newer."""
    shell.out("printf 'conntrack-1-1.x86_64\\nkubelet-1.20.2-0.x86_64\\n' >$STATE/lists/one; record packages one")
    have = (
        "conntrack.x86_64 conntrack-1-1.x86_64",
        "socat.x86_64 socat-1-1.x86_64",
        "kubelet.x86_64 kubelet-1.20.2-0.x86_64",
    )
    shell.stub("rpm", "printf '" + "".join(f"have {line}\\n" for line in have) + "'")
    wanted = "conntrack-1-2", "socat-1-2", "kubelet-1.20.3-0"
    lines = "".join(f"{name}.x86_64 {name.rsplit('-', 2)[0]}.x86_64\n" for name in wanted)
    (shell.state / "lists/packages-el7-node").write_text("digest\n" + lines)
    told = shell.out("HOST_OS=el7 ROLE=node; record_packages; missing_packages")
    assert told.split() == ["conntrack-1-2.x86_64", "kubelet-1.20.3-0.x86_64"]
    listed = (shell.state / "lists/one").read_text().split()
    assert listed == ["conntrack-1-1.x86_64", "kubelet-1.20.2-0.x86_64", *told.split()]


@pytest.mark.parametrize(
    ("words", "waited"),
    [("timeout -k 5 600 /usr/bin/dnf -y install x", True), ("kubeadm upgrade apply v1", True),
     ("/usr/bin/python3 /usr/bin/dnf -y", True), ("curl http://x", False), ("kubeadm init", False)],
)  # fmt: skip
def test_a_transaction_that_a_killed_run_left_is_waited_for(shell: Shell, words: str, waited: bool) -> None:
    body = f"""bash -c 'exec -a "$0" sleep 9' "{words}" & sleep 0.2
        if is_transaction $!; then echo waits; fi; kill $!"""
    assert shell.out(body) == ("waits\n" if waited else "")


def test_the_verb_and_its_options(shell: Shell) -> None:
    told = 'echo "$VERB $OPT_NO_DRAIN$OPT_FETCH_ONLY$OPT_FORCE$OPT_DELETE_EMPTYDIR $OPT_TIMEOUT ${OPT_IGNORE#,}"'
    words = "upgrade --no-drain --fetch-only --force --delete-emptydir-data --timeout 9 --ignore upgrade-etcd"
    assert shell.out(f"parse {words}; {told}") == "upgrade 1111 9 upgrade-etcd\n"
    assert shell.run("parse upgrade node1").returncode == 2
