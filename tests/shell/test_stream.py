"""The stream as a whole: it does nothing when cut short, it is clean shell, it fits old bash."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .stream import PARTS, stream

WHOLE = stream().encode()
SHELLCHECK = Path(__file__).parents[2] / ".venv" / "bin" / "shellcheck"


def run_cut(size: int, directory: Path) -> tuple[int, bytes, bytes]:
    """Feed the first bytes of the stream to a bash that finds no program at all."""
    done = subprocess.run(
        ["/bin/bash", "-s", "down", "--yes"],
        input=WHOLE[:size],
        capture_output=True,
        cwd=directory,
        env={"PATH": str(directory / "empty")},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def is_inert(size: int, directory: Path) -> bool:
    """Say whether a cut ran nothing: bash found the group unclosed, or no more than the comment on the first line."""
    _, out, err = run_cut(size, directory)
    ran_nothing = not err or b"unexpected end of file" in err or b"unexpected EOF" in err
    return not out and ran_nothing and b"not found" not in err and b"\nerror:" not in b"\n" + err


def cuts() -> list[int]:
    """Each byte of the head and of the tail, the end of every 25th line, and one byte into the next."""
    head, tail = range(400), range(len(WHOLE) - 100, len(WHOLE) - 2)
    ends = [m.end() for m in re.finditer(b"\n", WHOLE[:-3])][::25]
    return sorted({*head, *tail, *ends, *(end + 1 for end in ends)})


def test_cut_short_it_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        inert = list(pool.map(lambda size: is_inert(size, tmp_path), cuts()))
    live = [size for size, ok in zip(cuts(), inert) if not ok]
    assert not live, f"ran something when cut at {live[:5]}: …{WHOLE[max(0, live[0] - 60):live[0]]!r}"
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_no_byte_before_the_last_line_completes_a_command(tmp_path: Path) -> None:
    """Of all cuts at once: bash reads byte by byte and would start the first complete command that it sees.

    It is given all but the closing brace and left waiting for more: had any shorter piece been complete, it had run.
    """
    (tmp_path / "bin").mkdir()
    for name in ("id", "curl", "cat", "sed", "flock", "mkdir"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n: > {tmp_path}/ran-{name}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    pipe = subprocess.PIPE
    environment = {"PATH": str(tmp_path / "bin")}
    with subprocess.Popen(["/bin/bash", "-s", "down"], stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as bash:
        assert bash.stdin
        bash.stdin.write(WHOLE[:-2])
        bash.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            bash.wait(1)
        out, err = bash.communicate()
    assert (out, [p.name for p in tmp_path.iterdir()]) == (b"", ["bin"])
    assert b"unexpected end of file" in err
    assert bash.returncode == 2


def test_whole_but_without_its_last_line_end_it_runs() -> None:
    """The one cut that is complete; it must behave like the whole."""
    done = subprocess.run(["bash", "-s", "nonsense"], input=WHOLE[:-1], capture_output=True, check=False)
    assert done.returncode == 2
    assert b'there is no verb "nonsense"' in done.stderr


def test_shellcheck_is_silent_on_the_joined_stream(tmp_path: Path) -> None:
    (tmp_path / "deploy.sh").write_bytes(WHOLE)
    done = subprocess.run(
        [SHELLCHECK, "--exclude=SC2034", tmp_path / "deploy.sh"], capture_output=True, text=True, check=False
    )  # SC2034: settings that no part reads yet
    assert done.returncode == 0, done.stdout


def test_no_two_parts_define_the_same_name() -> None:
    """All parts share one name space, and of two functions of a name the later one silently wins."""
    names = re.findall(r"^([A-Za-z_0-9]+)\(\)|^([A-Z_0-9]+)=", "".join(p.read_text() for p in PARTS.glob("*.sh")), re.M)
    counted = Counter(function or constant for function, constant in names)
    assert [name for name, count in counted.items() if count > 1] == []
    assert len(counted) > 500


@pytest.mark.parametrize("part", sorted(PARTS.glob("*.sh")), ids=lambda p: p.name)
def test_a_part_defines_functions_and_constants_only(part: Path) -> None:
    """Sourcing it with an empty PATH must run no program and print nothing."""
    before = "STATE=/s E_ENVIRONMENT=7"
    done = subprocess.run(
        ["/bin/bash", "-euc", f"{before}; . {part}"], capture_output=True, env={"PATH": ""}, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(part.read_text().splitlines()) < 400


NEWER_THAN_BASH_4_2 = {
    r"\$\{[A-Za-z_]+@[A-Z]\}": "${x@Q} is bash 4.4",
    r"\b(local|declare) -n\b": "namerefs are bash 4.3",
    r"\bwait -n\b": "wait -n is bash 4.3",
    r"\bmapfile -d\b": "mapfile -d is bash 4.4",
    r"\bEPOCH(SECONDS|REALTIME)\b": "EPOCHSECONDS is bash 5",
    r"\"\$\{(fresh|pids|left|FAULTS|CAUTIONS|scopes)\[@\]\}\"": "an empty array is unbound before bash 4.4",
}


@pytest.mark.parametrize("pattern", NEWER_THAN_BASH_4_2)
def test_nothing_newer_than_bash_4_2(pattern: str) -> None:
    for part in PARTS.glob("*.sh"):
        for number, line in enumerate(part.read_text().splitlines(), 1):
            line = re.sub(r"(^|\s)#.*", "", line)
            # the guarded form of an array that may be empty: ${a[@]+"${a[@]}"}
            bare = re.sub(r'\$\{(\w+)\[@\]\+"\$\{\1\[@\]\}"\}', "", line)
            assert not re.search(pattern, bare), f"{part.name}:{number}: {NEWER_THAN_BASH_4_2[pattern]}"


NEWER_THAN_CURL_7_29 = ("--retry-connrefused", "--retry-all-errors", "--fail-with-body", "--parallel")


def test_nothing_newer_than_the_tools_of_el7() -> None:
    text = WHOLE.decode()
    for option in (*NEWER_THAN_CURL_7_29, "sort -V -C", "sync -d", "base64 --wrap"):
        assert option not in text, f"{option} is missing on EL7"


def test_no_pipe_ends_in_a_grep_that_stops_reading() -> None:
    """Under pipefail `cmd | grep -q` fails when it matches early, because cmd then dies of SIGPIPE."""
    for part in PARTS.glob("*.sh"):
        for number, line in enumerate(part.read_text().splitlines(), 1):
            assert not re.search(r"(?<!\|)\| *grep -\w*q", line), f"{part.name}:{number}: use a here-string"
