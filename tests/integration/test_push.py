"""`push` into a real registry: what is missing and nothing else, under every kind of authentication."""

from __future__ import annotations

import base64
import contextlib
import datetime
import gzip
import hashlib
import http.server
import ipaddress
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.bundles import INDEX, add_image, blob, image_entry, make_bundle
from tests.serving import PROJECT, PYTHON

CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: "{root}"}}}}
http: {{addr: "127.0.0.1:0", secret: test{tls}}}
log: {{accesslog: {{disabled: false}}}}
{more}
"""
SHARED = gzip.compress(os.urandom(300_000), mtime=0)
USER, SECRET = "carrier", "correct horse: battery"
REFS = {"k8s.gcr.io/pause:3.2": [b"pause" * 9000, SHARED], "docker.io/library/busybox:1.33": [SHARED],
        "quay.io/coreos/flannel:v0.13.0": [SHARED, os.urandom(3_000_000)]}


class Registry:
    """A running docker-registry: `address`, and what it was asked for."""

    def __init__(self, address: str, log: Path) -> None:
        self.address, self._log = address, log

    def asked(self, method: str, what: str = "") -> list[str]:
        """Paths (with query) that a method was used on, of those that hold `what`."""
        found = re.findall(rf'"{method} (\S+) HTTP/1.1" (?!401)', self._log.read_text())
        return [path for path in found if what in path]

    def forget(self) -> None:
        """Forget what was asked so far."""
        self._log.write_bytes(b"")


@contextlib.contextmanager
def registry(root: Path, more: str = "", tls: str = "") -> Iterator[Registry]:
    """Run a registry; `more` is added to its configuration."""
    root.mkdir()
    config, log = root / "config.yml", root / "log"
    config.write_text(CONFIG.format(root=root / "data", more=more, tls=tls))
    with log.open("ab") as output:
        process = subprocess.Popen(["docker-registry", "serve", config], stdout=output, stderr=output)
    try:
        for _ in range(400):
            found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
            if found or process.poll() is not None:
                break
            time.sleep(0.05)
        assert found, log.read_text()
        yield Registry(found[1], log)
    finally:
        process.terminate()
        process.wait(20)


def push(*words: str | Path, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run the verb as an operator does, with nothing of this machine's logins."""
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **env}
    return subprocess.run([PYTHON, "-m", "installer", "push", *words], cwd=PROJECT, env=clean, input=stdin,
                          capture_output=True, text=True, timeout=120)


def raw(address: str, name: str, *options: str) -> bytes:
    """A manifest as skopeo gets it."""
    done = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", *options, f"docker://{address}/{name}"],
                          capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    members: dict[str, bytes] = {}
    images = [add_image(members, ref, layers) for ref, layers in REFS.items()]
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b.tar", members, images)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    members: dict[str, bytes] = {}
    return make_bundle(tmp_path_factory.mktemp("sparse") / "b.tar", members,
                       [add_image(members, "k8s.gcr.io/pause:3.2", [SHARED], index=True)])


@pytest.fixture
def state(tmp_path: Path) -> str:
    return f"--state={tmp_path}/state.json"


