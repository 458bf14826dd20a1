from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ui.web.guard import COOKIE, Guard
from ui.web.splash import Splash

TOKEN = "t0ken" * 5


async def inner(scope: Any, receive: Any, send: Any) -> None:
    body = b"<html><body><gradio-app></gradio-app></body></html>"
    headers = [(b"content-type", b"text/html"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def ask(app: Any, path: str = "/", query: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
    sent: list[dict[str, Any]] = []
    given = {"host": "localhost:7860"} | {key.replace("_", "-"): value for key, value in headers.items()}
    scope = {
        "type": "http", "method": "GET", "path": path, "query_string": query.encode(),
        "headers": [(key.encode(), value.encode()) for key, value in given.items()],
    }  # fmt: skip

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    asyncio.run(app(scope, receive, send))
    told = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:])


def test_without_a_token_everybody_on_this_machine_is_let_in() -> None:
    status, headers, _ = ask(Guard(inner))
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"
    for host in ("localhost", "127.0.0.1:1", "[::1]:7860", "LOCALHOST:7860"):
        assert ask(Guard(inner), host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "", "[", "127.0.0.1.nip.io", "a@b", "0.0.0.0"]
)
def test_other_names_are_refused(host: str) -> None:
    status, _, body = ask(Guard(inner), host=host)
    assert status == 403 and body.startswith(b"Expected a request to this machine")
    assert ask(Guard(inner, hosts=None, token=TOKEN), host=host)[0] == 401


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "http://localhost:7860.evil.example"]
)
def test_other_origins_are_refused(origin: str) -> None:
    assert ask(Guard(inner), origin=origin)[0] == 403
    assert ask(Guard(inner), origin="http://localhost:7860")[0] == 200


def test_addresses_are_not_fetched() -> None:
    for path in ("/gradio_api/file=http://example.org/a.png", "/gradio_api/proxy/file=https://example.org"):
        assert ask(Guard(inner), path)[0] == 403


def test_a_token_lets_in_by_header_cookie_or_once_by_address() -> None:
    guard = Guard(inner, token=TOKEN, hosts=None)
    status, headers, body = ask(guard)
    assert status == 401 and b'name="token"' in body and TOKEN.encode() not in body
    assert ask(guard, authorization=f"Bearer {TOKEN}")[0] == 200
    assert ask(guard, cookie=f"a=b; {COOKIE}={TOKEN}")[0] == 200
    status, headers, _ = ask(guard, query=f"token={TOKEN}")
    assert status == 303 and headers["location"] == "./"
    assert headers["set-cookie"] == f"{COOKIE}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"


@pytest.mark.parametrize(
    "given",
    [{"authorization": "Bearer x"}, {"authorization": TOKEN}, {"authorization": f"Basic {TOKEN}"}, {"cookie": "x"},
     {"cookie": f"{COOKIE}="}, {"cookie": f"{COOKIE}={TOKEN[:-1]}"}, {"query": "token="}, {"query": "token=é"},
     {"cookie": "\x00="}],
)  # fmt: skip
def test_anything_else_is_not_let_in(given: dict[str, str]) -> None:
    guard = Guard(inner, token=TOKEN, hosts=None)
    assert ask(guard, **given)[0] == 401
    assert ask(guard, path="/gradio_api/file=/etc/passwd", **given)[0] == 401


def test_the_splash_is_in_the_page_and_nowhere_else() -> None:
    status, headers, body = ask(Splash(inner, path="/"))
    assert status == 200 and body.count(b'id="z-splash"') == 1 and int(headers["content-length"]) == len(body)
    assert b"z-splash" not in ask(Splash(inner, path="/"), "/config")[2]
    assert b"z-splash" in ask(Splash(inner, path="/ui"), "/ui/")[2]
