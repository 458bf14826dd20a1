from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.ui.api.conftest import Answer, Live, form, picture, serving
from ui.scoring import ImageScore, score_file


def saved(mode: str, kind: str, **options: object) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 48, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def two_places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose process of scores has been started: that takes most of the time of these tests."""
    with serving(tmp_path_factory.mktemp("two"), max_scores=2) as live:
        assert live.upload(("a.png", picture())).status == 200
        yield live


def test_scores_are_those_of_the_command(two_places: Live, tmp_path: Path) -> None:
    files = {"a.png": saved("RGB", "PNG"), "b.jpg": saved("RGB", "JPEG"), "c.webp": saved("RGB", "WEBP"),
             "d.png": saved("L", "PNG"), "e.png": saved("RGBA", "PNG"), "f.png": saved("P", "PNG")}  # fmt: skip
    answer = two_places.upload(*files.items())
    assert answer.status == 200
    results = answer.json["results"]
    assert [each["name"] for each in results] == list(files)
    for each in results:
        path = tmp_path / each["name"]
        path.write_bytes(files[each["name"]])
        expected = score_file(path)
        assert isinstance(expected, ImageScore)
        told = {key: value for key, value in expected.to_dict().items() if key != "path"}
        # other threads sum in another order
        assert each["score"] == {k: pytest.approx(v, abs=2e-4) if isinstance(v, float) else v for k, v in told.items()}


def test_a_bad_file_leaves_the_others_their_scores(two_places: Live) -> None:
    bad_files = [("notes.txt", b"hello"), ("b.png", picture()[:200]), ("c.png", b"")]
    answer = two_places.upload(("a.png", picture()), *bad_files)
    first, *bad = answer.json["results"]
    assert "score" in first and "error" not in first
    assert [each["name"] for each in bad] == ["notes.txt", "b.png", "c.png"]
    assert all(each["error"].startswith("Expected an image (PNG, JPEG, WEBP)") and "score" not in each for each in bad)


def test_a_table_of_scores(two_places: Live) -> None:
    answer = two_places.upload(("a.png", picture()), ("=1+2", b"x"), Accept="text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert answer.headers["content-type"].startswith("text/csv")
    assert [row["name"] for row in rows] == ["a.png", "'=1+2"]
    assert 0 <= float(rows[0]["both"]) <= 1 and rows[1]["both"] == "" and rows[1]["error"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "told"),
    [
        (b"{}", "application/json", 415, "multipart/form-data"),
        (*form(), 422, "at least one file"),
        (*form(("a.png", b"x"), field="image"), 422, "only files under the name files"),
        (b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\ntext\r\n--x--\r\n',
        "multipart/form-data; boundary=x",
         422, "only files"),
        (*form(*[("a.png", b"x")] * 65), 413, "at most 64 files"),
        (*form(*[("a.png", b"x")] * 80), 413, "at most 64 files"),
    ],
)  # fmt: skip
def test_forms_of_another_kind(live: Live, body: bytes, kind: str, status: int, told: str) -> None:
    answer = live.ask("POST", "/v1/score", body, {"Content-Type": kind})
    assert answer.status == status and told in answer.error


def test_too_many_at_a_time_are_sent_away_and_the_connection_lives(two_places: Live) -> None:
    answers: list[Answer] = []
    body = ("a.png", picture(250))
    threads = [threading.Thread(target=lambda: answers.append(two_places.upload(*[body] * 3))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    found = sorted(answer.status for answer in answers)
    assert len(found) == 10 and set(found) == {200, 429} and found.count(200) >= 2
    assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status == 429)
    assert "connection" not in answers[-1].headers
    assert two_places.app.state.service.pool.inside == 0


def test_a_process_that_dies_is_replaced(two_places: Live) -> None:
    pool = two_places.app.state.service.pool._pool
    (process,) = pool._processes.values()
    os.kill(process.pid, 9)
    time.sleep(0.5)
    (result,) = two_places.upload(("a.png", picture())).json["results"]
    assert "score" in result
    assert two_places.app.state.service.pool._pool is not pool


def test_a_killed_server_takes_its_processes_along() -> None:
    program = """if __name__ == "__main__":
    import os, sys
    from multiprocessing import get_context
    from ui.api.score_pool import _end_with_server
    child = get_context("spawn").Process(target=_end_with_server)
    child.start()
    print(child.pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "server.py").write_text(program)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        command = [sys.executable, str(Path(folder) / "server.py")]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        assert done.returncode == -9
        for _ in range(600):
            try:
                os.kill(int(done.stdout), 0)
            except ProcessLookupError:
                return
            if Path(f"/proc/{int(done.stdout)}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.1)
    raise AssertionError("it lives on")


def test_an_image_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, score_seconds=0.001) as live:
        (result,) = live.upload(("a.png", picture())).json["results"]
        assert result["error"] == "Expected an image that is scored within 0.001 seconds"
        assert live.ask("GET", "/healthz").status == 200