def test_every_image_arrives_byte_for_byte_and_a_second_run_sends_nothing(
    bundle: Path, tmp_path: Path, state: str
) -> None:
    with registry(tmp_path / "r") as there:
        planned = push(bundle, f"{there.address}/site", "--plain-http", "--dry-run", "--json", state)
        facts = json.loads(planned.stdout)
        assert (facts["missing_blobs"], facts["missing_tags"], facts["bytes"]) == (6, 3, 0)
        assert not [path for method in ("POST", "PUT", "PATCH") for path in there.asked(method)]
        done = push(bundle, f"{there.address}/site", "--plain-http", "--json", state)
        assert done.returncode == 0, done.stderr
        sent = json.loads(done.stdout)
        assert (sent["uploaded"], sent["mounted"]) == (6, 2), "the shared layer is sent once and mounted twice"
        assert sent["bytes"] == facts["missing_bytes"]
        assert re.search(r"pushing: .* of .*, .*/s, [0-9.]+ s", done.stderr)
        for image in sent["images"]:
            name = image["target"].partition("/")[2]
            assert name == f"site/{image['ref']}"
            assert "sha256:" + hashlib.sha256(raw(there.address, name)).hexdigest() == image["digest"]
            copied = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{there.address}/{name}",
                      f"dir:{tmp_path}/{image['digest'][7:]}"]
            assert subprocess.run(copied, timeout=60).returncode == 0
        puts = there.asked("PUT", "/manifests/")
        assert [bool(re.search("sha256:", path)) for path in puts] == [True] * 3 + [False] * 3, "tags come last"
        there.forget()
        again = push(bundle, f"{there.address}/site", "--plain-http", state)
        assert "sent: 0 blobs (0 B), 0 mounted, 0 manifests, 0 tags" in again.stdout
        assert not [path for method in ("POST", "PUT", "PATCH") for path in there.asked(method)]


def test_only_what_is_missing_is_sent_and_names_can_lose_their_registry(
    bundle: Path, tmp_path: Path, state: str
) -> None:
    with registry(tmp_path / "r") as there:
        assert push(bundle, there.address, "--plain-http", state).returncode == 0
        done = push(bundle, f"http://{there.address}/flat", "--strip-registry", "--json", state)
        sent = json.loads(done.stdout)
        assert [image["target"].partition("/")[2] for image in sent["images"]] == [
            "flat/pause:3.2", "flat/library/busybox:1.33", "flat/coreos/flannel:v0.13.0"]
        assert sent["uploaded"] == 6, "no repository of that name had anything"
        there.forget()
        layout = json.loads(raw(there.address, "flat/pause:3.2"))
        assert layout["layers"][1]["digest"] == "sha256:" + hashlib.sha256(SHARED).hexdigest()


def test_a_moved_tag_is_set_right(bundle: Path, tmp_path: Path, state: str) -> None:
    with registry(tmp_path / "r") as there:
        assert push(bundle, there.address, "--plain-http", state).returncode == 0
        images = ("docker.io/library/busybox:1.33", "k8s.gcr.io/pause:3.2")
        names = [f"docker://{there.address}/{one}" for one in images]
        moved = ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", *names]
        assert subprocess.run(moved, timeout=60).returncode == 0
        done = push(bundle, there.address, "--plain-http", "--json", state)
        sent = json.loads(done.stdout)
        assert (sent["missing_blobs"], sent["missing_manifests"], sent["missing_tags"]) == (0, 0, 1)
        digest = {image["ref"]: image["digest"] for image in sent["images"]}["k8s.gcr.io/pause:3.2"]
        assert "sha256:" + hashlib.sha256(raw(there.address, "k8s.gcr.io/pause:3.2")).hexdigest() == digest


def test_a_sparse_index_is_pushed_or_explained(sparse: Path, tmp_path: Path, state: str) -> None:
    with registry(tmp_path / "r") as there:
        done = push(sparse, there.address, "--plain-http", state)
        assert done.returncode == 5
        assert "it is an index of which the bundle lacks linux/s390x" in done.stderr
        assert "--prune-indexes" in done.stderr
        pruned = push(sparse, there.address, "--plain-http", "--prune-indexes", "--json", state)
        assert pruned.returncode == 0, pruned.stderr
        index = raw(there.address, "k8s.gcr.io/pause:3.2")
        assert [one["platform"]["architecture"] for one in json.loads(index)["manifests"]] == ["amd64"]
        assert json.loads(pruned.stdout)["images"][0]["digest"] == "sha256:" + hashlib.sha256(index).hexdigest()


