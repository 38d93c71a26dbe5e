"""collect: one file with what is needed to find a fault, whatever this host lacks, and no secret in it."""

from __future__ import annotations

import base64
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from .stream import Shell

KEY = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, text=True, check=True).stdout
BODY = KEY.splitlines()[1:-1]
SECRET = "hunter2hunter2"
PLANTED = {  # what is written somewhere -> what must not come out
    "token: abcdef.0123456789abcdef": "0123456789abcdef",
    "kubeadm join --token zzzzzz.0000111122223333 10.0.0.1": "0000111122223333",
    f"--certificate-key {'ab' * 32}": "ab" * 32,
    f'certificateKey: "{"cd" * 32}"': "cd" * 32,
    "Authorization: Bearer abc.def-ghi_jkl": "def-ghi",
    f"authorization: basic {base64.b64encode(b'user:hunter2').decode()}": base64.b64encode(b"user:hunter2").decode(),
    f"    client-key-data: {base64.b64encode(KEY.encode()).decode()}": base64.b64encode(KEY.encode()).decode()[40:80],
    f"x {base64.b64encode(KEY.encode()).decode()} y": base64.b64encode(KEY.encode()).decode()[40:80],
    "bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl": "c2lnbmF0dXJl",
    f'password = "{SECRET} with words"': "with words",
    f"PASSWORD={SECRET}": SECRET,
    f'{{"auths":{{"r.example":{{"auth":"{SECRET}"}}}}}}': SECRET,
    f"    auth_pass {SECRET}": SECRET,
    f"  secret: /{SECRET}": SECRET,
    f'msg="{{\\"token\\":\\"{SECRET}\\"}}"': SECRET,
    f"https_proxy=http://user:{SECRET}@proxy:3128/": SECRET,
    f"--root-password {SECRET}": SECRET,
    "token=0123456789abcdef0123456789abcdef": "0123456789abcdef",
}
SECRET_YAML = """apiVersion: v1
data:
  {0}: {0}
kind: Secret
metadata:
  name: kept
---
apiVersion: v1
kind: Secret
stringData:
  a: |
    {0}
type: Opaque
"""


def masked(shell: Shell, text: str) -> str:
    (shell.directory / "text").write_text(text)
    return shell.out(f"hide_secrets <{shell.directory}/text")


@pytest.mark.parametrize("line", PLANTED)
def test_a_secret_is_masked_and_the_line_stays(shell: Shell, line: str) -> None:
    told = masked(shell, f"before\n{line}\nafter\n")
    assert PLANTED[line] not in told
    assert "********" in told
    assert told.splitlines()[0] == "before"
    assert told.splitlines()[-1] == "after"


@pytest.mark.parametrize(("first", "last"), [(0, None), (9, None), (0, -9), (9, -2)])
def test_a_private_key_is_masked_even_where_it_was_cut(shell: Shell, first: int, last: int | None) -> None:
    prefix = "2026-01-01T00:00:00 node1 kubelet[7]: "
    for lead in ("", prefix):
        told = masked(shell, "".join(f"{lead}{line}\n" for line in KEY.splitlines()[first:last]))
        assert not [line for line in BODY if line in told]


def test_a_short_last_line_of_a_cut_key_is_masked(shell: Shell) -> None:
    assert BODY[-1][:12] not in masked(shell, "\n".join(KEY.splitlines()[-3:]))


def test_data_of_secrets_is_left_out_and_the_rest_stays(shell: Shell) -> None:
    told = masked(shell, SECRET_YAML.format(SECRET))
    assert SECRET not in told
    assert "name: kept" in told
    assert "type: Opaque" in told


def test_what_is_no_secret_stays(shell: Shell) -> None:
    text = (
        "--tls-private-key-file=/etc/kubernetes/pki/apiserver.key\n"
        "image: k8s.gcr.io/pause@sha256:4a1c4b21597c1b4415bdbecb28a3296c6b5e23ca4f9feeb599860a1dac6a0108\n"
        "node1 Ready master 5m v1.20.2 10.77.0.11\n10.244.0.0/24 via 10.77.0.12 dev eth0\n"
        "        secretName: default-token-x7k2p\nkubelet_node_authorizer\n"
        "data:\n  Corefile: kept\nkind: ConfigMap\n"
    )
    assert masked(shell, text) == text


