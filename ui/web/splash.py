"""Something to see at once: the page's name in the first bytes, until Gradio has built the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ui.web.preview import STATIC

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Splash:
    """ASGI middleware that puts static/splash.html into the page at `path`; static/page.js takes it away."""

    def __init__(self, app: ASGIApp, *, path: str = "/") -> None:
        self.app = app
        self.path = path.rstrip("/")
        self.html = (STATIC / "splash.html").read_bytes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"].rstrip("/") != self.path:
            await self.app(scope, receive, send)
            return
        # what is compressed cannot be added to
        plain = dict(scope) | {"headers": [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]}
        held: Message | None = None
        body = b""

        async def collected(message: Message) -> None:
            nonlocal held, body
            if message["type"] == "http.response.start":
                held = message
            elif message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body", False) and held is not None:
                    data = body.replace(b"<gradio-app", self.html + b"<gradio-app", 1)
                    kept = [pair for pair in held["headers"] if pair[0].lower() != b"content-length"]
                    length = (b"content-length", str(len(data)).encode())
                    await send({**held, "headers": [*kept, length]})
                    await send({"type": "http.response.body", "body": data})
            else:
                await send(message)

        await self.app(plain, receive, collected)
