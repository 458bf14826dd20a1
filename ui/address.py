"""Where a server listens, and who can reach it there."""

from __future__ import annotations

import ipaddress
import socket

from asd.errors import ZelligeError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""This machine's own names."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound to `host`.

    >>> [is_loopback(host) for host in ("localhost", "127.8.0.1", "::1", "0.0.0.0", "::", "example.org", "")]
    [True, True, True, False, False, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_port(port: int) -> None:
    """Raise ZelligeError for what is no port; 0 is a free one."""
    if not 0 <= port <= 65535:
        raise ZelligeError(f"Expected --port to be 0 to 65535, but got {port}")


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address of this machine. Raises ZelligeError for one that is taken or of elsewhere."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.create_server(address[:2], family=family, backlog=512)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ZelligeError(
            f"Expected a free port and an address of this machine, but got {host[:100]}:{port} ({reason})"
        ) from error
    # connections inherit it; without it the second packet of an answer waits 40 ms for the client's word on the first,
    # and asyncio sets it only for sockets whose protocol is named
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def url(host: str, listener: socket.socket) -> str:
    """The address for a browser on this machine."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