def test_a_whole_index_keeps_its_digest(tmp_path: Path, state: str) -> None:
    members: dict[str, bytes] = {}
    child = add_image(members, "k8s.gcr.io/pause:3.2", [SHARED])
    listed = {key: child[key] for key in ("mediaType", "digest", "size")}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**listed, "platform": {"os": "linux"}}]}
    top = image_entry("k8s.gcr.io/pause:3.2", blob(members, json.dumps(index).encode(), INDEX))
    with registry(tmp_path / "r") as there:
        done = push(make_bundle(tmp_path / "b.tar", members, [top]), there.address, "--plain-http", state)
        assert done.returncode == 0, done.stderr
        assert json.loads(raw(there.address, "k8s.gcr.io/pause:3.2")) == index
        assert "sha256:" + hashlib.sha256(raw(there.address, "k8s.gcr.io/pause:3.2")).hexdigest() == top["digest"]


@pytest.fixture
def basic(tmp_path: Path) -> Iterator[Registry]:
    hashed = subprocess.run(["perl", "-e", 'print crypt($ARGV[0], "\\$2y\\$05\\$abcdefghijklmnopqrstuu")', SECRET],
                            capture_output=True, text=True, check=True).stdout
    (tmp_path / "htpasswd").write_text(f"{USER}:{hashed}\n")
    with registry(tmp_path / "r", f"auth: {{htpasswd: {{realm: r, path: {tmp_path}/htpasswd}}}}") as there:
        yield there


@pytest.mark.parametrize("how", ["file", "stdin", "environment", "config"])
def test_passwords_come_from_a_file_stdin_the_environment_or_docker(
    bundle: Path, basic: Registry, tmp_path: Path, state: str, how: str
) -> None:
    words, stdin, env = ["--username", USER], "", {}
    if how == "file":
        (tmp_path / "password").write_text(SECRET + "\n")
        words += ["--password-file", f"{tmp_path}/password"]
    elif how == "stdin":
        words, stdin = [*words, "--password-stdin"], SECRET + "\n"
    elif how == "environment":
        env = {"KUBECARRY_REGISTRY_PASSWORD": SECRET}
    else:
        auth = base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {basic.address: {"auth": auth}}}))
        words, env = [], {"DOCKER_CONFIG": str(tmp_path)}
    done = push(bundle, basic.address, "--plain-http", state, *words, stdin=stdin, **env)
    assert done.returncode == 0, done.stderr
    assert raw(basic.address, "k8s.gcr.io/pause:3.2", f"--creds={USER}:{SECRET}")
    assert SECRET not in done.stdout + done.stderr


def test_a_wrong_password_ends_with_5_and_is_not_shown(bundle: Path, basic: Registry, state: str) -> None:
    done = push(bundle, basic.address, "--plain-http", state, "--username", USER, KUBECARRY_REGISTRY_PASSWORD="wr0ng")
    assert done.returncode == 5
    assert f"does not allow /v2/ as {USER}" in done.stderr
    assert "wr0ng" not in done.stderr
    assert push(bundle, basic.address, "--plain-http", state).returncode == 5
    assert push(bundle, basic.address, "--plain-http", state, "--username", USER).returncode == 2


