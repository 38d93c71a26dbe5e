"""--registry-ca: the CA of a registry of the site's own, for the runtime and for that registry alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .stream import Shell


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    line = "openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=x -out $1"
    subprocess.run(["sh", "-c", line, "sh", path], check=True, capture_output=True)
    return path


@pytest.mark.parametrize("word", ["r.example", "r.example=ca.pem", "=/ca.pem", "r/x=/ca.pem", "r.example:x=/x"])
def test_what_is_not_host_and_file_is_refused(shell: Shell, word: str) -> None:
    assert shell.run(f"parse master '--registry-ca={word}'").returncode == 2


def found(shell: Shell, given: str) -> str:
    return shell.out(f"CHECKING=registry-ca; {given}; check_registry_ca; printf %s ${{FAULTS[@]+\"${{FAULTS[@]}}\"}}")


def test_it_must_be_a_certificate_of_a_registry_that_the_server_does_not_stand_for(shell: Shell, ca: Path) -> None:
    assert found(shell, f"parse master --registry-ca r.example:5000={ca} --registry-ca=s.example={ca}").strip() == ""
    assert "no certificate" in found(shell, "parse master --registry-ca r.example=/etc/passwd")
    assert "registry of the bundle" in found(shell, f"parse master --registry-ca quay.io={ca}")
    assert "not both" in found(shell, f"parse master --sealed --registry-ca r.example={ca}")


def test_containerd_trusts_it_for_that_registry_alone(shell: Shell, ca: Path) -> None:
    place = shell.directory / "certs.d"
    shell.out(
        f"real=$(declare -f put_file); eval \"${{real/put_file/real_put}}\"; "
        f"put_file() {{ real_put \"$1\" \"{place}${{2#/etc/containerd/certs.d}}\"; }}; "
        f"parse master --registry-ca r.example:5000={ca}; trust_registries; trust_registries"
    )
    hosts = (place / "r.example:5000/hosts.toml").read_text()
    assert 'server = "https://r.example:5000"' in hosts
    assert '[host."https://r.example:5000"]' in hosts
    assert 'ca = "/etc/containerd/certs.d/r.example:5000/ca.pem"' in hosts
    assert (place / "r.example:5000/ca.pem").read_text() == ca.read_text()
    assert len([line for line in shell.journal if line.startswith("file")]) == 2, "down takes both away"


def test_docker_has_a_place_of_its_own_for_it(shell: Shell, ca: Path) -> None:
    given = "put_file() { echo $2; }; NODE_RUNTIME=docker"
    told = shell.out(f"{given}; parse master --registry-ca r.example={ca}; trust_registries")
    assert told == "/etc/docker/certs.d/r.example/ca.crt\n"
