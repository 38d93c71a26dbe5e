"""The command line: verbs, both spellings of options and tokens, and exit 2 for all else."""

from __future__ import annotations

import subprocess

import pytest

from .stream import Shell, stream

TOKEN = "abcdef.0123456789abcdef"
HASH = "sha256:" + "a" * 64


def value(shell: Shell, words: str, name: str) -> str:
    return shell.out(f'parse {words}; printf %s "${name}"')


@pytest.mark.parametrize(
    ("word", "verb"), [("m", "master"), ("j 10.0.0.1 --token x", "join"), ("d", "down"), ("status", "status")]
)
def test_verbs_and_their_letters(shell: Shell, word: str, verb: str) -> None:
    assert value(shell, word, "VERB") == verb


@pytest.mark.parametrize(
    "words",
    [
        f"join --token={TOKEN} 10.0.0.1",
        f"join --token {TOKEN} 10.0.0.1:6443",
        f"j 10.0.0.1 --token={TOKEN}",
        f"join --ca-cert-hash {HASH} 10.0.0.1:6443 --token {TOKEN}",
    ],
)
def test_both_token_spellings_in_any_order(shell: Shell, words: str) -> None:
    told = shell.out(f'parse {words}; echo "$OPT_TOKEN $MASTER_HOST $MASTER_PORT"')
    assert told == f"{TOKEN} 10.0.0.1 6443\n"


def test_another_port(shell: Shell) -> None:
    assert value(shell, f"join --token {TOKEN} 10.0.0.1:7443", "MASTER_PORT") == "7443"


@pytest.mark.parametrize("name", ["--ca-cert-hash", "--discovery-token-ca-cert-hash"])
def test_both_names_of_the_hash(shell: Shell, name: str) -> None:
    assert value(shell, f"join --token {TOKEN} {name} {HASH} 10.0.0.1", "OPT_CA_HASH") == HASH


@pytest.mark.parametrize("form", ["{}={}", "{} {}"])
@pytest.mark.parametrize(
    ("option", "given", "variable"),
    [
        ("--advertise-address", "10.1.2.3", "OPT_ADDRESS"),
        ("--interface", "eth1", "OPT_INTERFACE"),
        ("--node-name", "Node-1", "OPT_NODE_NAME"),
        ("--pod-subnet", "10.9.0.0/16", "POD_SUBNET"),
        ("--service-subnet", "10.8.0.0/16", "SERVICE_SUBNET"),
        ("--node-port-range", "20000-22767", "NODE_PORTS"),
        ("--token", TOKEN, "OPT_TOKEN"),
        ("--firewall", "off", "OPT_FIREWALL"),
        ("--swap", "keep", "OPT_SWAP"),
        ("--timeout", "60", "OPT_TIMEOUT"),
        ("--ignore", "cpu-count,memory", "OPT_IGNORE"),
    ],
)
def test_options_of_master(shell: Shell, form: str, option: str, given: str, variable: str) -> None:
    assert value(shell, "master " + form.format(option, given), variable).lstrip(",") == given


def test_files_of_backup_and_restore(shell: Shell) -> None:
    assert value(shell, "backup", "OPT_OBJECT") == ""
    assert value(shell, "backup /srv/a.tar --timeout 9", "OPT_OBJECT") == "/srv/a.tar"
    assert value(shell, "restore --yes ./a.tar", "OPT_OBJECT") == "./a.tar"


def test_options_without_a_value(shell: Shell) -> None:
    assert value(shell, "master --single-node", "OPT_SINGLE_NODE") == "1"
    assert shell.out('parse down --yes --keep-packages; echo "$OPT_YES$OPT_KEEP_PACKAGES"') == "11\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "a verb is missing"),
        ("frobnicate", 'there is no verb "frobnicate"'),
        ("master --frobnicate", "master has no option --frobnicate"),
        ("master --yes", "master has no option --yes"),
        ("down --token x", "down has no option --token"),
        ("down --yes=1", "--yes takes no value"),
        ("master 10.0.0.1", "master takes no such word"),
        ("master --token", "--token needs a value"),
        ("master --token short", "not of the form"),
        ("master --advertise-address 10.0.0.256", "does not do"),
        ("master --advertise-address 010.0.0.1", "does not do"),
        ("master --pod-subnet 10.0.0.0", "does not do"),
        ("master --pod-subnet 10.0.0.0/25", "does not do"),
        ("master --service-subnet 10.0.0.0/8", "does not do"),
        ("master --firewall maybe", "does not do"),
        ("master --timeout 0", "does not do"),
        ("master --ignore nonsense", 'there is no check "nonsense"'),
        ("master --interface eth0 --advertise-address 10.0.0.1", "not both"),
        ("master --pod-subnet=", "does not do"),
        ("join 10.0.0.1", "join needs --token"),
        (f"join --token {TOKEN}", "join needs the address of the master"),
        (f"join --token {TOKEN} 10.0.0.1 10.0.0.2", "one master only"),
        (f"join --token {TOKEN} nowhere:6443", "is not ADDRESS or ADDRESS:PORT"),
        (f"join --token {TOKEN} 10.0.0.1:x", "is not ADDRESS or ADDRESS:PORT"),
        (f"join --token {TOKEN} 10.0.0.1:65536", "a port is 65535 at most"),
        ("master --node-port-range 80-90", "does not do"),
        ("master --node-port-range 30000-20000", "does not do"),
        ("master --node-port-range 30000-65536", "does not do"),
        (f"join --token {TOKEN} 10.0.0.1 --ca-cert-hash aaaa", "does not do"),
        ("preflight join", "needs the address of the master"),
        ("restore", "restore needs the file of a backup"),
        ("restore a b", "one word only"),
        ("backup --single-node", "backup has no option --single-node"),
        ("renew now", "renew takes no such word"),
    ],
)
def test_anything_else_ends_with_2_and_the_usage(words: str, told: str) -> None:
    """Through the whole stream, as piped to bash, and with no program to be found: nothing may run before the check."""
    done = subprocess.run(
        ["/bin/bash", "-s", *words.split()], input=stream(), capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 2
    assert told in done.stderr
    assert "usage: curl" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("word", ["help", "-h", "--help"])
def test_help_is_no_fault(shell: Shell, word: str) -> None:
    done = shell.run(f"parse {word}; echo went on")
    assert done.returncode == 0
    assert done.stderr.startswith("usage: curl")
    assert done.stdout == ""


def test_a_word_that_looks_like_shell_stays_a_word(shell: Shell) -> None:
    done = shell.run("parse master --node-name '$(touch /tmp/kubecarry-oops)'")
    assert done.returncode == 2
