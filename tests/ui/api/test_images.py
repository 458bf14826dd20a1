"""The real `openai` client against a real server."""

from __future__ import annotations

import base64
import io
import socket
import time
import urllib.request
from pathlib import Path

import openai
import pytest
from PIL import Image

from tests.ui.api.conftest import TOKEN, Live, serving


def client(live: Live, token: str = "none", **options: object) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key=token, max_retries=0, timeout=180, **options)  # pyright: ignore[reportArgumentType] - as given


def pixels(data: bytes) -> tuple[tuple[int, int], bytes]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size, image.convert("RGB").tobytes()


def test_pictures_in_the_answer(live: Live) -> None:
    with client(live) as ai:
        made = ai.images.generate(prompt="red brick", size="24x16", n=2, response_format="b64_json",
        # pyright: ignore[reportCallIssue, reportArgumentType] - any size
                                  model="zellige", user="me", extra_body={"seed": 4, "steps": 2})  # fmt: skip
    assert abs(made.created - time.time()) < 60 and made.data is not None and len(made.data) == 2
    first, second = (base64.b64decode(each.b64_json or "") for each in made.data)
    assert pixels(first)[0] == (24, 16) and pixels(first) != pixels(second)
    job = live.wait(live.submit(prompt="red brick", size="24x16", seed=5, steps=2))
    assert live.ask("GET", f"/v1/jobs/{job['id']}/files/basecolor.png").body[-200:] == second[-200:]


def test_pictures_behind_links_that_need_no_token(tmp_path: Path) -> None:
    with serving(tmp_path, token=TOKEN) as live, client(live, TOKEN) as ai:
        made = ai.images.generate(prompt="oak", size="16x16", extra_body={"map": "height", "steps": 1})  # pyright: ignore[reportCallIssue, reportArgumentType] - any size
        assert made.data and made.data[0].url
        url = made.data[0].url
        with urllib.request.urlopen(url) as answer:
            assert pixels(answer.read())[0] == (16, 16)
        path = url.removeprefix(live.url)
        assert live.ask("GET", path.partition("?")[0]).status == 401
        assert live.ask("GET", path.replace("height.png", "basecolor.png")).status == 401
        assert live.ask("GET", path[:-1] + ("0" if path[-1] != "0" else "1")).status == 401
        assert live.ask("DELETE", path).status == 401
        later = path.replace("expires=", "expires=9")
        assert live.ask("GET", later).status == 401


@pytest.mark.parametrize(
    ("values", "error", "told"),
    [
        ({"model": "dall-e-3"}, openai.NotFoundError, "a model of this server (zellige)"),
        ({"prompt": ""}, openai.UnprocessableEntityError, "prompt"),
        ({"quality": "hd"}, openai.UnprocessableEntityError, "quality"),
        ({"style": "vivid"}, openai.UnprocessableEntityError, "style"),
        ({"background": "transparent"}, openai.UnprocessableEntityError, "background"),
        ({"output_format": "webp"}, openai.UnprocessableEntityError, "output_format"),
        ({"n": 0}, openai.UnprocessableEntityError, "n"),
        ({"size": "4096x4096"}, openai.APIStatusError, "at most 65536 pixels"),
        ({"extra_body": {"model_path": "/etc"}}, openai.UnprocessableEntityError, "model_path"),
    ],
)
def test_what_it_cannot_do_is_refused(live: Live, values: dict[str, object], error: type[Exception], told: str) -> None:
    with client(live) as ai, pytest.raises(error) as caught:
        ai.images.generate(**({"prompt": "oak", "size": "8x8"} | values))  # pyright: ignore[reportCallIssue, reportArgumentType] - the point
    assert told in str(caught.value)


def test_the_clients_own_errors(tmp_path: Path) -> None:
    with serving(tmp_path, token=TOKEN, max_queue=1) as live:
        with client(live, "another-token-entirely") as ai, pytest.raises(openai.AuthenticationError):
            ai.images.generate(prompt="oak")
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        live.pipeline.gate.clear()
        first = live.ask("POST", "/v1/jobs", headers=bearer, prompt="oak", size="8x8").json["id"]
        while live.ask("GET", f"/v1/jobs/{first}", headers=bearer).json["state"] != "running":
            time.sleep(0.02)
        live.ask("POST", "/v1/jobs", headers=bearer, prompt="oak", size="8x8")
        with client(live, TOKEN) as ai, pytest.raises(openai.RateLimitError) as caught:
            ai.images.generate(prompt="oak", size="8x8")  # pyright: ignore[reportCallIssue, reportArgumentType] - any size
        assert int(caught.value.response.headers["retry-after"]) >= 1


def test_a_failed_job_is_a_server_error(live: Live) -> None:
    live.pipeline.fail_at = (len(live.pipeline.calls), ValueError("x"))
    try:
        with client(live) as ai, pytest.raises(openai.InternalServerError, match="an error inside the program"):
            ai.images.generate(prompt="oak", size="8x8")  # pyright: ignore[reportCallIssue, reportArgumentType] - any size
    finally:
        live.pipeline.fail_at = None


def test_a_client_that_hangs_up_stops_its_job(live: Live) -> None:
    live.pipeline.gate.clear()
    body = b'{"prompt": "hang up", "size": "8x8", "steps": 9}'
    head = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}"
    with live.raw() as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        queue = live.app.state.service.queue
        while not [job for job in queue.jobs() if job.request.prompt == "hang up" and job.state == "running"]:
            time.sleep(0.02)
        connection.shutdown(socket.SHUT_RDWR)
    (job,) = [job for job in queue.jobs() if job.request.prompt == "hang up"]
    for _ in range(100):
        if queue.stopping(job.id):
            break
        time.sleep(0.05)
    live.pipeline.gate.set()
    assert live.wait(job.id)["state"] == "cancelled"
