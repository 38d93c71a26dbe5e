"""deploy.sh: the parts and settings of a bundle in one stream that runs whole or not at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from installer.bundle import open_bundle
from installer.errors import IntegrityError
from installer.nodescript import NodeScript, assignments
from tests.bundles import complete, make_bundle, write_tar

SERVER = "http://10.77.0.1:8000"
NASTY = 'it\'s $(touch pwned) `x` \\ "quoted"\nsecond\tline; exit 3'


def script(tmp_path: Path, parts: dict[str, bytes], **node: str) -> NodeScript:
    return NodeScript(open_bundle(str(make_bundle(tmp_path / "b.tar", parts, node=node))))


def bash(data: bytes, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["bash", "-s", *arguments], input=data, capture_output=True, cwd=cwd)


def test_parts_join_in_the_order_of_their_names(tmp_path: Path) -> None:
    made = script(
        tmp_path,
        {
            "installer/node/90-main.sh": b'main() { greet "$@"; }',
            "installer/node/10-log.sh": b'greet() { echo "$RELEASE $SERVER $*"; }\n',
            "installer/node/README.txt": b"not a part",
        },
        RELEASE="1.20",
    ).render(SERVER)
    assert made.startswith(b"#!/usr/bin/env bash\n{\nSERVER='http://10.77.0.1:8000'\nSUMS_SHA256='")
    done = bash(made, "master", "two words")
    assert (done.returncode, done.stdout) == (0, b"1.20 http://10.77.0.1:8000 master two words\n")


def test_values_reach_the_shell_unchanged(tmp_path: Path) -> None:
    made = script(tmp_path, {"installer/node/1.sh": b'main() { printf %s "$VALUE"; }'}, VALUE=NASTY).render(SERVER)
    assert bash(made, cwd=tmp_path).stdout == NASTY.encode()
    assert not (tmp_path / "pwned").exists()


def test_the_exit_code_is_that_of_main(tmp_path: Path) -> None:
    made = script(tmp_path, {"installer/node/1.sh": b"main() { return 7; }"}).render(SERVER)
    assert bash(made + b"\necho after\n").returncode == 7
    assert bash(made + b"\necho after\n").stdout == b""


def test_cut_anywhere_it_runs_nothing(tmp_path: Path) -> None:
    made = script(tmp_path, {"installer/node/1.sh": b"main() { echo ran; }\n"}, RELEASE="1").render(SERVER)
    body = made.rstrip(b"\n")
    for size in range(len(body)):
        assert bash(body[:size]).stdout == b"", size
    assert bash(body).stdout == b"ran\n"


def test_it_can_be_sourced_without_running(tmp_path: Path) -> None:
    (tmp_path / "deploy.sh").write_bytes(
        script(tmp_path, {"installer/node/1.sh": b"main() { echo ran; }"}).render(SERVER)
    )
    done = subprocess.run(
        ["bash", "-c", "DEPLOY_SOURCED=1; . ./deploy.sh; echo sourced; main"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "sourced\nran\n"


def test_the_digest_is_that_of_the_script(tmp_path: Path) -> None:
    made = script(tmp_path, {})
    assert made.digest(SERVER) == hashlib.sha256(made.render(SERVER)).hexdigest()
    assert made.render(SERVER) == made.render(SERVER) != made.render("http://10.77.0.2:8000")


def test_the_sums_are_pinned_and_the_server_cannot_be_overridden(tmp_path: Path) -> None:
    made = script(tmp_path, {}, SERVER="http://evil", SUMS_SHA256="0").render(SERVER).decode()
    sums = hashlib.sha256(open_bundle(str(tmp_path / "b.tar")).read("SHA256SUMS")).hexdigest()
    assert f"SUMS_SHA256='{sums}'" in made
    assert "evil" not in made


def test_wrong_names_are_refused() -> None:
    for name in ("lower", "A B", "A=1;B", "", "1A", "A\n"):
        with pytest.raises(IntegrityError, match="not a setting"):
            assignments({name: "x"})


def test_parts_that_are_missing_or_damaged_are_refused(tmp_path: Path) -> None:
    whole = complete({"a": b""})
    contract = json.loads(whole["bundle.json"])
    del whole["installer/node/10-main.sh"]
    contract["files"] = [entry for entry in contract["files"] if not entry["path"].startswith("installer/")]
    whole["bundle.json"] = json.dumps(contract).encode()
    with pytest.raises(IntegrityError, match=r"no deploy\.sh"):
        NodeScript(open_bundle(str(write_tar(tmp_path / "a.tar", whole))))
    path = make_bundle(tmp_path / "b.tar", {"installer/node/1.sh": b"main() { :; }"})
    path.write_bytes(path.read_bytes().replace(b"main() { :; }", b"main() { x; }"))
    with pytest.raises(IntegrityError, match=r"installer/node/1\.sh differs"):
        NodeScript(open_bundle(str(path)))
