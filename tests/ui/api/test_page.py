from __future__ import annotations

import base64
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ui.api.conftest import TOKEN, Live, serving


@pytest.fixture
def blocks() -> Iterator[Any]:
    import gradio

    with gradio.Blocks(title="a page of zellige") as made:
        box = gradio.Textbox(label="prompt")
        box.submit(lambda text: text.upper(), box, box, api_name="shout")
    yield made
    gc.collect()  # the sockets that gradio leaves to it, before the next test


# gradio, pandas and pydantic warn of each other, and gradio leaves sockets open
@pytest.mark.filterwarnings("ignore")
def test_the_page_is_behind_the_token_and_the_api_before_it(tmp_path: Path, blocks: Any) -> None:
    with serving(tmp_path, token=TOKEN, page=blocks) as live:
        log_in = {"Authorization": "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()}
        for path in ("/", "/config", "/gradio_api/info", "/gradio_api/file=/etc/passwd"):
            assert live.ask("GET", path).status == 401, path
        assert live.ask("POST", "/gradio_api/call/shout", headers={}, data=["x"]).status == 401
        answer = live.ask("GET", "/", headers=log_in)
        assert answer.status == 200 and b"a page of zellige" in answer.body
        assert answer.headers["x-content-type-options"] == "nosniff" and "content-security-policy" not in answer.headers
        assert live.ask("GET", "/gradio_api/info", headers=log_in).status == 200
        assert live.ask("GET", "/gradio_api/file=/etc/passwd", headers=log_in).status in (403, 404)
        assert live.ask("GET", "/healthz").json["status"] == "ok"
        assert live.ask("GET", f"/v1/jobs/{'0' * 32}", headers=log_in).json["error"]["code"] == "job_not_found"
        started = live.ask("POST", "/gradio_api/call/shout", headers=log_in, data=["moss"])
        assert started.status == 200
        told = live.ask("GET", f"/gradio_api/call/shout/{started.json['event_id']}", headers=log_in)
        assert b"MOSS" in told.body
        declared = log_in | {"Content-Length": str(10**10), "Content-Type": "multipart/form-data; boundary=x"}
        assert live.ask("POST", "/gradio_api/upload", None, declared).status == 413
        live_document = live.ask("GET", "/openapi.json", headers=log_in).json
        assert not [path for path in live_document["paths"] if "gradio" in path]


def test_without_a_page_there_is_nothing_at_the_root(live: Live) -> None:
    assert live.ask("GET", "/").status == 404


@pytest.mark.filterwarnings("ignore")
def test_the_page_of_ui_web_is_at_the_root(tmp_path: Path) -> None:
    with serving(tmp_path / "jobs", token=TOKEN, page="auto") as live:
        assert live.ask("GET", "/").status == 401
        log_in = {"Authorization": "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()}
        answer = live.ask("GET", "/", headers=log_in)
        assert answer.status == 200 and b"zellige" in answer.body
        assert live.ask("GET", "/healthz").status == 200
    gc.collect()


def join(live: Live, session: str, *values: Any) -> Iterator[str]:
    """Press Make on the page; what it then says, line by line."""
    config = live.ask("GET", "/config").json
    place = next(each["id"] for each in config["dependencies"] if each["api_name"] == "on_make")
    data = [*values, "0", 1, "3", "", "", 1, "png16", "", "", "", "", *[None] * 5]
    asked = live.ask("POST", "/gradio_api/queue/join", data=data, fn_index=place, session_hash=session)
    assert asked.status == 200, asked
    with httpx.stream(
        "GET", f"{live.url}/gradio_api/queue/data", params={"session_hash": session}, timeout=180, trust_env=False
    ) as stream:
        for line in stream.iter_lines():
            yield line
            if "process_completed" in line:
                return


def until(told: Iterator[str], text: str) -> str:
    for line in told:
        if text in line:
            return line
    raise AssertionError(f"the page never said {text}")


@pytest.mark.filterwarnings("ignore")
def test_the_page_and_the_api_stand_in_one_line(tmp_path: Path) -> None:
    with serving(tmp_path / "jobs", page="auto", max_queue=2, max_pixels=64 * 64) as live:
        live.pipeline.gate.clear()
        first = live.submit(prompt="first")
        live.wait(first, "running")
        told = join(live, "a", "moss", 16, 16, "xy")
        until(told, "Waiting: 1 job first")
        second = live.submit(prompt="second")
        assert live.ask("GET", f"/v1/jobs/{second}").json["position"] == 2
        assert "zellige_jobs_waiting 2.0" in live.ask("GET", "/metrics").body.decode()
        # no place is left, whoever asks
        refused = live.ask("POST", "/v1/jobs", prompt="third", size="16x8")
        assert refused.status == 429 and int(refused.headers["retry-after"]) >= 1
        until(join(live, "b", "moss", 16, 16, "xy"), "Expected a free place in the queue, but 2 jobs are waiting")
        until(join(live, "c", "moss", 65, 64, "xy"), "Expected at most 4096 pixels here, but got 65x64")
        live.pipeline.gate.set()
        until(told, "Made, in ")
        assert live.wait(second)["state"] == live.wait(first)["state"] == "done"
        assert [call["prompt"] for call in live.pipeline.calls] == ["first", "moss", "second"]
        assert 'zellige_jobs_total{state="done"} 3.0' in live.ask("GET", "/metrics").body.decode()
        assert [path.name for path in (tmp_path / "jobs-page").glob("*/material.json")] == ["material.json"]
    gc.collect()
