"""kubeadm's files: what is in them, by structure, in each version of its API."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from .stream import Shell

TOKEN, KEY = "abcdef.0123456789abcdef", "a" * 64
GIVEN = "NODE_NAME=n1 NODE_ADDRESS=10.1.1.1 POD_SUBNET=10.9.0.0/16 MASTER_HOST=10.1.1.9 OPT_CA_HASH=sha256:aa"
APIS = ("v1beta2", "v1beta3", "v1beta4")
Documents = dict[str, dict[str, Any]]


def rendered(shell: Shell, api: str, words: str, given: str = "") -> Documents:
    """The documents of one file by kind, each of the right apiVersion."""
    text = shell.out(f"KUBEADM_API=kubeadm.k8s.io/{api} {GIVEN} {given}; kubeadm_config {words}")
    found = {document["kind"]: document for document in yaml.safe_load_all(text)}
    for kind in ("InitConfiguration", "ClusterConfiguration", "JoinConfiguration"):
        assert found.get(kind, {}).get("apiVersion") in (None, f"kubeadm.k8s.io/{api}")
    return found


def arguments(api: str, given: Any) -> dict[str, str]:
    """Extra arguments as a map: before v1beta4 they are one, from then on a list of name and value."""
    if api != "v1beta4":
        return dict(given)
    assert all(set(each) == {"name", "value"} for each in given)
    return {each["name"]: each["value"] for each in given}


@pytest.mark.parametrize("api", APIS)
def test_init_of_each_version(shell: Shell, api: str) -> None:
    found = rendered(shell, api, f"init {TOKEN} {KEY}")
    assert set(found) == {f"{kind}Configuration" for kind in ("Init", "Cluster", "Kubelet", "KubeProxy")}
    init, cluster = found["InitConfiguration"], found["ClusterConfiguration"]
    assert init["bootstrapTokens"] == [{"token": TOKEN, "ttl": "24h0m0s"}]
    assert init["certificateKey"] == KEY
    assert init["localAPIEndpoint"] == {"advertiseAddress": "10.1.1.1", "bindPort": 6443}
    own = arguments(api, init["nodeRegistration"]["kubeletExtraArgs"])
    assert own == {"node-ip": "10.1.1.1", "cgroup-driver": "systemd"}
    assert cluster["kubernetesVersion"] == "v1.20.2"
    assert cluster["controlPlaneEndpoint"] == "10.1.1.1:6443"
    assert cluster["networking"] == {"podSubnet": "10.9.0.0/16", "serviceSubnet": "10.96.0.0/12"}
    assert found["KubeletConfiguration"]["imageGCHighThresholdPercent"] == 100
    assert found["KubeletConfiguration"]["cgroupDriver"] == "systemd"
    assert "certificateKey" not in rendered(shell, api, f"init {TOKEN}")["InitConfiguration"]


@pytest.mark.parametrize("api", APIS)
def test_other_ports_for_services(shell: Shell, api: str) -> None:
    cluster = rendered(shell, api, f"init {TOKEN}", "NODE_PORTS=20000-22767")["ClusterConfiguration"]
    assert arguments(api, cluster["apiServer"]["extraArgs"]) == {"service-node-port-range": "20000-22767"}
    assert "apiServer" not in rendered(shell, api, f"init {TOKEN}")["ClusterConfiguration"]


@pytest.mark.parametrize("api", APIS)
def test_join_of_each_version(shell: Shell, api: str) -> None:
    join = rendered(shell, api, f"join {TOKEN}")["JoinConfiguration"]
    assert "controlPlane" not in join
    bootstrap = {"token": TOKEN, "apiServerEndpoint": "10.1.1.9:6443", "caCertHashes": ["sha256:aa"]}
    assert join["discovery"]["bootstrapToken"] == bootstrap
    # The reference of v1beta4 has no discovery.timeout any more.
    if api == "v1beta4":
        assert (join["timeouts"], set(join["discovery"])) == ({"discovery": "1m0s"}, {"bootstrapToken"})
    else:
        assert (join["discovery"]["timeout"], "timeouts" in join) == ("1m0s", False)
    socket = "/run/containerd/containerd.sock"
    assert join["nodeRegistration"]["criSocket"] == (socket if api == "v1beta2" else f"unix://{socket}")


@pytest.mark.parametrize("api", APIS)
def test_another_master_joins_with_the_key(shell: Shell, api: str) -> None:
    join = rendered(shell, api, f"join {TOKEN} {KEY}")["JoinConfiguration"]
    endpoint = {"advertiseAddress": "10.1.1.1", "bindPort": 6443}
    assert join["controlPlane"] == {"certificateKey": KEY, "localAPIEndpoint": endpoint}


@pytest.mark.parametrize("api", APIS)
def test_what_is_this_node_s_own(shell: Shell, api: str) -> None:
    (shell.state / "resolv.conf").touch()
    join = rendered(shell, api, f"join {TOKEN}", "OPT_SWAP=keep OPT_CA_HASH=")["JoinConfiguration"]
    assert arguments(api, join["nodeRegistration"]["kubeletExtraArgs"]) == {
        "node-ip": "10.1.1.1", "cgroup-driver": "systemd", "resolv-conf": f"{shell.state}/resolv.conf",
        "fail-swap-on": "false",
    }  # fmt: skip
    assert join["discovery"]["bootstrapToken"]["unsafeSkipCAVerification"] is True
    assert "caCertHashes" not in join["discovery"]["bootstrapToken"]


@pytest.mark.parametrize("api", APIS)
def test_docker_and_the_other_cgroup_driver(shell: Shell, api: str) -> None:
    """kubeadm knows Docker by the bare path of dockershim's socket; with a scheme it would take it for a CRI's."""
    found = rendered(shell, api, f"init {TOKEN}", "NODE_RUNTIME=docker CGROUP_DRIVER=cgroupfs")
    own = found["InitConfiguration"]["nodeRegistration"]
    assert own["criSocket"] == "/var/run/dockershim.sock"
    assert arguments(api, own["kubeletExtraArgs"])["cgroup-driver"] == "cgroupfs"
    assert found["KubeletConfiguration"]["cgroupDriver"] == "cgroupfs"


def test_another_version_is_refused(shell: Shell) -> None:
    assert shell.run("KUBEADM_API=kubeadm.k8s.io/v9; kubeadm_config init x").returncode == 6


def test_init_of_1_8(shell: Shell) -> None:
    found = rendered(shell, "v1alpha1", f"init {TOKEN}")
    assert found == {"MasterConfiguration": {
        "apiVersion": "kubeadm.k8s.io/v1alpha1", "kind": "MasterConfiguration", "nodeName": "n1", "token": TOKEN,
        "api": {"advertiseAddress": "10.1.1.1", "bindPort": 6443}, "kubernetesVersion": "v1.20.2",
        "imageRepository": "k8s.gcr.io", "networking": {"podSubnet": "10.9.0.0/16", "serviceSubnet": "10.96.0.0/12"},
    }}  # fmt: skip


@pytest.mark.parametrize(("hash_", "trust"), [
    ("sha256:aa", {"discoveryTokenCACertHashes": ["sha256:aa"]}),
    ("", {"discoveryTokenUnsafeSkipCAVerification": True}),
])
def test_join_of_1_8(shell: Shell, hash_: str, trust: dict[str, Any]) -> None:
    found = rendered(shell, "v1alpha1", f"join {TOKEN}", f"OPT_CA_HASH={hash_}")
    assert found == {"NodeConfiguration": {
        "apiVersion": "kubeadm.k8s.io/v1alpha1", "kind": "NodeConfiguration", "nodeName": "n1", "token": TOKEN,
        "discoveryTokenAPIServers": ["10.1.1.9:6443"], **trust,
    }}  # fmt: skip


def test_the_kubelet_of_1_8_is_told_by_its_unit(shell: Shell) -> None:
    shell.stub("systemctl", "")  # no systemd here
    body = f"""KUBEADM_API=kubeadm.k8s.io/v1alpha1 {GIVEN} OPT_SWAP=keep
        put_file() {{ cat; }}
        configure_kubelet_unit"""
    assert shell.out(body) == (
        '[Service]\nEnvironment="KUBELET_EXTRA_ARGS=--node-ip=10.1.1.1 --cgroup-driver=systemd --fail-swap-on=false '
        '--pod-infra-container-image=k8s.gcr.io/pause:3.2 --image-gc-high-threshold=100"\n'
    )
    assert shell.out("put_file() { cat; }; configure_kubelet_unit") == ""


def test_flags_of_1_8_are_its_own(shell: Shell) -> None:
    shell.stub("kubeadm", f'echo "$@" >>{shell.directory}/ran')  # kubeadm itself is in no test of this kind
    assert shell.out("kubeadm_waiver NumCPU,Mem; kubeadm_waiver ''") == "--ignore-preflight-errors=NumCPU,Mem"
    alpha = "KUBEADM_API=kubeadm.k8s.io/v1alpha1; "
    assert shell.out(alpha + "kubeadm_waiver NumCPU,Mem; kubeadm_waiver ''") == "--skip-preflight-checks"
    shell.out(alpha + "reset_kubeadm 5")
    shell.out("reset_kubeadm 5")
    ran = (shell.directory / "ran").read_text().splitlines()
    assert ran == ["reset --skip-preflight-checks", "reset -f --cri-socket=/run/containerd/containerd.sock"]
