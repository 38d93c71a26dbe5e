"""`export`: a bundle as a tree that any number of nginx machines, or an object store, can serve."""

import argparse
import hashlib
import json
import os
import shutil
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Container, Dict, List, Union
from urllib.parse import urlsplit

from . import charts
from .bundle import Bundle
from .errors import HostError, IntegrityError, UsageError
from .facts import facts
from .images import Images, Repository
from .nginxconf import MADE, listing, objects, place_of, render
from .nodescript import NodeScript
from .progress import Progress
from .server.page import Page
from .server.repos import Repos
from .servers import also, check_urls
from .tarindex import Member
from .unpack import add_bundle
from .verify import check_signature

_PIECE = 1 << 20
_DEFAULT_PORT = "8000"


def add_verb(verbs: Any) -> None:
    """Add `export` to the command line."""
    about = "write a bundle as a tree with an nginx.conf, for any number of nginx machines or an object store"
    verb = verbs.add_parser("export", help=about, description=about[0].upper() + about[1:] + ".")
    add_bundle(verb)
    verb.add_argument("folder", metavar="DIR", help="where to; must not be there yet, or be empty")
    verb.add_argument("--servers", metavar="URL", nargs="+", required=True,
                      help="under which URLs the tree will be served; nodes turn to the next where one fails")
    verb.add_argument("--tls-ca", metavar="PEM", default="",
                      help="the CA of the servers' certificates, for nodes to trust it alone; all URLs are https then")
    verb.add_argument("--objects", action="store_true",
                      help="lay /v2/ out as files, too (hard links), for servers that cannot map names")
    verb.add_argument("--key", metavar="PUB", default="", help="check the bundle's signature with this key (PEM) first")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(action=lambda bundle, options: export(bundle, options))


def export(bundle: Bundle, options: argparse.Namespace) -> None:
    """Write the tree, every byte checked. Raises UsageError, HostError, IntegrityError."""
    servers = check_urls("--servers", options.servers)
    folder = os.path.abspath(options.folder)
    if os.path.lexists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise UsageError("{}: not empty".format(folder), "name another directory, or remove that one")
    if options.key:
        check_signature(bundle, options.key)
    ca = _authority(options.tls_ca, servers) if options.tls_ca else ""
    script = NodeScript(bundle, dict(also(servers[1:]), **({"SERVER_CA": ca} if ca else {})))
    new = folder + ".new"
    try:
        _make_room(new, sum(member.size for member in bundle.members.values()))
        _write(bundle, new, folder, _made(bundle, script, servers[0], ca), servers, options.objects)
        os.rename(new, folder)
    except OSError as error:
        raise HostError("{}: {}".format(error.filename or new, error.strerror), "check the disk and its rights") \
            from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _tell(bundle, folder, servers, script.digest(servers[0]), bool(ca), options.json)


def _authority(path: str, servers: List[str]) -> str:
    """The certificates in a file. Raises UsageError."""
    if not all(url.startswith("https:") for url in servers):
        raise UsageError("--tls-ca goes with https:// servers alone", "leave it out, or give https:// URLs")
    try:
        with open(path, encoding="ascii") as file:
            text = file.read()
        ssl.create_default_context(cadata=text)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise UsageError("{}: no certificates in PEM form: {}".format(path, error),
                         "give --tls-ca the CA that signed the servers' certificates") from None
    return text


def _made(bundle: Bundle, script: NodeScript, server: str, ca: str) -> Dict[str, bytes]:
    """What the server would make for who asks it as `server`, by path below `www`."""
    found = facts(bundle)
    made = {"deploy.sh": script.render(server), "healthz": b"ok\n",
            "index.html": Page(found, script).render(server, None),
            "api/bundle": (json.dumps(found) + "\n").encode("ascii")}
    repos = Repos(bundle)
    made.update((path[1:], repos.render(path, server)) for path in repos.paths)
    made.update({"ca.pem": ca.encode("ascii")} if ca else {})
    return made


def _make_room(new: str, size: int) -> None:
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(os.path.join(new, "run"))
    free = shutil.disk_usage(new).free
    if free < size + (64 << 20):
        raise HostError("{}: {} MiB are free, {} are needed".format(new, free >> 20, (size >> 20) + 64),
                        "make room, or name a directory on another disk")


