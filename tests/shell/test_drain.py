"""Draining a node: what moves, what is refused, and what a budget that does not give way leads to."""

from __future__ import annotations

import pytest

from .stream import Shell

# `kube` is a stub of kubectl; its cluster is the file `pods` (lines of POD_LINES), and `answer` what evictions meet.
KUBE = """
kube() {
  printf '%s\\n' "$*" >>$STATE/asked
  case $* in
    'get pods'*) cat $STATE/pods ;;
    'get --raw=/apis/policy') echo '{"versions":[{"groupVersion":"policy/v1beta1"}]}' ;;
    'get node '*) cat $STATE/cordoned 2>/dev/null || true ;;
    'cordon '*) echo true >$STATE/cordoned ;;
    'uncordon '*) rm -f $STATE/cordoned ;;
    create*) cat $STATE/tmp/eviction.json >>$STATE/evictions; answer "$2" ;;
  esac
}
sleep() { :; }
"""
MOVES = 'answer() { sed -i "/ $(sed \'s,.*/pods/,,; s,/eviction,,\' <<<"$1") /d" $STATE/pods; }\n'
BUDGET = r"""answer() {
  echo 'I1 request.go] Response Body: {"message":"Cannot evict pod","details":{"causes":[{"message":
    "The disruption budget web needs 2 healthy pods and has 2 currently"}]}}' >&2
  echo 'Error from server (TooManyRequests): Cannot evict pod as it would violate it' >&2
  return 1
}
"""


def pods(shell: Shell, *lines: str) -> None:
    (shell.state / "pods").write_text("".join(f"{line}\n" for line in lines))


def asked(shell: Shell) -> list[str]:
    return (shell.state / "asked").read_text().splitlines()


def test_pods_that_may_move_are_evicted_and_those_of_the_node_stay(shell: Shell) -> None:
    pods(
        shell,
        "shop web-1 u1 ReplicaSet - - r1 True",
        "kube-system etcd-a u2 Node - - n1 True",
        "kube-system proxy u3 DaemonSet - - d1 True",
    )
    shell.out(f"{KUBE}{MOVES}drain_node node2 5")
    evictions = (shell.state / "evictions").read_text()
    assert '"namespace":"shop","name":"web-1"},"deleteOptions":{"preconditions":{"uid":"u1"}}' in evictions
    assert '"apiVersion":"policy/v1beta1"' in evictions
    assert "etcd-a" not in evictions
    assert "proxy" not in evictions
    assert asked(shell).index("cordon node2") < next(i for i, line in enumerate(asked(shell)) if "eviction" in line)
    assert shell.out("state_get cordoned") == "node2\n"


def test_of_one_controller_the_next_pod_goes_when_the_last_one_s_successor_is_ready(shell: Shell) -> None:
    """Both of the cluster's DNS servers may be on the node that is drained, and they have no budget."""
    pods(shell, "sys dns-1 u1 ReplicaSet - - r1 True", "sys dns-2 u2 ReplicaSet - - r1 True")
    elsewhere = """eval "$(declare -f kube | sed '1s/kube/answering/')"
        kube() {
          if [[ $* = 'get pods -n sys '* ]]; then cat $STATE/pods $STATE/elsewhere; else answering "$@"; fi
        }
        answer() { sed -i "s/\\(dns-1 u1 ReplicaSet -\\) -/\\1 leaving/" $STATE/pods; }
        """
    (shell.state / "elsewhere").write_text("sys dns-3 u3 ReplicaSet - - r1 False\n")
    shell.out(f"{KUBE}{elsewhere}evict_all node1; evict_all node1")
    assert not (shell.state / "evictions").exists(), "a successor is not Ready"
    (shell.state / "elsewhere").write_text("")
    told = shell.out(f"{KUBE}{elsewhere}evict_all node1; echo $UNMOVED")
    assert told == "sys/dns-1 (is ending), sys/dns-2 (waits for its like to be Ready elsewhere)\n"
    (shell.state / "elsewhere").write_text("sys dns-3 u3 ReplicaSet - - r1 False\n")
    shell.out(f"{KUBE}{elsewhere}evict_all node1")
    assert '"dns-2"' not in (shell.state / "evictions").read_text()
    (shell.state / "elsewhere").write_text("sys dns-3 u3 ReplicaSet - - r1 True\n")
    shell.out(f"{KUBE}{elsewhere}evict_all node1")
    assert '"dns-2"' in (shell.state / "evictions").read_text()


def test_a_budget_that_does_not_give_way_is_named_and_the_node_takes_pods_again(shell: Shell) -> None:
    pods(shell, "shop web-1 u1 ReplicaSet - - r1 True")
    done = shell.run(f"{KUBE}{BUDGET}drain_node node2 2")
    assert done.returncode == 7
    assert "node2 could not be drained in 2 s: shop/web-1 (The disruption budget web needs 2 healthy" in done.stderr
    assert "PodDisruptionBudget" in done.stderr
    assert asked(shell)[-1] == "uncordon node2"


def test_a_pod_that_does_not_end_is_named(shell: Shell) -> None:
    pods(shell, "shop web-1 u1 ReplicaSet - leaving r1 True")
    done = shell.run(f"{KUBE}drain_node node2 1")
    assert done.returncode == 7
    assert "shop/web-1 (is ending)" in done.stderr
    assert not (shell.state / "evictions").exists()


@pytest.mark.parametrize(
    ("pod", "told", "option"),
    [
        ("shop bare u1 - - - - True", "no controller would make again: shop/bare", "OPT_FORCE=1"),
        ("shop cache u1 ReplicaSet emptyDir - r1 True", "emptyDir volumes: shop/cache", "OPT_DELETE_EMPTYDIR=1"),
    ],
)
def test_what_would_be_lost_is_not_evicted_unasked(shell: Shell, pod: str, told: str, option: str) -> None:
    pods(shell, pod)
    done = shell.run(f"{KUBE}{MOVES}drain_node node2 5")
    assert done.returncode == 7
    assert told in done.stderr
    assert not any("cordon" in line or "eviction" in line for line in asked(shell))
    shell.out(f"{KUBE}{MOVES}{option}; drain_node node2 5")


def test_a_node_that_somebody_cordoned_stays_cordoned(shell: Shell) -> None:
    pods(shell)
    (shell.state / "cordoned").write_text("true\n")
    shell.out(f"{KUBE}{MOVES}drain_node node2 5; release_node node2")
    assert not any("cordon" in line for line in asked(shell))


def test_an_interrupted_drain_still_knows_whose_cordon_it_is(shell: Shell) -> None:
    pods(shell)
    shell.out(f"{KUBE}{MOVES}drain_node node2 5")
    shell.out(f"{KUBE}{MOVES}drain_node node2 5; release_node node2; release_node node2")
    assert [line for line in asked(shell) if "cordon" in line] == ["cordon node2", "uncordon node2"]


def test_an_api_server_that_is_away_for_a_while_is_waited_for(shell: Shell) -> None:
    pods(shell, "shop web-1 u1 ReplicaSet - - r1 True")
    away = """eval "$(declare -f kube | sed '1s/kube/answering/')"
        kube() {
          if [[ $* = 'get pods'* ]] && [ "$(grep -c 'get pods' $STATE/asked)" = 1 ]; then
            echo 'get pods' >>$STATE/asked
            return 1
          fi
          answering "$@"
        }
        """
    shell.out(f"{KUBE}{MOVES}{away}drain_node node2 5")
    assert "web-1" in (shell.state / "evictions").read_text()
