"""What stands before the page: this machine's own names, a token if there is one, no way out for the browser."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from ui.address import LOOPBACK

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "zellige_token"
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio compiles its templates in the browser
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""Whatever the page's libraries would fetch from elsewhere, the browser refuses."""
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)


class Guard:
    """ASGI middleware. `hosts` are the names the page answers to, or None for any; `token` None lets everybody in.

    A name is checked because any web page can have its own name resolve to this machine (DNS rebinding), the origin
    because any web page can send a form here.
    """

    def __init__(self, app: ASGIApp, *, token: str | None = None, hosts: Sequence[str] | None = LOOPBACK) -> None:
        self.app = app
        self.token = token
        self.hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        if (reason := self._refused(headers, scope["path"])) is not None:
            await _answer(guarded, 403, reason)
        elif self.token is None or self._let_in(headers):
            await self.app(scope, receive, guarded)
        elif scope["path"] == "/" and (given := parse_qs(scope["query_string"].decode("latin-1")).get("token")):
            if self._is_token(given[0]):
                cookie = f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                await _answer(guarded, 303, "", (b"location", b"./"), (b"set-cookie", cookie.encode()))
            else:
                await _answer(guarded, 401, _door("That is not the token."))
        else:
            await _answer(guarded, 401, _door("This page needs the token that it was started with."))

    def _refused(self, headers: dict[str, str], path: str) -> str | None:
        host = _name(f"//{headers.get('host', '')}")
        if self.hosts is not None and host not in self.hosts:
            return "Expected a request to this machine by its own name, but got another host."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            return "Expected a request from this page, but got one from another origin."
        if "file=http" in path:
            return "Expected a file of this machine, but got an address."  # Gradio would fetch it
        return None

    def _let_in(self, headers: dict[str, str]) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(given.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self.token or "").encode())


def _name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


async def _answer(send: Send, status: int, body: str, *headers: tuple[bytes, bytes]) -> None:
    kind = b"text/html; charset=utf-8" if body.startswith("<") else b"text/plain; charset=utf-8"
    data = body.encode()
    length = str(len(data)).encode()
    every = [(b"content-type", kind), (b"content-length", length), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": data})


def _door(reason: str) -> str:
    return files("ui.web").joinpath("static/door.html").read_text(encoding="utf-8").replace("REASON", reason)
