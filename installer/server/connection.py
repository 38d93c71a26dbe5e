"""One client: reads requests, sends replies, keeps the deadlines. Never blocks."""

import select
import socket
from typing import TYPE_CHECKING, Optional, Tuple

from .content import Changed
from .outbox import AnySocket, Outbox
from .reply import Reply, text
from .request import RequestError, check_partial, parse
from .tls import TlsSocket

if TYPE_CHECKING:
    from .loop import Loop

HEAD_SECONDS = 10  # for a whole request head, from its first byte
IDLE_SECONDS = 75  # between requests
STALL_SECONDS = 60  # without a byte taken by the client; there is no limit on a whole transfer
LINGER_SECONDS = 2  # for what a client still sends after the last reply
_LINGER_BYTES = 1 << 20
_READ = 16 << 10
_MEMO_KEY = 2048
_QUIET = getattr(socket, "MSG_NOSIGNAL", 0)
_READING, _WRITING, _LINGERING, _SHAKING = range(4)


class Connection:
    """State of one accepted socket; `handle` is called for every event that epoll has for it."""

    __slots__ = ("_buffer", "_fd", "_lingered", "_loop", "_outbox", "_phase", "_reply", "_sent", "_sock",
                 "_started", "deadline", "peer")

    def __init__(self, loop: "Loop", sock: AnySocket, peer: str) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self.peer = peer
        self.deadline = loop.now + HEAD_SECONDS
        self._phase = _SHAKING if isinstance(sock, TlsSocket) else _READING
        self._buffer = b""
        self._outbox: Optional[Outbox] = None
        self._reply: Optional[Reply] = None
        self._sent = self._lingered = 0
        self._started = 0.0

    @property
    def idle(self) -> bool:
        """Whether the client is between two requests."""
        return self._phase == _READING and not self._buffer

    def handle(self, _event: int) -> None:
        """Go on wherever the connection stands."""
        try:
            if self._phase == _READING:
                data = self._sock.recv(_READ)
                if data:
                    self._process(self._buffer + data if self._buffer else data)
                else:
                    self.close()
            elif self._phase == _WRITING:
                self._resume()
            elif self._phase == _SHAKING:
                self._shake()
            else:
                self._linger()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()
        except Changed as error:
            self._loop.app.changed(error)
            self.close()
        except Exception as error:
            self._loop.report("unexpected {}: {}; hung up on {}".format(type(error).__name__, error, self.peer))
            self.close()

    def expire(self) -> None:
        """The deadline has passed: tell a client that was too slow with its request, then hang up."""
        if self._phase == _READING and self._buffer:
            refusal = _refusal(RequestError(408, "the request took longer than {} s".format(HEAD_SECONDS)))
            self._push(refusal.head + self._loop.date)
        self.close()

    def close(self) -> None:
        """Hang up and forget the connection."""
        if self._outbox is not None:
            self._log()
            self._outbox.close()
            self._outbox = None
        self._loop.forget(self._fd)
        self._sock.close()

    def origin(self) -> str:
        """The URL under which this client reached the server: by the socket's own address, not by any header."""
        return self._loop.origin(self._sock.getsockname())

    def _shake(self) -> None:
        """Go on with the TLS handshake; its deadline is that of the first request head."""
        wanted = self._sock.handshake() if isinstance(self._sock, TlsSocket) else 0
        self._loop.epoll.modify(self._fd, wanted or select.EPOLLIN)
        if not wanted:
            self._phase = _READING

    def _process(self, data: bytes) -> None:
        """Answer every whole request in `data`, as long as the client takes the replies."""
        loop = self._loop
        memo = loop.memo
        begun = bool(self._buffer)
        if loop.log is not None:
            self._started = loop.clock()
        while data:
            rest = b""
            reply = memo.get(data)
            if reply is None:
                if data.startswith(b"\r\n"):  # an empty line before a request is forgiven
                    data = data[2:]
                    continue
                end = data.find(b"\r\n\r\n") + 4
                if end < 4:
                    self._wait(data)
                    return
                self._buffer = b""
                head, rest = data[:end], data[end:]
                reply = memo.get(head) or loop.recall(head)
                if reply is None:
                    reply, used = self._answer(head, rest)
                    if reply is None:
                        self._keep(data, begun)
                        return
                    rest = rest[used:]
            begun = False
            self._buffer = rest
            if not self._send(reply):
                return
            data, self._buffer = rest, b""
        self.deadline = loop.now + IDLE_SECONDS

    def _wait(self, data: bytes) -> None:
        """Keep the beginning of a request head; the time for it runs from its first byte."""
        self._keep(data, bool(self._buffer))
        try:
            check_partial(data)
        except RequestError as error:
            self._send(_refusal(error))

    def _keep(self, data: bytes, begun: bool) -> None:
        if not begun:
            self.deadline = self._loop.now + HEAD_SECONDS
        self._buffer = data

    def _answer(self, head: bytes, rest: bytes) -> Tuple[Optional[Reply], int]:
        """The reply, and how much of `rest` was its request's body; none as long as that is not there."""
        loop = self._loop
        try:
            check_partial(head)
            request = parse(head[:-4])
        except RequestError as error:
            return _refusal(error), 0
        size = loop.app.body_size(request)
        if size > len(rest):
            return None, 0
        if size:
            request.body, request.has_body = rest[:size], False
        request.peer = self.peer
        reply = loop.app.answer(request, self.origin)
        if reply.lasting and not reply.close and len(head) <= _MEMO_KEY:
            loop.remember(head, reply)
        return reply, size

    def _send(self, reply: Reply) -> bool:
        """Begin a reply; True if it went out whole and the connection goes on."""
        loop = self._loop
        self._reply = reply
        data = reply.head + loop.date
        body = reply.body
        if body and (len(body) > 1 or type(body[0]) is not bytes):
            self._outbox = Outbox(loop.source, [data, *body])
            self._sent = self._outbox.flush(self._sock)
        else:
            if body:
                data += body[0]  # type: ignore[operator]
            self._sent = self._push(data)
            if self._sent < len(data):
                self._outbox = Outbox(loop.source, [data[self._sent:]])
        loop.count(self.peer, self._sent)
        if self._outbox is None or self._outbox.done:
            return self._finish()
        self._enter(_WRITING, STALL_SECONDS)
        return False

    def _push(self, data: bytes) -> int:
        try:
            return self._sock.send(data, _QUIET)
        except (BlockingIOError, InterruptedError):
            return 0

    def _resume(self) -> None:
        """The client takes more: send it, then go on with the requests that wait behind it."""
        outbox = self._outbox
        sent = outbox.flush(self._sock) if outbox else 0
        self._sent += sent
        self._loop.count(self.peer, sent)
        if sent:
            self.deadline = self._loop.now + STALL_SECONDS
        if (outbox is None or outbox.done) and self._finish():
            self._enter(_READING, IDLE_SECONDS)
            waiting, self._buffer = self._buffer, b""
            self._process(waiting)

    def _finish(self) -> bool:
        """A reply is out whole: True if another request may follow."""
        self._log()
        if self._reply is not None:
            self._loop.replies[self._reply.status // 100] += 1
        self._outbox = None
        reply = self._reply
        if reply is not None and not reply.close and self._loop.running:
            return True
        if self._buffer or reply is None or reply.request is None or reply.request.has_body:
            # Unread input would turn the close into a reset, which can destroy the reply on its way.
            self._sock.shutdown(socket.SHUT_WR)
            self._enter(_LINGERING, LINGER_SECONDS)
        else:
            self.close()
        return False

    def _linger(self) -> None:
        data = self._sock.recv(_READ)
        self._lingered += len(data)
        if not data or self._lingered > _LINGER_BYTES:
            self.close()

    def _enter(self, phase: int, seconds: float) -> None:
        """Change the phase, and what epoll watches the socket for."""
        loop = self._loop
        if (phase == _WRITING) != (self._phase == _WRITING):
            loop.epoll.modify(self._fd, select.EPOLLOUT if phase == _WRITING else select.EPOLLIN)
        self._phase = phase
        self.deadline = loop.now + seconds

    def _log(self) -> None:
        if self._loop.log is not None and self._reply is not None:
            self._loop.log.add(self.peer, self._reply, self._sent, self._loop.clock() - self._started)


def _refusal(error: RequestError) -> Reply:
    reply = text(error.status, error.text, [("Connection", "close")])
    reply.close = True
    return reply
