"""etcd outside Kubernetes: who its members are, keys that travel sealed, and what a master is told of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .stream import Shell

LIST = "one=10.0.0.1,two=10.0.0.2,three=10.0.0.3"


def as_member(shell: Shell, name: str, body: str) -> str:
    """Shell text for a host of that name, with its keys below the test's directory."""
    home = shell.directory / f"home-{name}"
    return f"set_members {LIST}; ETCD_HOME={home} ETCD_MEMBER={name} NODE_ADDRESS=10.0.0.9; {body}"


@pytest.fixture
def first(shell: Shell) -> dict[str, str]:
    """The secrets that the first member made, by host."""
    shell.out(as_member(shell, "one", "umask 077; make_keys"))
    rows = (shell.directory / "home-one/secrets").read_text().splitlines()
    return dict(zip((row.split()[0] for row in rows), (row.split()[1] for row in rows)))


def accept(shell: Shell, name: str, secret: str, handout: Path) -> subprocess.CompletedProcess[str]:
    body = f"OPT_FROM={handout}; accept_handout {name} $ETCD_HOME"
    return shell.run(as_member(shell, name, body), env={"ETCD_SECRET": secret})


def verified(home: Path) -> str:
    """The text of a member's certificate, after openssl has accepted it for a server and for a client."""
    for purpose in ("sslserver", "sslclient"):
        words = ["openssl", "verify", "-purpose", purpose, "-CAfile", home / "ca.crt", home / "member.crt"]
        subprocess.run(words, check=True, capture_output=True)
    words = ["openssl", "x509", "-noout", "-text", "-in", home / "member.crt"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("given", "members"),
    [
        (LIST, "one 10.0.0.1;two 10.0.0.2;three 10.0.0.3;"),
        ("10.0.0.1,10.0.0.2", "etcd-10-0-0-1 10.0.0.1;etcd-10-0-0-2 10.0.0.2;"),
    ],
)
def test_members_with_names_and_without(shell: Shell, given: str, members: str) -> None:
    assert shell.out(f"set_members {given}; printf '%s;' \"${{ETCD_MEMBERS[@]}}\"") == members


@pytest.mark.parametrize(
    "given", ["one", "one=", "=10.0.0.1", "a=10.0.0.1,a=10.0.0.2", "a=10.0.0.1,b=10.0.0.1", "A=10.0.0.1",
              "client=10.0.0.1", "a=10.0.0.300", "a b=10.0.0.1"]
)  # fmt: skip
def test_what_is_no_list_of_members(shell: Shell, given: str) -> None:
    done = shell.run(f"parse etcd --members '{given}'")
    assert done.returncode == 2, done.stderr


def test_every_member_gets_its_own_keys_and_nobody_the_authority(shell: Shell, first: dict[str, str]) -> None:
    sealed = shell.directory / "home-one/handout/sealed"
    assert list(first) == ["client", "two", "three"]
    assert [line.split()[0] for line in sealed.read_text().splitlines()] == ["client", "two", "three"]
    assert "10.0.0.1" in verified(shell.directory / "home-one")
    for number, name in ((2, "two"), (3, "three")):
        done = accept(shell, name, first[name], sealed)
        assert done.returncode == 0, done.stderr
        home = shell.directory / f"home-{name}"
        assert {path.name for path in home.iterdir()} == {
            "ca.crt", "client.crt", "client.key", "member.crt", "member.key"
        }  # fmt: skip
        text = verified(home)
        assert f"IP Address:10.0.0.{number}, IP Address:127.0.0.1, DNS:{name}, DNS:localhost" in text
    done = accept(shell, "client", first["client"], sealed)
    assert {path.name for path in (shell.directory / "home-client").iterdir()} == {"ca.crt", "client.crt", "client.key"}


def test_only_the_host_s_own_secret_opens_what_nobody_changed(shell: Shell, first: dict[str, str]) -> None:
    sealed = shell.directory / "home-one/handout/sealed"
    assert accept(shell, "two", first["three"], sealed).returncode == 6
    assert accept(shell, "two", "", sealed).returncode == 2
    text = sealed.read_text()
    host, seal, packed = text.splitlines()[1].split()
    flipped = packed[:40] + ("A" if packed[40] != "A" else "B") + packed[41:]
    for line in (f"two {seal} {flipped}", f"two {'0' * 64} {packed}"):
        (shell.directory / "changed").write_text(line + "\n")
        done = accept(shell, host, first["two"], shell.directory / "changed")
        assert done.returncode == 6
        assert "do not fit the secret" in done.stderr
    (shell.directory / "changed").write_text(text.splitlines()[0] + "\n")
    assert accept(shell, "two", first["two"], shell.directory / "changed").returncode == 7
    assert not (shell.directory / "home-two").exists()


def test_the_handout_and_the_log_show_no_key(shell: Shell, first: dict[str, str]) -> None:
    sealed = (shell.directory / "home-one/handout/sealed").read_text()
    log = shell.log.read_text() if shell.log.exists() else ""
    for text in (sealed, log):
        assert "PRIVATE" not in text
        assert not any(secret in text for secret in first.values())
    modes = {path.stat().st_mode & 0o77 for path in (shell.directory / "home-one").rglob("*")}
    assert modes == {0}


