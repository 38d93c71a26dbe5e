"""The access log: a line for every reply, a JSON object or in the combined format of other servers."""

import contextlib
import json
import os
import time
from typing import List

from ..errors import HostError
from .reply import Reply


class AccessLog:
    """Collects lines and appends them to a file in one write; several processes may share the file."""

    def __init__(self, path: str, style: str = "json") -> None:
        self._line = _json if style == "json" else _combined
        try:
            self._fd = 1 if path == "-" else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise HostError("{}: {}".format(path, error.strerror), "give --access-log a file that can be written") \
                from None
        self._lines: List[str] = []

    def add(self, client: str, reply: Reply, sent: int, seconds: float) -> None:
        """Note a reply: `sent` counts head and body in bytes, `seconds` from its begin to its last byte."""
        self._lines.append(self._line(client, reply, sent, seconds) + "\n")

    def flush(self) -> None:
        """Write what was collected. A full disk or a closed terminal must not stop the server."""
        if not self._lines:
            return
        data, self._lines = "".join(self._lines).encode("utf-8"), []
        with contextlib.suppress(OSError):
            os.write(self._fd, data)


def _json(client: str, reply: Reply, sent: int, seconds: float) -> str:
    request = reply.request
    return json.dumps({
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "client": client,
        "method": request.method if request else None,
        "target": request.target.decode("latin-1") if request else None,
        "status": reply.status, "sent": sent, "seconds": round(seconds, 6),
        "agent": request.get(b"user-agent") if request else None,
    })


def _combined(client: str, reply: Reply, sent: int, _seconds: float) -> str:
    request = reply.request
    line = "{} {} HTTP/1.{}".format(request.method, request.target.decode("latin-1"), request.minor) if request else "-"
    referrer, agent = (request.get(name) if request else None for name in (b"referer", b"user-agent"))
    return '{} - - [{}] "{}" {} {} "{}" "{}"'.format(
        client, time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime()), _quoted(line), reply.status, sent,
        _quoted(referrer or "-"), _quoted(agent or "-"))


def _quoted(text: str) -> str:
    """Within quotes; what could end them or the line is written as an escape."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "\\x{:02x}".format(ord(c)) for c in text)
