import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bundler.errors import FetchError
from bundler.fetch.http import Client
from bundler.fetch.mirrors import Mirrors
from bundler.store import Store
from tests.servers.faults import Fault, Upstream, always, sha256
from tests.unit.bundler.fetch.conftest import blob_of

FILES = {"/x": b"over TLS"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that signs itself, for 127.0.0.1, with its key in ``key.pem`` beside it."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "private authority")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    return folder / "ca.pem"


@pytest.fixture
def upstream(authority: Path) -> Iterator[Upstream]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, authority.with_name("key.pem"))
    with Upstream(FILES, tls=context) as upstream:
        yield upstream


def test_an_unknown_authority_is_refused_at_once(upstream: Upstream, client: Client) -> None:
    with pytest.raises(FetchError, match=f"{upstream.url}/x: its certificate is not trusted") as caught:
        client.read(upstream.url + "/x")
    assert "--ca-file" in caught.value.hint


def test_a_private_authority_can_be_named(upstream: Upstream, authority: Path) -> None:
    client = Client(Mirrors.parse(), ca_file=authority)
    assert client.read(upstream.url + "/x") == b"over TLS"
    client.close()


def test_a_private_authority_can_come_from_the_environment(
    upstream: Upstream, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    client = Client(Mirrors.parse())
    assert client.read(upstream.url + "/x") == b"over TLS"
    client.close()


def test_only_what_has_a_digest_may_be_redirected_out_of_tls(upstream: Upstream, authority: Path, store: Store) -> None:
    client = Client(Mirrors.parse(), ca_file=authority)
    with Upstream(FILES) as plain:
        upstream.plan = always(Fault(redirect=f"{plain.url}/x"))
        with pytest.raises(FetchError, match="redirects from https to http"):
            client.read(upstream.url + "/x")
        client.download(blob_of(upstream, "/x"), store, lambda _: None)
    assert store.read(sha256(b"over TLS")) == b"over TLS"
    client.close()
