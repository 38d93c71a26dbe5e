"""remove: which etcd member goes, what kubeadm forgets, what is refused, and that it may be run again."""

from __future__ import annotations

import pytest

from .stream import Shell

MEMBERS = """9a1, started, node1, https://10.0.0.1:2380, https://10.0.0.1:2379, false
9a2, started, node2, https://10.0.0.2:2380, https://10.0.0.2:2379, false
9a3, unstarted, , https://10.0.0.3:2380, , false
"""
STATUS = """apiEndpoints:
  node1:
    advertiseAddress: 10.0.0.1
    bindPort: 6443
  node2:
    advertiseAddress: 10.0.0.2
    bindPort: 6443
apiVersion: kubeadm.k8s.io/v1beta2
kind: ClusterStatus
"""
# `kube` is a stub of kubectl; `api_ready` is what the API says of node2's condition.
KUBE = """
NODE_NAME=node1 api_ready=True masters='node1 node2' ETCD_MANIFEST=/nowhere
kube() {
  printf '%s\\n' "$*" >>$STATE/asked
  case $* in
    'get node '*metadata.name*) [ -z "$api_ready" ] || printf %s "$3" ;;
    'get node '*conditions*) printf %s "$api_ready" ;;
    'get node '*labels*) case " $masters " in *" $3 "*) echo '{"node-role.kubernetes.io/master":""}' ;; esac ;;
    'get node '*addresses*) printf 10.0.0.2 ;;
    'get nodes '*) printf 'node1 node2' ;;
    'get pods '*) printf 'shop web-1\\nshop web-2\\n' ;;
    *ClusterStatus*) cat $STATE/status 2>/dev/null || true ;;
  esac
}
drain_node() { printf 'drain %s %s\\n' "$1" "$2" >>$STATE/asked; }
"""


def asked(shell: Shell) -> str:
    return (shell.state / "asked").read_text()


@pytest.mark.parametrize(
    ("node", "address", "member"),
    [("node2", "10.0.0.2", "9a2"), ("node2", "", "9a2"), ("node3", "10.0.0.3", "9a3"), ("node3", "", "")],
)
def test_the_member_of_a_node(shell: Shell, node: str, address: str, member: str) -> None:
    (shell.directory / "members").write_text(MEMBERS)
    assert shell.out(f"member_of {node} '{address}' <{shell.directory}/members").strip() == member


def test_a_living_node_is_drained_then_deleted(shell: Shell) -> None:
    done = shell.run(f"{KUBE}OPT_TIMEOUT=7; remove_node node2")
    assert done.returncode == 0, done.stderr
    assert asked(shell).index("drain node2 7") < asked(shell).index("delete node node2")
    assert "--force" not in asked(shell), "its own kubelet ends its pods"
    assert "bash -s down" in done.stderr


def test_a_dead_node_is_not_waited_for_and_its_pods_are_let_go(shell: Shell) -> None:
    done = shell.run(f"{KUBE}api_ready=Unknown; remove_node node2")
    assert done.returncode == 0, done.stderr
    assert "drain" not in asked(shell)
    assert "-n shop delete pod web-2 --force --grace-period=0" in asked(shell)


def test_a_node_that_is_not_there_is_no_fault_and_what_is_left_of_it_goes(shell: Shell) -> None:
    (shell.directory / "etcd.yaml").touch()
    done = shell.run(
        f"{KUBE}api_ready=; ETCD_MANIFEST={shell.directory}/etcd.yaml; "
        f"etcdctl_here() {{ echo \"$@\" >>$STATE/asked; [ $2 != list ] || printf '{MEMBERS}'; }}; remove_node node2"
    )
    assert done.returncode == 0, done.stderr
    assert "the cluster has no node node2; it has: node1 node2" in done.stderr
    assert "member remove 9a2" in asked(shell)
    assert "delete node" not in asked(shell)


def test_etcd_that_does_not_let_it_go_ends_it_before_the_node_is_deleted(shell: Shell) -> None:
    (shell.directory / "etcd.yaml").touch()
    done = shell.run(
        f"{KUBE}ETCD_MANIFEST={shell.directory}/etcd.yaml; "
        f"etcdctl_here() {{ [ $2 = list ] && printf '{MEMBERS}' || {{ echo unhealthy cluster; false; }}; }}; "
        "remove_node node2"
    )
    assert done.returncode == 7
    assert "unhealthy cluster" in done.stderr
    assert "delete node" not in asked(shell)


def test_this_host_itself_and_the_only_master_are_refused_with_a_way_out(shell: Shell) -> None:
    done = shell.run(f"{KUBE}remove_node node1")
    assert done.returncode == 7
    assert "run remove node1 on another master (node2), then down here" in done.stderr
    done = shell.run(f"{KUBE}masters=node1; remove_node node1")
    assert done.returncode == 7
    assert "only master" in done.stderr
    assert "delete" not in asked(shell)


def test_kubeadm_forgets_the_master(shell: Shell) -> None:
    (shell.state / "status").write_text(STATUS)
    shell.out(f"{KUBE}forget_endpoint node2; forget_endpoint node9")
    patches = [line for line in asked(shell).splitlines() if " patch " in line]
    assert len(patches) == 1
    assert "10.0.0.1" in patches[0]
    assert "10.0.0.2" not in patches[0]
    assert patches[0].endswith('bindPort: 6443\\napiVersion: kubeadm.k8s.io/v1beta2\\nkind: ClusterStatus\\n"}}')


@pytest.mark.parametrize("words", ["remove", "remove a b", "remove 'a;b'", "remove --yes a"])
def test_its_words(shell: Shell, words: str) -> None:
    assert shell.run(f"parse {words}").returncode == 2
    assert shell.out('parse remove node2 --force; echo "$OPT_OBJECT$OPT_FORCE"') == "node21\n"
