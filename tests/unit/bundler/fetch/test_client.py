import random
import socket
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from bundler.errors import FetchError, HostError, IntegrityError
from bundler.fetch import wire
from bundler.fetch.hosts import Hosts
from bundler.fetch.http import Blob, Client
from bundler.fetch.mirrors import Mirrors
from bundler.fetch.wire import Cancelled, shown
from bundler.store import Store
from tests.servers.faults import Fault, Upstream, always, first, on, sha256
from tests.unit.bundler.fetch.conftest import blob_of

DATA = random.Random(1).randbytes(900_000)
FILES = {"/big": DATA, "/small": b"hello\n", "/empty": b""}


def partial_of(store: Store, blob: Blob) -> Path:
    return store.root / "partial" / blob.sha256


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("known", [True, False])
def test_a_file_lands_in_the_store(client: Client, store: Store, path: str, known: bool) -> None:
    seen: list[int] = []
    with Upstream(FILES) as upstream:
        blob = blob_of(upstream, path, -1 if known else None)
        client.download(blob, store, seen.append)
        assert store.read(blob.sha256) == FILES[path]
        assert sum(seen) == len(FILES[path])
        client.download(blob, store, seen.append)
        assert upstream.sent(path) == len(FILES[path])
    assert list((store.root / "partial").iterdir()) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut=300_000),
        Fault(cut=300_000, reset=True),
        Fault(cut=0),
        Fault(undeclared=True, cut=300_000),
        Fault(status=500),
        Fault(status=503),
        Fault(status=429, retry_after="0"),
        Fault(no_answer=True),
        Fault(stall=1.5),
    ],
)
def test_what_passes_is_tried_again(client: Client, store: Store, fault: Fault) -> None:
    seen: list[int] = []
    with Upstream(FILES, first(fault, fault)) as upstream:
        blob = blob_of(upstream, "/big")
        client.download(blob, store, seen.append)
        assert store.read(blob.sha256) == DATA
        assert sum(seen) == len(DATA)
        assert len(upstream.requests("/big")) == 3


def test_after_a_cut_only_the_rest_is_asked_for(client: Client, store: Store) -> None:
    with Upstream(FILES, first(Fault(cut=300_000))) as upstream:
        client.download(blob_of(upstream, "/big"), store, lambda _: None)
        assert [(line.range, line.status) for line in upstream.log] == [("", 200), ("bytes=300000-899999", 206)]
        assert upstream.sent("/big") == len(DATA)


def test_a_later_run_goes_on_where_an_earlier_one_ended(client: Client, store: Store) -> None:
    with Upstream(FILES) as upstream:
        blob = blob_of(upstream, "/big")
        partial_of(store, blob).write_bytes(DATA[:123_456])
        seen: list[int] = []
        client.download(blob, store, seen.append)
        assert upstream.log[0].range == "bytes=123456-899999"
        assert sum(seen) == len(DATA)
        assert store.read(blob.sha256) == DATA


@pytest.mark.parametrize("known", [True, False])
def test_a_complete_partial_is_not_fetched_again(client: Client, store: Store, known: bool) -> None:
    with Upstream(FILES) as upstream:
        blob = blob_of(upstream, "/big", -1 if known else None)
        partial_of(store, blob).write_bytes(DATA)
        client.download(blob, store, lambda _: None)
        assert store.read(blob.sha256) == DATA
        assert upstream.sent("/big") == 0


@pytest.mark.parametrize("left", [b"other bytes" * 50, DATA + b"more", DATA[:1000] + b"?" * 1000])
def test_a_partial_of_something_else_is_thrown_away(client: Client, store: Store, left: bytes) -> None:
    with Upstream(FILES) as upstream:
        blob = blob_of(upstream, "/big")
        partial_of(store, blob).write_bytes(left)
        client.download(blob, store, lambda _: None)
        assert store.read(blob.sha256) == DATA


@pytest.mark.parametrize("fault", [Fault(ignore_range=True), Fault(wrong_range=True)])
def test_servers_that_cannot_resume_start_over(client: Client, store: Store, fault: Fault) -> None:
    seen: list[int] = []
    with Upstream(FILES, first(Fault(cut=300_000), fault)) as upstream:
        blob = blob_of(upstream, "/big")
        client.download(blob, store, seen.append)
        assert store.read(blob.sha256) == DATA
        assert sum(seen) == len(DATA)