def _write(bundle: Bundle, new: str, folder: str, made: Dict[str, bytes], servers: List[str],
           with_objects: bool) -> None:
    www = os.path.join(new, "www")
    copy_members(bundle, www)
    images = Images(bundle)
    of_charts = charts.add(bundle, images)
    found = [one for one in (images.find(name) for name in images.names) if one is not None]
    made["v2/_catalog"] = (json.dumps({"repositories": images.names}) + "\n").encode("ascii")
    made.update(("v2/{}/tags/list".format(one.name), listing(one.name, one)) for one in found)
    for path, data in made.items():
        _put(os.path.join(www, path), data, bundle.info.created)
    for digest, what in of_charts.items():
        _put_blob(www, os.path.join(www, MADE, digest.partition(":")[2]), what, bundle.info.created)
    if with_objects:
        _put(os.path.join(new, "headers.tsv"), _link(www, found, of_charts).encode("utf-8"), bundle.info.created)
    config = render(images, of_charts, folder, _listen(servers))
    _put(os.path.join(new, "nginx.conf"), config.encode("utf-8"), bundle.info.created)


def _listen(servers: List[str]) -> List[str]:
    """What nginx listens on: the ports of the URLs (https is left to who ends it), over IPv6 where an URL is."""
    parts = [urlsplit(url) for url in servers if url.startswith("http:")]
    found = [("[::]:{}" if ":" in (part.hostname or "") else "{}").format(part.port or 80) for part in parts]
    return found or [_DEFAULT_PORT]


def _put_blob(www: str, path: str, what: Union[bytes, str], created: int) -> None:
    """A blob of a chart: its bytes, or the member that has them."""
    if isinstance(what, bytes):
        _put(path, what, created)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.link(os.path.join(www, what), path)


def _link(www: str, found: List[Repository], made: Container[str]) -> str:
    """Lay /v2/ out; lines of path, Content-Type and digest, for the upload to an object store."""
    lines = []
    for path, digest, media_type in objects(found):
        target = os.path.join(www, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.link(os.path.join(www, place_of(digest, made), digest.partition(":")[2]), target)
        lines.append("{}\t{}\t{}\n".format(path, media_type, digest))
    return "".join(lines)


def copy_members(bundle: Bundle, www: str) -> None:
    """Copy every member below `www`, checking its digest. Raises IntegrityError, OSError."""
    members = list(bundle.members.values())
    progress, lock = Progress("exporting", sum(member.size for member in members)), threading.Lock()

    def advance(size: int) -> None:
        with lock:
            progress.add(size)

    for folder in {os.path.dirname(member.path) for member in members}:
        os.makedirs(os.path.join(www, folder), exist_ok=True)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for task in [pool.submit(_copy, bundle, member, www, advance) for member in members]:
            task.result()
    progress.finish()


def _copy(bundle: Bundle, member: Member, www: str, advance: Callable[[int], None]) -> None:
    target, digest = os.path.join(www, member.path), hashlib.sha256()
    with open(target, "wb") as file:
        for offset in range(0, member.size, _PIECE):
            piece = bundle.source.read(member, offset, min(_PIECE, member.size - offset))
            digest.update(piece)
            file.write(piece)
            advance(len(piece))
    if digest.hexdigest() != bundle.digests[member.path]:
        raise IntegrityError("{}: {} differs from its digest".format(bundle.source.path, member.path))
    _finish(target, bundle.info.created, member.path.startswith("bin/") or member.path.endswith(".sh"))


def _put(path: str, data: bytes, created: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    _finish(path, created, False)


def _finish(path: str, created: int, runs: bool) -> None:
    """One time stamp for all, so that every machine with a copy gives the same ETag."""
    os.chmod(path, 0o755 if runs else 0o644)
    os.utime(path, (created, created))


def _tell(bundle: Bundle, folder: str, servers: List[str], digest: str, own_ca: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"directory": folder, "servers": servers, "deploy_sha256": digest,
                          "files": len(bundle.members)}, indent=1, sort_keys=True))
        return
    print("{0}: copy it to each machine (rsync -aH), then there:\n  nginx -p {0} -c nginx.conf".format(folder))
    for url in servers:
        print("\nFor nodes that reach {}, as root:".format(url))
        if not own_ca:  # a node has nothing to know it by, before it has deploy.sh
            print("  curl -fsSL {}/deploy.sh | bash -s master\nor, checked before it runs:".format(url))
        print('  curl -fsSL{2} {0}/deploy.sh -o deploy.sh && echo "{1}  deploy.sh" | sha256sum -c - && '
              "bash deploy.sh master".format(url, digest, " -k" if own_ca else ""))
