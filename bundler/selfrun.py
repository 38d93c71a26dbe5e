"""The head of a ``.run``: a shell script of fixed size in front of a bundle's tar, which checks and then runs it."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from bundler.archive import BLOCK, Entry, padding
from bundler.errors import IntegrityError

SIZE = 16 << 10  # whole pages, so that a file system may share the tar's with other files
_TOP = "installer/"
_SCRIPT = r'''#!/bin/sh
# A bundle that serves itself: give it serve, verify, inspect or unpack. The tar begins at byte {size}.
main() {{
  set -eu
  file=$0
  case $file in /*) ;; *) file=$(pwd)/$file ;; esac
  [ -f "$file" ] || {{ echo "$0: run it by its path, not through a pipe" >&2; exit 7; }}
  if [ "$(wc -c < "$file")" -ne {whole} ] ||
     [ "$(tail -c +{begin} -- "$file" | sha256sum)" != {digest} ]; then
    echo "$0: damaged, nothing was run; copy it again and check it: sha256sum -c $0.sha256" >&2
    exit 6
  fi
  for python in python3 /usr/libexec/platform-python; do
    command -v "$python" > /dev/null 2>&1 && break
    python=
  done
  [ -n "$python" ] || {{ echo "$0: python3 is not installed" >&2; exit 7; }}
  place=$(mktemp -d)
  {{ tail -c +{installer} -- "$file" | head -c {length}; head -c 1024 /dev/zero; }} 2> /dev/null | tar xf - -C "$place"
  exec "$python" -c {start} "$place" "$file" "$@"
}}
main "$@"; exit
'''
_START = """import atexit, os, shutil, sys
place, file, arguments, pid = sys.argv[1], sys.argv[2], sys.argv[3:], os.getpid()
sys.path.insert(0, place)
atexit.register(lambda: os.getpid() == pid and shutil.rmtree(place, ignore_errors=True))
from installer.cli import main
own = [file] if arguments and not arguments[0].startswith("-") else []
sys.exit(main(arguments[:1] + own + arguments[1:]))"""


def head(size: int, sha256: str, entries: Sequence[Entry]) -> bytes:
    """Return the SIZE bytes that go before a tar of ``size`` bytes with this sha256 (hex) and these entries.

    IntegrityError if the tar has no installer.
    """
    own = [entry for entry in entries if entry.path.startswith(_TOP)]
    if not own:
        raise IntegrityError("a bundle without its installer cannot run itself")
    first, end = own[0].offset - BLOCK, own[-1].offset + own[-1].size + padding(own[-1].size)
    script = _SCRIPT.format(
        size=SIZE, whole=SIZE + size, begin=SIZE + 1, digest=quote(f"{sha256}  -"),
        installer=SIZE + first + 1, length=end - first, start=quote(_START),
    ).encode()
    return script + b"#" * (SIZE - len(script) - 1) + b"\n"
