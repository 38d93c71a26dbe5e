"""One display of a whole build on standard error: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn, TextIO

from tqdm import tqdm

LINE_EVERY = 5.0
DRAW_EVERY = 0.1


class Progress:
    """Bytes done of bytes expected, the rate, the time left, and what is running. Threads may share it."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False, every: float = LINE_EVERY) -> None:
        """Write to ``stream`` (standard error by default), a plain line each ``every`` seconds without a terminal."""
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._every = every
        self._lock = threading.RLock()
        self._tasks: list[str] = []
        self._bar: tqdm[NoReturn] | None = None
        self.title = ""
        self.total = 0
        self.done = 0
        self._started = self._shown = time.monotonic()

    def stage(self, title: str, total: int = 0) -> None:
        """Begin a part of the build, such as ``download``, of ``total`` bytes as far as known."""
        with self._lock:
            self._end_stage()
            self.title, self.total, self.done = title, total, 0
            self._started = self._shown = time.monotonic()
            if self.fancy:
                self._bar = _bar(title, self._stream)

    def expect(self, size: int) -> None:
        """Add ``size`` bytes to the total."""
        with self._lock:
            self.total += size

    def advance(self, size: int) -> None:
        """Count ``size`` more bytes as done; negative where they must be fetched again."""
        with self._lock:
            self.done += size
            self._show()

    @contextmanager
    def task(self, name: str) -> Iterator[None]:
        """Show ``name`` as running for the length of a with block."""
        with self._lock:
            self._tasks.append(name)
        try:
            yield
        finally:
            with self._lock:
                self._tasks.remove(name)

    def line(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        with self._lock:
            if self._quiet:
                return
            if self._bar is not None:
                self._bar.clear()
            print(text, file=self._stream, flush=True)

    @property
    def fancy(self) -> bool:
        """Whether a bar is drawn."""
        return not self._quiet and self._stream.isatty() and os.environ.get("TERM") not in (None, "", "dumb")

    def close(self) -> None:
        """Finish the display."""
        with self._lock:
            self._end_stage()

    def __enter__(self) -> Progress:
        """Close the display at the end of a with block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the display."""
        self.close()

    def _end_stage(self) -> None:
        if not self.title:
            return
        if self._bar is not None:
            self._draw(self._bar)
            self._bar.close()
            self._bar = None
        elif self.done:
            self.line(self._summary())
        self.title = ""

    def _show(self) -> None:
        now = time.monotonic()
        if self._bar is not None and now - self._shown >= DRAW_EVERY:
            self._shown = now
            self._draw(self._bar)
        elif self._bar is None and self.title and now - self._shown >= self._every:
            self._shown = now
            self.line(self._summary())

    def _draw(self, bar: tqdm[NoReturn]) -> None:
        bar.total = max(self.total, self.done) or None
        bar.set_postfix_str(running(self._tasks, 40), refresh=False)
        bar.update(self.done - bar.n)
        bar.refresh()

    def _summary(self) -> str:
        seconds = max(time.monotonic() - self._started, 0.001)
        rate = self.done / seconds
        text = f"{self.title}: {amount(self.done)}"
        if self.total > self.done:
            text += f" of {amount(self.total)}, {amount(rate)}/s"
            text += f", {(self.total - self.done) / rate:.0f} s left" if rate > 0 else ""
            return f"{text}: {running(self._tasks, 80)}" if self._tasks else text
        return f"{text} in {seconds:.1f} s, {amount(rate)}/s"


def amount(size: float) -> str:
    """A number of bytes for people: ``1.5 GB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def running(tasks: list[str], width: int) -> str:
    """What is running, oldest first, in at most ``width`` characters: ``kubelet, pause +2``."""
    text = ""
    for index, name in enumerate(tasks):
        joined = f"{text}, {name}" if text else name
        rest = f" +{len(tasks) - index - 1}" if index + 1 < len(tasks) else ""
        if len(joined) + len(rest) > width:
            return f"{text} +{len(tasks) - index}" if text else name[: width - len(rest)] + rest
        text = joined
    return text


def _bar(title: str, stream: TextIO) -> tqdm[NoReturn]:
    colour = None if "NO_COLOR" in os.environ else "green"
    # tqdm's watcher thread would outlive the build and redraw behind our lock.
    tqdm.monitor_interval = 0
    return tqdm(
        desc=title, total=None, unit="B", unit_scale=True, file=stream, dynamic_ncols=True, colour=colour, leave=True
    )
