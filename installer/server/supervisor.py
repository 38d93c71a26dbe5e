"""The parent process: holds the port, starts a worker per core, restarts one that dies, stops them all."""

import contextlib
import gc
import os
import resource
import signal
import socket
import sys
import time
from typing import Callable, Dict, List

from .loop import STOP, Loop

GRACE_SECONDS = 10  # for transfers under way when the server is told to stop
_POLL_SECONDS = 2
_RESTART_SECONDS = 1
_WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Runs `count` workers; `make_loop` builds a worker's Loop, inside the worker.

    It is given the worker's number, from 0, which its successor inherits, and the lifeline.
    """

    def __init__(self, count: int, listeners: List[socket.socket], make_loop: Callable[[int, int], Loop],
                 report: Callable[[str], None], watch: Callable[[], None]) -> None:
        self._count = count
        self._listeners = listeners
        self._make_loop = make_loop
        self._report = report
        self._watch = watch  # called every few seconds
        self._lifelines: Dict[int, int] = {}
        self._numbers: Dict[int, int] = {}  # pid -> number
        self._failed = False

    def run(self, started: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; `started` is called once the workers are there."""
        _raise_limit()
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        try:
            for _ in range(self._count):
                self._start()
            started()
            self._supervise()
        finally:
            self._stop()

    def _supervise(self) -> None:
        restarts: List[float] = []
        while True:
            found = signal.sigtimedwait(_WATCHED, _POLL_SECONDS)
            if found is not None and found.si_signo in (signal.SIGTERM, signal.SIGINT):
                return
            restarts += [time.monotonic() + _RESTART_SECONDS] * self._bury()
            while restarts and restarts[0] <= time.monotonic():
                restarts.pop(0)
                self._start()
            self._watch()

    def _start(self) -> None:
        ours, theirs = os.pipe()
        number = min(set(range(self._count)) - {self._numbers[pid] for pid in self._lifelines})
        pid = os.fork()
        if pid:
            self._numbers[pid] = number
            os.close(ours)
            self._lifelines[pid] = theirs
            return
        status = 1
        try:
            os.close(theirs)
            for other in self._lifelines.values():
                os.close(other)
            _worker(self._make_loop(number, ours))
            status = 0
        except BaseException as error:
            self._report("worker {}: {}: {}".format(os.getpid(), type(error).__name__, error))
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _bury(self) -> int:
        """Collect dead workers; how many there were."""
        dead = 0
        for pid in list(self._lifelines):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                os.close(self._lifelines.pop(pid))
                self._report("worker {} {}; starting another one".format(pid, _fate(status)))
                dead += 1
        return dead

    def _stop(self) -> None:
        """Let the workers finish what is under way; a second signal, or the grace period's end, cuts it short."""
        for sock in self._listeners:
            sock.close()
        for lifeline in self._lifelines.values():
            with contextlib.suppress(OSError):
                os.write(lifeline, STOP)
        deadline = time.monotonic() + GRACE_SECONDS
        while self._lifelines and time.monotonic() < deadline:
            for pid in [one for one in self._lifelines if os.waitpid(one, os.WNOHANG)[0]]:
                os.close(self._lifelines.pop(pid))
            found = signal.sigtimedwait(_WATCHED, 0.1) if self._lifelines else None
            if found is not None and found.si_signo in (signal.SIGTERM, signal.SIGINT):
                break
        for pid, lifeline in self._lifelines.items():
            os.close(lifeline)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _worker(loop: Loop) -> None:
    # The parent tells workers what to do: a Ctrl-C reaches the whole process group, and must not cut transfers.
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    gc.collect()
    getattr(gc, "freeze", int)()  # Python 3.7: what is there now is not looked at again
    loop.run()


def _fate(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "was killed by signal {}".format(os.WTERMSIG(status))
    return "ended with status {}".format(os.WEXITSTATUS(status))


def _raise_limit() -> None:
    """As many file descriptors as this user may have: each client takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
