"""`push`: the images of a bundle into a registry that is there already."""

import argparse
import hashlib
import json
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple, TypeVar

from .bundle import Bundle
from .credentials import PASSWORD_VARIABLE, given, kept
from .errors import TransferError, UsageError
from .images import Images, Repository, blob_path, split
from .progress import Progress, human
from .remote import Answer, Remote, api, scope, tls
from .unpack import add_bundle
from .upload import CHUNK, State, Uploader
from .verify import check_signature

_TARGET = re.compile(r"(?:(https?)://)?([A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?)((?:/[a-z0-9._-]+)*)/?")
_ACCEPT = ", ".join(("application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
                     "application/vnd.docker.distribution.manifest.list.v2+json",
                     "application/vnd.docker.distribution.manifest.v2+json"))
_T = TypeVar("_T")


class Blob(NamedTuple):
    """A blob, and the repositories (names at the registry) that have it already, or lack it."""

    digest: str
    size: int
    have: List[str]
    lack: List[str]


class Manifest(NamedTuple):
    """A manifest to put: its repository at the registry, its digest or tag, media type, contents."""

    name: str
    reference: str
    media_type: str
    data: bytes
    absent: List[str]  # platforms or digests that it names and the bundle lacks


class Plan(NamedTuple):
    """What the registry lacks: blobs, then manifests (children first) of each repository, then tags."""

    blobs: List[Blob]
    manifests: Dict[str, List[Manifest]]
    tags: List[Manifest]


def add_verb(verbs: Any) -> None:
    """Add `push` to the command line."""
    about = "copy the images of a bundle into a registry, whatever it lacks of them"
    verb = verbs.add_parser("push", help=about, description=about[0].upper() + about[1:] + ".")
    add_bundle(verb)
    verb.add_argument("registry", metavar="REGISTRY[/PREFIX]", help="host[:port], and what names there begin with")
    verb.add_argument("--strip-registry", action="store_true",
                      help="name images without their registry: PREFIX/pause instead of PREFIX/k8s.gcr.io/pause")
    verb.add_argument("--prune-indexes", action="store_true",
                      help="tag indexes without the platforms that the bundle lacks; their digests then differ")
    verb.add_argument("--username", metavar="NAME", default="", help="default: what docker or podman login kept")
    verb.add_argument("--password-file", metavar="FILE", default="",
                      help="the password is in FILE (default: in {})".format(PASSWORD_VARIABLE))
    verb.add_argument("--password-stdin", action="store_true", help="the password is the first line of stdin")
    verb.add_argument("--ca-file", metavar="PEM", default="", help="authorities to trust (default: the host's)")
    verb.add_argument("--plain-http", action="store_true", help="speak HTTP without TLS")
    verb.add_argument("--key", metavar="PUB", default="", help="check the bundle's signature with this key (PEM) first")
    verb.add_argument("--jobs", type=_number, default=4, metavar="N", help="blobs at a time (default: %(default)s)")
    verb.add_argument("--chunk", type=_number, default=CHUNK >> 20, metavar="MIB",
                      help="send blobs in pieces of this size (default: %(default)s)")
    verb.add_argument("--state", metavar="FILE", default="", help="where unfinished uploads are noted")
    verb.add_argument("--dry-run", action="store_true", help="tell what would be sent, send nothing")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(action=lambda bundle, options: push(bundle, options))


def push(bundle: Bundle, options: argparse.Namespace) -> None:
    """Copy what the registry lacks. Raises UsageError, TransferError, IntegrityError, HostError."""
    base, prefix = target(options.registry, options.plain_http)
    names = renamed(bundle, prefix, options.strip_registry)
    if options.key:
        check_signature(bundle, options.key)
    host = base.partition("://")[2]
    credentials = given(options.username, options.password_file, options.password_stdin) if options.username \
        else kept(host)
    remote = Remote(base, credentials, tls(options.ca_file) if base.startswith("https:") else None)
    remote.connect()
    state = State(options.state or _state_file(host))
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _Push(bundle, remote, names, state, options).run()
    finally:
        signal.signal(signal.SIGTERM, before)


