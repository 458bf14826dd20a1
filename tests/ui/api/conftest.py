"""A real server on a socket of this machine, in a thread, whose pipeline is plain and waits where a test says so."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from materials.material import Material
from tests.ui.conftest import PlainPipeline
from ui.address import listen
from ui.api import Settings, build
from ui.api.server import Server, server

TOKEN = "a-token-of-32-characters-or-more"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.json["error"]["message"]


class GatedPipeline(PlainPipeline):
    """Waits before its second step while `gate` is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(
        self, prompt: str, *, size: Any, callback: Callable[[int, int], None] | None, **options: Any
    ) -> Material:
        def gated(step: int, steps: int) -> None:
            if callback is not None:
                callback(step, steps)
            if step == 1:
                assert self.gate.wait(180)

        return super().__call__(prompt, size=size, callback=gated, **options)


class Live:
    """A server that runs; `ask` sends one request on a connection of its own."""

    def __init__(self, app: FastAPI, made: Server, port: int, out: Path, pipeline: GatedPipeline) -> None:
        self.app, self.server, self.port, self.out, self.pipeline = app, made, port, out, pipeline
        self.url = f"http://127.0.0.1:{port}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, **json_body: Any
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=180)
        try:
            given = dict(headers or {})
            if json_body:
                body, given = json.dumps(json_body).encode(), {"Content-Type": "application/json"} | given
            connection.putrequest(method, path, skip_host="Host" in given, skip_accept_encoding=True)
            if body is not None:
                given.setdefault("Content-Length", str(len(body)))
            for key, value in given.items():
                connection.putheader(key, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def upload(self, *files: tuple[str, bytes], path: str = "/v1/score", **headers: str) -> Answer:
        body, kind = form(*files)
        return self.ask("POST", path, body, {"Content-Type": kind} | headers)

    def submit(self, **values: Any) -> str:
        answer = self.ask("POST", "/v1/jobs", **({"prompt": "oak", "size": "16x8", "steps": 3} | values))
        assert answer.status == 202, answer
        return answer.json["id"]

    def wait(self, id: str, *states: str) -> dict[str, Any]:
        job: dict[str, Any] = {}
        for _ in range(3600):
            job = self.ask("GET", f"/v1/jobs/{id}").json
            if job["state"] in (states or ("done", "failed", "cancelled")):
                return job
            time.sleep(0.05)
        raise AssertionError(f"{id} is still {job}")

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=180)


@contextmanager
def serving(out: Path, *, page: Any = None, load: Any = None, **values: Any) -> Iterator[Live]:
    pipeline = GatedPipeline()
    values = {"score_workers": 1, "rate": 1e6} | values
    app = build(Settings(out=out, **values), load=load or (lambda _name: pipeline), page=page)
    made = server(app, "127.0.0.1", 0)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not made.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield Live(app, made, listener.getsockname()[1], out, pipeline)
        finally:
            pipeline.gate.set()
            made.should_exit = True
            thread.join(180)
            assert not thread.is_alive()


def form(*files: tuple[str, bytes], field: str = "files") -> tuple[bytes, str]:
    """A multipart body and its type; names are sent as they are."""
    parts = [
        b'--b0undary\r\nContent-Disposition: form-data; name="' + field.encode() + b'"; filename="' + name.encode()
        + b'"\r\nContent-Type: application/octet-stream\r\n\r\n' + data + b"\r\n"
        for name, data in files
    ]  # fmt: skip
    return b"".join(parts) + b"--b0undary--\r\n", "multipart/form-data; boundary=b0undary"


def picture(size: int = 32, kind: str = "PNG") -> bytes:
    """A small image file of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server for all tests that leave it as it was."""
    with serving(tmp_path_factory.mktemp("live") / "jobs", max_pixels=256 * 256, keep=5000) as made:
        yield made
