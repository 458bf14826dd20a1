"""`RateLimiter`: a token bucket per client."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_CLIENTS = 4096
"""Buckets kept; the client that was away longest loses its own, which is full again by then."""


class RateLimiter:
    """`rate` requests per second and client, in bursts of at most `burst`.

    >>> now = [0.0]
    >>> limiter = RateLimiter(2, 3, clock=lambda: now[0])
    >>> [limiter.wait("a") for _ in range(4)]
    [0.0, 0.0, 0.0, 0.5]
    >>> now[0] = 0.5
    >>> limiter.wait("a"), limiter.wait("a"), limiter.wait("b")
    (0.0, 0.5, 0.0)
    """

    def __init__(self, rate: float, burst: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self.clock = rate, max(1.0, burst), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, cost: float = 1.0) -> float:
        """Take `cost` from the client's bucket: 0 where it holds as much, else the seconds until it will."""
        now = self.clock()
        level, since = self._buckets.pop(client, (self.burst, now))
        level = min(self.burst, level + (now - since) * self.rate)
        wait = 0.0 if level >= cost else (cost - level) / self.rate
        self._buckets[client] = (level - cost if wait == 0 else level, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return wait

    def __len__(self) -> int:
        return len(self._buckets)


def client_key(address: str | None) -> str:
    """One name per client: an IPv6 host has a whole /64 to choose addresses from.

    >>> client_key("10.0.0.7"), client_key("2001:db8::1"), client_key("2001:db8::2"), client_key(None)
    ('10.0.0.7', '2001:db8::/64', '2001:db8::/64', '')
    """
    try:
        ip = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
