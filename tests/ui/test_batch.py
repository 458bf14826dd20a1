from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from asd.errors import CheckpointError, OutputError, ZelligeError
from materials.defaults import STEPS
from tests.ui.conftest import PlainPipeline
from ui import fingerprint as fingerprints
from ui.batch import BatchInterrupted, BatchProgress, Summary, plan_batch, run_batch
from ui.estimate import GUESSED_RATE, LEAST_PIXELS, estimate
from ui.manifest import ManifestError, Row
from ui.presence import LOCK_FILE
from ui.request import Request
from ui.results import ROW_FILE, Record, append, merge, read_records, read_row, results_file, verify
from ui.shards import WHOLE, Shard, local_rank, parse_shard

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def shipped(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the shipped weights, which the plain pipeline does not read."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "model_index.json").write_text("{}")
    monkeypatch.setattr(fingerprints, "SHIPPED", folder)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results without previews, whose rendering takes nearly all the time of a tiny one."""
    import materials.files

    save = materials.files.save_material
    monkeypatch.setattr(materials.files, "save_material", lambda *a, **options: save(*a, **options, previews=False))


def rows(number: int = 4, **options: Any) -> list[Row]:
    made = []
    for index in range(number):
        request = Request(**({"prompt": f"oak {index}", "size": (8 + index, 8), "seed": index, "steps": 2} | options))
        made.append(Row(id=f"r{index}", request=request, line=index + 1))
    return made


def go(given: list[Row], out: Path, shard: Shard = WHOLE, retries: int = 0, **options: Any) -> Summary:
    return run_batch(plan_batch("m.jsonl", given, out, shard=shard, **options), retries=retries)


def problems(given: list[Row], out: Path, **options: Any) -> list[tuple[int, str]]:
    with pytest.raises(ManifestError) as caught:
        plan_batch("m.jsonl", given, out, **options)
    return [(problem.line, problem.message) for problem in caught.value.problems]


def pixels(out: Path) -> dict[str, str]:
    """The hash of every file that a row's request decides."""
    files = [path for path in out.rglob("*") if path.is_file() and path.parent != out and path.name != ROW_FILE]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def hidden(out: Path) -> list[Path]:
    return [path for path in out.rglob(".*") if path.name != LOCK_FILE]


def ids(records: list[Record]) -> list[str]:
    return [record.id for record in records]


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


def test_a_second_go_makes_nothing(pipeline: PlainPipeline, tmp_path: Path) -> None:
    go(rows(), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.name != LOCK_FILE}
    calls = len(pipeline.calls)
    summary = go(rows(), tmp_path / "out")
    assert len(pipeline.calls) == calls and ids(summary.kept) == ["r0", "r1", "r2", "r3"] and not summary.made
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.name != LOCK_FILE}
    assert after == before


