"""Replacement in manifests is literal."""

from __future__ import annotations

from pathlib import Path

import pytest

from .stream import Shell


@pytest.mark.parametrize(
    ("text", "old", "new", "result"),
    [
        ('"Network": "10.244.0.0/16"', "10.244.0.0/16", "10.9.0.0/16", '"Network": "10.9.0.0/16"'),
        ("a.b axb a.b", "a.b", "-", "- axb -"),
        (r"x\n\1&/", r"\n\1&/", r"&\t\\", r"x&\t\\"),
        ("aaa", "a", "aa", "aaaaaa"),
        ("$HOME `id` ${x}", "`id`", "'$(id)'", "$HOME '$(id)' ${x}"),
        ("nothing here", "else", "x", "nothing here"),
    ],
)
def test_every_occurrence_and_no_pattern(
    shell: Shell, tmp_path: Path, text: str, old: str, new: str, result: str
) -> None:
    for name, content in (("text", text), ("old", old), ("new", new)):
        (tmp_path / name).write_text(content)
    told = shell.out(f'replace_literally "$(cat {tmp_path}/old)" "$(cat {tmp_path}/new)" <{tmp_path}/text')
    assert told == result + "\n"


def test_a_member_s_rules_in_order_then_the_networks(tmp_path: Path) -> None:
    rules = [
        ("manifests/a/x.yml", '"Network": "1"', '"Network": "@POD_SUBNET@"'),
        ("manifests/a/x.yml", "name: POD_NAMESPACE", "name: HOST"),
        ("manifests/a/x.yml", "name: POD_NAME", "name: NODE"),
        ("manifests/a/x.yml", "services:", r"a: 1\nservices:"),
        ("manifests/b/y.yml", "kind", "KIND"),
    ]
    shell = Shell(tmp_path, {"MANIFEST_REPLACE": "\n".join("\t".join(rule) for rule in rules)})
    member = shell.state / "cache/manifests/a/x.yml"
    member.parent.mkdir(parents=True)
    member.write_text('kind: {"Network": "1"}\n- name: POD_NAME\n- name: POD_NAMESPACE\nservices: @SERVICE_SUBNET@\n')
    assert shell.out("POD_SUBNET=10.9.0.0/16; adapted manifests/a/x.yml") == (
        'kind: {"Network": "10.9.0.0/16"}\n- name: NODE\n- name: HOST\na: 1\nservices: 10.96.0.0/12\n'
    )
    assert "@SERVICE_SUBNET@" in member.read_text(), "the checked copy must stay as it is"


def test_a_rule_may_add_lines(tmp_path: Path) -> None:
    rule = ("manifests/a/x.yml", "  - name: A", r"  - name: NEW\n    value: '@POD_SUBNET@'\n  - name: A")
    shell = Shell(tmp_path, {"MANIFEST_REPLACE": "\t".join(rule)})
    member = shell.state / "cache/manifests/a/x.yml"
    member.parent.mkdir(parents=True)
    member.write_text("env:\n  - name: A\n")
    assert shell.out("POD_SUBNET=10.9.0.0/16; adapted manifests/a/x.yml") == (
        "env:\n  - name: NEW\n    value: '10.9.0.0/16'\n  - name: A\n"
    )