def collected(shell: Shell, given: str = "", name: str = "out.tar.gz") -> dict[str, str]:
    """Run it with this much prepared; the contents of the file by the part's name."""
    told = shell.run(f"NODE_NAME=node1; {given}; collect {shell.directory}/{name}; collect_clean", timeout=120)
    assert told.returncode == 0, told.stderr
    assert told.stdout == f"{shell.directory}/{name}\n"
    with tarfile.open(shell.directory / name) as tar:
        return {
            member.name.split("/", 1)[1]: tar.extractfile(member).read().decode(errors="replace")  # type: ignore[union-attr]
            for member in tar
            if member.isfile()
        }


QUICK = "collect_units() { :; }; collect_host() { :; }; collect_cluster() { :; }"


def test_secrets_planted_everywhere_are_nowhere_in_the_file(shell: Shell) -> None:
    """`journalctl`, `kubectl` and `crictl` are stubs that say every secret there is."""
    everything = "\n".join(PLANTED) + "\n" + KEY + SECRET_YAML.format(SECRET)
    (shell.directory / "all").write_text(everything)
    for tool in ("journalctl", "kubectl", "crictl", "systemctl", "docker", "iptables-save", "dmesg"):
        shell.stub(tool, f"cat {shell.directory}/all")
    for path in (shell.log, shell.state / "state", shell.state / "journal"):
        path.write_text(everything)
    found = collected(shell, f"ADMIN_CONF={shell.directory}/all")
    assert {"versions", "units", "journal-of/kubelet", "kubectl/get-pods", "containers", "firewall"} <= found.keys()
    for name, text in found.items():
        for secret in {*PLANTED.values(), *BODY, SECRET}:
            assert secret not in text, name


def test_the_file_is_for_root_alone_and_nothing_else_is_left(shell: Shell) -> None:
    (shell.directory / "tmp2").mkdir()
    collected(shell, f"export TMPDIR={shell.directory}/tmp2; {QUICK}")
    assert (shell.directory / "out.tar.gz").stat().st_mode & 0o777 == 0o600
    assert list((shell.directory / "tmp2").iterdir()) == []
    assert not (shell.directory / "out.tar.gz.new").exists()


def test_it_works_where_nothing_is_installed_and_tools_are_missing(shell: Shell) -> None:
    found = collected(
        shell, f"rm -rf {shell.state}; ADMIN_CONF=/nowhere KUBELET_CONF=/nowhere; "
        "timeout() { shift 3; case $1 in systemctl) return 127 ;; esac; command timeout 20 \"$@\"; }"
    )  # fmt: skip
    assert "(ended with code 127)" in found["units-of/kubelet"]
    assert "nothing is installed here" in found["status"]
    assert not shell.state.exists()


def test_a_part_that_hangs_costs_its_own_part_alone(shell: Shell) -> None:
    began = time.monotonic()
    found = collected(
        shell, f"COLLECT_PART=1; {QUICK}; hang() {{ sleep 30; }}; "
        "collect_host() { part slow bash -c 'echo begun; sleep 30'; part slower hang; part quick echo done; }"
    )  # fmt: skip
    assert time.monotonic() - began < 20
    assert found["slow"].startswith("begun")
    assert "code 124" in found["slow"]
    assert "ended after 1 s" in found["slower"]
    assert found["quick"] == "done\n"


def test_time_and_size_of_the_whole_are_bounded(shell: Shell) -> None:
    found = collected(shell, f"COLLECT_MB=1; {QUICK}; collect_host() {{ part big bash -c 'yes line | head -c 5M'; }}")
    assert len(found["big"]) == 1 << 20
    found = collected(shell, f"COLLECT_ALL=0; {QUICK}; collect_host() {{ part late echo x; }}")
    assert "left out" in found["late"]


def test_a_file_that_cannot_be_written_ends_with_7(shell: Shell) -> None:
    done = shell.run(f"{QUICK}; collect /nowhere/x.tar.gz")
    assert done.returncode == 7
    assert "name a file where there is room" in done.stderr


def test_it_wants_root(shell: Shell) -> None:
    done = shell.run("id() { echo 1000; }; verb_collect")
    assert done.returncode == 7
    assert not list(Path.cwd().glob("kubecarry-*.tar.gz"))
