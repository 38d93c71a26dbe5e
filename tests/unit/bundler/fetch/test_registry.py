import base64
import json
import os
from pathlib import Path

import pytest

from bundler.errors import FetchError, HostError, IntegrityError, ManifestError
from bundler.fetch.auth import Credentials, Login
from bundler.fetch.hosts import Hosts
from bundler.fetch.http import Client
from bundler.fetch.mirrors import Mirrors
from bundler.fetch.registry import OCI_INDEX, OCI_MANIFEST, Reference, Registry
from bundler.store import Store
from tests.servers.faults import Fault, Images, Upstream, always, first, on, sha256

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.33", "docker.io/library/busybox:1.33"),
        ("grafana/grafana:7.3.7", "docker.io/grafana/grafana:7.3.7"),
        ("index.docker.io/library/busybox:1", "docker.io/library/busybox:1"),
        ("k8s.gcr.io/pause:3.2", "k8s.gcr.io/pause:3.2"),
        ("localhost/x", "localhost/x:latest"),
        ("127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t"),
        ("[::1]:5000/a:t", "[::1]:5000/a:t"),
        (f"quay.io/a/b@sha256:{HEX}", f"quay.io/a/b@sha256:{HEX}"),
        (f"quay.io/a/b:v1@sha256:{HEX}", f"quay.io/a/b:v1@sha256:{HEX}"),
    ],
)
def test_references_as_docker_reads_them(text: str, spelled: str) -> None:
    assert str(Reference.parse(text)) == spelled
    assert Reference.parse(spelled) == Reference.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A/b",
        "a b",
        "a:",
        "a:t:u",
        "a@",
        "a@sha256:12",
        f"a@md5:{HEX}",
        "-x.io/a",
        "a//b",
        "a/../b",
        "k8s.gcr.io/",
        ":t",
    ],
)
def test_what_is_no_reference_is_named(text: str) -> None:
    with pytest.raises(ManifestError, match="not an image reference"):
        Reference.parse(text)


def registry_of(upstream: Upstream, credentials: "Credentials | None" = None) -> Registry:
    mirrors = Mirrors.parse([f"k8s.gcr.io={upstream.url}"])
    return Registry(Client(mirrors, backoff=0.001, timeout=1.0, hosts=Hosts(pause=0.01)), credentials)


@pytest.fixture
def images() -> Images:
    images = Images()
    children = {f"linux/{arch}": images.image("pause", [arch.encode() * 999], arch) for arch in ("amd64", "arm64")}
    images.index("pause", children, "3.2")
    return images


PAUSE = Reference.parse("k8s.gcr.io/pause:3.2")


def test_a_manifest_by_tag_and_by_digest(images: Images) -> None:
    with Upstream(images.files, types=images.types) as upstream:
        registry = registry_of(upstream)
        by_tag = registry.manifest(PAUSE)
        assert by_tag.digest == f"sha256:{sha256(by_tag.body)}" and by_tag.media_type == OCI_INDEX
        assert registry.manifest(PAUSE.at(by_tag.digest)) == by_tag
        head = registry.manifest(PAUSE, head=True)
        assert (head.body, head.media_type, head.digest) == (b"", OCI_INDEX, by_tag.digest)
        assert [line.method for line in upstream.log] == ["GET", "GET", "HEAD"]


def test_a_manifest_that_lies_is_an_integrity_error(images: Images) -> None:
    with (
        Upstream(images.files, always(Fault(flip=True)), images.types) as upstream,
        pytest.raises(IntegrityError, match=r"k8s.gcr.io/pause:3.2 \(http.*has digest sha256:.*expected sha256:"),
    ):
        registry_of(upstream).manifest(PAUSE)
    with Upstream(images.files, first(Fault(flip=True)), images.types) as upstream:
        assert registry_of(upstream).manifest(PAUSE).media_type == OCI_INDEX


def test_a_missing_tag_is_a_fetch_error(images: Images) -> None:
    with (
        Upstream(images.files) as upstream,
        pytest.raises(FetchError, match="/v2/pause/manifests/9.9: HTTP status 404"),
    ):
        registry_of(upstream).manifest(Reference.parse("k8s.gcr.io/pause:9.9"))


