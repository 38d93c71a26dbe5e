"""The command line as a user meets it: exit codes, one line and a hint, no traceback."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from installer import address
from installer.bundle import open_bundle
from installer.cli import main
from installer.errors import HostError, UsageError
from installer.nodescript import NodeScript
from installer.progress import Progress, human
from installer.serve import instructions
from installer.server.loop import url_of
from tests.bundles import add_image, complete, make_bundle, write_tar


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    members = {"lists/el7/master.packages": b"packages/el7/a.rpm\npackages/el7/b.rpm\n"}
    image = add_image(members, "k8s.gcr.io/pause:3.2", [b"layer"])
    hosts = {
        "el7": {"format": "rpm", "path": "packages/el7", "keys": [], "roles": {"master": "lists/el7/master.packages"}}
    }
    addons = [{"name": "flannel", "version": "0.13.0", "kind": "network", "manifests": []}]
    return make_bundle(tmp_path / "b.tar", members, [image], hosts=hosts, addons=addons)


def test_verify(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(bundle)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{bundle}: ok, 6 files")
    assert "/s, " in err
    assert main(["verify", "--json", str(bundle)]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_inspect(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "release 1.20 (Kubernetes v1.20.2), amd64" in text
    assert "packages  el7 (rpm): master 2" in text
    assert "image     k8s.gcr.io/pause:3.2 sha256:" in text
    assert "add-on    flannel 0.13.0 (network)" in text
    assert main(["inspect", str(bundle), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["hosts"][0]["roles"] == {"master": 2}
    assert facts["images"][0]["ref"] == "k8s.gcr.io/pause:3.2"


def test_inspect_shows_the_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    role = {"packages": 36, "spare": [], "assumed": ["libc.so.6"]}
    proven = {"roles": {"el7": {"node": role}}, "images": [{"ref": "a", "by": []}]}
    proof = json.dumps({"schema": 1, "wanted": {}, "proven": proven}).encode()
    path = str(make_bundle(tmp_path / "p.tar", {"closure.json": proof, "charts/a-1.0.0.tgz": b""}))
    assert main(["inspect", path]) == 0
    text = capsys.readouterr().out
    assert "el7 node: 36 packages install from the bundle alone, 1 capabilities of the host assumed\n" in text
    assert "proven    1 images whole\n" in text
    assert "chart     charts/a-1.0.0.tgz\n" in text
    assert main(["inspect", "--json", path]) == 0
    assert json.loads(capsys.readouterr().out)["closure"]["roles"][0]["packages"] == 36
    broken = str(make_bundle(tmp_path / "q.tar", {"closure.json": b"{}"}))
    assert main(["inspect", broken]) == 6
    assert "closure.json is not what" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nope"],
        ["serve"],
        ["serve", "x", "--port", "99999"],
        ["serve", "x", "--port", "x"],
        ["serve", "x", "--workers", "0"],
        ["verify", "x", "--bogus"],
    ],
)
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert "usage:" in capsys.readouterr().err


def test_failures_are_one_line_and_a_hint(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = complete({"a": b"x"})
    whole["a"] = b"y"
    damaged = write_tar(tmp_path / "bad.tar", whole)
    image = {
        "ref": "a.io/x:1",
        "digest": "sha256:" + "1" * 64,
        "mediaType": "",
        "size": 1,
        "platforms": [],
        "roles": [],
    }
    lacking = make_bundle(tmp_path / "lacking.tar", {}, [image])
    cases = [
        (["serve", str(lacking), "--bind", "127.0.0.1", "--port", "0"], 6, "no images/blobs/sha256/1111"),
        (["verify", str(tmp_path / "none")], 2, "no such file"),
        (["verify", str(damaged)], 6, "a: has sha256"),
        (["serve", str(damaged), "--port", "0"], 6, "a: has sha256"),
        (["verify", str(bundle), "--key", str(bundle)], 6, "is not signed"),
        (["serve", str(bundle), "--bind", "nonsense"], 2, "not an IP address"),
        (["serve", str(bundle), "--bind", "192.0.2.1"], 7, "not an address of this machine"),
        (["serve", str(bundle), "--advertise", "ftp://x"], 2, "not an URL"),
        (["serve", str(bundle), "--access-log", str(tmp_path / "no/dir")], 7, "No such file"),
    ]
    for arguments, code, message in cases:
        assert main(arguments) == code, arguments
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("verifying")]
        assert len(lines) == 2, lines
        assert lines[0].startswith("installer: ") and message in lines[0]
        assert lines[1].startswith("hint: ")


def test_unexpected_errors_have_no_traceback(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("installer.cli.open_bundle", lambda *_: 1 // 0)
    monkeypatch.delenv("KUBECARRY_DEBUG", raising=False)
    assert main(["verify", str(bundle)]) == 1
    assert (
        capsys.readouterr().err.splitlines()[0]
        == "installer: unexpected ZeroDivisionError: integer division or modulo by zero"
    )


def test_a_closed_pipe_is_no_crash(bundle: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "installer", "inspect", str(bundle)],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    os.close(write)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=f"port {port} on 127.0.0.1 is taken") as caught:
            address.bind("127.0.0.1", port)
    assert "ss -ltnp" in caught.value.hint
    assert caught.value.exit_code == 7


def test_addresses() -> None:
    assert "127.0.0.1" in address.local_ipv4()
    with pytest.raises(UsageError):
        address.bind("host.name", 0)
    with address.bind("127.0.0.1", 0) as sock:
        assert address.reachable(sock) == [sock.getsockname()]
    with address.bind("0.0.0.0", 0) as sock:
        found = address.reachable(sock)
        assert found and all(port == sock.getsockname()[1] for _, port in found)
    with address.bind("[::1]", 0) as sock:
        assert address.reachable(sock)[0][0] == "::1"
    assert url_of(("::ffff:10.0.0.1", 80, 0, 0)) == "http://10.0.0.1:80"
    assert url_of(("fd00::1", 80, 0, 0)) == "http://[fd00::1]:80"


def test_the_printed_lines_run_what_they_pin(bundle: Path, tmp_path: Path) -> None:
    opened = open_bundle(str(bundle))
    script = NodeScript(opened)
    text = instructions(opened, script, ["http://10.0.0.1:8000"])
    assert "  curl -fsSL http://10.0.0.1:8000/deploy.sh | bash -s master\n" in text
    (pinned,) = [line for line in text.splitlines() if "sha256sum -c" in line and line.endswith("deploy.sh master")]
    served = tmp_path / "served"
    served.write_bytes(script.render("http://10.0.0.1:8000"))
    offline = pinned.replace("curl -fsSL http://10.0.0.1:8000/deploy.sh -o deploy.sh", f"cp {served} deploy.sh")
    done = subprocess.run(["bash", "-c", offline], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "deploy.sh: OK\nhttp://10.0.0.1:8000\nmaster\n"
    served.write_bytes(served.read_bytes() + b"\n")
    done = subprocess.run(["bash", "-c", offline], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "10.0.0.1" not in done.stdout


def test_progress_is_plain_without_a_terminal() -> None:
    stream = io.StringIO()
    progress = Progress("verifying", 2048, stream)
    progress.add(2048)
    progress.finish()
    assert stream.getvalue().startswith("verifying: 2.0 KiB of 2.0 KiB, ")
    assert "\r" not in stream.getvalue()
    assert [human(0), human(1536), human(5 << 30), human(3 << 40)] == ["0 B", "1.5 KiB", "5.0 GiB", "3.0 TiB"]


def test_progress_rewrites_one_line_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("installer.progress._TERMINAL_SECONDS", 0)
    stream = Terminal()
    progress = Progress("verifying", 4096, stream)
    progress.add(1024)
    progress.add(1024)
    progress.finish()
    assert stream.getvalue().count("\r\x1b[K") == 3
    assert stream.getvalue().count("\n") == 1
    assert " s left" in stream.getvalue()
