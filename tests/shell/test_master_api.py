"""What join learns from the master before it changes anything: signature, CA, networks."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from .stream import Shell

TOKEN = "abcdef.0123456789abcdef"


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def certificate() -> tuple[bytes, str]:
    """A CA certificate (PEM) and its hash as kubeadm writes it."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.datetime(2026, 1, 1)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(1)).sign(key, SHA256())
    )  # fmt: skip
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return made.public_bytes(Encoding.PEM), "sha256:" + hashlib.sha256(spki).hexdigest()


PEM, CA_HASH = certificate()
KUBECONFIG = f"""apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {base64.b64encode(PEM).decode()}
    server: https://10.77.0.11:6443
  name: ""
contexts: null
kind: Config
"""


@pytest.fixture(params=[(",", ":"), (", ", ": ")], ids=["compact", "spaced"])
def info(request: pytest.FixtureRequest, shell: Shell) -> Path:
    """A cluster-info as kube-controller-manager signs it (JWS, HS256, detached)."""
    identity, secret = TOKEN.split(".")
    header = b64url(json.dumps({"alg": "HS256", "kid": identity}).encode())
    signed = hmac.new(secret.encode(), f"{header}.{b64url(KUBECONFIG.encode())}".encode(), "sha256").digest()
    data = {f"jws-kubeconfig-{identity}": f"{header}..{b64url(signed)}", "kubeconfig": KUBECONFIG}
    path = shell.directory / "info.json"
    path.write_text(json.dumps({"kind": "ConfigMap", "data": data}, separators=request.param))
    return path


def check(shell: Shell, info: Path, body: str) -> str:
    done = shell.run(f'CLUSTER_INFO=$(cat {info}); {body}')
    return done.stdout + done.stderr


def findings(shell: Shell, info: Path, token: str, ca: str = "") -> str:
    return check(
        shell, info,
        f"OPT_TOKEN={token}; OPT_CA_HASH={ca}; adopt_networks() {{ :; }}; check_token_valid; check_ca_hash; "
        'printf "%s\\n" ${FAULTS[@]+"${FAULTS[@]}"}; printf "caution %s\\n" ${CAUTIONS[@]+"${CAUTIONS[@]}"}',
    )  # fmt: skip


def test_the_right_token_and_ca_pass(shell: Shell, info: Path) -> None:
    assert findings(shell, info, TOKEN, CA_HASH).strip() in ("", "caution")


def test_an_unknown_token_is_told_apart(shell: Shell, info: Path) -> None:
    assert "does not know the token zzzzzz" in findings(shell, info, "zzzzzz.0123456789abcdef", CA_HASH)


def test_a_wrong_second_half_is_found_without_asking_the_master_again(shell: Shell, info: Path) -> None:
    told = findings(shell, info, "abcdef.0123456789abcdee", CA_HASH)
    assert "second half is wrong" in told
    assert "0123456789abcdee" not in told


def test_a_changed_cluster_info_is_not_believed(shell: Shell, info: Path) -> None:
    info.write_text(info.read_text().replace("10.77.0.11", "10.77.0.66"))
    assert "second half is wrong" in findings(shell, info, TOKEN, CA_HASH)


def test_another_ca_is_refused(shell: Shell, info: Path) -> None:
    told = findings(shell, info, TOKEN, "sha256:" + "0" * 64)
    assert f"CA is {CA_HASH}, not the sha256:{'0' * 64}" in told


def test_without_a_hash_it_says_what_is_not_checked(shell: Shell, info: Path) -> None:
    assert "NOT checked" in findings(shell, info, TOKEN)


def test_the_networks_of_the_cluster_are_adopted(shell: Shell, info: Path) -> None:
    """`curl` is a stub: what the API answers to a bootstrap token; the token must not be on its command line."""
    answer = {"data": {"ClusterConfiguration": "networking:\n  podSubnet: 10.9.0.0/16\n  serviceSubnet: 10.8.0.0/16\n"}}
    (shell.directory / "answer").write_text(json.dumps(answer))
    place = shell.directory
    shell.stub("curl", f'echo "$*" >{place}/arguments; cat >{place}/given; cat {place}/answer')
    told = check(shell, info, f'OPT_TOKEN={TOKEN}; adopt_networks; echo "$POD_SUBNET $SERVICE_SUBNET"')
    assert told == "10.9.0.0/16 10.8.0.0/16\n"
    assert TOKEN not in (shell.directory / "arguments").read_text()
    assert TOKEN in (shell.directory / "given").read_text()


@pytest.mark.parametrize(
    "line", ["    service-node-port-range: 20000-22767", "  - name: service-node-port-range\n    value: 20000-22767"]
)
def test_the_ports_of_services_are_adopted(shell: Shell, info: Path, line: str) -> None:
    """`curl` is a stub: what the API answers to a bootstrap token, in both forms of an argument."""
    text = f"apiServer:\n  extraArgs:\n{line}\nnetworking:\n  podSubnet: 10.9.0.0/16\n  serviceSubnet: 10.8.0.0/16\n"
    (shell.directory / "answer").write_text(json.dumps({"data": {"ClusterConfiguration": text}}))
    shell.stub("curl", f"cat >/dev/null; cat {shell.directory}/answer")
    opened = check(shell, info, f"OPT_TOKEN={TOKEN}; adopt_networks; ports_of node").split()
    assert opened == ["10250/tcp", "20000-22767/tcp", "8472/udp"]


NODE = '{"status":{"conditions":[{"type":"DiskPressure","status":"False"},{"type":"Ready","status":"%s"}]}}'


@pytest.mark.parametrize(("answers", "free"), [(NODE % "Unknown", True), (NODE % "True", False), ("", True)])
def test_a_node_of_our_name_that_is_ready_keeps_it(shell: Shell, info: Path, answers: str, free: bool) -> None:
    """`curl` is a stub: what the API says of the node; nothing where there is none (404)."""
    shell.stub("curl", f"cat >/dev/null; echo '{answers}'; {'true' if answers else 'exit 22'}")
    told = check(shell, info, f"OPT_TOKEN={TOKEN} NODE_NAME=node2; if name_free; then echo free; else echo taken; fi")
    assert told == ("free\n" if free else "taken\n")


def test_a_name_that_stays_taken_is_told_with_both_ways_out(shell: Shell, info: Path) -> None:
    done = shell.run("NODE_NAME=node2; wait_for() { return 1; }; await_name")
    assert done.returncode == 7
    assert "--node-name" in done.stderr
    assert "remove node2" in done.stderr


def test_a_line_that_is_run_again_keeps_the_networks_of_the_first_run(shell: Shell) -> None:
    settled = "state_set pods 10.9.0.0/16; state_set services 10.8.0.0/16; state_set nodeports 20000-22767"
    told = 'recall_networks; echo "$POD_SUBNET $SERVICE_SUBNET $NODE_PORTS"'
    kept, given = "10.9.0.0/16 10.8.0.0/16 20000-22767\n", "10.244.0.0/16 10.96.0.0/12 30000-32767\n"
    settled += "; record cluster x"
    assert shell.out(f"{settled}; ROLE=node; {told}") == kept
    assert shell.out(f"{settled}; ROLE=master; {told}") == given, "nothing is settled before the cluster is made"
    assert shell.out(f"{settled}; ROLE=master; state_set cluster 'done'; {told}") == kept