class Tokens(http.server.ThreadingHTTPServer):
    """A token server as distribution's registry trusts it; `asked` are the scopes, `seconds` a token's life."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Token)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.asked: list[list[str]] = []
        self.seconds = 60
        self.certificate = folder / "token.pem"
        self.certificate.write_bytes(certificate(self.key, "tokens"))

    @property
    def config(self) -> str:
        return (f"auth: {{token: {{realm: 'http://127.0.0.1:{self.server_port}/token', service: reg, issuer: us, "
                f"rootcertbundle: {self.certificate}}}}}")

    def token(self, scopes: list[str]) -> str:
        access = [{"type": kind, "name": name, "actions": actions.split(",")}
                  for kind, name, actions in (scope.split(":") for scope in scopes)]
        pem = self.certificate.read_text().replace("\n", "").split("-----")[2]
        now = int(time.time())
        claims = {"iss": "us", "sub": USER, "aud": "reg", "exp": now + self.seconds, "nbf": now - 5, "iat": now,
                  "jti": os.urandom(8).hex(), "access": access}
        head = {"typ": "JWT", "alg": "ES256", "x5c": [pem]}
        text = b".".join(_url64(json.dumps(part).encode()) for part in (head, claims))
        r, s = decode_dss_signature(self.key.sign(text, ec.ECDSA(hashes.SHA256())))
        return (text + b"." + _url64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()


class _Token(http.server.BaseHTTPRequestHandler):
    server: Tokens

    def do_GET(self) -> None:
        scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        good = "Basic " + base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
        if self.headers.get("Authorization") != good:
            self.send_error(401)
            return
        self.server.asked.append(scopes)
        body = json.dumps({"token": self.server.token(scopes), "expires_in": self.server.seconds}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def _url64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def certificate(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A certificate of a key, signed by itself, for 127.0.0.1."""
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
            .serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1)).add_extension(names, False)
            .add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256()))
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[Tokens]:
    with Tokens(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_bearer_tokens_allow_just_what_is_done(bundle: Path, tokens: Tokens, tmp_path: Path, state: str) -> None:
    with registry(tmp_path / "r", tokens.config) as there:
        done = push(bundle, there.address, "--plain-http", state, "--json", "--username", USER,
                    KUBECARRY_REGISTRY_PASSWORD=SECRET)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["mounted"] == 2
        assert ["repository:k8s.gcr.io/pause:pull,push"] in tokens.asked
        assert any(len(scopes) == 2 and scopes[1].endswith(":pull") for scopes in tokens.asked), "a mount reads"
        tokens.asked.clear()
        tokens.seconds = 5  # shorter than the slack: each is used once only, and never too late
        assert push(bundle, f"{there.address}/b", "--plain-http", state, "--username", USER,
                    KUBECARRY_REGISTRY_PASSWORD=SECRET).returncode == 0
        denied = push(bundle, there.address, "--plain-http", state, "--username", USER,
                      KUBECARRY_REGISTRY_PASSWORD="wr0ng")
        assert denied.returncode == 5
        assert "gave no token" in denied.stderr


def test_tls_needs_the_right_authority(bundle: Path, tmp_path: Path, state: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "ca.pem").write_bytes(certificate(key, "registry"))
    with registry(tmp_path / "r", tls=f", tls: {{certificate: {tmp_path}/ca.pem, key: {tmp_path}/key.pem}}") as there:
        done = push(bundle, there.address, state, "--ca-file", tmp_path / "ca.pem")
        assert done.returncode == 0, done.stderr
        refused = push(bundle, there.address, state)
        assert refused.returncode == 5
        assert "CERTIFICATE_VERIFY_FAILED" in refused.stderr
        assert "--ca-file" in refused.stderr
        missing = push(bundle, there.address, state, "--ca-file", tmp_path / "none.pem")
        assert missing.returncode == 7


def test_a_damaged_blob_is_never_stored(tmp_path: Path, state: str) -> None:
    members: dict[str, bytes] = {}
    image = add_image(members, "k8s.gcr.io/pause:3.2", [b"x" * 100_000])
    bundle = make_bundle(tmp_path / "b.tar", members, [image])
    data = bytearray(bundle.read_bytes())
    data[data.index(b"x" * 1000)] ^= 1
    bundle.write_bytes(data)
    with registry(tmp_path / "r") as there:
        done = push(bundle, there.address, "--plain-http", state)
        assert done.returncode == 6
        assert "differs from its digest" in done.stderr
        assert not there.asked("PUT", "/manifests/")


def test_what_makes_no_sense_ends_with_2_and_what_is_gone_with_5(bundle: Path, state: str) -> None:
    assert push(bundle, "UPPER/Case/x", "--plain-http", state).returncode == 2
    gone = push(bundle, "127.0.0.1:9", "--plain-http", state)
    assert gone.returncode == 5
    assert "run the same line again" in gone.stderr
