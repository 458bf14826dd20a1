"""`serve`: the app on a socket, with a limit on how long a connection may say nothing."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""Within which the first line and the headers of a request have to arrive."""
MAX_HEAD = 32 * 1024
MAX_CONNECTIONS = 512


class TimedProtocol(H11Protocol):
    """uvicorn's own waits for ever for the head of a connection's first request, and of one that comes in pieces."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        waiting = self._waits()
        super().data_received(data)
        if not self._waits():
            self._stop()
        elif not waiting or self._head is None:
            self._start()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._waits() and self._head is None and self.timeout_keep_alive_task is None:
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _waits(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start(self) -> None:
        self._stop()
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class Server(uvicorn.Server):
    """Ends what would go on for ever before it waits for the rest."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app: Any = self.config.app
        app.state.service.stop_following()
        await super().shutdown(sockets)


def server(app: FastAPI, host: str, port: int) -> Server:
    """A server of the app, not yet running."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=TimedProtocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEAD,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
    )
    return Server(config)
