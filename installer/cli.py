"""The command line: the only place that prints errors and chooses exit codes."""

import argparse
import json
import os
import sys
import traceback
from typing import List, Optional

from . import export, push, service, unpack
from .bundle import Bundle, open_bundle
from .errors import InstallerError
from .facts import facts
from .progress import human
from .serve import Options, checked, default_state, serve

_EPILOG = """exit codes: 0 ok, 1 unexpected, 2 usage, 5 a registry refuses or fails, 6 the bundle is damaged,
7 this machine (port, permission)"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="python3 -m installer", epilog=_EPILOG,
        description="Verifies, describes and serves a bundle, straight out of its tar or from an unpacked directory.")
    verbs = top.add_subparsers(dest="verb", metavar="VERB")
    for name, action, about in (
            ("verify", _verify, "check every byte of a bundle"),
            ("inspect", _inspect, "show what a bundle holds"),
            ("serve", _serve, "serve a bundle to nodes: files, packages, images and deploy.sh")):
        verb = verbs.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        unpack.add_bundle(verb)
        verb.set_defaults(action=action)
        if name != "serve":
            verb.add_argument("--json", action="store_true", help="print JSON")
        if name != "inspect":
            verb.add_argument("--key", metavar="PUB", default="", help="check the signature with this public key (PEM)")
    _serve_options(verbs.choices["serve"])
    for module in (push, export, service, unpack):
        module.add_verb(verbs)
    return top


def main(arguments: Optional[List[str]] = None) -> int:
    """Run a command line; the exit code of docs/formats.md."""
    top = parser()
    options = top.parse_args(arguments)
    if options.verb is None:
        top.print_usage(sys.stderr)
        return 2
    try:
        if options.bundle is None:  # a verb about this machine
            options.action(None, options)
            return 0
        bundle = open_bundle(options.bundle, getattr(options, "more", ()))
        try:
            options.action(bundle, options)
        finally:
            bundle.close()
    except InstallerError as error:
        return _fail(error.message, error.hint, error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", "", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("KUBECARRY_DEBUG"):
            traceback.print_exc()
        return _fail("unexpected {}: {}".format(type(error).__name__, error),
                     "set KUBECARRY_DEBUG=1 for the details, and report this", 1)
    return 0


def _serve_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--bind", metavar="ADDRESS", default="0.0.0.0",  # noqa: S104 (nodes must reach it)
                      help="address to listen on; :: for IPv6 and IPv4 (default: %(default)s)")
    verb.add_argument("--port", type=_port, default=8000, help="port to listen on (default: %(default)s)")
    verb.add_argument("--no-verify", dest="verify", action="store_false", help="serve without checking the contents")
    verb.add_argument("--workers", type=_count, default=0, metavar="N", help="processes (default: one for each core)")
    verb.add_argument("--access-log", metavar="FILE", help="append a JSON line for each reply; - for stdout")
    verb.add_argument("--access-log-format", choices=("json", "combined"), default="json",
                      help="how its lines look (default: %(default)s)")
    verb.add_argument("--advertise", metavar="URL", default="",
                      help="URL under which nodes reach the server, where its own address is not it")
    verb.add_argument("--also", metavar="URL", action="append", default=[],
                      help="another server of the same bundle, for nodes to turn to where this one fails")
    verb.add_argument("--tls", action="store_true", help="serve https, with a key pair that is made once and kept")
    verb.add_argument("--tls-cert", metavar="FILE", default="", help="serve https with this certificate chain (PEM)")
    verb.add_argument("--tls-key", metavar="FILE", default="", help="its key")
    verb.add_argument("--tls-ca", metavar="FILE", default="",
                      help="the CA that nodes shall trust (default: the last certificate of the chain)")
    verb.add_argument("--state", metavar="DIR", default=default_state(),
                      help="where keys are kept from one run to the next (default: %(default)s)")


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError("not a port: {}".format(text))
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 1024:
        raise argparse.ArgumentTypeError("not a number from 1 to 1024: {}".format(text))
    return int(text)


def _fail(message: str, hint: str, code: int) -> int:
    sys.stderr.write("installer: {}\n".format(message))
    if hint:
        sys.stderr.write("hint: {}\n".format(hint))
    return code


def _serve(bundle: Bundle, options: argparse.Namespace) -> None:
    serve(bundle, Options(options.bind, options.port, options.verify, options.key, options.workers,
                          options.access_log, options.advertise, options.state, options.tls, options.tls_cert,
                          options.tls_key, options.tls_ca, options.also, options.access_log_format))


def _verify(bundle: Bundle, options: argparse.Namespace) -> None:
    result = checked(bundle, options.key)
    signature = "valid" if result.checked else "not checked" if result.signed else "none"
    if options.json:
        print(json.dumps({"bundle": options.bundle, "files": result.files, "ok": True, "signature": signature,
                          "size": result.size}, sort_keys=True))
        return
    print("{}: ok, {} files, {}, signature: {}".format(options.bundle, result.files, human(result.size), signature))
    if signature == "not checked":
        sys.stderr.write("hint: give --key PUB to check the signature\n")


def _inspect(bundle: Bundle, options: argparse.Namespace) -> None:
    found = facts(bundle)
    if options.json:
        print(json.dumps(found, indent=1, sort_keys=True))
        return
    print("release {release} (Kubernetes {kubernetes}), {arches}, {files} files, {size}, {signed}".format(
        **dict(found, arches=" ".join(found["arches"]), size=human(found["size"]),
               signed="signed" if found["signed"] else "not signed")))
    for host in found["hosts"]:
        roles = ", ".join("{} {}".format(role, count) for role, count in sorted(host["roles"].items()))
        print("packages  {} ({}): {}".format(host["name"], host["format"], roles))
    for image in found["images"]:
        print("image     {ref} {digest} {platforms}".format(**dict(image, platforms=",".join(image["platforms"]))))
    for addon in found["addons"]:
        print("add-on    {name} {version} ({kind})".format(**addon))
    for path in found["charts"]:
        print("chart     {}".format(path))
    for role in found["closure"].get("roles", []):
        print("proven    {host} {role}: {packages} packages install from the bundle alone, {assumed} capabilities of "
              "the host assumed".format(**role))
    if found["closure"]:
        print("proven    {} images whole".format(found["closure"]["images"]))