def test_the_member_s_configuration(shell: Shell, first: dict[str, str]) -> None:
    text = shell.out(as_member(shell, "one", "etcd_config"))
    assert "initial-cluster: one=https://10.0.0.1:2380,two=https://10.0.0.2:2380,three=https://10.0.0.3:2380\n" in text
    assert "name: one\n" in text
    assert text.count("client-cert-auth: true") == 2
    assert "http://" not in text


@pytest.mark.parametrize("api", ["kubeadm.k8s.io/v1beta2", "kubeadm.k8s.io/v1beta3", "kubeadm.k8s.io/v1alpha1"])
def test_a_master_is_told_of_it(tmp_path: Path, api: str) -> None:
    shell = Shell(tmp_path, {"KUBEADM_API": api})
    ends = "https://10.0.0.1:2379,https://10.0.0.2:2379"
    ask = "NODE_NAME=n NODE_ADDRESS=10.0.0.9; kubeadm_config init abcdef.0123456789abcdef"
    text = shell.out(f"ETCD_ENDPOINTS={ends}; {ask}")
    lines = [line.strip() for line in text.splitlines()]
    start = lines.index("etcd:")
    found = lines[start + 1 :] if api.endswith("alpha1") else lines[start + 2 :]
    assert found[:6] == [
        "endpoints:",
        '- "https://10.0.0.1:2379"',
        '- "https://10.0.0.2:2379"',
        "caFile: /etc/kubernetes/pki/etcd/ca.crt",
        "certFile: /etc/kubernetes/pki/apiserver-etcd-client.crt",
        "keyFile: /etc/kubernetes/pki/apiserver-etcd-client.key",
    ]
    assert "etcd" not in shell.out(ask)


@pytest.mark.parametrize(("sick", "fault"), [("", False), ("3", False), ("2 3", True), ("1 2 3", True)])
def test_a_quorum_is_enough_and_needed(shell: Shell, sick: str, fault: bool) -> None:
    """etcdctl is a stub; the lab asks real members."""
    ends = ",".join(f"https://10.0.0.{n}:2379" for n in (1, 2, 3))
    body = f"""healthy() {{
          n=${{2##*.0.}}; n=${{n%:*}}
          case ' {sick} ' in *" $n "*) echo 'x509: unknown authority"' >&2; return 1 ;; esac
        }}
        other_registry() {{ :; }}; ETCD_ENDPOINTS={ends}; CHECKING=etcd-endpoints; check_etcd_endpoints
        echo "${{#CAUTIONS[@]}} ${{#FAULTS[@]}}"; printf '%s\\n' ${{CAUTIONS[@]+"${{CAUTIONS[@]}}"}}"""
    out = shell.out(body)
    assert out.startswith(f"{len(sick.split())} {int(fault)}\n")
    assert out.count("x509: unknown authority") == len(sick.split())


def test_an_etcd_with_another_cluster_is_refused_once(shell: Shell) -> None:
    body = """healthy() { :; }; other_registry() { echo /registry/x; }
        ETCD_ENDPOINTS=https://10.0.0.1:2379 CHECKING=etcd-endpoints
        check_etcd_endpoints; echo "${#FAULTS[@]}"
        record cluster master - x; FAULTS=(); check_etcd_endpoints; echo "${#FAULTS[@]}" """
    assert shell.out(body) == "1\n0\n"


def test_old_data_and_other_members_are_refused(shell: Shell, tmp_path: Path) -> None:
    data = tmp_path / "data"
    ask = f"ETCD_DATA={data}; CHECKING=etcd-data; check_etcd_data; printf '%s\\n' \"${{FAULTS[@]-none}}\""
    assert shell.out(as_member(shell, "two", ask)) == "none\n"
    (data / "member").mkdir(parents=True)
    (data / "member/db").write_text("x")
    assert f"mv {data} {data}.old" in shell.out(as_member(shell, "two", ask))
    shell.out(as_member(shell, "two", "record etcd two \"$(members_as '%s=%s')\""))
    assert shell.out(as_member(shell, "two", ask)) == "none\n"
    other = as_member(shell, "two", ask).replace(LIST, "two=10.0.0.2")
    assert "a member already, of: one=10.0.0.1,two=10.0.0.2" in shell.out(other)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("etcd", "etcd needs --members"),
        (f"etcd --members {LIST} --from nowhere", "does not do"),
        ("master --etcd-endpoints http://10.0.0.1:2379", "does not do"),
        ("master --etcd-endpoints https://10.0.0.1:2379 --etcd-ca /etc/hostname", "together"),
        ("master --from 10.0.0.1", "for --etcd-endpoints"),
    ],
)
def test_words_that_do_not_do(shell: Shell, words: str, told: str) -> None:
    done = shell.run(f"parse {words}")
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