def test_one_wrong_transfer_is_repeated_from_zero(client: Client, store: Store) -> None:
    with Upstream(FILES, first(Fault(flip=True))) as upstream:
        client.download(blob_of(upstream, "/big"), store, lambda _: None)
        assert [line.range for line in upstream.log] == ["", ""]
        assert store.read(sha256(DATA)) == DATA


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(flip=True), f"has sha256 [0-9a-f]{{64}} \\(900000 bytes\\), expected {sha256(DATA)}"),
        (Fault(longer=5), "is 900005 bytes, expected 900000"),
        (Fault(longer=-5), "is 899995 bytes, expected 900000"),
        (Fault(trailing=5), "sends more than its 900000 bytes"),
    ],
)
def test_a_server_that_lies_is_named(client: Client, store: Store, fault: Fault, words: str) -> None:
    with Upstream(FILES, always(fault)) as upstream:
        blob = blob_of(upstream, "/big")
        with pytest.raises(IntegrityError, match=f"{blob.url}: {words}"):
            client.download(blob, store, lambda _: None)
        assert not store.has(blob.sha256)
        assert not partial_of(store, blob).exists()
        assert len(upstream.log) == 2


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_what_is_gone_fails_at_once(client: Client, store: Store, status: int) -> None:
    with Upstream(FILES, always(Fault(status=status))) as upstream:
        blob = blob_of(upstream, "/big")
        with pytest.raises(FetchError, match=f"{blob.url}: HTTP status {status}") as caught:
            client.download(blob, store, lambda _: None)
        assert "--mirror" in caught.value.hint
        assert len(upstream.log) == 1


def test_errors_end_after_the_retries(client: Client) -> None:
    with Upstream(FILES, always(Fault(status=502))) as upstream:
        with pytest.raises(FetchError, match="HTTP status 502 \\(6 attempts\\)"):
            client.read(upstream.url + "/small")
        assert len(upstream.log) == 6


def test_a_transfer_that_gets_on_may_fail_often(client: Client, store: Store) -> None:
    data = random.Random(2).randbytes(12 << 20)
    with Upstream({"/f": data}, always(Fault(cut=(1 << 20) + 1))) as upstream:
        client.download(blob_of(upstream, "/f"), store, lambda _: None)
        assert len(upstream.log) == 12
        assert upstream.sent("/f") == len(data)


def test_retry_after_is_honoured(client: Client) -> None:
    for text_of in (lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)):
        text = text_of()
        with Upstream(FILES, first(Fault(status=429, retry_after=text))) as upstream:
            begun = time.monotonic()
            assert client.read(upstream.url + "/small") == b"hello\n"
            assert 0.9 < time.monotonic() - begun < 3.0


def test_a_trickle_counts_as_stuck(client: Client, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "WINDOW", 0.2)
    monkeypatch.setattr(wire, "SLOWEST", 10_000_000)
    with Upstream(FILES, first(Fault(slow=0.3))) as upstream:
        client.download(blob_of(upstream, "/big"), store, lambda _: None)
        assert store.read(sha256(DATA)) == DATA
        assert len(upstream.log) == 2


def test_an_hour_is_not_waited(client: Client) -> None:
    with (
        Upstream(FILES, always(Fault(status=429, retry_after="3600"))) as upstream,
        pytest.raises(FetchError, match=r"HTTP status 429 \(1 attempts\)"),
    ):
        client.read(upstream.url + "/small")


def test_reading_is_limited(client: Client) -> None:
    with Upstream(FILES) as upstream, pytest.raises(FetchError, match="larger than 1000 bytes"):
        client.read(upstream.url + "/big", limit=1000)


def test_redirects_are_followed_but_not_forever_nor_to_files(client: Client) -> None:
    with Upstream(FILES) as cdn:
        plan = on("/moved", always(Fault(redirect=cdn.url + "/small")))
        with Upstream(FILES, plan) as upstream:
            assert client.read(upstream.url + "/moved") == b"hello\n"
        with (
            Upstream(FILES, always(Fault(redirect="/loop"))) as upstream,
            pytest.raises(FetchError, match=r"/loop: more than 10 redirects"),
        ):
            client.read(upstream.url + "/loop")
        with (
            Upstream(FILES, always(Fault(redirect="file:///etc/passwd"))) as upstream,
            pytest.raises(FetchError, match="redirects to file"),
        ):
            client.read(upstream.url + "/small")


