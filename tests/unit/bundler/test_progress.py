import io

import pytest

from bundler.progress import Progress, amount, running


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_without_a_terminal() -> None:
    out = io.StringIO()
    with Progress(out, every=0.0) as progress:
        progress.stage("download", 2_000_000)
        with progress.task("kubelet"):
            progress.advance(500_000)
        progress.advance(1_500_000)
    first, *_, last = out.getvalue().splitlines()
    assert first.startswith("download: 500.0 kB of 2.0 MB, ") and first.endswith(" s left: kubelet")
    assert last.startswith("download: 2.0 MB in ")
    assert "\r" not in out.getvalue() and "\x1b" not in out.getvalue()


def test_a_stage_is_summed_up_even_if_it_was_quick() -> None:
    out = io.StringIO()
    with Progress(out) as progress:
        progress.stage("download", 10)
        progress.advance(10)
        progress.stage("write")
        progress.advance(5)
    assert [line.split(" in ")[0] for line in out.getvalue().splitlines()] == ["download: 10 B", "write: 5 B"]


def test_nothing_at_all_when_quiet() -> None:
    out = Terminal()
    with Progress(out, quiet=True, every=0.0) as progress:
        progress.stage("download", 10)
        progress.advance(10)
        progress.line("a remark")
    assert out.getvalue() == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    with Progress(out) as progress:
        progress.stage("download", 4_000_000)
        with progress.task("pause"):
            progress.advance(4_000_000)
            progress.line("a remark")
    assert "\rdownload" in out.getvalue() and "100%" in out.getvalue() and "4.00M/4.00M" in out.getvalue()
    assert "a remark\n" in out.getvalue()
    assert "\x1b[32m" in out.getvalue()


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    with Progress(out) as progress:
        progress.stage("download", 10)
        progress.advance(10)
    assert "100%" in out.getvalue() and "\x1b[3" not in out.getvalue()


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    with Progress(out) as progress:
        progress.stage("download", 10)
        progress.advance(10)
    assert "\r" not in out.getvalue() and out.getvalue().startswith("download: 10 B")


def test_bytes_that_come_again_are_taken_back() -> None:
    with Progress(io.StringIO()) as progress:
        progress.stage("download", 100)
        progress.advance(60)
        progress.advance(-60)
        assert progress.done == 0


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (4e12, "4000.0 GB")]
)
def test_amounts(size: float, text: str) -> None:
    assert amount(size) == text


def test_what_is_running_fits_its_width() -> None:
    assert running([], 20) == ""
    assert running(["kubelet", "pause"], 40) == "kubelet, pause"
    assert running(["kubelet", "pause", "etcd"], 18) == "kubelet, pause +1"
    assert running(["x" * 100, "y"], 40) == "x" * 37 + " +1"
    assert running(["x" * 100], 40) == "x" * 40
