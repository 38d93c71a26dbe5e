"""`service`: the server as a systemd service on a machine that stays."""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from typing import Any, List, NamedTuple, Optional, Sequence

from .bundle import SUMS, Bundle, open_bundle
from .errors import HostError, InstallerError
from .serve import checked
from .servers import check_urls
from .unpack import add_bundle, write

NAME = "kubecarry"
UNIT = "/etc/systemd/system/{}.service".format(NAME)
CODE = "/usr/local/lib/" + NAME
STATE = "/var/lib/{}-server".format(NAME)
_COPY = os.path.join(STATE, "bundle.tar")
_SYSTEM = ("/usr/", "/opt/")
_PYTHONS = ("/usr/libexec/platform-python", "/usr/bin/python3", "/usr/bin/python3.6", "/usr/local/bin/python3")
_WAIT_SECONDS = 30
_UNIT = """\
# Made by `python3 -m installer service install`.
[Unit]
Description=Kubecarry: serves release {release} to the nodes of this site
After=network-online.target
Wants=network-online.target

[Service]
User={name}
Group={name}
WorkingDirectory={code}
Environment=PYTHONDONTWRITEBYTECODE=1
ExecStart={command}
Restart=on-failure
RestartSec=2
TimeoutStopSec=15
LimitNOFILE=65536
NoNewPrivileges=yes
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
ProtectSystem=strict
ReadWritePaths={state}
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""


class Choices(NamedTuple):
    """How the service serves: address, port, URL for nodes, further servers, whether over TLS."""

    bind: str
    port: int
    advertise: str
    also: Sequence[str]
    tls: bool


def add_verb(verbs: Any) -> None:
    """Add `service` to the command line."""
    about = "run the server under systemd on a machine that stays"
    parts = verbs.add_parser("service", help=about, description=about[0].upper() + about[1:] + ".").add_subparsers(
        dest="part", metavar="install|status|remove")
    parts.required = True
    install = parts.add_parser("install", help="install and start it, or change what is installed")
    add_bundle(install)
    install.add_argument("--in-place", action="store_true", help="serve everything where it lies, copy nothing")
    install.add_argument("--bind", metavar="ADDRESS", default="0.0.0.0", help="default: %(default)s")  # noqa: S104
    install.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    install.add_argument("--advertise", metavar="URL", default="", help="URL under which nodes reach it")
    install.add_argument("--also", metavar="URL", action="append", default=[], help="another server of the same bundle")
    install.add_argument("--tls", action="store_true", help="serve https with a key pair of its own")
    install.add_argument("--key", metavar="PUB", default="", help="check the signature with this public key (PEM)")
    install.set_defaults(action=_install)
    for name, action, text in (("status", _status, "tell whether it runs; exit 7 if not"),
                               ("remove", _remove, "stop it and remove everything that install made")):
        parts.add_parser(name, help=text, description=text).set_defaults(action=action, bundle=None)


def unit(release: str, python: str, paths: Sequence[str], choices: Choices) -> str:
    """The unit file for a bundle, or a bundle and its deltas, at `paths`, run by `python`."""
    words = [python, "-m", "installer", "serve", *paths, "--no-verify", "--bind", choices.bind, "--port",
             str(choices.port), "--state", STATE]
    words += ["--advertise", choices.advertise] if choices.advertise else []
    for url in choices.also:
        words += ["--also", url]
    words += ["--tls"] if choices.tls else []
    inside = any(path.startswith(("/home/", "/root/", "/run/user/")) for path in paths)
    return _UNIT.format(name=NAME, release=release, code=CODE, state=STATE, command=" ".join(map(_quote, words)),
                        home="read-only" if inside else "yes",
                        capabilities="CAP_NET_BIND_SERVICE" if choices.port < 1024 else "")


def python_of_system() -> str:
    """A Python that stays and that the service's user may run. Raises HostError."""
    own = os.path.realpath(sys.executable)
    for path in ([own] if own.startswith(_SYSTEM) and sys.prefix == sys.base_prefix else []) + list(_PYTHONS):
        asked = [path, "-c", "import sys; sys.exit(sys.version_info < (3, 6))"]
        if os.access(path, os.X_OK) and subprocess.call(asked, stdin=subprocess.DEVNULL) == 0:
            return path
    raise HostError("there is no Python 3.6 or later below /usr", "install python3 (EL7: python36)")


def _install(bundle: Bundle, options: argparse.Namespace) -> None:
    _need_systemd()
    choices = Choices(options.bind, options.port, options.advertise, check_urls("--also", options.also), options.tls)
    paths = [os.path.realpath(path) for path in (options.bundle, *options.more)]
    python = python_of_system()
    checked(bundle, options.key)
    _make_user()
    os.makedirs(STATE, exist_ok=True)
    shutil.chown(STATE, NAME, NAME)
    os.chmod(STATE, 0o750)  # noqa: S103 (the group is the service's own)
    changed = False
    if not options.in_place:
        changed, paths = _copy(bundle), [_COPY]
    for path in paths:
        _need_readable(path)
    changed = _place_code() or changed
    text = unit(bundle.info.release, python, paths, choices)
    changed = _write(UNIT, text) or changed
    _systemctl("daemon-reload")
    _systemctl("enable", NAME)
    _systemctl("restart" if changed else "start", NAME)
    _await(choices)
    print("{} serves release {} from {}\nlook: systemctl status {}; journalctl -u {} (the lines for nodes)".format(
        NAME, bundle.info.release, " ".join(paths), NAME, NAME))


