from __future__ import annotations

import io
import json
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.ui.api.conftest import TOKEN, Live, serving
from ui.cli import main
from ui.request import Request

HAS_WEIGHTS = (Path(__file__).parents[3] / "materials" / "weights" / "model_index.json").is_file()


def test_a_job_from_submit_to_files(live: Live) -> None:
    answer = live.ask("POST", "/v1/jobs", prompt="oak planks", size="16x8", steps=3, seed=5, lock={"roughness": 0.5})
    assert answer.status == 202
    id = answer.json["id"]
    assert re.fullmatch("[0-9a-f]{32}", id) and answer.headers["location"] == f"/v1/jobs/{id}"
    job = live.wait(id)
    assert job["state"] == "done" and job["progress"] == 1 and job["position"] is None and job["eta_seconds"] is None
    assert job["created"] <= job["started"] <= job["finished"]
    asked = {"prompt": "oak planks", "size": "16x8", "steps": 3, "seed": 5, "lock": {"roughness": 0.5}}
    assert Request.from_dict(job["request"]) == Request.from_dict(asked)
    listed = live.ask("GET", f"/v1/jobs/{id}/files").json["files"]
    assert listed == job["files"] and {"basecolor.png", "material.json"} <= {each["name"] for each in listed}
    for each in listed:
        answer = live.ask("GET", each["url"])
        assert answer.status == 200 and len(answer.body) == each["bytes"] == int(answer.headers["content-length"])
        assert answer.headers["content-type"] == ("image/png" if each["name"].endswith("png") else "application/json")
        assert answer.body == (live.out / id / each["name"]).read_bytes()
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
    archive = live.ask("GET", f"/v1/jobs/{id}/zip")
    with zipfile.ZipFile(io.BytesIO(archive.body)) as opened:
        assert opened.testzip() is None
        assert {info.filename: info.file_size for info in opened.infolist()} == {e["name"]: e["bytes"] for e in listed}


def test_samples_are_folders(live: Live) -> None:
    job = live.wait(live.submit(count=2))
    names = {each["name"] for each in job["files"]}
    assert {"0000/basecolor.png", "0001/material.json"} <= names
    assert live.ask("GET", f"/v1/jobs/{job['id']}/files/0001/material.json").json["request"]["seed"] == 1


@pytest.mark.skipif(not HAS_WEIGHTS, reason="materials/weights is not there")
def test_files_are_those_of_the_command(tmp_path: Path) -> None:
    assert main(["material", "red brick", "--size", "72x64", "--steps", "2", "--seed", "9", "--lock", "metallic=0",
                 "--out", str(tmp_path / "cli"), "-q"]) == 0  # fmt: skip
    from ui.jobs import _load

    with serving(tmp_path / "jobs", load=lambda _name: _load(None, "cpu")) as live:
        answer = live.ask("POST", "/v1/jobs", prompt="red brick", size="72x64", steps=2, seed=9, lock={"metallic": 0})
        job = live.wait(answer.json["id"])
    assert job["state"] == "done", job
    made = {path.name: path.read_bytes() for path in (tmp_path / "jobs" / job["id"]).iterdir()}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "cli").iterdir()}


def events_of(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block for block in body.decode().split("\n\n") if block and not block.startswith(":")]
    found = []
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_events_end_with_the_job(live: Live) -> None:
    live.pipeline.gate.clear()
    id = live.submit(steps=4)
    answers: list[bytes] = []
    reader = threading.Thread(target=lambda: answers.append(live.ask("GET", f"/v1/jobs/{id}/events").body))
    reader.start()
    live.wait(id, "running")
    live.pipeline.gate.set()
    reader.join(180)
    told = events_of(answers[0])
    assert told[-1][0] == "done" and told[-1][1]["progress"] == 1
    assert {kind for kind, _ in told[:-1]} == {"progress"}
    shown = [job["progress"] for _, job in told]
    assert shown == sorted(shown)
    assert live.app.state.service.streams == 0
    # of a finished job there is one event
    assert [kind for kind, _ in events_of(live.ask("GET", f"/v1/jobs/{id}/events").body)] == ["done"]


def test_a_running_job_is_stopped(live: Live) -> None:
    live.pipeline.gate.clear()
    id = live.submit(steps=50, count=3)
    live.wait(id, "running")
    before = len(live.pipeline.calls)
    assert live.ask("POST", f"/v1/jobs/{id}/cancel").json["state"] == "running"
    live.pipeline.gate.set()
    job = live.wait(id)
    assert job["state"] == "cancelled" and job["files"] == [] and job["step"] <= 2
    assert len(live.pipeline.calls) - before <= 1  # neither the other steps nor the other samples
    assert not [path for path in live.out.iterdir() if id in path.name and path.suffix != ".json"]
    assert live.ask("GET", f"/v1/jobs/{id}/files").status == 409


def test_a_waiting_job_is_stopped_at_once(live: Live) -> None:
    live.pipeline.gate.clear()
    first, second, third = live.submit(), live.submit(), live.submit()
    live.wait(first, "running")
    assert [live.ask("GET", f"/v1/jobs/{id}").json["position"] for id in (first, second, third)] == [None, 1, 2]
    assert live.ask("GET", f"/v1/jobs/{third}").json["eta_seconds"] > 0
    assert live.ask("POST", f"/v1/jobs/{second}/cancel").json["state"] == "cancelled"
    assert live.ask("GET", f"/v1/jobs/{third}").json["position"] == 1
    live.pipeline.gate.set()
    assert live.wait(third)["state"] == "done" and live.wait(first)["state"] == "done"
    assert live.ask("POST", f"/v1/jobs/{first}/cancel").json["state"] == "done"


