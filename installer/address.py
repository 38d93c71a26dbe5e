"""Listening sockets, and the addresses of this machine that nodes can reach them under."""

import array
import errno
import fcntl
import socket
import struct
from typing import Any, List, Tuple

from .errors import HostError, UsageError

_SIOCGIFCONF = 0x8912
_IFREQ = 40 if struct.calcsize("P") == 8 else 32
_BACKLOG = 4096


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to `host` (a literal address; `::` serves IPv4 as well), not yet listening.

    Raises UsageError for a malformed address, HostError (port taken, no permission, not an address of ours).
    """
    family, address = _resolve(host, port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _failure(host, port, error) from None
    sock.setblocking(False)
    return sock


def listen(sock: socket.socket) -> None:
    """Accept clients from now on. Raises HostError if another program took the port since `bind`."""
    try:
        sock.listen(_BACKLOG)
    except OSError as error:
        raise _failure(str(sock.getsockname()[0]), int(sock.getsockname()[1]), error) from None


def reachable(sock: socket.socket) -> List[Tuple[str, int]]:
    """The (address, port) pairs under which nodes can reach a bound socket, loopback only if nothing else."""
    host, port = sock.getsockname()[:2]
    if host not in ("0.0.0.0", "::"):  # noqa: S104
        return [(host, port)]
    found = local_ipv4() + (local_ipv6() if host == "::" else [])
    outside = [one for one in found if one != "::1" and not one.startswith(("127.", "169.254.", "fe80:"))]
    return [(one, port) for one in outside or found or ["127.0.0.1"]]


def local_ipv4() -> List[str]:
    """Every IPv4 address of this machine, in the order of its interfaces."""
    room = 64 * _IFREQ
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        while True:
            buffer = array.array("B", bytes(room))
            request = struct.pack("iP", room, buffer.buffer_info()[0])
            used = struct.unpack("iP", fcntl.ioctl(sock.fileno(), _SIOCGIFCONF, request))[0]
            if used < room:
                break
            room *= 2
    data = buffer.tobytes()
    return [socket.inet_ntoa(data[at + 20:at + 24]) for at in range(0, used, _IFREQ)]


def local_ipv6() -> List[str]:
    """Every IPv6 address of this machine."""
    try:
        with open("/proc/net/if_inet6") as file:
            return [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line[:32])) for line in file]
    except OSError:
        return []


def _resolve(host: str, port: int) -> Tuple[int, Tuple[Any, ...]]:
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST | socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError, OverflowError):
        raise UsageError("--bind {}: not an IP address".format(host), "give an address of this machine") from None
    return int(found[0][0]), tuple(found[0][4])


def _failure(host: str, port: int, error: OSError) -> HostError:
    if error.errno == errno.EADDRINUSE:
        return HostError("port {} on {} is taken by another program".format(port, host),
                         "`ss -ltnp sport = :{}` names it; stop it, or serve on another port with --port".format(port))
    if error.errno == errno.EACCES:
        return HostError("port {}: permission denied".format(port), "ports below 1024 need root; use --port 8000")
    if error.errno == errno.EADDRNOTAVAIL:
        return HostError("{} is not an address of this machine".format(host), "`ip -brief address` lists them")
    return HostError("cannot listen on {} port {}: {}".format(host, port, error.strerror), "check --bind and --port")
