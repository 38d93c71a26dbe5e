"""Members are fetched, resumed, checked, and never used unchecked: against a real server with real faults."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .server import Members, serving
from .stream import Shell, sha256

BIG = os.urandom(300_000)
FILES = {"packages/el7/a.rpm": BIG, "lists/images": b"x\n", **{f"bin/{n}": bytes([n]) * n * 1000 for n in range(1, 20)}}


@pytest.fixture
def server() -> Iterator[Members]:
    with serving(FILES) as members:
        yield members


@pytest.fixture
def node(server: Members, tmp_path: Path) -> Shell:
    return Shell(tmp_path, server.settings)


def cached(node: Shell, path: str) -> bytes | None:
    file = node.state / "cache" / path
    return file.read_bytes() if file.exists() else None


def test_every_member_arrives_in_parallel_and_verified(node: Shell) -> None:
    node.out(f"fetch_sums; fetch {' '.join(FILES)}")
    assert {path: cached(node, path) for path in FILES} == FILES
    assert list((node.state / "cache" / "part").iterdir()) == []


def test_a_second_run_asks_only_for_the_list(node: Shell, server: Members) -> None:
    node.out(f"fetch_sums; fetch {' '.join(FILES)}")
    server.asked.clear()
    node.out(f"fetch_sums; fetch {' '.join(FILES)}")
    assert server.asked == [("SHA256SUMS", "")]


def test_a_damaged_cached_member_is_fetched_again(node: Shell) -> None:
    node.out("fetch_sums; fetch lists/images")
    (node.state / "cache/lists/images").write_bytes(b"y\n")
    node.out("fetch lists/images")
    assert cached(node, "lists/images") == b"x\n"


def test_a_flipped_byte_is_named_and_ends_with_6(node: Shell, server: Members) -> None:
    server.files["packages/el7/a.rpm"] = BIG[:-1] + bytes([BIG[-1] ^ 1])
    done = node.run("fetch_sums; fetch packages/el7/a.rpm lists/images")
    assert done.returncode == 6
    assert "packages/el7/a.rpm: its sha256 is not" in done.stderr
    assert cached(node, "packages/el7/a.rpm") is None
    assert list((node.state / "cache/part").iterdir()) == []


def test_another_list_than_deploy_sh_expects_ends_with_6(node: Shell, server: Members) -> None:
    server.files["SHA256SUMS"] += b"0" * 64 + b"  extra\n"
    done = node.run("fetch_sums")
    assert done.returncode == 6
    assert "SHA256SUMS" in done.stderr
    assert "fetch deploy.sh again" in done.stderr
    assert not (node.state / "cache/SHA256SUMS").exists()


def test_a_path_that_is_no_member_ends_with_6(node: Shell, server: Members) -> None:
    server.files["stray"] = b"unlisted"
    done = node.run("fetch_sums; fetch stray")
    assert done.returncode == 6
    assert "stray is not in SHA256SUMS" in done.stderr


def test_a_cut_transfer_goes_on_where_it_stopped(node: Shell, server: Members) -> None:
    server.cut["packages/el7/a.rpm"] = 100_000
    node.out("fetch_sums; fetch packages/el7/a.rpm")
    assert [r for p, r in server.asked if p.endswith("a.rpm")] == ["", "bytes=100000-"]
    assert cached(node, "packages/el7/a.rpm") == BIG


def test_a_part_of_an_earlier_run_is_resumed(node: Shell, server: Members) -> None:
    part = node.state / "cache/part" / (sha256(BIG) + ".packages%el7%a.rpm")
    part.parent.mkdir(parents=True)
    part.write_bytes(BIG[:250_000])
    node.out("fetch_sums; fetch packages/el7/a.rpm")
    assert ("packages/el7/a.rpm", "bytes=250000-") in server.asked


def test_a_damaged_part_is_given_up_and_fetched_anew(node: Shell, server: Members) -> None:
    part = node.state / "cache/part" / (sha256(BIG) + ".packages%el7%a.rpm")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\0" * 250_000)
    node.out("fetch_sums; fetch packages/el7/a.rpm")
    assert cached(node, "packages/el7/a.rpm") == BIG


def test_a_part_longer_than_the_member_is_given_up(node: Shell) -> None:
    part = node.state / "cache/part" / (sha256(b"x\n") + ".lists%images")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"far too long")
    node.out("fetch_sums; fetch lists/images")
    assert cached(node, "lists/images") == b"x\n"


def test_a_server_in_trouble_is_asked_again(node: Shell, server: Members) -> None:
    server.fail["lists/images"] = 2
    node.out("fetch_sums; fetch lists/images")
    assert [p for p, _ in server.asked].count("lists/images") == 3


def test_what_the_server_does_not_have_is_not_waited_for(node: Shell, server: Members) -> None:
    del server.files["lists/images"]
    done = node.run("fetch_sums; fetch lists/images", timeout=5)
    assert done.returncode == 5
    assert "lists/images could not be fetched (curl code 22, HTTP 404)" in done.stderr


def test_no_server_ends_with_5_and_says_what_to_check(tmp_path: Path) -> None:
    node = Shell(tmp_path, {"SERVER": "http://127.0.0.1:9"})
    done = node.run('get_patiently() { get "$1" "$2"; }; fetch_sums')  # without the patience
    assert done.returncode == 5
    assert "http://127.0.0.1:9/SHA256SUMS could not be fetched" in done.stderr
    assert "curl http://127.0.0.1:9/healthz" in done.stderr


def test_a_full_disk_ends_with_7_at_once_and_blames_no_server(node: Shell, server: Members) -> None:
    """/dev/full refuses every byte, as a full disk does."""
    part = node.state / "cache/part" / (sha256(BIG) + ".packages%el7%a.rpm")
    node.out(f"fetch_sums; ln -s /dev/full {part}")
    done = node.run("fetch packages/el7/a.rpm lists/images")
    assert done.returncode == 7
    assert "MiB are free there" in done.stderr
    assert "server" not in done.stderr
    assert [path for path, _ in server.asked].count("packages/el7/a.rpm") == 1


def test_a_member_that_cannot_be_put_in_place_is_no_success(node: Shell) -> None:
    node.out("fetch_sums")
    (node.state / "cache/packages").write_text("in the way")
    assert node.run("fetch packages/el7/a.rpm").returncode == 7


def test_the_server_is_never_asked_through_a_proxy(node: Shell) -> None:
    done = node.run("fetch_sums; fetch lists/images", env={"http_proxy": "http://127.0.0.1:9"})
    assert done.returncode == 0, done.stderr


def test_a_server_that_comes_back_is_waited_for(tmp_path: Path) -> None:
    with serving(FILES) as first:
        settings, port = first.settings, first.server_port
    node = Shell(tmp_path, settings)
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "late").write_text("back")
    later = f"(sleep 1; exec python3 -m http.server --bind 127.0.0.1 -d {tmp_path}/www {port}) >/dev/null 2>&1 &"
    done = node.run(f'{later} get_patiently $SERVER/late $STATE/tmp/late 20; kill $!; cat "$STATE/tmp/late"')
    assert done.stdout == "back"


def both(first: str, second: Members, tmp_path: Path) -> Shell:
    return Shell(tmp_path, {**second.settings, "SERVER": first, "SERVERS": second.settings["SERVER"]})


def test_a_server_that_is_gone_is_left_for_the_next(server: Members, tmp_path: Path) -> None:
    node = both("http://127.0.0.1:9", server, tmp_path)
    node.out(f"fetch_sums; fetch {' '.join(FILES)}")
    assert {path: cached(node, path) for path in FILES} == FILES
    assert "http://127.0.0.1:9 fails: going on with" in node.log.read_text()


def test_a_server_that_fails_midway_is_left_and_the_part_kept(server: Members, tmp_path: Path) -> None:
    with serving(FILES) as first:
        node = both(first.settings["SERVER"], server, tmp_path)
        first.cut["packages/el7/a.rpm"] = 100_000
        node.out("fetch_sums; fetch packages/el7/a.rpm")
        assert [r for p, r in first.asked if p.endswith("a.rpm")] == [""]
        assert server.asked == [("packages/el7/a.rpm", "bytes=100000-")]
        assert cached(node, "packages/el7/a.rpm") == BIG


def test_what_one_server_lacks_another_may_have(server: Members, tmp_path: Path) -> None:
    with serving(FILES) as first:
        del first.files["lists/images"]
        node = both(first.settings["SERVER"], server, tmp_path)
        node.out("fetch_sums; fetch lists/images")
        del server.files["lists/images"]
        (node.state / "cache/lists/images").unlink()
        assert node.run("fetch_sums; fetch lists/images", timeout=5).returncode == 5


def test_containerd_is_told_of_every_server_the_living_one_first(server: Members, tmp_path: Path) -> None:
    server.files["healthz"] = b"ok"
    node = both("http://127.0.0.1:9", server, tmp_path)
    alive = server.settings["SERVER"]
    table = '\n[host."{}"]\n  capabilities = ["pull", "resolve"]\n'
    told = node.out("living_server; registry_hosts")
    assert told == f'server = "{alive}"\n' + table.format(alive) + table.format("http://127.0.0.1:9")
    assert node.run('SERVER=http://127.0.0.1:9 SERVERS=http://127.0.0.1:8; living_server').returncode == 1
