from pathlib import Path

import pytest

from bundler.errors import ManifestError
from bundler.fetch.mirrors import Mirrors

UPSTREAM = "https://dl.k8s.io/release/v1.20.2/bin/linux/amd64/kubectl"


def test_without_rules_the_upstream_is_asked() -> None:
    mirrors = Mirrors.parse()
    assert mirrors.url(UPSTREAM) == UPSTREAM
    assert mirrors.registry("k8s.gcr.io", "pause") == ("https://k8s.gcr.io", "pause")
    assert mirrors.registry("docker.io", "a/b") == ("https://registry-1.docker.io", "a/b")
    assert mirrors.registry("localhost:5000", "a") == ("http://localhost:5000", "a")


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
        ("k8s.gcr.io=127.0.0.1:5000", ("http://127.0.0.1:5000", "dns/coredns")),
        ("k8s.gcr.io=https://m:5000/proxy/gcr", ("https://m:5000", "proxy/gcr/dns/coredns")),
        ("https://k8s.gcr.io=http://m", ("http://m", "dns/coredns")),
        ("k8s.gcr.io/dns=registry.k8s.io", ("https://registry.k8s.io", "coredns")),
        ("k8s.gcr.io/dns/coredns=http://m/my/dns", ("http://m", "my/dns")),
        ("k8s.gcr.io/dn=http://m", ("https://k8s.gcr.io", "dns/coredns")),
        ("*=http://127.0.0.1:15000", ("http://127.0.0.1:15000", "k8s.gcr.io/dns/coredns")),
        ("*=http://m/all", ("http://m", "all/k8s.gcr.io/dns/coredns")),
        ("quay.io=http://m", ("https://k8s.gcr.io", "dns/coredns")),
    ],
)
def test_registries(rule: str, place: tuple[str, str]) -> None:
    assert Mirrors.parse([rule]).registry("k8s.gcr.io", "dns/coredns") == place


def test_the_longest_part_of_a_repository_wins() -> None:
    rules = ["*=http://all", "gcr.io=http://host", "gcr.io/google_containers=registry.k8s.io"]
    for order in (rules, rules[::-1]):
        mirrors = Mirrors.parse(order)
        assert mirrors.registry("gcr.io", "google_containers/pause") == ("https://registry.k8s.io", "pause")
        assert mirrors.registry("gcr.io", "google_containers2/pause") == ("http://host", "google_containers2/pause")
        assert mirrors.registry("quay.io", "a") == ("http://all", "quay.io/a")


def test_the_command_line_wins_over_the_config_file(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("mirrors:\n  dl.k8s.io: http://config\n  quay.io: http://quay\n")
    mirrors = Mirrors.parse(["dl.k8s.io=http://line"], config)
    assert mirrors.url("https://dl.k8s.io/x") == "http://line/x"
    assert mirrors.registry("quay.io", "a") == ("http://quay", "a")


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
