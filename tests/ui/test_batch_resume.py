"""Batches that were stopped, killed, changed or damaged go on and say what is not whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asd.errors import OutputError
from tests.ui.batches import go, hidden, ids, pixels, problems, rows
from tests.ui.conftest import PlainPipeline
from ui import fingerprint as fingerprints
from ui.batch import BatchInterrupted, plan_batch, run_batch
from ui.presence import LOCK_FILE
from ui.request import Request
from ui.results import ROW_FILE, Record, append, merge, read_records, read_row, results_file, verify
from ui.shards import WHOLE, Shard

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("shipped", "quick")


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
from tests.ui.batches import rows
from tests.ui.conftest import PlainPipeline
from ui.batch import plan_batch, run_batch
from ui.results import read_row

out, weights, count, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
ui.fingerprint.SHIPPED = weights
materials.files.save_material = partial(materials.files.save_material, previews=False)
ui.jobs._load = lambda model, device: PlainPipeline()
chance = random.Random(seed)
run_batch(plan_batch("m", rows(1), out.with_name("warm")))  # so that a child starts at once
begun = time.monotonic()
run_batch(plan_batch("m", rows(4), out.with_name("timed")))
row_seconds = (time.monotonic() - begun) / 4
killed = 0
while True:
    child = os.fork()
    if child == 0:
        run_batch(plan_batch("m", rows(count), out))
        os._exit(0)
    if killed < kills:
        time.sleep(chance.uniform(0, 2 * count * row_seconds / kills))
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
