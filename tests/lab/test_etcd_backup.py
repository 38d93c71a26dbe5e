"""Backup, restore and renewal on a real cluster: what was lost comes back, and what is damaged is refused."""

from __future__ import annotations

import datetime
import re
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.lab import bundled, cluster
from tests.lab.lab import Lab, until
from tests.lab.node import Node, boot_all
from tests.lab.snapshot import difference, snapshot

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.life]

LINE = f"curl -fsSL {cluster.URL}/deploy.sh | bash -s "


class Site:
    """A master with a worker, a workload that answers, and its backup."""

    def __init__(self, lab: Lab) -> None:
        """Install, apply the workload, save."""
        self.master, self.worker = Node(lab, 1), Node(lab, 2)
        boot_all([self.master, self.worker])
        cluster.install(self.worker, cluster.join_line(cluster.deploy(self.master, "master")))
        cluster.kubectl(self.master, "create", "namespace", "kept")
        cluster.kubectl(self.master, "-n", "kept", "create", "configmap", "note", "--from-literal=text=before")
        self.address = cluster.apply_smoke(self.master)
        self.printed = deploy(self.master, "backup").stdout
        self.file = re.findall(r"^file +(\S+)$", self.printed, re.M)[0]
        self.copy = self.master.dir / "upper" / self.file[1:]

    def works(self) -> None:
        """The workload's objects are there, and its Service answers from the worker by the master's pod."""
        cluster.wait_ready(self.master, [self.master, self.worker])
        note = cluster.kubectl(self.master, "-n", "kept", "get", "configmap", "note", "-o", "jsonpath={.data.text}")
        assert note == "before"
        self.worker.run("systemctl restart kubelet", check=True)
        for space, name in (("kube-system", "kube-proxy"), ("kube-system", "kube-flannel-ds"), ("default", "smoke")):
            words = ("-n", space, f"daemonset/{name}", "--timeout=300s")
            cluster.kubectl(self.master, "rollout", "status", *words, timeout=310)
        assert cluster.ask_service(self.worker, self.address, of=self.master) == "hello from node1"
        assert cluster.ask_service(self.master, self.address, of=self.worker) == "hello from node2"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with bundled.served("test-etcd-backup", tmp_path_factory.mktemp("backup")) as lab:
        yield Site(lab)


