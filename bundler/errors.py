"""Every way the bundler can fail, as one tree.

    BundlerError
    ├── ManifestError   3  a release or add-on manifest is wrong
    │   └── LockError   3  a lock is wrong, incomplete or missing
    ├── ResolveError    4  no set of packages or images satisfies the manifest
    ├── FetchError      5  an upstream did not give what the lock names
    ├── IntegrityError  6  bytes differ from their digest, or a bundle is not what it says
    └── HostError       7  this machine: space, permission, a port, a missing tool

Only ``bundler.cli`` turns them into exit codes; usage errors (2) are click's own.
"""


class BundlerError(Exception):
    """What happened and where (``message``), what to do next (``hint``)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ManifestError(BundlerError):
    """A manifest does not follow docs/formats.md."""

    exit_code = 3


class LockError(ManifestError):
    """A lock is malformed, or leaves unresolved what the manifest wants."""


class ResolveError(BundlerError):
    """No package, image or checksum satisfies what the manifest asks for."""

    exit_code = 4


class FetchError(BundlerError):
    """An upstream is unreachable, or does not have what is asked of it."""

    exit_code = 5


class IntegrityError(BundlerError):
    """Bytes do not have the digest or size that they must have."""

    exit_code = 6


class HostError(BundlerError):
    """The machine lacks space, permission, a port or a tool."""

    exit_code = 7
