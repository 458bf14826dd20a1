from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ui.conftest import PlainPipeline, hidden
from ui import cli
from ui.commands.batch import _device
from ui.presence import LOCK_FILE

ROOT = Path(__file__).parents[2]
ROWS = [{"id": f"r{index}", "kind": "material", "prompt": "oak", "size": "8x8", "seed": index} for index in range(3)]


@pytest.fixture(autouse=True)
def setting(shipped: Path, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def batch(*arguments: str) -> int:
    return cli.main(["batch", *arguments])


def test_prints_a_line_per_result(pipeline: PlainPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert batch("m.jsonl") == 0
    captured = capsys.readouterr()
    assert captured.out == "out/r0\nout/r1\nout/r2\n"
    assert captured.err.startswith("zellige: 3 made, 0 whole already, 0 failed in ") and captured.err.count("\n") == 1
    assert batch("m.jsonl", "-q") == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err, len(pipeline.calls)) == ("out/r0\nout/r1\nout/r2\n", "", 3)


def test_the_same_request_gives_the_same_files_as_the_other_command(pipeline: PlainPipeline, tmp_path: Path) -> None:
    assert batch("m.jsonl", "--out", "b", "-q") == 0
    assert cli.main(["material", "oak", "--size", "8x8", "--seed", "1", "--out", "alone"]) == 0
    for file in Path("alone").iterdir():
        assert file.read_bytes() == (Path("b/r1") / file.name).read_bytes(), file


def test_json_is_one_object(pipeline: PlainPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert batch("m.jsonl", "--out", "b", "--shard", "2/2", "--json") == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told.pop("seconds") > 0 and told.pop("rate") > 0
    assert told == {"out": "b", "shard": "2/2", "made": ["r1"], "kept": [], "failed": []}
    assert captured.err.startswith("zellige: shard 2/2: 1 made")
    assert Path("b/results-0002-of-0002.jsonl").is_file()


def test_shards_merge_and_verify(pipeline: PlainPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert batch("m.jsonl", "--shard", "1/2", "-q") == 0
    capsys.readouterr()
    assert batch("--merge", "out") == 1
    captured = capsys.readouterr()
    assert captured.out == "out/results.jsonl\n" and captured.err == "zellige: r1: is missing\n"
    assert batch("m.jsonl", "--shard", "2/2", "-q") == 0
    capsys.readouterr()
    assert batch("--merge", "out", "--verify", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "out": "out", "results": "out/results.jsonl", "done": 3, "failed": 0, "missing": 0, "differing": {},
    }  # fmt: skip
    lines = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["r0", "r1", "r2"]
    assert set(lines[0]) == {"id", "status", "fingerprint", "files", "seconds", "attempt"}
    digest = hashlib.sha256(Path("out/r0/height.png").read_bytes()).hexdigest()
    assert lines[0]["files"]["height.png"] == digest
    assert batch("--verify", "out") == 0
    Path("out/r1/ao.png").write_bytes(b"")
    assert batch("--verify", "out") == 1
    assert capsys.readouterr().err == "zellige: r1: out/r1/ao.png is not the file that was written\n"


def test_shards_from_the_launcher(
    pipeline: PlainPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert batch("m.jsonl", "--shard", "auto", "-q") == 0
    assert capsys.readouterr().out == "out/r2\n"


@pytest.mark.parametrize(
    ("options", "gpus", "expected"),
    [
        (("auto", "auto"), 4, "cuda:1"),  # 5 modulo 4
        (("auto", "auto"), 1, "cuda:0"),
        (("auto", "auto"), 0, "auto"),
        (("auto", "cuda"), 4, "cuda:1"),
        (("auto", "cpu"), 4, "cpu"),
        (("1/2", "auto"), 4, "auto"),
    ],
)
def test_processes_on_one_host_take_a_gpu_each(
    options: tuple[str, str], gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    given = argparse.Namespace(shard=options[0], device=options[1])
    assert _device(given, {"LOCAL_RANK": "5"}) == expected
    assert _device(given, {}) == options[1]


def test_a_dry_run_writes_nothing(pipeline: PlainPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert batch("m.jsonl", "--dry-run") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "rows    3 to make, 0 whole already (shard 1/1)"
    assert told[2] == "time    24.6 s at 0.008 megapixels per second (a guess; --rate takes a better one)"
    assert told[3].startswith("disk    at most 6.0 MB, ")
    assert batch("m.jsonl", "--dry-run", "--rate", "0.001", "--shard", "1/3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["rate"], found["rate_is"]) == (1, 0.001, "given")
    assert found["seconds"] == pytest.approx(65.536)
    assert pipeline.calls == [] and not Path("out").exists()


def test_failed_rows_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing = PlainPipeline((1, RuntimeError("bad\nluck")))
    monkeypatch.setattr("ui.jobs._load", lambda model, device: failing)
    assert batch("m.jsonl", "--retries", "0", "--json") == 1
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["made"] == ["r0", "r2"]
    assert told["failed"] == [{"id": "r1", "line": 2, "attempts": 1, "error": "RuntimeError: bad luck"}]
    assert captured.err.startswith("zellige: line 2, r1: failed once: RuntimeError: bad luck\nzellige: 2 made")
    assert batch("m.jsonl", "-q") == 0
    assert capsys.readouterr().out == "out/r0\nout/r1\nout/r2\n"


def test_the_bar_counts_rows(pipeline: PlainPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert batch("m.jsonl", "-v") == 0
    captured = capsys.readouterr()
    assert "row 3/3 r2: 100%|" in captured.err and "row" not in captured.out


def test_all_faults_of_a_manifest_are_listed(
    pipeline: PlainPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.jsonl").write_text('{"id": "a", "prompt": "x", "size": "0x1"}\n{"id": "a", "prompt": "x"}\nno\n')
    assert batch("bad.jsonl") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "zellige: bad.jsonl, line 1: expected both sides of size to be 1 to 1048576 pixels, but got 0x1",
        "zellige: bad.jsonl, line 2: expected ids to differ in more than upper and lower case, "
        "but 'a' is there since line 1",
        "zellige: bad.jsonl, line 3: expected a JSON object, but column 1 is wrong: Expecting value",
    ]
    monkeypatch.setattr("ui.commands.batch.MAX_LISTED", 2)
    assert batch("bad.jsonl", "-v") == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "zellige: bad.jsonl: and 1 more" and "Traceback" in captured.err
    assert pipeline.calls == [] and not Path("out").exists()


def test_changed_rows_need_overwrite(pipeline: PlainPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert batch("m.jsonl", "-q") == 0
    Path("m.jsonl").write_text("".join(json.dumps(row | {"prompt": "elm"}) + "\n" for row in ROWS))
    capsys.readouterr()
    assert batch("m.jsonl") == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and told[2].startswith(
        "zellige: m.jsonl, line 3: expected the row to be as it was when out/r2"
    )
    assert batch("m.jsonl", "--overwrite", "-q") == 0
    assert json.loads(Path("out/r2/material.json").read_text())["request"]["prompt"] == "elm"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MANIFEST, --merge DIR or --verify DIR, but got nothing"),
        (["absent.jsonl"], "absent.jsonl cannot be read"),
        (["m.txt"], "ends in .jsonl, .ndjson, .csv, .yaml, .yml, but got m.txt"),
        (["m.jsonl", "--shard", "3/2"], "1 <= I <= N <= 9999, but got 3/2"),
        (["m.jsonl", "--shard", "x"], "I/N, such as 2/8, or auto, but got 'x'"),
        (["m.jsonl", "--retries", "-1"], "--retries to be a whole number from 0 to 1000, but got -1"),
        (["m.jsonl", "--retries", "x"], "expected --retries to be a whole number"),
        (["m.jsonl", "--rate", "0"], "--rate to be a number above 0"),
        (["m.jsonl", "--rate", "nan"], "--rate to be a number above 0"),
        (["m.jsonl", "--out", "m.jsonl"], "an output folder, but got the file m.jsonl"),
        (["m.jsonl", "--out", "/proc/zellige"], "/proc"),
        (["m.jsonl", "--merge", "out"], "but got a manifest or --out"),
        (["--merge", "out", "--out", "out"], "but got a manifest or --out"),
        (["--merge", "absent"], "the folder of a batch, but absent has no manifest.jsonl"),
        (["--verify", "."], "the folder of a batch, but . has no manifest.jsonl"),
        (["--verify"], "after --verify, but got none"),
        (["--merge", "a", "--verify", "b"], "one folder to merge and verify, but got a and b"),
        (["m.jsonl", "more.jsonl"], "but got more.jsonl"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], message: str, pipeline: PlainPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and pipeline.calls == []
    assert message in captured.err and captured.err.startswith("zellige: ") and captured.err.count("\n") == 1
    assert {path.name for path in Path().iterdir()} == {"m.jsonl"}


PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and their children do
from pathlib import Path
import ui.fingerprint, ui.jobs
from tests.ui.conftest import PlainPipeline
from ui.cli import main
class Slow(PlainPipeline):
    def __call__(self, *args, **options):
        if len(self.calls) == 1:
            print("second", flush=True)
            time.sleep(60)
        return super().__call__(*args, **options)
slow = Slow()
ui.fingerprint.SHIPPED = Path("weights")
ui.jobs._load = lambda model, device: slow
sys.exit(main(["batch", "m.jsonl"]))
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_real_interrupt_leaves_whole_rows_and_says_how_to_go_on(sign: signal.Signals, tmp_path: Path) -> None:
    Path("weights").mkdir()
    Path("weights/model_index.json").write_text("{}")
    child = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PROGRAM}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "second\n"
    child.send_signal(sign)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 130 and output == "out/r0\n"
    assert errors.splitlines()[-1] == ("zellige: stopped: 1 of 3 rows are whole; the same command goes on from there")
    left = {path.name for path in Path("out").iterdir()}
    assert left == {"r0", "manifest.jsonl", "results-0001-of-0001.jsonl", LOCK_FILE}
    assert [path.name for path in hidden(Path("out"))] == [LOCK_FILE]


def test_summaries_are_plain_data() -> None:
    from ui.results import Record

    record = Record(id="a", status="failed", error="x")
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    assert dataclasses.replace(record, error=None).to_dict().get("error", 0) == 0
