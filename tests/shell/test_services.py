"""Components as services of the host: their certificates by openssl itself, their files by release."""

from __future__ import annotations

import shlex
from datetime import datetime, timedelta, timezone

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from .stream import Shell

GIVEN = "NODE_NAME=m1 NODE_ADDRESS=10.1.1.1 NODE_DEVICE=eth1 SERVICE_SUBNET=10.96.0.0/12 POD_SUBNET=10.9.0.0/16 "
V8 = GIVEN + "KUBERNETES_VERSION=v1.8.14"


def place(shell: Shell) -> str:
    """Settings that put the certificates below the test's directory."""
    return f"{GIVEN} PKI={shell.directory}/pki"


def certificate(shell: Shell, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((shell.directory / f"pki/{name}.crt").read_bytes())


@pytest.fixture
def made(shell: Shell) -> Shell:
    shell.out(f"{place(shell)}; pki_of_master")
    return shell


def test_the_authority_outlives_what_it_signs(made: Shell) -> None:
    ca = certificate(made, "ca")
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    for path in (made.directory / "pki").rglob("*.crt"):
        leaf = x509.load_pem_x509_certificate(path.read_bytes())
        if leaf != ca:
            leaf.verify_directly_issued_by(ca)
            assert leaf.not_valid_after_utc < ca.not_valid_after_utc
            assert leaf.not_valid_after_utc > datetime.now(timezone.utc) + timedelta(days=365)
            assert leaf.version is x509.Version.v3
            assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_server_is_known_by_every_name(made: Shell) -> None:
    leaf = certificate(made, "apiserver")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "10.96.0.1", "10.1.1.1"]
    assert "kubernetes.default.svc.cluster.local" in names.get_values_for_type(x509.DNSName)
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_users_are_who_the_cluster_takes_them_for(made: Shell) -> None:
    assert certificate(made, "admin").subject.rfc4514_string() == "CN=kubernetes-admin,O=system:masters"
    assert certificate(made, "kube-scheduler").subject.rfc4514_string() == "CN=system:kube-scheduler"
    keys = list((made.directory / "pki").rglob("*.key"))
    assert len(keys) == 9
    assert all(p.stat().st_mode & 0o007 == 0 for p in keys)


def test_nothing_good_is_made_twice(made: Shell) -> None:
    before = {p: p.read_bytes() for p in (made.directory / "pki").rglob("*.*")}
    made.out(f"{place(made)}; pki_of_master")
    assert {p: p.read_bytes() for p in (made.directory / "pki").rglob("*.*")} == before
    made.out(f"{place(made)} NODE_ADDRESS=10.1.1.2; pki_of_master")
    changed = {str(p.relative_to(made.directory / "pki")) for p in before if p.read_bytes() != before[p]}
    assert changed == {"apiserver.crt", "etcd/server.crt"}


def test_a_request_is_signed_for_a_node(made: Shell) -> None:
    text = made.out(f"{place(made)}; pki_key node; pki_request node /O=system:nodes/CN=system:node:n1")
    request = x509.load_pem_x509_csr(text.encode())
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=system:node:n1,O=system:nodes"


def test_kubeconfig_stands_alone(made: Shell) -> None:
    found = yaml.safe_load(made.out(f"{place(made)}; services_kubeconfig https://10.1.1.1:6443 admin"))
    assert found["clusters"][0]["cluster"]["server"] == "https://10.1.1.1:6443"
    assert set(found["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
    assert found["contexts"][0]["context"] == {"cluster": "kubernetes", "user": "admin"}


def arguments(shell: Shell, component: str, given: str) -> dict[str, str]:
    lines = shell.out(f"{given}; arguments_of {component}").split("\n")
    return dict(line[2:].split("=", 1) for line in lines if line)


def test_the_api_server_of_1_8_and_of_1_20(shell: Shell) -> None:
    old, new = (arguments(shell, "kube-apiserver", given) for given in (V8, GIVEN))
    assert set(old) - set(new) == {"admission-control"}
    assert set(new) - set(old) == {
        "enable-admission-plugins", "service-account-issuer", "service-account-signing-key-file",
    }  # fmt: skip
    assert old["authorization-mode"] == "Node,RBAC"
    assert "ServiceAccount" in old["admission-control"]
    assert "SecurityContextDeny" not in old["admission-control"]
    assert (old["insecure-port"], old["service-cluster-ip-range"]) == ("0", "10.96.0.0/12")
    assert old["etcd-servers"].startswith("https://")


def test_the_kubelet_of_1_8_and_of_1_20(shell: Shell) -> None:
    old, new = (arguments(shell, "kubelet", f"{given} CGROUP_DRIVER=cgroupfs") for given in (V8, GIVEN))
    assert set(old) - set(new) == {"allow-privileged"}
    assert set(new) <= set(old)
    assert (old["cluster-dns"], old["cgroup-driver"]) == ("10.96.0.10", "cgroupfs")
    assert old["anonymous-auth"] == "false"


@pytest.mark.parametrize("component", [
    "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
])  # fmt: skip
def test_files_are_what_the_units_put_together(shell: Shell, component: str) -> None:
    (shell.directory / "etc").mkdir()
    given = f"{V8} CGROUP_DRIVER=systemd SERVICES={shell.directory}/etc"
    write = f"service_file {component}; echo $CHANGED"
    assert shell.out(f"{given}; {write}; {write}").split() == ["1", "0"]
    (path,) = (shell.directory / "etc").iterdir()
    words = dict(word.split("=", 1) for line in path.read_text().splitlines() for word in shlex.split(line))
    filled = [name for name, value in words.items() if value]
    assert len(filled) == 1
    assert filled[0].endswith("_ARGS")
    assert words[filled[0]].split() == shell.out(f"{given}; arguments_of {component}").split()


def test_what_lets_nodes_in(made: Shell) -> None:
    found = [d for d in yaml.safe_load_all(made.out(f"{place(made)}; admission_objects")) if d]
    assert [d["kind"] for d in found] == ["ClusterRoleBinding"] * 3 + ["Role", "ConfigMap", "RoleBinding"] + [
        "ConfigMap", "Role", "RoleBinding",
    ]  # fmt: skip
    assert found[1]["roleRef"]["name"] == "system:certificates.k8s.io:certificatesigningrequests:nodeclient"
    assert found[5]["subjects"] == [
        {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}
    ]
    info = yaml.safe_load(found[4]["data"]["kubeconfig"])
    assert info["clusters"][0]["cluster"]["server"] == "https://10.1.1.1:6443"


def test_a_token_lasts_a_day(shell: Shell) -> None:
    found = yaml.safe_load(shell.out("token_object abcdef.0123456789abcdef"))
    assert found["type"] == "bootstrap.kubernetes.io/token"
    assert found["metadata"]["name"] == "bootstrap-token-abcdef"
    data = found["stringData"]
    left = datetime.fromisoformat(data["expiration"].replace("Z", "+00:00")) - datetime.now(timezone.utc)
    assert timedelta(hours=23) < left <= timedelta(hours=24)
    assert (data["token-id"], data["token-secret"]) == ("abcdef", "0123456789abcdef")
