"""Progress of a long read on stderr: rate and time left on one line of a terminal, or a line now and then."""

import sys
import time
from typing import Optional, TextIO

_TERMINAL_SECONDS = 0.2
_PLAIN_SECONDS = 5.0


class Progress:
    """Counts bytes of `total`; `add` is called by one thread at a time."""

    def __init__(self, label: str, total: int, stream: Optional[TextIO] = None) -> None:
        self._label = label
        self._total = total
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._done = 0
        self._begun = self._shown = time.monotonic()

    def add(self, size: int) -> None:
        """Note `size` more bytes."""
        self._done += size
        now = time.monotonic()
        if now - self._shown >= (_TERMINAL_SECONDS if self._terminal else _PLAIN_SECONDS):
            self._shown = now
            self._write(now - self._begun, False)

    def finish(self) -> None:
        """Show the final figures."""
        self._write(time.monotonic() - self._begun, True)

    def _write(self, seconds: float, last: bool) -> None:
        rate = self._done / max(seconds, 1e-6)
        text = "{}: {} of {}, {}/s".format(self._label, human(self._done), human(self._total), human(rate))
        if last:
            text += ", {:.1f} s".format(seconds)
        elif rate > 0:
            text += ", {:.0f} s left".format((self._total - self._done) / rate)
        end = "\n" if last or not self._terminal else ""
        self._stream.write(("\r\x1b[K" if self._terminal else "") + text + end)
        self._stream.flush()


def human(size: float) -> str:
    """A number of bytes for people: 1536 is `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return "{:.{}f} {}".format(size, 0 if unit == "B" else 1, unit)
        size /= 1024
    return "{:.1f} TiB".format(size)
