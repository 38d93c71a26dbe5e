"""Backups are proven whole, certificates counted, and the control plane's manifests held and given back."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .stream import Shell

FACTS = "hash=fe01cf57\nrevision=10\nkeys=7\n"
# etcd's own check of a snapshot is a stub here; the lab has the real one.
STATUS = """etcd_snapshot() { grep -q whole "$4" && echo 'fe01cf57, 10, 7, 2.1 MB'; }"""


def contents(**changes: str | None) -> dict[str, str]:
    """Files of a whole backup, with changes (None removes; `__` stands for a dot, `_` in front for a slash)."""
    files: dict[str, str] = {
        "backup": f"schema=1\nnode=node1\n{FACTS}", "etcd.db": "whole", "kubeadm-config.yaml": "kind: x\n",
        "pki/ca.crt": "CA", "pki/etcd/server.key": "KEY",
    }  # fmt: skip
    for name, text in changes.items():
        if text is None:
            del files[name.replace("__", ".")]
        else:
            files[name.replace("__", ".")] = text
    return files


def sums(files: Mapping[str, str]) -> str:
    return "".join(f"{hashlib.sha256(files[n].encode()).hexdigest()}  {n}\n" for n in sorted(files))


def write(path: Path, files: Mapping[str, str], links: Mapping[str, str] | None = None) -> Path:
    """A tar of these files."""
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


def opened(shell: Shell, file: Path) -> subprocess.CompletedProcess[str]:
    return shell.run(f"{STATUS}; open_backup {file} {shell.directory}/opened; fact_of {shell.directory}/opened node")


def test_a_whole_backup_opens(shell: Shell, tmp_path: Path) -> None:
    files = contents()
    done = opened(shell, write(tmp_path / "b.tar", {**files, "SHA256SUMS": sums(files)}))
    assert (done.returncode, done.stdout) == (0, "node1\n"), done.stderr


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({**contents(), "SHA256SUMS": sums(contents(etcd__db="whole2"))}, "not what its SHA256SUMS says"),
        ({**contents(), "SHA256SUMS": sums(contents(backup="schema=1\n"))}, "not what its SHA256SUMS says"),
        ({**contents(), "pki/more.key": "1", "SHA256SUMS": sums(contents())}, "not what its SHA256SUMS says"),
        ({**contents(), "SHA256SUMS": sums({**contents(), "pki/gone.key": "1"})}, "not what its SHA256SUMS says"),
        (contents(), "not what its SHA256SUMS says"),
        ({**contents(), "pki/../../escape": "x", "SHA256SUMS": ""}, "no backup of this installer"),
        ({**contents(), "/etc/passwd": "x", "SHA256SUMS": ""}, "no backup of this installer"),
        ({**contents(), "etc/ backup": "x", "SHA256SUMS": ""}, "no backup of this installer"),
    ],
)
def test_anything_else_is_refused_with_6(shell: Shell, tmp_path: Path, files: dict[str, str], told: str) -> None:
    done = opened(shell, write(tmp_path / "b.tar", files))
    assert done.returncode == 6
    assert told in done.stderr
    assert "nothing was changed" in done.stderr
    assert not (tmp_path / "escape").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"etcd__db": "broken"}, "snapshot in it is damaged"),
        ({"backup": "schema=1\nhash=0\nrevision=10\nkeys=7\n"}, "snapshot in it is damaged"),
        ({"backup": f"schema=2\n{FACTS}"}, "newer installer"),
        ({"backup": None}, "newer installer"),
    ],
)
def test_sums_that_hold_are_not_enough(
    shell: Shell, tmp_path: Path, changes: dict[str, str | None], told: str
) -> None:
    files = contents(**changes)
    done = opened(shell, write(tmp_path / "b.tar", {**files, "SHA256SUMS": sums(files)}))
    assert (done.returncode, told in done.stderr) == (6, True), done.stderr


def test_links_are_refused(shell: Shell, tmp_path: Path) -> None:
    files = contents()
    file = write(tmp_path / "b.tar", {**files, "SHA256SUMS": sums(files)}, {"pki/sa.key": "/etc/shadow"})
    assert opened(shell, file).returncode == 6


def blob(shell: Shell, data: bytes) -> str:
    """Keep a blob where the bundle's members are cached, listed in SHA256SUMS; returns its digest."""
    name = hashlib.sha256(data).hexdigest()
    path = shell.state / "cache/images/blobs/sha256" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    with (shell.state / "cache/SHA256SUMS").open("a") as list_:
        list_.write(f"{name}  images/blobs/sha256/{name}\n")
    return f"sha256:{name}"


def image(shell: Shell, arch: str, layers: list[bytes], **form: int) -> str:
    """An image's manifest, in the order and with the indent asked for."""
    config = blob(shell, json.dumps({"architecture": arch, "rootfs": {}}, **form).encode())  # type: ignore[arg-type]
    parts = [{"digest": blob(shell, layer)} for layer in layers]
    text = {"schemaVersion": 2, "config": {"digest": config}, "layers": parts}
    return blob(shell, json.dumps(text, **form).encode())  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [{}, {"indent": 3}])
def test_layers_are_those_of_this_architecture(shell: Shell, form: dict[str, int]) -> None:
    other = image(shell, "arm64", [b"other"], **form)
    own = image(shell, "amd64", [b"layer one, ", b"layer two."], **form)
    absent = "sha256:" + "a" * 64
    manifests = [{"digest": digest} for digest in (absent, other, own)]
    index = blob(shell, json.dumps({"schemaVersion": 2, "manifests": manifests}, **form).encode())  # type: ignore[arg-type]
    for digest in (index, own):
        told = shell.out(f'HOST_ARCH=amd64; find_layers {digest}; cat "${{ETCD_LAYERS[@]}}"')
        assert told == "layer one, layer two."
    assert shell.run(f"HOST_ARCH=s390x; find_layers {index}").returncode == 1


