"""What a batch makes of its rows, and what it refuses before it makes anything."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from asd.errors import CheckpointError, OutputError
from materials.defaults import STEPS
from tests.ui.batches import go, hidden, ids, pixels, problems, rows
from tests.ui.conftest import PlainPipeline
from ui.batch import BatchProgress, plan_batch, run_batch
from ui.estimate import GUESSED_RATE, LEAST_PIXELS, estimate
from ui.manifest import Row
from ui.presence import LOCK_FILE
from ui.request import Request
from ui.results import ROW_FILE, merge, read_records, results_file, verify
from ui.shards import WHOLE, Shard

pytestmark = pytest.mark.usefixtures("shipped", "quick")


def test_every_row_becomes_a_folder_with_its_record(pipeline: PlainPipeline, tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    given = [*rows(2), *rows(1, count=2)]
    given[2] = dataclasses.replace(given[2], id="two")
    summary = go(given, out)
    assert ids(summary.made) == ["r0", "r1", "two"] and summary.failed == summary.kept == []
    assert {path.name for path in out.iterdir()} == {
        "r0", "r1", "two", "manifest.jsonl", "results-0001-of-0001.jsonl", LOCK_FILE,
    }  # fmt: skip
    assert {path.name for path in (out / "two").iterdir()} == {"0000", "0001", ROW_FILE}
    assert [call["seed"] for call in pipeline.calls] == [0, 1, 0, 1]
    records = read_records(results_file(out, WHOLE))
    assert records == summary.made
    for record in records:
        assert record.status == "done" and record.attempt == 1 and record.seconds > 0 and len(record.fingerprint) == 64
        for name, digest in record.files.items():
            assert hashlib.sha256((out / record.id / name).read_bytes()).hexdigest() == digest
    assert {f"{record.id}/{name}": digest for record in records for name, digest in record.files.items()} == pixels(out)
    assert hidden(out) == []
    assert list(merge(out)) == records and verify(out) == {}


class Failing(PlainPipeline):
    """Fails as often as `times` says for each seed."""

    def __init__(self, times: dict[int, int], error: Exception) -> None:
        super().__init__()
        self.times = times
        self.error = error

    def __call__(self, prompt: str, *, seed: int, **options: Any) -> Any:
        if self.times.get(seed, 0) > 0:
            self.times[seed] -= 1
            raise self.error
        return super().__call__(prompt, seed=seed, **options)


def test_failures_are_tried_again_then_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failing = Failing({1: 1, 2: 3}, RuntimeError("bad\nluck"))
    monkeypatch.setattr("ui.jobs._load", lambda model, device: failing)
    out = tmp_path / "out"
    summary = go(rows(4), out, retries=2)
    assert ids(summary.made) == ["r0", "r1", "r3"] and [record.attempt for record in summary.made] == [1, 2, 1]
    (failed,) = summary.failed
    assert (failed.id, failed.attempt, failed.error) == ("r2", 3, "RuntimeError: bad luck")
    assert not (out / "r2").exists() and hidden(out) == []
    merged = merge(out)
    assert [record.status for record in merged] == ["done", "done", "failed", "done"]
    assert merged[2].error == "RuntimeError: bad luck"
    again = go(rows(4), out)
    assert ids(again.made) == ["r2"] and len(again.kept) == 3
    assert [record.status for record in merge(out)] == ["done"] * 4


def test_errors_name_the_folder_that_is_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ui.jobs.free_space", lambda path: 1000)
    monkeypatch.setattr("ui.jobs._load", lambda model, device: PlainPipeline())
    (failed,) = go(rows(1), tmp_path / "out").failed
    assert failed.error == (
        f"Expected 2.0 MB of free disk for 1 x 8x8 pixels, but {tmp_path / 'out' / 'r0'} has 0.0 MB"
    )


def test_one_pipeline_per_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded: list[tuple[str | None, str]] = []
    monkeypatch.setattr("ui.jobs._load", lambda model, device: (loaded.append((model, device)), PlainPipeline())[1])
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    given = [
        dataclasses.replace(row, request=dataclasses.replace(row.request, model=str(folder) if place % 2 else None))
        for place, row in enumerate(rows(6))
    ]
    seen: list[BatchProgress] = []
    run_batch(plan_batch("m.jsonl", given, tmp_path / "out"), device="cpu", progress=seen.append)
    assert loaded == [(None, "cpu"), (str(folder), "cpu")]
    assert [(each.id, each.number) for each in seen[::3]] == [
        (f"r{place}", number) for number, place in enumerate((0, 2, 4, 1, 3, 5), 1)
    ]
    assert seen[-1].done == seen[-1].total == 6 * LEAST_PIXELS and {each.rows for each in seen} == {6}
    assert all(before.done <= after.done for before, after in itertools.pairwise(seen))
    assert [record.id for record in merge(tmp_path / "out")] == [f"r{place}" for place in range(6)]
    # a folder that moved holds the same weights
    folder.rename(tmp_path / "moved")
    model = str(tmp_path / "moved")
    moved = [dataclasses.replace(row, request=dataclasses.replace(row.request, model=model)) for row in given]
    assert len(plan_batch("m.jsonl", moved, tmp_path / "out").kept) == 6


def test_models_that_are_not_there_are_faults_of_their_rows(tmp_path: Path, shipped: Path) -> None:
    (tmp_path / "empty").mkdir()
    given = [
        dataclasses.replace(row, request=dataclasses.replace(row.request, model=model))
        for row, model in zip(
            rows(5), [str(tmp_path / "absent"), str(tmp_path / "empty"), "nobody/nothing", None, "a/b\0"], strict=True
        )
    ]
    found = problems(given, tmp_path / "out")
    assert [line for line, _ in found] == [1, 2, 3, 5]
    assert "a diffusers folder with model_index.json or a hub id, but got" in found[0][1]
    assert "model_index.json, but" in found[1][1]
    assert "Expected to find the model 'nobody/nothing'" in found[2][1]
    (shipped / "model_index.json").unlink()
    assert "the package has none" in problems(rows(1), tmp_path / "out")[0][1]
    assert not (tmp_path / "out").exists()


def test_a_hub_model_is_pinned_to_its_commit(
    pipeline: PlainPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    given = rows(2, model="somebody/bricks")
    plan = plan_batch("m.jsonl", given, tmp_path / "out", fetch=False)
    assert len(plan.todo) == 2 and plan.todo[0].parts["weights"] is None
    snapshot = tmp_path / "hub" / "models--somebody--bricks" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    plan = plan_batch("m.jsonl", given, tmp_path / "out")
    assert plan.todo[0].parts["weights"] == f"somebody/bricks@{commit}" and plan.todo[0].source == str(snapshot)
    run_batch(plan)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert len(plan_batch("m.jsonl", given, tmp_path / "out", fetch=False).kept) == 2


def test_locked_images_count_by_content(pipeline: PlainPipeline, tmp_path: Path) -> None:
    image = tmp_path / "height.png"
    Image.fromarray(np.full((8, 8), 100, np.uint8)).save(image)
    given = rows(1, size=(8, 8), lock=(("basecolor", "#A0522D"), ("height", str(image)), ("roughness", 1)))
    go(given, tmp_path / "out")
    image.rename(tmp_path / "moved.png")
    lock = (("basecolor", "#a0522d"), ("height", str(tmp_path / "moved.png")), ("roughness", 1.0))
    moved = rows(1, size=(8, 8), lock=lock)
    assert len(plan_batch("m.jsonl", moved, tmp_path / "out").kept) == 1
    Image.fromarray(np.full((8, 8), 101, np.uint8)).save(tmp_path / "moved.png")
    assert "another lock (" in problems(moved, tmp_path / "out")[0][1]


def test_everything_is_checked_before_anything_runs(pipeline: PlainPipeline, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.new("L", (9, 9)).save(tmp_path / "other.png")
    images = [str(tmp_path / "absent"), str(tmp_path / "text.png"), "a\0b", str(tmp_path / "other.png")]
    given = [
        rows(1)[0],
        *(
            Row(id=f"l{line}", line=line, request=Request(prompt="oak", size=(8, 8), lock=(("height", path),)))
            for line, path in enumerate(images, 2)
        ),
        Row(id="big", line=6, request=Request(prompt="oak", size=(10**6, 10**6))),
    ]
    found = problems(given, tmp_path / "out")
    assert [line for line, _ in found] == [2, 3, 4, 5, 6]
    reasons = ["cannot be read: No such file", "is none", "path of an image", "8x8 pixels as size says", "about 1.6 PB"]
    for (_, message), reason in zip(found, reasons, strict=True):
        assert reason in message
    assert pipeline.calls == [] and not (tmp_path / "out").exists()
    assert len(plan_batch("m.jsonl", given, tmp_path / "out", shard=Shard(1, 6)).todo) == 1


def test_an_output_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OutputError, match="an output folder, but got the file"):
            plan_batch("m.jsonl", rows(1), out)


def test_a_model_that_does_not_load_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(model: str | None, device: str) -> PlainPipeline:
        raise CheckpointError("Expected a checkpoint, but got none")

    monkeypatch.setattr("ui.jobs._load", load)
    with pytest.raises(CheckpointError):
        go(rows(3), tmp_path / "out")
    assert [record.status for record in merge(tmp_path / "out")] == ["missing"] * 3


def test_estimates_say_where_the_rate_comes_from(pipeline: PlainPipeline, tmp_path: Path) -> None:
    given = [
        Row(id="r0", line=1, request=Request(prompt="oak", size=(8, 8))),
        Row(id="a", line=2, request=Request(prompt="oak", size=(1000, 500))),
        Row(id="b", line=3, request=Request(prompt="oak", size=(1000, 1000), count=2, steps=2 * STEPS)),
    ]

    def told(rate: float | None = None) -> Any:
        return estimate(plan_batch("m.jsonl", given, tmp_path / "out"), rate)

    found = told()
    assert (found.rows, found.kept, found.pixels) == (3, 0, 64 + 500_000 + 2_000_000)
    assert found.rate_is == "a guess"
    assert found.seconds == pytest.approx((LEAST_PIXELS + 500_000 + 4_000_000) / 1e6 / GUESSED_RATE)
    assert found.disk_bytes == 4 * 2_000_000 + 32 * found.pixels and found.free_bytes
    assert told(4.5).seconds == pytest.approx(4.565536 / 4.5) and told(4.5).rate_is == "given"
    assert not (tmp_path / "out").exists()
    summary = go(given[:1], tmp_path / "out")
    found = told()
    assert (found.rows, found.kept, found.rate_is) == (2, 1, "measured on the rows that are whole")
    assert found.rate == pytest.approx(summary.rate)