def test_a_manifest_may_grow_and_change_its_order(pipeline: PlainPipeline, tmp_path: Path) -> None:
    go(rows(2), tmp_path / "out")
    grown = [dataclasses.replace(row, line=4 - place) for place, row in enumerate(reversed(rows(4)))]
    summary = go(grown, tmp_path / "out")
    assert ids(summary.made) == ["r3", "r2"] and ids(summary.kept) == ["r1", "r0"]
    assert [record.id for record in merge(tmp_path / "out")] == ["r3", "r2", "r1", "r0"]
    lines = (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["r3", "r2", "r1", "r0"]


def test_shards_in_any_order_give_the_same_pixels(pipeline: PlainPipeline, tmp_path: Path) -> None:
    go(rows(5), tmp_path / "whole")
    for name, order in (("up", (1, 2)), ("down", (2, 1)), ("three", (3, 1, 2))):
        for index in order:
            summary = go(rows(5), tmp_path / name, Shard(index, len(order)))
            assert ids(summary.made) == [f"r{place}" for place in range(index - 1, 5, len(order))]
        assert pixels(tmp_path / name) == pixels(tmp_path / "whole")
        assert [record.id for record in merge(tmp_path / name)] == [f"r{place}" for place in range(5)]
        assert verify(tmp_path / name) == {}
    summary = go(rows(5), tmp_path / "three")  # what shards made is whole for a run of all rows
    assert len(summary.kept) == 5 and len(merge(tmp_path / "three")) == 5


def test_changed_rows_are_faults_unless_told_otherwise(
    pipeline: PlainPipeline, tmp_path: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    go(rows(3), out)
    changed = rows(3)
    changed[1] = dataclasses.replace(changed[1], request=Request(prompt="elm", size=(9, 8), seed=4, steps=2))
    ((line, message),) = problems(changed, out)
    assert line == 2
    assert message == (
        f"Expected the row to be as it was when {out / 'r1'} was made, but it has another prompt and seed "
        "(--overwrite makes it anew)"
    )
    summary = go(changed, out, overwrite=True)
    assert ids(summary.made) == ["r1"] and ids(summary.kept) == ["r0", "r2"]
    assert json.loads((out / "r1" / "material.json").read_text())["request"]["prompt"] == "elm"
    assert hidden(out) == [] and verify(out) == {}
    assert ids(list(merge(out))) == ["r0", "r1", "r2"]
    (shipped / "unet").mkdir()
    (shipped / "unet" / "model.safetensors").write_bytes(b"other")
    assert [message.count("another weights (") for _, message in problems(changed, out)] == [1, 1, 1]
    monkeypatch.setattr(fingerprints, "_program", lambda: "9.9")
    assert "another program and weights (" in problems(changed, out)[0][1]


def test_an_interrupted_change_leaves_the_old_result(pipeline: PlainPipeline, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(rows(2), out)
    before = pixels(out)
    pipeline.fail_at = (len(pipeline.calls), KeyboardInterrupt())
    with pytest.raises(BatchInterrupted):
        go(rows(2, prompt="elm"), out, overwrite=True)
    assert pixels(out) == before and hidden(out) == []


def test_folders_in_the_way_are_faults_and_stay(pipeline: PlainPipeline, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(rows(2), out)
    (out / "r0" / "notes.txt").write_text("mine")
    (out / "r2").mkdir()
    (out / "r2" / "notes.txt").write_text("mine")
    (out / "r3").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (out / "r4").symlink_to(tmp_path / "elsewhere")
    (out / "r5").mkdir()
    found = problems(rows(6, prompt="elm"), out, overwrite=True)
    assert [line for line, _ in found] == [1, 3, 4, 5]
    for (_, message), reason in zip(found, ["'notes.txt'", "no readable row.json", "a link", "a link"], strict=True):
        assert reason in message
    assert go(rows(1), out).made == []  # files beside a whole result are nobody's harm
    for path in (out / "r0" / "notes.txt", out / "r2" / "notes.txt", out / "r3"):
        assert path.read_text() == "mine"
    assert ids(go([rows(6)[5]], out).made) == ["r5"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_result_that_lost_a_file_is_made_again(pipeline: PlainPipeline, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(rows(2), out)
    whole = pixels(out)
    (out / "r1" / "height.png").unlink()
    assert [record.status for record in merge(out)] == ["done", "missing"]
    assert list(verify(out)) == ["r1"]
    assert ids(go(rows(2), out).made) == ["r1"]
    assert pixels(out) == whole and verify(out) == {}


def test_verify_names_what_differs(pipeline: PlainPipeline, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(rows(4), out)
    (out / "r0" / "height.png").write_bytes(b"x" + (out / "r0" / "height.png").read_bytes()[1:])
    record, parts = read_row(out / "r1") or pytest.fail("no record")
    (out / "r1" / "ao.png").write_bytes(b"")
    empty = dict(record.files) | {"ao.png": hashlib.sha256(b"").hexdigest()}
    forged = dataclasses.replace(record, files=empty).to_dict() | {"made_of": parts}
    (out / "r1" / ROW_FILE).write_text(json.dumps(forged))
    (out / "r2" / ROW_FILE).write_text("{")
    wrong = verify(out)
    assert list(wrong) == ["r0", "r1", "r2"]
    assert wrong["r0"] == f"{out / 'r0' / 'height.png'} is not the file that was written"
    assert wrong["r1"] == f"{out / 'r1' / ROW_FILE} differs from the line in the results file"
    assert wrong["r2"] == f"{out / 'r2'} has no readable {ROW_FILE}"
    (out / "r3").rename(out / "gone")
    assert verify(out)["r3"] == f"{out / 'r3'} has no result"


def test_records_that_point_outside_are_not_read(pipeline: PlainPipeline, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(rows(1), out)
    for name in ("../secret", "/etc/passwd", "a\\b", "a/../../b", "a\0b"):
        values = json.loads((out / "r0" / ROW_FILE).read_text())
        values["files"] = {name: "0" * 64}
        (out / "r0" / ROW_FILE).write_text(json.dumps(values))
        assert read_row(out / "r0") is None


@pytest.mark.parametrize(
    "value",
    [
        None, [], "x", {}, {"id": 3, "status": "done"}, {"id": "a", "status": "ok"},
        {"id": "a", "status": "done", "files": 3}, {"id": "a", "status": "done", "seconds": "x"},
    ],
)  # fmt: skip
def test_what_is_no_record(value: object) -> None:
    with pytest.raises(ValueError, match="no record"):
        Record.from_dict(value)


def test_a_torn_line_costs_nothing_but_itself(pipeline: PlainPipeline, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(rows(2), out)
    lines = results_file(out, WHOLE)
    first, second = lines.read_bytes().splitlines(keepends=True)
    lines.write_bytes(first + second[:40])
    summary = go(rows(3), out)
    assert ids(summary.made) == ["r2"]
    assert ids(read_records(lines)) == ["r0", "r1", "r2"]
    assert ids(list(merge(out))) == ["r0", "r1", "r2"] and verify(out) == {}


def test_appending_to_a_link_or_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="the system refused"):
        append(tmp_path / "link", Record(id="a", status="done"))
    assert (tmp_path / "elsewhere").read_text() == ""
    if Path("/dev/full").exists():
        with pytest.raises(OutputError, match="No space left"):
            append(Path("/dev/full"), Record(id="a", status="done"))


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


def test_an_interrupt_leaves_whole_rows(pipeline: PlainPipeline, tmp_path: Path) -> None:
    go(rows(4), tmp_path / "whole")
    pipeline.fail_at = (len(pipeline.calls) + 2, KeyboardInterrupt())
    with pytest.raises(BatchInterrupted) as caught:
        go(rows(4), tmp_path / "out")
    assert ids(caught.value.summary.made) == ["r0", "r1"]
    assert hidden(tmp_path / "out") == [] and not (tmp_path / "out" / "r2").exists()
    pipeline.fail_at = None
    assert ids(go(rows(4), tmp_path / "out").made) == ["r2", "r3"]
    assert pixels(tmp_path / "out") == pixels(tmp_path / "whole")


def test_what_others_make_meanwhile_is_kept(pipeline: PlainPipeline, tmp_path: Path) -> None:
    plan = plan_batch("m.jsonl", rows(4), tmp_path / "out")
    go(rows(4), tmp_path / "out", Shard(2, 2))
    summary = run_batch(plan)
    assert ids(summary.made) == ["r0", "r2"] and ids(summary.kept) == ["r1", "r3"]
    assert len(pipeline.calls) == 4


RACERS = """
import os, sys
import materials.files, ui.fingerprint, ui.jobs
from functools import partial
from pathlib import Path
from tests.ui.conftest import PlainPipeline
from tests.ui.test_batch import rows
from ui.batch import plan_batch, run_batch

out, ui.fingerprint.SHIPPED = Path(sys.argv[1]), Path(sys.argv[2])
materials.files.save_material = partial(materials.files.save_material, previews=False)
ui.jobs._load = lambda model, device: PlainPipeline()
plan = plan_batch("m", rows(8), out)
children = []
for index in range(3):
    children.append(os.fork())
    if children[-1] == 0:
        summary = run_batch(plan, retries=0)
        os._exit(len(summary.made) + len(summary.kept) != 8)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_the_same_batch_three_times_at_once(pipeline: PlainPipeline, tmp_path: Path, shipped: Path) -> None:
    command = [sys.executable, "-c", RACERS, str(tmp_path / "out"), str(shipped)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    go(rows(8), tmp_path / "whole")
    assert pixels(tmp_path / "out") == pixels(tmp_path / "whole") and hidden(tmp_path / "out") == []
    assert [record.status for record in merge(tmp_path / "out")] == ["done"] * 8 and verify(tmp_path / "out") == {}


def test_leftovers_are_cleared_when_nobody_else_is_there(pipeline: PlainPipeline, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "out"
    out.mkdir()
    left = [".r0.12-0123abcd.tmp", ".r1.12-0123abcd.old", "..r1.12-0123abcd.tmp.12-0123abcd.tmp"]
    other = [".r9.12-0123abcd.tmp", ".git", ".r0.tmp"]
    for name in left + other:
        (out / name).mkdir()
        (out / name / "half.png").write_text("")
    with (out / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        go(rows(1), out)
        assert {path.name for path in hidden(out)} == {*left, *other}
    go(rows(2), out)
    assert {path.name for path in hidden(out)} == {*other}


SERVER = """
import os, random, signal, sys, time
import materials.files, ui.fingerprint, ui.jobs
from functools import partial
from pathlib import Path
from tests.ui.conftest import PlainPipeline
from tests.ui.test_batch import rows
from ui.batch import plan_batch, run_batch
from ui.results import read_row

out, weights, count, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
ui.fingerprint.SHIPPED = weights
materials.files.save_material = partial(materials.files.save_material, previews=False)
ui.jobs._load = lambda model, device: PlainPipeline()
chance = random.Random(seed)
run_batch(plan_batch("m", rows(1), out.with_name("warm")))  # so that a child starts at once
killed = 0
while True:
    child = os.fork()
    if child == 0:
        run_batch(plan_batch("m", rows(count), out))
        os._exit(0)
    if killed < kills:
        time.sleep(chance.uniform(0, 2.2 * count * 0.03 / kills + 0.05))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    killed += os.WIFSIGNALED(status)
    # whatever the moment, what can be seen is whole
    for row in rows(count):
        if (out / row.id).exists():
            record, _ = read_row(out / row.id)
            there = {str(path.relative_to(out / row.id)) for path in (out / row.id).rglob("*")}
            assert there == {*record.files, "row.json"}, there
    if not os.WIFSIGNALED(status):
        assert status == 0, status
        break
print(killed)
"""


def killed_run(out: Path, weights: Path, count: int, kills: int) -> int:
    """Make `rows(count)` while the process is killed at `kills` random moments at most; how often it was."""
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(out), str(weights), str(count), str(kills), "0"],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_kills_at_random_moments_change_nothing(pipeline: PlainPipeline, tmp_path: Path, shipped: Path) -> None:
    count, kills = int(os.environ.get("ZELLIGE_KILL_ROWS", "12")), int(os.environ.get("ZELLIGE_KILLS", "8"))
    killed = killed_run(tmp_path / "out", shipped, count, kills)
    assert killed >= kills // 2
    go(rows(count), tmp_path / "whole")
    assert pixels(tmp_path / "out") == pixels(tmp_path / "whole")
    assert hidden(tmp_path / "out") == []
    records = merge(tmp_path / "out")
    assert [(record.id, record.status) for record in records] == [(f"r{place}", "done") for place in range(count)]
    assert sorted(ids(read_records(results_file(tmp_path / "out", WHOLE)))) == sorted(ids(list(records)))
    assert verify(tmp_path / "out") == {}


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


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("1/1", {}, (1, 1)),
        ("3/8", {"RANK": "0", "WORLD_SIZE": "2"}, (3, 8)),
        ("auto", {"RANK": "0", "WORLD_SIZE": "2"}, (1, 2)),
        ("auto", {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, (4, 4)),
        ("auto", {"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (2, 2)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "8"}, (1, 8)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "8", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "1",
                  "SLURM_ARRAY_TASK_MAX": "8", "SLURM_ARRAY_TASK_STEP": "1"}, (8, 8)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "2",
                  "SLURM_ARRAY_TASK_MAX": "8", "SLURM_ARRAY_TASK_STEP": "2"}, (3, 4)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_PROCID": "2", "SLURM_NTASKS": "3"},
         (6, 6)),
    ],
)  # fmt: skip
def test_shards_as_launchers_say_them(text: str, environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert parse_shard(text, environment) == Shard(*expected)


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("0/4", {}, "1 <= I <= N"),
        ("5/4", {}, "but got 5/4"),
        ("1/100000", {}, "1 <= I <= N"),
        ("1", {}, "I/N, such as 2/8, or auto, but got '1'"),
        ("-1/4", {}, "but got '-1/4'"),
        ("auto", {}, "but got none of them"),
        ("auto", {"RANK": "x", "WORLD_SIZE": "2"}, "RANK to be a whole number, but got 'x'"),
        ("auto", {"RANK": "2", "WORLD_SIZE": "2"}, "but got 3/2"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "4"}, "SLURM_ARRAY_TASK_COUNT"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1",
                  "SLURM_ARRAY_TASK_MAX": "9", "SLURM_ARRAY_TASK_STEP": "1"}, "without gaps"),
    ],
)  # fmt: skip
def test_shards_that_are_none(text: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(ZelligeError) as caught:
        parse_shard(text, environment)
    assert message in str(caught.value)


def test_local_rank() -> None:
    assert local_rank({}) is None
    assert local_rank({"LOCAL_RANK": "1", "SLURM_LOCALID": "0"}) == 1 and local_rank({"SLURM_LOCALID": "3"}) == 3


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shards_share_the_rows(count: int) -> None:
    shards = [Shard(index + 1, count) for index in range(count)]
    assert all(sum(shard.takes(place) for shard in shards) == 1 for place in range(30))
