"""Every way the installer can fail.

    InstallerError        1
    ├── UsageError        2  the command line asks for something that makes no sense
    ├── TransferError     5  another server refuses, fails or is gone
    ├── IntegrityError    6  a bundle is not what it says, or a byte differs
    └── HostError         7  this machine: a port, a permission, a missing tool

Only ``cli`` turns them into exit codes.
"""


class InstallerError(Exception):
    """What happened and where (``message``), what to do next (``hint``)."""

    exit_code = 1
    usual_hint = ""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.usual_hint


class UsageError(InstallerError):
    """The command line cannot be obeyed."""

    exit_code = 2


class TransferError(InstallerError):
    """A registry that is written to refuses, fails or cannot be reached."""

    exit_code = 5


class IntegrityError(InstallerError):
    """A bundle is malformed, incomplete, or has bytes that differ from their digest."""

    exit_code = 6
    usual_hint = "the bundle was damaged or repacked: copy it again, or build it again with `bundler build`"


class HostError(InstallerError):
    """The machine lacks a port, a permission or a tool."""

    exit_code = 7