def certificate(path: Path, days: int) -> None:
    key = path.with_suffix(".key")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", str(days)]
    subprocess.run([*words, "-keyout", key, "-out", path], check=True, capture_output=True)


@pytest.mark.parametrize(("days", "told"), [(40, ""), (20, "renew them (deploy.sh renew)")])
def test_status_differs_where_a_certificate_has_less_than_30_days(
    shell: Shell, tmp_path: Path, days: int, told: str
) -> None:
    certificate(tmp_path / "a.crt", 100)
    certificate(tmp_path / "b.crt", days)
    files = f"certificate_files() {{ printf '%s\\n' {tmp_path}/a.crt {tmp_path}/b.crt {tmp_path}/none.crt; }}"
    out = shell.out(f'{files}; status_certificates; echo "$DIFFERS"')
    assert out.startswith(f"certs      {days - 1} days left (") or out.startswith(f"certs      {days} days left (")
    assert f"{tmp_path}/b.crt" in out
    assert told in out
    assert out.endswith("1\n" if told else "0\n")


def test_an_authority_that_ends_is_told_apart(shell: Shell, tmp_path: Path) -> None:
    certificate(tmp_path / "ca.crt", 5)
    out = shell.out(f"certificate_files() {{ echo {tmp_path}/ca.crt; }}; status_certificates")
    assert "no renewal helps" in out


def test_a_certificate_is_found_inside_a_kubeconfig(shell: Shell, tmp_path: Path) -> None:
    certificate(tmp_path / "a.crt", 50)
    packed = subprocess.run(["base64", "-w0", tmp_path / "a.crt"], check=True, capture_output=True, text=True).stdout
    (tmp_path / "admin.conf").write_text(f"users:\n- user:\n    client-certificate-data: {packed}\n")
    assert shell.out(f"days_left {tmp_path}/admin.conf") in ("49", "50")


@pytest.mark.parametrize(("days", "renewed"), [(-1, True), (1, False)])
def test_only_a_kubelet_whose_certificate_expired_is_given_one(
    shell: Shell, tmp_path: Path, days: int, renewed: bool
) -> None:
    """kubeadm is a stub that says what it was asked; the lab has the real one."""
    shell.stub("kubeadm", f'echo "$*" >{tmp_path}/asked; echo new >{tmp_path}/kubelet.conf')
    now, key = datetime.now(timezone.utc), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    span = (now - timedelta(days=9), now + timedelta(days=days, hours=1 if days < 0 else 0))
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, *span).sign(key, hashes.SHA256())
    (tmp_path / "kubelet-client-1.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "kubelet-client-current.pem").symlink_to("kubelet-client-1.pem")
    (tmp_path / "kubelet.conf").write_text("old\n")
    places = f"KUBELET_CLIENT={tmp_path}/kubelet-client-current.pem KUBELET_CONF={tmp_path}/kubelet.conf"
    shell.out(f"{places}; renew_kubelet /some/config")
    assert (tmp_path / "kubelet.conf").read_text() == ("new\n" if renewed else "old\n")
    assert (tmp_path / "kubelet-client-1.pem").exists() is not renewed
    if renewed:
        assert (tmp_path / "asked").read_text() == "init phase kubeconfig kubelet --config=/some/config\n"


def test_manifests_that_a_stop_held_come_back(shell: Shell, tmp_path: Path) -> None:
    """The kubelet is a stub; that it stops and starts pods by their manifests is proven in the lab."""
    shell.stub("systemctl", "exit 0")
    pods, held = tmp_path / "manifests", tmp_path / "held"
    pods.mkdir()
    for name in ("etcd", "kube-apiserver", "keepalived"):
        (pods / f"{name}.yaml").write_text(name)
    places = f"STATIC_PODS={pods} HELD={held}; control_plane_gone() {{ true; }}"
    shell.out(f"{places}; stop_control_plane; stop_control_plane")
    assert [path.name for path in pods.iterdir()] == ["keepalived.yaml"]
    shell.out(f"{places}; release_control_plane; release_control_plane")
    assert {path.name for path in pods.iterdir()} == {"etcd.yaml", "kube-apiserver.yaml", "keepalived.yaml"}
    assert not held.exists()


def test_restored_data_takes_the_place_of_what_is_put_aside(shell: Shell, tmp_path: Path) -> None:
    """etcd's program is a stub that makes the directory it is asked for."""
    data, source = tmp_path / "data", tmp_path / "opened"
    (data / "member").mkdir(parents=True)
    (data / "member/old").write_text("old")
    (data / "restore.new/member").mkdir(parents=True)
    source.mkdir()
    (source / "backup").write_text("member=node1\npeer=https://10.0.0.1:2380\n")
    made = """etcd_snapshot() { for word; do case $word in --data-dir=*) d=${word#*=} ;; esac; done
        [ ! -e "$d" ]; mkdir -p "$d/member"; echo "$*" >"$d/member/new"; }"""
    body = f"declare -f restore_data | sed 's#/var/lib/etcd#{data}#g' >{tmp_path}/fn; . {tmp_path}/fn"
    shell.out(f"{made}; {body}; RESTORING={source}; restore_data")
    words = (data / "member/new").read_text()
    assert "--initial-cluster=node1=https://10.0.0.1:2380" in words
    aside = [path for path in data.iterdir() if path.name.startswith("before-")]
    assert [(path / "old").read_text() for path in aside] == ["old"]
    assert not (data / "restore.new").exists()