def target(text: str, plain: bool) -> Tuple[str, str]:
    """`REGISTRY[/PREFIX]` as base URL and prefix (ends in a slash, or is empty). Raises UsageError."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise UsageError("{}: not a registry".format(text), "give HOST[:PORT][/PREFIX], the prefix in lower case")
    scheme = "http" if plain else found.group(1) or "https"
    prefix = found.group(3).strip("/")
    return "{}://{}".format(scheme, found.group(2)), prefix + "/" if prefix else ""


def renamed(bundle: Bundle, prefix: str, strip: bool) -> Dict[str, str]:
    """Repository of the bundle (`registry/name`) -> its name at the registry. Raises UsageError if two would be one."""
    names: Dict[str, str] = {}
    for image in bundle.info.images:
        ref = split(image.ref)
        name = ref.name if strip else "{}/{}".format(ref.registry.replace(":", "_"), ref.name)
        names["{}/{}".format(ref.registry, ref.name)] = prefix + name
    for full, name in names.items():
        others = [one for one in names if names[one] == name and one != full]
        if others:
            raise UsageError("{} and {} would both become {}".format(full, others[0], name),
                             "leave out --strip-registry")
    return names


class _Push:
    """One run: look at what is there, send what is not, tags last."""

    def __init__(self, bundle: Bundle, remote: Remote, names: Dict[str, str], state: State,
                 options: argparse.Namespace) -> None:
        images = Images(bundle)
        self._bundle, self._remote, self._names, self._options = bundle, remote, names, options
        found = {names[full]: images.find(full) for full in images.names}
        self._repositories = {name: repository for name, repository in found.items() if repository is not None}
        self._digests: Dict[str, str] = {}  # of what is tagged, by `name:tag`
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._state = state
        self._sent = {"uploaded": 0, "mounted": 0, "bytes": 0}

    def run(self) -> None:
        plan = self._look()
        todo = sum(blob.size for blob in plan.blobs if not blob.have)
        progress = Progress("pushing", todo)
        if not self._options.dry_run:
            self._send_blobs(plan, progress)
            self._parallel(self._put_all, [(one,) for one in plan.manifests.values()])
            self._parallel(self._put_all, [([tag],) for tag in plan.tags])
            if todo:
                progress.finish()
        self._tell(plan, todo)

    def _look(self) -> Plan:
        """Ask for everything; nothing is changed."""
        blobs: Dict[str, Blob] = {}
        manifests: Dict[str, List[Manifest]] = {}
        tags: List[Manifest] = []
        for name, repository in self._repositories.items():
            for digest in sorted(set(repository.blobs) - set(repository.manifests)):
                size = self._bundle.members[blob_path(digest)].size
                blobs.setdefault(digest, Blob(digest, size, [], []))
                blobs[digest].lack.append(name)
            manifests[name], of_name = self._manifests(name, repository)
            tags += of_name
        pairs = [(blob, name) for blob in blobs.values() for name in blob.lack]
        there = self._parallel(self._has_blob, [(blob.digest, name) for blob, name in pairs])
        for (blob, name), has in zip(pairs, there):
            if has:
                blob.have.append(name)
                blob.lack.remove(name)
        wanted = [one for found in manifests.values() for one in found] + tags
        present = {wanted[n][:2] for n, has in enumerate(self._parallel(self._has, [(one,) for one in wanted])) if has}
        lacking = {name: [one for one in found if one[:2] not in present] for name, found in manifests.items()}
        order = sorted((blob for blob in blobs.values() if blob.lack), key=lambda blob: -blob.size)
        return Plan(order, {name: found for name, found in lacking.items() if found},
                    [tag for tag in tags if tag[:2] not in present])

    def _manifests(self, name: str, repository: Repository) -> Tuple[List[Manifest], List[Manifest]]:
        """A repository's manifests, children first, and its tags; indexes pruned if that is wanted."""
        parts = {digest: self._manifest(name, digest, media_type)
                 for digest, media_type in repository.manifests.items()}
        ordered: List[Manifest] = []

        def visit(digest: str) -> None:
            for child in json.loads(parts[digest].data.decode("utf-8")).get("manifests", ()):
                if child["digest"] in parts:
                    visit(child["digest"])
            if parts[digest] not in ordered:
                ordered.append(parts[digest])

        for digest in sorted(parts):
            visit(digest)
        tags = [parts[digest]._replace(reference=tag) for tag, digest in sorted(repository.tags.items())]
        self._digests.update(("{}:{}".format(name, tag), parts[digest].reference)
                             for tag, digest in repository.tags.items())
        return ordered, tags

    def _manifest(self, name: str, digest: str, media_type: str) -> Manifest:
        data = self._bundle.read(blob_path(digest))
        content = json.loads(data.decode("utf-8"))
        children = content.get("manifests", ())
        lost = [child for child in children if blob_path(child["digest"]) not in self._bundle.members]
        if lost and self._options.prune_indexes:
            content["manifests"] = [child for child in children if child not in lost]
            data = json.dumps(content, indent=1).encode("utf-8")
            digest, lost = "sha256:" + hashlib.sha256(data).hexdigest(), []
        return Manifest(name, digest, media_type, data, [_platform(child) for child in lost])

    def _send_blobs(self, plan: Plan, progress: Progress) -> None:
        def advance(size: int) -> None:
            with self._lock:
                progress.add(size)

        uploader = Uploader(self._remote, self._bundle, self._state, advance, self._stop, self._options.chunk << 20)
        self._parallel(lambda blob: self._send_blob(uploader, blob), [(blob,) for blob in plan.blobs])

    def _send_blob(self, uploader: Uploader, blob: Blob) -> None:
        """Into one repository, unless one has it, and from there into the others."""
        have = list(blob.have)
        for name in blob.lack:
            if have and uploader.mount(blob.digest, name, have[0]):
                self._count(mounted=1)
            else:
                uploader.send(blob.digest, name)
                self._count(uploaded=1, bytes=blob.size)
            have.append(name)

    def _put_all(self, manifests: List[Manifest]) -> None:
        for manifest in manifests:
            path = api(manifest.name, "manifests", manifest.reference)
            fields = {"Content-Type": manifest.media_type}
            answer = self._remote.ask("PUT", path, (scope(manifest.name),), manifest.data, fields)
            if answer.status not in (200, 201):
                raise _rejected(manifest, answer)

    def _has_blob(self, digest: str, name: str) -> bool:
        answer = self._remote.ask("HEAD", api(name, "blobs", digest), (scope(name),))
        return _there(answer, "asking for {} of {}".format(digest, name))

    def _has(self, manifest: Manifest) -> bool:
        path = api(manifest.name, "manifests", manifest.reference)
        answer = self._remote.ask("HEAD", path, (scope(manifest.name),), None, {"Accept": _ACCEPT})
        digest = "sha256:" + hashlib.sha256(manifest.data).hexdigest()
        return _there(answer, "asking for {} of {}".format(manifest.reference, manifest.name)) \
            and answer.fields.get("Docker-Content-Digest", "") == digest

    def _count(self, **more: int) -> None:
        with self._lock:
            for key, number in more.items():
                self._sent[key] += number

    def _parallel(self, work: "Callable[..., _T]", items: "Sequence[Tuple[Any, ...]]") -> "List[_T]":
        """`work` on every item, several at a time; the first failure stops all."""
        with ThreadPoolExecutor(max_workers=self._options.jobs) as pool:
            tasks = [pool.submit(work, *item) for item in items]
            try:
                for task in as_completed(tasks):
                    task.result()
            except BaseException:
                self._stop.set()
                for task in tasks:
                    task.cancel()
                raise
        return [task.result() for task in tasks]

    def _tell(self, plan: Plan, todo: int) -> None:
        base = self._remote.host
        images = [{"ref": image.ref, "digest": self._digests[self._target(image.ref)],
                   "target": "{}/{}".format(base, self._target(image.ref))} for image in self._bundle.info.images]
        manifests = sum(len(found) for found in plan.manifests.values())
        if self._options.json:
            facts = dict(self._sent, registry=base, dry_run=self._options.dry_run, images=images, missing_bytes=todo,
                         missing_blobs=len(plan.blobs), missing_manifests=manifests, missing_tags=len(plan.tags))
            print(json.dumps(facts, indent=1, sort_keys=True))
            return
        for image in images:
            print("{ref} -> {target}".format(**image))
        if self._options.dry_run:
            print("would send: {} blobs ({}), {} manifests, {} tags".format(
                len(plan.blobs), human(todo), manifests, len(plan.tags)))
        else:
            print("sent: {uploaded} blobs ({size}), {mounted} mounted, {} manifests, {} tags".format(
                manifests, len(plan.tags), size=human(self._sent["bytes"]), **self._sent))

    def _target(self, ref: str) -> str:
        """`name:tag` at the registry."""
        parts = split(ref)
        return "{}:{}".format(self._names["{}/{}".format(parts.registry, parts.name)], parts.tag)