def test_schema_1_is_refused(images: Images) -> None:
    images.manifest("old", b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", "1")
    with Upstream(images.files, types=images.types) as upstream, pytest.raises(FetchError, match="schema 1"):
        registry_of(upstream).manifest(Reference.parse("k8s.gcr.io/old:1"))


def test_tokens_are_fetched_once_and_renewed_when_they_expire(images: Images, store: Store) -> None:
    with Upstream(images.files, types=images.types, token_uses=3) as upstream:
        registry = registry_of(upstream)
        index = registry.manifest(PAUSE)
        for child in json.loads(index.body)["manifests"]:
            manifest = json.loads(registry.manifest(PAUSE.at(child["digest"])).body)
            for part in [manifest["config"], *manifest["layers"]]:
                registry.client.download(registry.blob(PAUSE, part["digest"], part["size"]), store, lambda _: None)
        answers = [line.status for line in upstream.log if line.path != "/token"]
        assert answers.count(200) == 7 and answers.count(401) == 3
        assert len(upstream.requests("/token")) == 3


def test_a_token_server_is_logged_in_to(images: Images) -> None:
    login = "Basic " + base64.b64encode(b"user:pass:word").decode()
    with Upstream(images.files, types=images.types, token_uses=9, basic=login) as upstream:
        config = {"auths": {upstream.host: {"auth": login.removeprefix("Basic ")}}}
        assert registry_of(upstream, Credentials(config)).manifest(PAUSE).media_type == OCI_INDEX
        assert [line.authorization[:6] for line in upstream.log] == ["", "Basic ", "Bearer"]
        with pytest.raises(FetchError, match="/token: HTTP status 401") as caught:
            registry_of(upstream).manifest(PAUSE)
        assert "login" in caught.value.hint


def test_an_identity_token_is_posted_and_never_shown(images: Images) -> None:
    with Upstream(images.files, types=images.types, token_uses=9) as upstream:
        config = {"auths": {upstream.host: {"identitytoken": "secret-token"}}}
        assert registry_of(upstream, Credentials(config)).manifest(PAUSE).media_type == OCI_INDEX
        assert [line.method for line in upstream.log] == ["GET", "POST", "GET"]
    with Upstream(images.files, on("token", always(Fault(status=403))), images.types, token_uses=9) as upstream:
        config = {"auths": {upstream.host: {"identitytoken": "secret-token"}}}
        with pytest.raises(FetchError, match="/token: HTTP status 403") as caught:
            registry_of(upstream, Credentials(config)).manifest(PAUSE)
        assert "secret" not in caught.value.message + caught.value.hint


def test_basic_authentication_without_tokens(images: Images) -> None:
    login = "Basic " + base64.b64encode(b"user:word").decode()
    with Upstream(images.files, types=images.types, basic=login) as upstream:
        config = {"auths": {f"https://{upstream.host}/v1/": {"username": "user", "password": "word"}}}
        assert registry_of(upstream, Credentials(config)).manifest(PAUSE).media_type == OCI_INDEX
        config = {"auths": {upstream.host: {"username": "user", "password": "secret-word"}}}
        with pytest.raises(FetchError, match="HTTP status 401") as caught:
            registry_of(upstream, Credentials(config)).manifest(PAUSE)
        assert "secret-word" not in str(caught.value) + caught.value.hint


def test_credentials_do_not_follow_a_redirect_to_another_host(images: Images, store: Store) -> None:
    login = "Basic " + base64.b64encode(b"user:word").decode()
    layer = images.blob("pause", b"layer")
    path = f"/v2/pause/blobs/{layer['digest']}"
    with Upstream(images.files) as cdn:
        redirect = on("/blobs/", always(Fault(redirect=f"{cdn.url}{path}?signature=1")))
        with Upstream(images.files, redirect, images.types, basic=login) as upstream:
            config = {"auths": {upstream.host: {"username": "user", "password": "word"}}}
            registry = registry_of(upstream, Credentials(config))
            registry.client.download(registry.blob(PAUSE, layer["digest"], 5), store, lambda _: None)
            assert [line.authorization for line in upstream.log] == ["", login]
            assert [line.authorization for line in cdn.log] == [""]
    assert store.read(sha256(b"layer")) == b"layer"


def test_a_mirror_never_gets_the_login_of_the_upstream(images: Images) -> None:
    config = {"auths": {"k8s.gcr.io": {"username": "user", "password": "word"}}}
    with Upstream(images.files, types=images.types, basic="Basic x") as upstream:
        with pytest.raises(FetchError, match="401"):
            registry_of(upstream, Credentials(config)).manifest(PAUSE)
        assert {line.authorization for line in upstream.log} == {""}


def test_a_blob_must_be_named_by_sha256(images: Images) -> None:
    with Upstream(images.files) as upstream, pytest.raises(IntegrityError, match="no sha256 digest"):
        registry_of(upstream).blob(PAUSE, "sha512:00", 1)


def test_the_docker_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert Credentials.load().find("quay.io") is None
    auth = base64.b64encode(b"me:it").decode()
    auths = {"https://index.docker.io/v1/": {"auth": auth}, "quay.io": {"identitytoken": "tok", "auth": auth}, "e": {}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    credentials = Credentials.load()
    assert credentials.find("registry-1.docker.io") == Login("me", "it")
    assert credentials.find("quay.io") == Login("me", "it", "tok")
    assert credentials.find("e") is None and credentials.find("io") is None
    assert "it" not in repr(credentials.find("quay.io")).replace("identity", "")


@pytest.mark.parametrize("text", ["{", "[]", '{"auths"'])
def test_a_broken_docker_configuration_is_named_but_not_quoted(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(HostError, match=str(tmp_path / "config.json")):
        Credentials.load(tmp_path / "config.json")


def test_credential_helpers_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-lab"
    helper.write_text(
        '#!/bin/sh\nread -r host\n[ "$host" = quay.io ] || exit 1\necho \'{"Username":"u","Secret":"s"}\'\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for config in ({"credHelpers": {"quay.io": "lab"}}, {"credsStore": "lab"}):
        assert Credentials(config).find("quay.io") == Login("u", "s")
        assert Credentials(config).find("gcr.io") is None
    assert Credentials({"credsStore": "absent"}).find("quay.io") is None
    assert Credentials({"credHelpers": {"quay.io": "../x"}}).find("quay.io") is None


def test_the_type_of_a_plain_image(images: Images) -> None:
    images.image("solo", [b"layer"], tag="1")
    with Upstream(images.files, types=images.types) as upstream:
        assert registry_of(upstream).manifest(Reference.parse("k8s.gcr.io/solo:1")).media_type == OCI_MANIFEST
