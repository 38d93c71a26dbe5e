"""Against a real registry: open, with a password, and with signed tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import NameOID

from bundler.errors import FetchError
from bundler.fetch.auth import Credentials
from bundler.fetch.http import Client
from bundler.fetch.images import image_content
from bundler.fetch.mirrors import Mirrors
from bundler.fetch.pool import fetch_all, image_jobs
from bundler.fetch.registry import OCI_INDEX, Reference, Registry
from bundler.progress import Progress
from bundler.store import Store
from tests.servers.faults import Images

pytestmark = pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed")

# htpasswd -nbB lab lab-word
HTPASSWD = "lab:$2y$05$xadLCGbUhfV9OwcqMYV2cexwnHSbPECL0TeNda1NUa1iC6GmXSbvC\n"
LOGIN = ("lab", "lab-word")
SECONDS = 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(folder: Path, auth: dict[str, Any]) -> Iterator[str]:
    """Run docker-registry on ``folder``; gives its host and port."""
    host = f"127.0.0.1:{free_port()}"
    config = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": host},
        **({"auth": auth} if auth else {}),
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        wait_for(host, process, folder / "log")
        yield host
    finally:
        process.terminate()
        process.wait()


def wait_for(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            requests.get(f"http://{host}/v2/", timeout=SECONDS)
            return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise AssertionError(log.read_text())


def push(host: str, images: Images, session: requests.Session) -> None:
    """Upload blobs, then manifests, children first (as they were made)."""
    for path, data in images.files.items():
        _, _, repository, kind, name = path.split("/")
        base = f"http://{host}/v2/{repository}"
        if kind == "blobs":
            upload = session.post(f"{base}/blobs/uploads/", timeout=SECONDS)
            upload.raise_for_status()
            place = upload.headers["Location"]
            answer = session.put(place + ("&" if "?" in place else "?") + f"digest={name}", data, timeout=SECONDS)
        else:
            headers = {"Content-Type": images.types[path]}
            answer = session.put(f"{base}/manifests/{name}", data, headers=headers, timeout=SECONDS)
        answer.raise_for_status()


@pytest.fixture(scope="module")
def images() -> Images:
    images = Images()
    children = {
        f"linux/{arch}": images.image("app", [b"shared" * 99_999, arch.encode() * 77_777], arch)
        for arch in ("amd64", "arm64")
    }
    images.index("app", children, "1.0")
    return images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, images: Images) -> Path:
    """A registry's folder with the images in it."""
    folder = tmp_path_factory.mktemp("registry")
    with serving(folder, {}) as host, requests.Session() as session:
        push(host, images, session)
    return folder


def fetch(host: str, root: Path, config: dict[str, Any] | None = None) -> None:
    """Pull the image for arm64, and look whether all of it is there."""
    client = Client(Mirrors.parse([f"k8s.gcr.io={host}"]))
    registry, store = Registry(client, Credentials(config)), Store(root)
    try:
        top = registry.manifest(Reference.parse("k8s.gcr.io/app:1.0"))
        assert top.media_type == OCI_INDEX
        assert registry.manifest(Reference.parse("k8s.gcr.io/app:1.0"), head=True).digest == top.digest
        with Progress(quiet=True) as progress:
            fetch_all(image_jobs("k8s.gcr.io/app:1.0", top.digest, ["arm64"], registry, store), 4, progress)
    finally:
        client.close()
    content = image_content(store, "k8s.gcr.io/app:1.0", top.digest, ["arm64"])
    assert content.platforms == ("linux/arm64",) and len(content.blobs) == 5
    for blob in content.blobs:
        assert hashlib.sha256(store.path(blob).read_bytes()).hexdigest() == blob


def test_an_open_registry(data: Path, tmp_path: Path) -> None:
    with serving(data, {}) as host:
        fetch(host, tmp_path)


def test_a_registry_with_a_password(data: Path, tmp_path: Path) -> None:
    (data / "htpasswd").write_text(HTPASSWD)
    with serving(data, {"htpasswd": {"realm": "lab", "path": str(data / "htpasswd")}}) as host:
        auth = base64.b64encode(":".join(LOGIN).encode()).decode()
        fetch(host, tmp_path, {"auths": {host: {"auth": auth}}})
        with pytest.raises(FetchError, match="HTTP status 401"):
            fetch(host, tmp_path / "other")
        with pytest.raises(FetchError, match="HTTP status 401"):
            fetch(host, tmp_path / "other", {"auths": {host: {"username": "lab", "password": "wrong"}}})


class TokenServer(BaseHTTPRequestHandler):
    """Gives signed tokens, good for two seconds, to whoever has the password."""

    certificate: bytes
    key: rsa.RSAPrivateKey
    given: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(":".join(LOGIN).encode()).decode()
        if self.headers.get("Authorization") != expected:
            self.send_error(401)
            return
        scope = parse_qs(urlsplit(self.path).query)["scope"][0]
        self.given.append(scope)
        body = json.dumps({"token": self._token(scope)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _token(self, scope: str) -> str:
        kind, name, actions = scope.split(":")
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(self.certificate).decode()]}
        now = int(time.time())
        claims = {
            "iss": "lab", "aud": "lab-registry", "sub": "lab", "exp": now + 2, "nbf": now - 5, "iat": now, "jti": "1",
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }  # fmt: skip
        signed = ".".join(map(encode, (json.dumps(header).encode(), json.dumps(claims).encode())))
        return f"{signed}.{encode(self.key.sign(signed.encode(), PKCS1v15(), hashes.SHA256()))}"


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab tokens")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    return builder.sign(key, hashes.SHA256())


@contextmanager
def giving_tokens(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Run a token server; its certificate goes to ``folder``; gives its URL and the scopes it was asked for."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    made = certificate(key)
    (folder / "tokens.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    given: list[str] = []
    fields = {"certificate": made.public_bytes(serialization.Encoding.DER), "key": key, "given": given}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Tokens", (TokenServer,), fields))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/token", given
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_registry_with_tokens_that_expire(data: Path, tmp_path: Path) -> None:
    with giving_tokens(data) as (realm, given):
        token = {"realm": realm, "service": "lab-registry", "issuer": "lab", "rootcertbundle": str(data / "tokens.pem")}
        with serving(data, {"token": token}) as host:
            config = {"auths": {host: {"username": LOGIN[0], "password": LOGIN[1]}}}
            fetch(host, tmp_path, config)
            assert given == ["repository:app:pull"]
            client = Client(Mirrors.parse([f"k8s.gcr.io={host}"]))
            registry = Registry(client, Credentials(config))
            reference = Reference.parse("k8s.gcr.io/app:1.0")
            before = registry.manifest(reference)
            # The registry allows a minute of clock difference: a token that it refuses is made of one it accepts.
            auth = registry._auths[f"http://{host}", "app"]
            auth._header = "Bearer " + (auth.header() or "").removeprefix("Bearer ")[:-8] + "AAAAAAAA"
            assert registry.manifest(reference) == before
            assert len(given) == 3
            with pytest.raises(FetchError, match="/token: HTTP status 401"):
                Registry(client).manifest(reference)
            client.close()