def deploy(node: Node, words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    done = node.run(LINE + words, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def deploy_any(node: Node, words: str) -> subprocess.CompletedProcess[str]:
    """The same where it may fail."""
    return node.run(LINE + words)


def kill(node: Node, words: str, after: float) -> None:
    """Run a verb and kill -9 deploy.sh itself after so many seconds."""
    run = threading.Thread(target=node.run, args=(LINE + words,), kwargs={"timeout": 600})
    run.start()
    time.sleep(after)
    node.run("kill -9 $(cat /run/lock/kubecarry.lock)")
    run.join()


def serials(node: Node) -> dict[str, str]:
    """The serial number of each certificate that kubeadm renews, by path."""
    line = """for f in /etc/kubernetes/pki/*.crt /etc/kubernetes/pki/etcd/*.crt; do case $f in *ca.crt) ;; *)
        echo "$f $(openssl x509 -noout -serial -in $f)" ;; esac; done
        for f in /etc/kubernetes/{admin,scheduler,controller-manager}.conf ~root/.kube/config; do echo "${f##*/} $(
        sed -n 's/^ *client-certificate-data: *//p' $f | base64 -d | openssl x509 -noout -serial)"; done"""
    return dict(row.split() for row in node.run(line, check=True).stdout.splitlines())


def components(node: Node) -> str:
    """The control plane's processes."""
    return node.run("pidof etcd; pidof kube-apiserver; pidof kube-scheduler").stdout


def test_a_backup_tells_what_it_is_and_only_root_may_read_it(site: Site) -> None:
    stat = site.master.run(f"stat -c '%a %U' {site.file} $(dirname {site.file})", check=True).stdout
    assert stat.split() == ["600", "root", "700", "root"]
    told = dict(line.split() for line in site.printed.splitlines())
    assert told.keys() == {"file", "bytes", "revision", "keys"}
    assert int(told["revision"]) > 100
    assert site.master.run(f"tar -xOf {site.file} SHA256SUMS | wc -l", check=True).stdout.strip() > "10"
    assert site.master.run("ls /var/lib/kubecarry-backups | wc -l").stdout.strip() == "1", "no unfinished file is left"


def test_a_flipped_byte_is_refused_before_anything_is_touched(site: Site) -> None:
    whole, running = site.copy.read_bytes(), components(site.master)
    for place in (100, len(whole) // 2, whole.index(b"BEGIN RSA PRIVATE KEY") + 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        site.master.run("cat > /srv/damaged.tar", input=bytes(damaged), check=True)
        done = site.master.run(LINE + "restore /srv/damaged.tar")
        assert done.returncode == 6, done.stderr
        assert "error: /srv/damaged.tar: " in done.stderr
    site.master.run("rm /srv/damaged.tar", check=True)
    assert components(site.master) == running
    assert deploy(site.master, "status").returncode == 0


def test_what_was_deleted_is_back_and_what_came_later_is_gone(site: Site) -> None:
    cluster.kubectl(site.master, "create", "namespace", "later")
    cluster.kubectl(site.master, "delete", "namespace", "kept", "--wait=false")
    cluster.kubectl(site.master, "delete", "service/smoke", "daemonset/smoke")
    done = deploy(site.master, f"restore {site.file}")
    assert "restart the kubelet of every other node (systemctl restart kubelet): node2" in done.stderr
    site.works()
    names = cluster.kubectl(site.master, "get", "namespaces", "-o", "name")
    assert "namespace/later" not in names
    assert "etcd/before-" in done.stderr
    kept = re.findall(r"is in (/var/lib/etcd/before-\S+)", done.stderr)[0]
    assert site.master.run(f"ls {kept}/snap/db").returncode == 0, "what was there is kept"


def test_killed_anywhere_with_all_data_lost_the_same_line_restores(site: Site) -> None:
    site.master.run("rm -rf /var/lib/etcd/member", check=True)
    for seconds in (0.6, 4):
        kill(site.master, f"restore {site.file}", seconds)
    status = site.master.run(LINE + "status")
    assert (status.returncode, "run the same line again" in status.stdout) == (7, True), status.stdout
    for seconds in (20, 38):
        kill(site.master, f"restore {site.file}", seconds)
    deploy(site.master, f"restore {site.file}")
    site.works()
    assert deploy(site.master, "status").returncode == 0
    assert site.master.run("ls /etc/kubernetes/kubecarry-held").returncode != 0


def test_renewed_certificates_are_used_by_all(site: Site) -> None:
    before, running = serials(site.master), components(site.master)
    assert before["config"] == before["admin.conf"]
    kill(site.master, "renew", 8)
    deploy(site.master, "renew")
    after = serials(site.master)
    assert before.keys() == after.keys()
    assert [path for path in before if before[path] == after[path]] == []
    assert not set(components(site.master).split()) & set(running.split()), "everything was started anew"
    used = "openssl s_client -connect 127.0.0.1:6443 </dev/null 2>/dev/null | openssl x509 -noout -serial"
    assert site.master.run(used).stdout.strip() == after["/etc/kubernetes/pki/apiserver.crt"]
    assert site.master.run("kubectl get nodes").returncode == 0, "root's kubectl"
    site.works()
    told = deploy(site.master, "status").stdout
    assert re.search(r"^certs +36[345] days left", told, re.M), told
    table = deploy(site.master, "certificates").stdout
    assert re.search(r"^36\d +20\d\d-\d\d-\d\d +/etc/kubernetes/pki/apiserver.crt$", table, re.M), table


def expired(node: Node) -> bytes:
    """A certificate and key of the node's kubelet, signed by the cluster, which ended yesterday."""
    pki = node.dir / "upper/etc/kubernetes/pki"
    signer = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
    assert isinstance(signer, rsa.RSAPrivateKey)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    names = ((NameOID.ORGANIZATION_NAME, "system:nodes"), (NameOID.COMMON_NAME, f"system:node:{node.name}"))
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    builder = x509.CertificateBuilder(
        authority, x509.Name([x509.NameAttribute(*name) for name in names]), key.public_key(), 4711,
        now - datetime.timedelta(days=300), now - datetime.timedelta(days=1),
    )  # fmt: skip
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = builder.add_extension(client, critical=False).sign(signer, hashes.SHA256())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*form)


def test_a_kubelet_whose_certificate_expired_comes_back(site: Site) -> None:
    current = "/var/lib/kubelet/pki/kubelet-client-current.pem"
    site.master.run(f"cat > {current} && systemctl restart kubelet", input=expired(site.master), check=True)
    status = deploy_any(site.master, "status")
    assert status.returncode == 7
    assert re.search(r"^certs +-[12] days left", status.stdout, re.M), status.stdout
    assert "the kubelet has not renewed its certificate by itself" in status.stdout
    deploy(site.master, "renew")
    site.works()
    assert until(lambda: deploy_any(site.master, "status").returncode == 0, 60, 1)
    assert site.master.run(f"openssl x509 -noout -checkend 86400 -in {current}").returncode == 0


def test_a_fresh_host_with_the_master_s_address_takes_its_place(site: Site) -> None:
    saved = site.copy.read_bytes()
    site.master.wipe()
    site.master.boot()
    before = snapshot(site.master)
    site.master.run("cat > /srv/saved.tar", input=saved, check=True)
    other = site.worker.run("cat > /tmp/saved.tar", input=saved)
    refused = site.worker.run(LINE + "restore /tmp/saved.tar")
    assert (other.returncode, refused.returncode) == (0, 7)
    assert "10.77.0.11, which is no address of this host" in refused.stderr
    kill(site.master, "restore /srv/saved.tar", 12)
    deploy(site.master, "restore /srv/saved.tar")
    site.works()
    assert deploy(site.master, "status").returncode == 0
    deploy(site.master, "backup")
    deploy(site.master, "down")
    site.master.run("rm /srv/saved.tar; rm -r /var/lib/kubecarry-backups", check=True)
    assert difference(before, snapshot(site.master)) == []
