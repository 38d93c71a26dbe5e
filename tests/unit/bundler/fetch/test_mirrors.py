from pathlib import Path

import pytest

from bundler.errors import ManifestError
from bundler.fetch.mirrors import Mirrors

UPSTREAM = "https://dl.k8s.io/release/v1.20.2/bin/linux/amd64/kubectl"


def test_without_rules_the_upstream_is_asked() -> None:
    mirrors = Mirrors.parse()
    assert mirrors.url(UPSTREAM) == UPSTREAM
    assert mirrors.registry("k8s.gcr.io") == ("https://k8s.gcr.io", "")
    assert mirrors.registry("docker.io") == ("https://registry-1.docker.io", "")
    assert mirrors.registry("localhost:5000") == ("http://localhost:5000", "")


@pytest.mark.parametrize(
    ("rule", "url"),
    [
        ("dl.k8s.io=mirror.local:8080", "https://mirror.local:8080/release/v1.20.2/bin/linux/amd64/kubectl"),
        ("dl.k8s.io=http://mirror.local/k8s/", "http://mirror.local/k8s/release/v1.20.2/bin/linux/amd64/kubectl"),
        ("https://dl.k8s.io/release=http://m/r", "http://m/r/v1.20.2/bin/linux/amd64/kubectl"),
        ("dl.k8s.io/release/v1.20.2=http://m", "http://m/bin/linux/amd64/kubectl"),
        ("*=http://127.0.0.1:80", "http://127.0.0.1:80/dl.k8s.io/release/v1.20.2/bin/linux/amd64/kubectl"),
        ("dl.k8s.io=/media/usb disk", "file:///media/usb%20disk/release/v1.20.2/bin/linux/amd64/kubectl"),
        ("http://dl.k8s.io=http://m", UPSTREAM),
        ("l.k8s.io=http://m", UPSTREAM),
        ("https://dl.k8s.io/rel=http://m", UPSTREAM),
    ],
)
def test_a_rule_redirects_what_it_covers_and_nothing_else(rule: str, url: str) -> None:
    assert Mirrors.parse([rule]).url(UPSTREAM) == url


def test_the_longest_prefix_wins_in_any_order() -> None:
    rules = ["*=http://all", "dl.k8s.io=http://host", "https://dl.k8s.io/release=http://path"]
    for order in (rules, rules[::-1]):
        mirrors = Mirrors.parse(order)
        assert mirrors.url(UPSTREAM).startswith("http://path/v1.20.2/")
        assert mirrors.url("https://dl.k8s.io/other") == "http://host/other"
        assert mirrors.url("https://quay.io/x") == "http://all/quay.io/x"


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        ("k8s.gcr.io=127.0.0.1:5000", ("http://127.0.0.1:5000", "")),
        ("k8s.gcr.io=https://m:5000/proxy/gcr", ("https://m:5000", "proxy/gcr/")),
        ("https://k8s.gcr.io=http://m", ("http://m", "")),
        ("*=http://127.0.0.1:15000", ("http://127.0.0.1:15000", "k8s.gcr.io/")),
        ("*=http://m/all", ("http://m", "all/k8s.gcr.io/")),
        ("quay.io=http://m", ("https://k8s.gcr.io", "")),
    ],
)
def test_registries(rule: str, place: tuple[str, str]) -> None:
    assert Mirrors.parse([rule]).registry("k8s.gcr.io") == place


def test_the_command_line_wins_over_the_config_file(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("mirrors:\n  dl.k8s.io: http://config\n  quay.io: http://quay\n")
    mirrors = Mirrors.parse(["dl.k8s.io=http://line"], config)
    assert mirrors.url("https://dl.k8s.io/x") == "http://line/x"
    assert mirrors.registry("quay.io") == ("http://quay", "")


@pytest.mark.parametrize(
    "rule", ["dl.k8s.io", "=http://m", "dl.k8s.io=", "dl.k8s.io=ftp://m", "a*b=http://m", "x=http://"]
)
def test_a_bad_rule_is_named(rule: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Mirrors.parse([rule])
    assert rule.partition("=")[0] in caught.value.message
    assert "--mirror FROM=TO" in caught.value.hint


@pytest.mark.parametrize("text", ["mirrors: [a]", "[]", "mirrors: {a: 1}", "mirrors: {a: [}", None])
def test_a_bad_config_is_named(tmp_path: Path, text: "str | None") -> None:
    config = tmp_path / "config.yaml"
    if text is not None:
        config.write_text(text)
    with pytest.raises(ManifestError, match=str(config)):
        Mirrors.parse([], config)
