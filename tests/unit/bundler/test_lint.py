"""Doubtful things in manifests: what is found, what is left alone, and that nothing of it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.charts import Chart
from bundler.lint import chart_doubts, doubts

SHIPPED = sorted((Path(__file__).parents[3] / "manifests/addons/files").glob("*.yaml"))
DOUBTFUL = {
    "smtp_smarthost: mail.corp.test:25": "smtp_smarthost",
    "smtp_auth_password: hunter22": "smtp_auth_password",
    "slack_api_url: 'https://corp.test/hook'": "slack_api_url",
    "- api_url: https://hooks.slack.com/services/T0/B0/abc": "a Slack address",
    "password = hunter22": "password",
    '  "api_key": "hunter22",': "api_key",
    "admin_password: hunter22": "admin_password",
    "url: postgres://app:hunter22@db/app": "a password in a URL",
    "key: AKIAABCDEFGHIJKLMNOP": "an AWS key",
    "-----BEGIN RSA PRIVATE KEY-----": "a private key",
}
HARMLESS = (
    "# smtp_auth_password: hunter22",
    "smtp_require_tls: true",
    "password: ${PASSWORD}",
    "password: ''",
    "password:",
    "password_file: /etc/secret/password",
    "secretName: password",
    "name: GF_SECURITY_ADMIN_PASSWORD",
    "passwordSecretRef: {name: x}",
    "url: http://prometheus:9090/@x",
)


@pytest.mark.parametrize(("line", "thing"), DOUBTFUL.items())
def test_doubtful_lines_are_told_without_their_values(line: str, thing: str) -> None:
    text = f"kind: ConfigMap\ndata:\n  config: |\n    first\n    {line}\n"
    (told,) = doubts(text, "manifests/own/a.yml")
    assert told.startswith("manifests/own/a.yml:5: carries ")
    assert thing in told
    assert "hunter22" not in told


def test_variables_of_a_container_are_seen() -> None:
    text = "- name: GF_SMTP_PASSWORD\n  value: hunter22\n- name: LEVEL\n  value: debug\n"
    assert doubts(text, "a.yml") == ["a.yml:2: carries a value for GF_SMTP_PASSWORD; check that it is meant to travel"]


@pytest.mark.parametrize("line", HARMLESS)
def test_harmless_lines_are_left_alone(line: str) -> None:
    assert doubts(f"data:\n  config: |\n    {line}\n", "a.yml") == []


@pytest.mark.parametrize(("image", "count"), [
    ("app.test/app", 1), ("app.test/app:latest", 1), ("app.test/app:v1", 0), (f"app.test/app@sha256:{'0' * 64}", 0),
])  # fmt: skip
def test_floating_tags(image: str, count: int) -> None:
    told = doubts(f"kind: Pod\nspec: {{containers: [{{image: '{image}'}}, {{image: '{image}'}}]}}\n", "a.yml")
    assert told == ["a.yml: app.test/app:latest names no version; upstream may change it at any time"] * count


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_what_is_shipped_is_clean(path: Path) -> None:
    assert doubts(path.read_text(), path.name) == []


def test_charts_are_searched_with_their_sub_charts() -> None:
    meta = b"{apiVersion: v2, name: shop, version: 1.0.0}"
    chart = Chart.of({
        "Chart.yaml": meta,
        "values.yaml": b"mail:\n  smtp_password: hunter22\n",
        "templates/a.yaml": b"password: {{ .Values.mail.smtp_password }}\n",
        "charts/db/Chart.yaml": b"{apiVersion: v2, name: db, version: 1.0.0}",
        "charts/db/values.yaml": b"dsn: postgres://app:hunter22@db/app\n",
    }, "shop-1.0.0.tgz")  # fmt: skip
    told = chart_doubts(chart, "charts/shop-1.0.0.tgz")
    assert [line.partition("; ")[0] for line in told] == [
        "charts/shop-1.0.0.tgz: values.yaml:2: carries a value for smtp_password",
        "charts/shop-1.0.0.tgz: charts/db: values.yaml:1: carries a password in a URL",
    ]