def test_deleted_jobs_are_gone(live: Live) -> None:
    id = live.submit()
    live.wait(id)
    assert live.ask("DELETE", f"/v1/jobs/{id}").status == 204
    assert live.ask("GET", f"/v1/jobs/{id}").status == 404
    assert live.ask("DELETE", f"/v1/jobs/{id}").status == 404
    assert not [path for path in live.out.iterdir() if id in path.name]
    live.pipeline.gate.clear()
    id = live.submit()
    live.wait(id, "running")
    assert live.ask("DELETE", f"/v1/jobs/{id}").status == 204
    live.pipeline.gate.set()
    live.wait(live.submit())
    assert not [path for path in live.out.iterdir() if id in path.name]


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    with serving(tmp_path, max_queue=2) as live:
        live.pipeline.gate.clear()
        live.wait(live.submit(), "running")
        live.submit()
        live.submit()
        answer = live.ask("POST", "/v1/jobs", prompt="oak", size="8x8")
        assert answer.status == 429 and int(answer.headers["retry-after"]) >= 1
        assert answer.error == "Expected a free place in the queue, but 2 jobs are waiting"
        assert live.ask("POST", "/v1/images/generations", prompt="oak", size="8x8").status == 429
    # what was active when the server stopped is no result
    assert {json.loads(path.read_bytes())["state"] for path in tmp_path.glob("*.json")} == {"cancelled"}


def test_finished_jobs_outlive_the_server(tmp_path: Path) -> None:
    with serving(tmp_path) as live:
        done = live.wait(live.submit())
    with serving(tmp_path) as live:
        again = live.ask("GET", f"/v1/jobs/{done['id']}").json
        assert again == done
        assert live.ask("GET", again["files"][0]["url"]).status == 200


def test_a_failure_is_told_without_the_servers_folders(live: Live) -> None:
    live.pipeline.fail_at = (len(live.pipeline.calls), ValueError("secret /etc/path"))
    try:
        job = live.wait(live.submit())
    finally:
        live.pipeline.fail_at = None
    assert job["state"] == "failed"
    assert job["error"] == "an error inside the program (ValueError); the server's log has it"
    assert live.wait(live.submit())["state"] == "done"  # the worker goes on


def test_models_are_those_of_the_operator(tmp_path: Path) -> None:
    loaded: list[str | None] = []
    with serving(tmp_path, models={"mine": "/srv/models/mine"}) as live:
        live.app.state.service.models.load = lambda name: loaded.append(name) or live.pipeline
        job = live.wait(live.submit(model="mine"))
        assert job["state"] == "done" and job["request"]["model"] == "mine"  # no path leaves the server
        assert live.wait(live.submit(model="zellige"))["request"]["model"] is None
        refused = live.ask("POST", "/v1/jobs", prompt="oak", model="/srv/models/mine")
        assert refused.status == 404 and refused.json["error"]["code"] == "model_not_found"
    assert loaded == ["mine", None]
    assert b"/srv/models" not in (tmp_path / job["id"] / "basecolor.png").read_bytes()


def test_limits_of_a_job(live: Live) -> None:
    for values, told in [
        ({"size": "257x256"}, "at most 65536 pixels here, but got 257x256"),
        ({"size": "8x8", "count": 17}, "count of at most 16 here, but got 17"),
        ({"size": "8x8", "steps": 101}, "steps of at most 100 here, but got 101"),
    ]:
        answer = live.ask("POST", "/v1/jobs", **({"prompt": "oak"} | values))
        assert answer.status == 413 and told in answer.error


def test_health_and_metrics(live: Live) -> None:
    assert live.ask("GET", "/healthz").json["status"] == "ok"
    live.wait(live.submit())
    text = live.ask("GET", "/metrics").body.decode()
    assert re.search(r'zellige_jobs_total\{state="done"\} [1-9]', text)
    assert 'route="/v1/jobs/{id}"' in text and "process_resident_memory_bytes" in text
    live.ask("GET", "/wp-admin/x.php")
    text = live.ask("GET", "/metrics").body.decode()
    assert 'route="other"' in text and "wp-admin" not in text


def test_everything_but_health_wants_the_token(tmp_path: Path) -> None:
    with serving(tmp_path, token=TOKEN) as live:
        assert live.ask("GET", "/healthz").status == 200
        for method, path in [("GET", "/metrics"), ("GET", "/openapi.json"), ("POST", "/v1/score"), ("GET", "/"),
                             ("POST", "/v1/jobs"), ("GET", f"/v1/jobs/{'0' * 32}"), ("GET", "/gradio_api/info"),
                             ("DELETE", f"/v1/jobs/{'0' * 32}"), ("POST", "/v1/images/generations")]:  # fmt: skip
            assert live.ask(method, path).status == 401, path
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert live.ask("GET", "/metrics", headers=bearer).status == 200
        answer = live.ask("GET", "/")
        assert answer.headers["www-authenticate"].startswith("Basic")
