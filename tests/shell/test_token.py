"""Which of the cluster's tokens goes into the join line."""

from __future__ import annotations

import pytest

from .stream import Shell

USAGES = "authentication,signing"
GROUPS = "system:bootstrappers:kubeadm:default-node-token"
HEAD = "TOKEN  TTL  EXPIRES  USAGES  DESCRIPTION  EXTRA GROUPS"


def listing(*rows: tuple[str, str, str]) -> str:
    """What `kubeadm token list` of 1.20 prints: token, time to live, usages of each."""
    lines = [f"{token}  {ttl}  2026-01-01T00:00:00Z  {usages}  <none>  {GROUPS}" for token, ttl, usages in rows]
    return "\n".join([HEAD, *lines])


@pytest.mark.parametrize(
    ("ttl", "usable"), [("23h", True), ("1h", True), ("2d23h", True), ("<forever>", True), ("59m", False),
                        ("<invalid>", False)]
)  # fmt: skip
def test_a_token_about_to_expire_is_not_printed(shell: Shell, ttl: str, usable: bool) -> None:
    """kubeadm is a stub: a real one with a token that has a minute left cannot be had at will."""
    shell.stub("kubeadm", f"cat <<'END'\n{listing(('abcdef.0123456789abcdef', ttl, USAGES))}\nEND")
    assert shell.out("usable_token") == ("abcdef.0123456789abcdef\n" if usable else "")


def test_a_token_for_something_else_is_not_printed(shell: Shell) -> None:
    shell.stub("kubeadm", f"cat <<'END'\n{listing(('aaaaaa.0123456789abcdef', '20h', 'signing'))}\nEND")
    assert shell.out("usable_token") == ""


@pytest.mark.parametrize(("signed", "told"), [("eyJh..x", 0), ("", 1)])
def test_a_token_is_signed_once_cluster_info_says_so(shell: Shell, signed: str, told: int) -> None:
    """kubectl is a stub; that an unsigned token is refused by a joining node was seen in the lab."""
    shell.stub("kubectl", f"""case $* in *'{{.data.jws-kubeconfig-abcdef}}'*) printf %s '{signed}' ;; esac""")
    assert shell.run("token_signed abcdef.0123456789abcdef").returncode == told