def test_a_mirror_is_asked_and_named(store: Store) -> None:
    with Upstream({"/proxy/bin/kubectl": DATA}, on("absent", always(Fault(status=404)))) as upstream:
        client = Client(Mirrors.parse([f"https://dl.k8s.io={upstream.url}/proxy"]))
        blob = Blob("kubectl", "https://dl.k8s.io/bin/kubectl", sha256(DATA), len(DATA))
        client.download(blob, store, lambda _: None)
        assert store.read(blob.sha256) == DATA
        wrong = Blob("kubectl", "https://dl.k8s.io/bin/kubectl", sha256(b"else"), len(DATA))
        with pytest.raises(IntegrityError, match=rf"https://dl.k8s.io/bin/kubectl \(asked at {upstream.url}/proxy/"):
            client.download(wrong, store, lambda _: None)
        client.close()


def test_a_folder_can_be_a_mirror(tmp_path: Path, store: Store) -> None:
    (tmp_path / "usb disk" / "bin").mkdir(parents=True)
    (tmp_path / "usb disk" / "bin" / "kubectl").write_bytes(DATA)
    client = Client(Mirrors.parse([f"dl.k8s.io={tmp_path}/usb disk"]))
    blob = Blob("kubectl", "https://dl.k8s.io/bin/kubectl", sha256(DATA), len(DATA))
    partial_of(store, blob).write_bytes(DATA[:5000])
    client.download(blob, store, lambda _: None)
    assert store.read(blob.sha256) == DATA
    with pytest.raises(FetchError, match="404"):
        client.read("https://dl.k8s.io/bin/absent")


def test_refused_connections_fail_fast_and_once_for_all_workers(store: Store) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        client = Client(Mirrors.parse())
        begun = time.monotonic()
        errors: list[FetchError] = []

        def read() -> None:
            with pytest.raises(FetchError) as caught:
                client.read(f"http://127.0.0.1:{port}/x")
            errors.append(caught.value)

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - begun < 4
    assert {error.message for error in errors} == {f"127.0.0.1:{port} cannot be reached: Connection refused"}
    assert "--mirror FROM=TO" in errors[0].hint and len(errors) == 8


def test_a_resolver_that_hangs_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(2) or [])
    client = Client(Mirrors.parse(), hosts=Hosts(deadline=0.3))
    begun = time.monotonic()
    with pytest.raises(FetchError, match="no-such-host.example:443 cannot be reached: no answer within"):
        client.read("https://no-such-host.example/x")
    assert time.monotonic() - begun < 1.5


def test_a_name_that_does_not_resolve_is_named() -> None:
    client = Client(Mirrors.parse(), hosts=Hosts(deadline=5, pause=0.01))
    with pytest.raises(FetchError, match="no-such-host.invalid:443 cannot be reached: .*(known|resol)"):
        client.read("https://no-such-host.invalid/x")


def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Upstream({"/x": b"through the proxy"}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        client = Client(Mirrors.parse())
        assert client.read("http://upstream.invalid/x") == b"through the proxy"
        client.close()


def test_an_absent_certificate_file_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no such certificate file"):
        Client(Mirrors.parse(), ca_file=tmp_path / "ca.pem")


def test_cancelling_ends_what_is_under_way(client: Client, store: Store) -> None:
    with Upstream(FILES, always(Fault(stall=30.0))) as upstream:
        ended: list[BaseException] = []

        def download() -> None:
            with pytest.raises(Cancelled) as caught:
                client.download(blob_of(upstream, "/big"), store, lambda _: None)
            ended.append(caught.value)

        thread = threading.Thread(target=download)
        thread.start()
        time.sleep(0.3)
        client.cancel()
        thread.join(0.5)
        assert ended


@pytest.mark.parametrize("url", ["http://user:secret@h:1/p?X-Signature=secret#secret", "http://h:1/p"])
def test_printed_urls_have_no_secrets(url: str) -> None:
    assert shown(url) == "http://h:1/p"


@pytest.mark.parametrize("url", ["http://[::1/x", "http:///x", "nothing", "http://127.0.0.1:99999/x"])
def test_what_is_no_url_is_a_fetch_error(client: Client, url: str) -> None:
    with pytest.raises(FetchError):
        client.read(url)
