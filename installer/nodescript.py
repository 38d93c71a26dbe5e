"""deploy.sh: the node scripts of a bundle joined into one stream, with the bundle's settings at its head."""

import hashlib
import re
from typing import Dict, Optional, Tuple

from .bundle import SUMS, Bundle
from .errors import IntegrityError

_FOLDER = "installer/node/"
_SETTING = re.compile("[A-Z][A-Z0-9_]*")
# One group from the first line to the last: bash runs nothing until it has read the closing brace.
_HEAD = "#!/usr/bin/env bash\n{\n"
_TAIL = '[ -n "${DEPLOY_SOURCED:-}" ] || { main "$@"; exit $?; }\n}\n'


def assignments(settings: Dict[str, str]) -> str:
    """Settings as quoted shell assignments, a line each. Raises IntegrityError for a name that is none."""
    for name, value in settings.items():
        if not _SETTING.fullmatch(name) or "\0" in value:
            raise IntegrityError("not a setting of deploy.sh: {!r}".format(name))
    return "".join("{}={}\n".format(name, _quote(value)) for name, value in settings.items())


class NodeScript:
    """Renders deploy.sh for any server address; the parts are read from the bundle once, and checked.

    `settings` are the server's own, which come before the bundle's.
    """

    def __init__(self, bundle: Bundle, settings: Optional[Dict[str, str]] = None) -> None:
        names = sorted(path for path in bundle.members if path.startswith(_FOLDER) and path.endswith(".sh"))
        if not names:
            raise IntegrityError("the bundle has no {}*.sh, so no deploy.sh can be made".format(_FOLDER))
        self._parts = "".join(_line_end(bundle.read(name).decode("utf-8")) for name in names)
        self._sums = bundle.digests[SUMS]
        self._ours = settings or {}
        self._node = {name: bundle.info.node[name] for name in sorted(bundle.info.node)}

    def render(self, server: str) -> bytes:
        """The whole script for `server` (an URL without a slash at its end); the same bytes every time."""
        settings = {"SERVER": server, "SUMS_SHA256": self._sums, **self._ours}
        settings.update((name, value) for name, value in self._node.items() if name not in settings)
        return (_HEAD + assignments(settings) + self._parts + _TAIL).encode("utf-8")

    def commands(self, server: str, arguments: str) -> Tuple[str, str]:
        """What to type on a node: the short line, and the one that checks the script before it runs it."""
        pin = self._ours.get("SERVER_PIN")
        trust = " --pinnedpubkey '{}' -k".format(pin) if pin else ""
        short = "curl -fsSL{} {}/deploy.sh | bash -s {}".format(trust, server, arguments)
        checked = 'curl -fsSL{} {}/deploy.sh -o deploy.sh && echo "{}  deploy.sh" | sha256sum -c - && bash deploy.sh {}'
        return short, checked.format(" -k" if pin else "", server, self.digest(server), arguments)

    def digest(self, server: str) -> str:
        """sha256, in hex, of what `render` gives."""
        return hashlib.sha256(self.render(server)).hexdigest()


def _quote(value: str) -> str:
    return "'{}'".format(value.replace("'", "'\\''"))


def _line_end(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"
