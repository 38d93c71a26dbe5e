"""`unpack`: write a bundle out as one whole tar, from parts, from a .run, or from a base and its deltas."""

import argparse
import hashlib
import os
import sys
from typing import Any, BinaryIO

from .bundle import OUTSIDE, Bundle
from .errors import HostError, IntegrityError
from .progress import Progress, human
from .tarheader import BLOCK, header
from .tarindex import Member
from .verify import compare_sums


def add_verb(verbs: Any) -> None:
    """Add `unpack` to the command line."""
    about = "write a bundle as one whole tar: from a base and its deltas, from parts, or from a .run"
    verb = verbs.add_parser("unpack", help=about, description=about[0].upper() + about[1:] + ".")
    add_bundle(verb)
    verb.add_argument("-o", "--output", metavar="FULL.tar", required=True, help="the tar to write")
    verb.set_defaults(action=unpack)


def add_bundle(verb: argparse.ArgumentParser) -> None:
    """Add the arguments that name a bundle."""
    verb.add_argument("bundle", metavar="BUNDLE", help="the tar, its first part, a .run, or a directory")
    verb.add_argument("more", metavar="DELTA", nargs="*", help="deltas on top, oldest first; or its other parts")


def unpack(bundle: Bundle, options: argparse.Namespace) -> None:
    """Write the tar, and tell where it is. Raises IntegrityError, HostError."""
    write(bundle, options.output, "choose another place with -o")
    size = os.path.getsize(options.output)
    sys.stderr.write("{}: {} files, {}\n".format(options.output, len(bundle.members), human(size)))
    print(options.output)


def write(bundle: Bundle, output: str, hint: str) -> None:
    """Write a bundle as one whole tar: every byte checked, or nothing. Raises IntegrityError; HostError with `hint`."""
    problems = compare_sums(bundle)
    if problems:
        raise IntegrityError("{}: {}".format(bundle.source.path, "; ".join(problems[:20])))
    temporary = os.path.join(os.path.dirname(output), ".{}.partial".format(os.path.basename(output)))
    try:
        with open(temporary, "wb") as file:
            try:
                _write(bundle, file)
                file.flush()
                os.rename(temporary, output)
            except BaseException:
                os.unlink(temporary)
                raise
    except OSError as error:
        raise HostError("{}: {}".format(output, error.strerror or error), hint) from None


def _write(bundle: Bundle, file: BinaryIO) -> None:
    progress = Progress("writing", sum(member.size for member in bundle.members.values()))
    first = [path for path in OUTSIDE if path in bundle.members]
    for path in first + sorted(path for path in bundle.members if path not in OUTSIDE):
        member = bundle.members[path]
        file.write(header(path, member.size, bundle.info.created))
        _copy(bundle, member, file, progress)
        file.write(bytes(-member.size % BLOCK))
    file.write(bytes(2 * BLOCK))
    progress.finish()


def _copy(bundle: Bundle, member: Member, file: BinaryIO, progress: Progress) -> None:
    digest = hashlib.sha256()
    for piece in bundle.source.stream(member):
        digest.update(piece)
        file.write(piece)
        progress.add(len(piece))
    if digest.hexdigest() != bundle.digests[member.path]:
        raise IntegrityError("{}: {} differs from its digest".format(bundle.source.path, member.path))
