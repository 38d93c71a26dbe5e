"""The access log: a JSON object a line for every reply."""

import contextlib
import json
import os
import time
from typing import List

from ..errors import HostError
from .reply import Reply


class AccessLog:
    """Collects lines and appends them to a file in one write; several processes may share the file."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = 1 if path == "-" else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise HostError("{}: {}".format(path, error.strerror), "give --access-log a file that can be written") \
                from None
        self._lines: List[str] = []

    def add(self, client: str, reply: Reply, sent: int, seconds: float) -> None:
        """Note a reply: `sent` counts head and body in bytes, `seconds` from its begin to its last byte."""
        request = reply.request
        self._lines.append(json.dumps({
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "client": client,
            "method": request.method if request else None,
            "target": request.target.decode("latin-1") if request else None,
            "status": reply.status, "sent": sent, "seconds": round(seconds, 6),
            "agent": request.get(b"user-agent") if request else None,
        }) + "\n")

    def flush(self) -> None:
        """Write what was collected. A full disk or a closed terminal must not stop the server."""
        if not self._lines:
            return
        data, self._lines = "".join(self._lines).encode("utf-8"), []
        with contextlib.suppress(OSError):
            os.write(self._fd, data)
