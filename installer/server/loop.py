"""The loop of one worker process: an epoll, the listening sockets, and every connection accepted from them."""

import errno
import os
import select
import socket
import ssl
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from .accesslog import AccessLog
from .app import App
from .connection import Connection
from .desk import Desk
from .outbox import AnySocket
from .reply import Reply, date_line
from .request import PLAIN
from .tls import TlsSocket

_TICK = 1.0
_BATCH = 256
_MEMO = 1024
_PLAIN = 2048
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_EXCLUSIVE = getattr(select, "EPOLLEXCLUSIVE", 0)
STOP = b"s"


class Loop:
    """Serves an App until `lifeline` says STOP (finish what is under way) or ends (the parent died)."""

    def __init__(self, app: App, listeners: List[socket.socket], lifeline: int, report: Callable[[str], None],
                 log: Optional[AccessLog] = None, advertise: str = "", tls: Optional[ssl.SSLContext] = None,
                 desk: Optional[Desk] = None) -> None:
        self.app = app
        self.source = app.source
        self.report = report
        self.log = log
        self.clock = time.monotonic
        self.now = self.clock()
        self.date = date_line(time.time())
        self.memo: Dict[bytes, Reply] = {}
        self._lines: Dict[bytes, Reply] = {}  # by request line
        self.epoll = select.epoll()
        self._advertise = advertise
        self._tls = tls
        self._desk = desk
        self.replies = [0] * 6  # by the first digit of their status
        self._sent: Dict[str, int] = {}  # bytes by client, since the last tick
        self._lifeline = lifeline
        self._listeners = listeners
        self._connections: Dict[int, Connection] = {}
        self._handlers: Dict[int, Callable[[int], None]] = {lifeline: self._command}
        self._accepting = False
        self.running = True
        self.epoll.register(lifeline, select.EPOLLIN)

    def run(self) -> None:
        """Serve. Returns once stopped and the last reply is out."""
        self._listen()
        poll, handlers = self.epoll.poll, self._handlers
        next_tick = self.now + _TICK
        while self.running or self._connections:
            events = poll(_TICK, _BATCH)
            self.now = self.clock()
            if self.now >= next_tick:
                self._tick()
                next_tick = self.now + _TICK
            for fd, event in events:
                handler = handlers.get(fd)
                if handler is not None:
                    handler(event)
            if self.log is not None:
                self.log.flush()

    def remember(self, head: bytes, reply: Reply) -> None:
        """Answer the very same request head with the same reply from now on; any head of that line if none matters."""
        if len(self.memo) >= _MEMO:
            self.memo.clear()
            self._lines.clear()
        self.memo[head] = reply
        plain = PLAIN.fullmatch(head)
        if plain and reply.status == 200:
            self._lines[plain.group(1)] = reply

    def recall(self, head: bytes) -> Optional[Reply]:
        """The reply to a head that was not seen before, but its line was. Not where each request is logged."""
        if self.log is not None or len(head) > _PLAIN:
            return None
        plain = PLAIN.fullmatch(head)
        return self._lines.get(plain.group(1)) if plain else None

    def forget(self, fd: int) -> None:
        """A connection is about to be closed."""
        self._connections.pop(fd, None)
        self._handlers.pop(fd, None)
        if self.running and not self._accepting:
            self._listen()

    def count(self, peer: str, size: int) -> None:
        """Note bytes that a client took."""
        self._sent[peer] = self._sent.get(peer, 0) + size

    def origin(self, address: Tuple[Any, ...]) -> str:
        """The URL of the server at a socket address of its own, unless another one is advertised."""
        return self._advertise or url_of(address, self._tls is not None)

    def _listen(self) -> None:
        for sock in self._listeners:
            self._handlers[sock.fileno()] = self._acceptor(sock)
            try:
                self.epoll.register(sock.fileno(), select.EPOLLIN | _EXCLUSIVE)
            except OSError:  # a kernel older than 4.5
                self.epoll.register(sock.fileno(), select.EPOLLIN)
        self._accepting = True

    def _deafen(self) -> None:
        """Leave new clients in the kernel's queue, or to the other workers."""
        if self._accepting:
            for sock in self._listeners:
                self.epoll.unregister(sock.fileno())
                self._handlers.pop(sock.fileno(), None)
        self._accepting = False

    def _acceptor(self, listener: socket.socket) -> Callable[[int], None]:
        def accept(_event: int) -> None:
            # One at a time: what is left wakes a worker that has less to do.
            try:
                sock, address = listener.accept()
            except OSError as error:
                if error.errno in _FULL:
                    self._make_room()
                return
            self._adopt(sock, address[0])
        return accept

    def _adopt(self, sock: socket.socket, peer: str) -> None:
        fd = sock.fileno()
        sock.setblocking(False)
        try:
            self.epoll.register(fd, select.EPOLLIN)
        except OSError:  # the kernel's limit of watched files
            sock.close()
            return
        try:
            ours: AnySocket = TlsSocket(sock, self._tls) if self._tls else sock
        except OSError:  # the client has gone already
            sock.close()
            return
        connection = Connection(self, ours, peer)
        self._connections[fd] = connection
        self._handlers[fd] = connection.handle

    def _make_room(self) -> None:
        """No descriptor is left: hang up on the clients that have been idle longest, or stop accepting."""
        idle = sorted((one for one in self._connections.values() if one.idle), key=lambda one: one.deadline)
        for connection in idle[:64]:
            connection.close()
        if not idle:
            self.report("no file descriptors are left (ulimit -n): new clients wait until others have finished")
            self._deafen()

    def _tick(self) -> None:
        self.date = date_line(time.time())
        if self._desk is not None:
            self._desk.tick(self.replies, len(self._connections), self._sent)
        self._sent.clear()
        if self.running and not self._accepting:
            self._listen()
        for connection in [one for one in self._connections.values() if one.deadline < self.now]:
            connection.expire()

    def _command(self, _event: int) -> None:
        if os.read(self._lifeline, 1) != STOP:
            if self.log is not None:
                self.log.flush()
            os._exit(0)
        self.running = False
        self._deafen()
        for sock in self._listeners:
            sock.close()
        for connection in [one for one in self._connections.values() if one.idle]:
            connection.close()


def url_of(address: Tuple[Any, ...], secure: bool = False) -> str:
    """The URL of a socket address: `('10.0.0.1', 8000)` is `http://10.0.0.1:8000`."""
    host, port = str(address[0]), int(address[1])
    if host.startswith("::ffff:"):
        host = host[len("::ffff:"):]
    return "http{}://{}:{}".format("s" if secure else "", "[{}]".format(host) if ":" in host else host, port)