def _status(bundle: Optional[Bundle], options: argparse.Namespace) -> None:  # noqa: ARG001
    _need_systemd()
    words = {what: _output("systemctl", what, NAME) or "unknown" for what in ("is-active", "is-enabled")}
    print("{}: {}, {}".format(NAME, words["is-active"], words["is-enabled"]))
    if words["is-active"] != "active":
        raise HostError("the service does not run", "see: journalctl -u {}".format(NAME) if os.path.exists(UNIT) else
                        "it is not installed: python3 -m installer service install BUNDLE")


def _remove(bundle: Optional[Bundle], options: argparse.Namespace) -> None:  # noqa: ARG001
    _need_systemd()
    if os.path.exists(UNIT):
        _systemctl("disable", "--now", NAME)
        os.unlink(UNIT)
        _systemctl("daemon-reload")
    for folder in (CODE, STATE):
        shutil.rmtree(folder, ignore_errors=True)
    if subprocess.call(["id", NAME], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
        _run("userdel", NAME)
    print("{}: removed".format(NAME))


def _need_systemd() -> None:
    if not os.path.isdir("/run/systemd/system"):
        raise HostError("this machine does not run systemd",
                        "run `python3 -m installer serve` under your own supervisor")
    if os.geteuid():
        raise HostError("not root", "run it as root")


def _make_user() -> None:
    if subprocess.call(["id", NAME], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        shell = "/usr/sbin/nologin" if os.path.exists("/usr/sbin/nologin") else "/sbin/nologin"
        _run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", STATE, "--shell", shell, NAME)


def _copy(bundle: Bundle) -> bool:
    """Put the whole bundle under STATE as one tar; False if it lies there already."""
    with contextlib.suppress(InstallerError):
        there = open_bundle(_COPY)
        there.close()
        if there.digests[SUMS] == bundle.digests[SUMS]:
            return False
    write(bundle, _COPY, "make room, or give --in-place")
    os.chmod(_COPY, 0o644)
    return True


def _place_code() -> bool:
    """Put this very installer under CODE; False if it is there already."""
    source, target = os.path.dirname(os.path.abspath(__file__)), os.path.join(CODE, "installer")
    if source == target or (os.path.isdir(target) and _contents(source) == _contents(target)):
        return False
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for folder, _, names in os.walk(CODE):
        os.chmod(folder, 0o755)  # noqa: S103 (code that root alone may change)
        for name in names:
            os.chmod(os.path.join(folder, name), 0o644)
    return True


def _contents(root: str) -> List[Any]:
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            if not folder.endswith("__pycache__"):
                with open(os.path.join(folder, name), "rb") as file:
                    found.append((os.path.relpath(os.path.join(folder, name), root), file.read()))
    return sorted(found)


def _need_readable(path: str) -> None:
    if subprocess.call(["runuser", "-u", NAME, "--", "test", "-r", path]):
        raise HostError("{}: user {} cannot read it".format(path, NAME),
                        "open it and the directories above it to others, or leave out --in-place")


def _write(path: str, text: str) -> bool:
    with contextlib.suppress(OSError), open(path) as file:
        if file.read() == text:
            return False
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)
    return True


def _await(choices: Choices) -> None:
    """Wait until it answers. Raises HostError with the end of its log."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        if _output("systemctl", "is-active", NAME) == "active" and _answers(choices):
            return
        time.sleep(0.2)
    log = _output("journalctl", "-u", NAME, "-n", "5", "--no-pager", "-o", "cat")
    raise HostError("the service does not answer on port {}: {}".format(choices.port, log),
                    "see: journalctl -u {}".format(NAME))


def _answers(choices: Choices) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(choices.bind, choices.bind)  # noqa: S104
    # Who it is is no question here: the port is ours.
    connection = http.client.HTTPSConnection(host, choices.port, timeout=5, context=ssl._create_unverified_context()) \
        if choices.tls else http.client.HTTPConnection(host, choices.port, timeout=5)  # noqa: S323
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _quote(word: str) -> str:
    """A word of ExecStart; systemd knows JSON's escapes, and has two characters of its own."""
    word = word.replace("%", "%%").replace("$", "$$")
    return word if word and not set(word) & set(" \t\"'\\;") else json.dumps(word)


def _systemctl(*words: str) -> None:
    _run("systemctl", *words)


def _run(*words: str) -> None:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise HostError("`{}` failed: {}".format(" ".join(words), done.stdout.decode("utf-8", "replace").strip()),
                        "see: journalctl -u {}".format(NAME))


def _output(*words: str) -> str:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.decode("utf-8", "replace").strip()