def _there(answer: Answer, what: str) -> bool:
    if answer.status in (200, 307, 302):  # a redirect to the registry's own storage
        return True
    if answer.status == 404:
        return False
    raise TransferError("{}: HTTP {}".format(what, answer.status), "see the registry's log")


def _rejected(manifest: Manifest, answer: Answer) -> TransferError:
    what = "{}:{} was refused: {}".format(manifest.name, manifest.reference, answer.said())
    if manifest.absent and answer.status in (400, 404):
        return TransferError(
            "{}; it is an index of which the bundle lacks {}".format(what, ", ".join(manifest.absent)),
            "this registry takes whole indexes only: give --prune-indexes (tags work, the indexes' digests change)")
    return TransferError(what, "see the registry's log")


def _platform(child: Dict[str, Any]) -> str:
    platform = child.get("platform") or {}
    words = [str(platform.get(key, "")) for key in ("os", "architecture", "variant")]
    return "/".join(word for word in words if word) or str(child["digest"])


def _state_file(host: str) -> str:
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "kubecarry", "push-{}.json".format(re.sub("[^A-Za-z0-9.-]", "_", host)))


def _interrupt(number: int, frame: Any) -> None:  # noqa: ARG001
    raise KeyboardInterrupt


def _number(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 1024:
        raise argparse.ArgumentTypeError("not a number from 1 to 1024: {}".format(text))
    return int(text)
