"""`Guard`: what every request passes first, the web page's too: rate, access, the size and the time of its body."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ui.api.access import Access
from ui.api.errors import ApiError, too_many
from ui.api.metrics import Metrics
from ui.api.rates import RateLimiter, client_key
from ui.api.settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

SMALL_BODY = 256 * 1024
"""Bytes of a body that is JSON."""
DRAINED = 2**20
"""Bytes of a body that are read and dropped after a refusal, so that the connection lives and the client hears it."""
DRAIN_SECONDS = 5.0
PAGE_COST = 0.1
"""A page is a hundred small files."""
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"SAMEORIGIN",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
}
API_HEADERS = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; sandbox",
    b"cache-control": b"no-store",
}


class Guard:
    """ASGI middleware. Its refusals are sent in place of whatever the app would have answered."""

    def __init__(self, app: App, *, settings: Settings, access: Access, metrics: Metrics) -> None:
        self.app, self.settings, self.access, self.metrics = app, settings, access, metrics
        self.limiter = RateLimiter(settings.rate, 2 * settings.rate)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # nothing here speaks over web sockets
            return await send({"type": "websocket.close", "code": 1008})
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        body = _Body(receive, headers, self._limit(scope["path"]), self.settings.body_seconds)
        answer = _Answer(send, body, api=_is_api(scope["path"]))
        started = time.perf_counter()
        try:
            self._admit(scope, headers, body)
            await self.app(scope, body.receive, answer.send)
        except ApiError as error:
            await answer.refuse(error)
        finally:
            if not answer.started and body.fault is not None:
                await answer.refuse(body.fault)
            route = getattr(scope.get("route"), "path", None)
            self.metrics.request(scope["method"], route, answer.status, time.perf_counter() - started)

    def _admit(self, scope: Any, headers: dict[str, str], body: _Body) -> None:
        path, method = scope["path"], scope["method"]
        client = client_key(scope["client"][0] if scope.get("client") else None)
        cost = 1.0 if _is_api(path) or method not in ("GET", "HEAD") else PAGE_COST
        if path != "/healthz" and (wait := self.limiter.wait(client, cost)) > 0:
            raise too_many(f"Expected at most {self.settings.rate:g} requests per second, but got more", wait)
        self.access.check(method, path, scope["query_string"].decode("latin-1"), headers)
        body.check_declared()

    def _limit(self, path: str) -> int:
        return SMALL_BODY if _is_api(path) and path != "/v1/score" else self.settings.max_body


class _Body:
    """The body of a request, cut off at `limit` bytes and after `seconds`."""

    def __init__(self, receive: Receive, headers: dict[str, str], limit: int, seconds: float) -> None:
        self._receive, self.limit, self.seconds = receive, limit, seconds
        declared = headers.get("content-length", "")
        self.declared = int(declared) if declared.isdecimal() and len(declared) < 20 else None
        self.chunked = "transfer-encoding" in headers
        self.got = 0
        self.done = not self.chunked and not self.declared
        self.fault: ApiError | None = None
        self._deadline = time.monotonic() + seconds

    def check_declared(self) -> None:
        """Raises ApiError for a body that says itself that it is too large."""
        if self.declared is not None and self.declared > self.limit:
            raise self._too_large(f"{self.declared}")

    async def receive(self) -> Message:
        if self.done:  # what comes now is the end of the connection
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            self.fault = ApiError(408, f"Expected the body within {self.seconds:g} seconds, but got {self.got} bytes")
            raise self.fault from None
        if message["type"] == "http.request":
            self.got += len(message.get("body", b""))
            self.done = not message.get("more_body", False)
            if self.got > self.limit:
                self.fault = self._too_large("more")
                raise self.fault
        return message

    async def drain(self) -> bool:
        """Drop what is still to come, if it is little; whether it all came."""
        if self.done:
            return True
        if self.fault is not None or self.declared is None or self.declared - self.got > DRAINED:
            return False
        self._deadline = min(self._deadline, time.monotonic() + DRAIN_SECONDS)
        self.limit = max(self.limit, self.declared)
        try:
            while not self.done:
                if (await self.receive())["type"] != "http.request":
                    return False
        except ApiError:
            return False
        return True

    def _too_large(self, got: str) -> ApiError:
        return ApiError(413, f"Expected a body of at most {self.limit} bytes, but got {got}", code="too_large")


class _Answer:
    """Sends what the app answers, or a refusal in its place."""

    def __init__(self, send: Send, body: _Body, *, api: bool) -> None:
        self._send, self._body, self._api = send, body, api
        self.started = self._replaced = False
        self.status = 500

    async def send(self, message: Message) -> None:
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            if self._body.fault is not None:
                return await self.refuse(self._body.fault)
            await self._start(message)
        else:
            await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        if self.started:  # too late for another answer; the server closes the connection
            return
        self._replaced = True
        data = error.body()
        head = {"content-type": "application/json", "content-length": str(len(data))} | error.headers
        raw = [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in head.items()]
        await self._start({"type": "http.response.start", "status": error.status, "headers": raw})
        await self._send({"type": "http.response.body", "body": data})

    async def _start(self, message: Message) -> None:
        self.started, self.status = True, message["status"]
        headers = list(message.get("headers", []))
        present = {key.lower() for key, _ in headers}
        wanted = HEADERS | (API_HEADERS if self._api else {})
        headers += [(key, value) for key, value in wanted.items() if key not in present]
        if not await self._body.drain():
            headers.append((b"connection", b"close"))
        await self._send({**message, "headers": headers})


def _is_api(path: str) -> bool:
    return path.startswith("/v1/") or path in ("/healthz", "/metrics", "/openapi.json")
