"""The Ray engine: two workers of this machine, one of them killed; and what is refused before a cluster is there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from asd.errors import ZelligeError
from benchmarks.processes import descendants
from tests.tiny import checkpoint
from tests.ui.batches import hidden, ids, pixels, problems, rows
from ui import cli
from ui.batch import plan_batch, run_batch
from ui.manifest import read_manifest
from ui.models import Models
from ui.ray_cluster import check_address, connected, count_workers, find_device, prepare
from ui.ray_rows import Ledger, RowWorker
from ui.results import Record, merge, read_records, results_file, verify
from ui.row import Task
from ui.shards import WHOLE

Found = TypeVar("Found")
ROOT = Path(__file__).parents[2]
STAGE = re.compile(r"\.(.+?)\.([0-9]+)-[0-9a-f]{8}\.tmp")
LAPTOP = {"Alive": True, "Resources": {"CPU": 8.0, "memory": 16e9}}
HOST = {"Alive": True, "Resources": {"CPU": 64.0, "GPU": 4.0, "memory": 400e9}}


@dataclass(frozen=True, kw_only=True)
class Killed:
    """A finished run: its folder, what it printed, the row whose worker was killed, and what a stranger was told."""

    folder: Path
    output: str
    errors: str
    row: str
    stranger: str
    listening: set[str]


def command(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "ui", "batch", "m.jsonl", "--engine", "ray", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=clean | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables,
    )  # fmt: skip


def gcs_address(process: int) -> str | None:
    """Where the cluster that a process has started takes calls; None before."""
    for number in descendants(process):
        try:
            match = re.search(rb"--gcs-address=([0-9.:]+)", Path(f"/proc/{number}/cmdline").read_bytes())
        except OSError:  # it ended meanwhile
            continue
        if match:
            return match[1].decode()
    return None


def stages(out: Path) -> dict[str, int]:
    """The rows that are being made, and the processes that make them."""
    found = map(STAGE.fullmatch, (path.name for path in out.glob(".*.tmp")))
    return {match[1]: int(match[2]) for match in found if match}


def waited_for(run: subprocess.Popen[str], look: Callable[[], Found | None]) -> Found:
    until = time.monotonic() + 300
    while not (found := look()):
        assert run.poll() is None and time.monotonic() < until, run.communicate()
        time.sleep(0.005)
    return found


def listening(process: int) -> set[str]:
    """The addresses, in hexadecimal, at which a process and its descendants take connections."""
    owned = set()
    for number in descendants(process):
        for handle in Path(f"/proc/{number}/fd").glob("*"):
            try:
                owned.add(os.readlink(handle))
            except OSError:  # closed meanwhile
                continue
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {line[1].split(":")[0] for line in lines[1:] if line[3] == "0A" and f"socket:[{line[9]}]" in owned}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    folder = tmp_path_factory.mktemp("ray")
    checkpoint(folder / "tiny")
    wishes = [{"id": f"r{i}", "prompt": "red brick", "size": "64x64", "steps": 2, "seed": i, "model": "tiny"}
              for i in range(5)]  # fmt: skip
    (folder / "m.jsonl").write_text("".join(json.dumps(wish) + "\n" for wish in wishes))
    with command(folder, "--workers", "2") as run:
        try:
            address = waited_for(run, lambda: gcs_address(run.pid))
            wrong = {"RAY_AUTH_TOKEN": "0" * 64, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
            with command(folder, "--address", address, "--out", "other", **wrong) as other:
                row, process = next(iter(waited_for(run, lambda: stages(folder / "out")).items()))
                os.kill(process, signal.SIGKILL)
                told = listening(run.pid)
                stranger = other.communicate(timeout=300)[1]
            output, errors = run.communicate(timeout=300)
            assert (other.returncode, run.returncode) == (2, 0), stranger + errors
        finally:
            run.kill()
    yield Killed(folder=folder, output=output, errors=errors, row=row, stranger=stranger, listening=told)


needs_ray = pytest.mark.skipif(
    "ZELLIGE_TEST_RAY" not in os.environ
    or importlib.util.find_spec("ray") is None
    or not Path("/proc/net/tcp").exists(),
    reason="starts a cluster, two minutes of two cores: needs Linux, ray, and ZELLIGE_TEST_RAY=1",
)


@needs_ray
def test_a_killed_worker_is_replaced_and_every_row_is_there_once(killed: Killed) -> None:
    out = killed.folder / "out"
    assert killed.output == "".join(f"out/r{place}\n" for place in range(5))
    assert "5 made, 0 whole already, 0 failed" in killed.errors or "4 made, 1 whole already" in killed.errors
    records = read_records(results_file(out, WHOLE))
    assert sorted(ids(records)) == [f"r{place}" for place in range(5)]
    attempts = {record.id: record.attempt for record in records}
    assert attempts.pop(killed.row) == 2 and set(attempts.values()) == {1}
    assert [record.status for record in merge(out)] == ["done"] * 5 and verify(out) == {}
    assert hidden(out) == []


@needs_ray
def test_pixels_are_those_of_the_ordinary_engine(killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(killed.folder)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_batch(plan_batch("m.jsonl", read_manifest("m.jsonl"), "whole"), device="cpu")
    finally:
        torch.set_num_threads(before)
    assert pixels(Path("out")) == pixels(Path("whole")) != {}


@needs_ray
def test_the_cluster_listens_here_and_wants_its_token(killed: Killed) -> None:
    local = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert killed.listening and killed.listening <= local
    told = killed.stranger.splitlines()[-1]
    assert told.startswith("zellige: expected Ray to be reached at 127.0.0.1:")
    assert told.endswith("its token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token) is another or missing")
    assert not (killed.folder / "other").exists()


@needs_ray
def test_a_second_go_starts_no_cluster(
    killed: Killed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(killed.folder)
    monkeypatch.setattr("ui.ray_rows.ray_engine", lambda *a, **options: pytest.fail("a cluster was asked for"))
    assert cli.main(["batch", "m.jsonl", "--engine", "ray", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["made"] == [] and len(told["kept"]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "2"], "expected --engine ray with --workers, but got --engine local"),
        (["--address", "a:1"], "expected --engine ray with --address, but got --engine local"),
        (["--engine", "ray", "--workers", "0"], "expected --workers to be a whole number above 0, but got 0"),
        (["--engine", "ray", "--cores", "-1"], "expected --cores to be a whole number above 0, but got -1"),
    ],
)
def test_bad_options_are_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["batch", "m.jsonl", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert capsys.readouterr().err == f"zellige: {message}\n" and not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ZelligeError, match=r'it is not installed: pip install "zellige\[ray\]"'), connected():
        pass


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:0", "host:99999", "ray://host:10001", "host:¹"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ZelligeError, match=r"such as 10\.0\.0\.5:6379, or auto, but got"):
        check_address(address)


def test_an_address_where_nobody_is() -> None:
    check_address("auto")
    with pytest.raises(ZelligeError, match="but nobody answers"):
        check_address("127.0.0.1:1")


def test_a_cluster_that_is_started_wants_a_token() -> None:
    first: dict[str, str] = {"RAY_AUTH_MODE": "disabled"}
    second: dict[str, str] = {}
    assert prepare(None, first) and prepare(None, second)
    assert first["RAY_AUTH_MODE"] == second["RAY_AUTH_MODE"] == "token"
    assert len(first["RAY_AUTH_TOKEN"]) == 64 and first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]
    assert first["RAY_USAGE_STATS_ENABLED"] == "0"
    given = {"RAY_AUTH_TOKEN_PATH": "token"}
    assert prepare(None, given) and "RAY_AUTH_TOKEN" not in given


def test_a_cluster_that_is_joined_keeps_its_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    joined: dict[str, str] = {}
    assert not prepare("a:1", joined) and "RAY_AUTH_MODE" not in joined
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in joined
    assert prepare("a:1", {"RAY_AUTH_TOKEN": "x"}) and prepare("a:1", {"RAY_AUTH_MODE": "token"})
    assert not prepare("a:1", {"RAY_AUTH_TOKEN": "x", "RAY_AUTH_MODE": "disabled"})
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert prepare("auto", joined) and joined["RAY_AUTH_MODE"] == "token"


def test_devices_and_workers_by_what_the_machines_have() -> None:
    gone = HOST | {"Alive": False}
    assert find_device("auto", [LAPTOP, gone]) == "cpu" and find_device("auto", [LAPTOP, HOST]) == "cuda"
    assert find_device("cpu", [HOST]) == "cpu"
    for device, message in (("cuda", "but Ray knows of none"), ("cuda:1", "but got cuda:1"), ("mps", "but got mps")):
        with pytest.raises(ZelligeError, match=message):
            find_device(device, [LAPTOP])
    assert count_workers([LAPTOP, HOST, gone], "cpu", 2, 10**9) == 4 + 32
    assert count_workers([LAPTOP, HOST], "cuda", 1, 10**9) == 4
    with pytest.raises(ZelligeError, match=r"with 16 CPU cores and 1.0 GB of memory for a worker"):
        count_workers([LAPTOP], "cpu", 16, 10**9)
    with pytest.raises(ZelligeError, match=r"with 1 CPU core, a GPU and"):
        count_workers([LAPTOP], "cuda", 1, 10**9)


def test_beginnings_are_counted() -> None:
    ledger = Ledger()
    assert [ledger.begin(3), ledger.begin(3), ledger.begin(4)] == [1, 2, 1]


@pytest.fixture
def task(shipped: Path, tmp_path: Path) -> Task:
    return plan_batch("m.jsonl", rows(1), tmp_path / "out").todo[0]


def worker(out: Path, **options: Any) -> RowWorker:
    given = {"start": str(out.parent), "manifest": "0" * 64, "device": "cpu", "cores": 1, "retries": 1}
    return RowWorker(**{"ledger": None, "out": str(out), **given, **options})


def make(task: Task, begun: int, pipeline: Any) -> tuple[Record, bool]:
    return worker(task.folder.parent)._make(task, begun, Models(lambda name: pipeline))


def test_a_row_whose_worker_dies_each_time_is_given_up(task: Task, pipeline: Any, quick: None) -> None:
    record, here = make(task, 3, pipeline)
    assert here and (record.status, record.attempt) == ("failed", 2) and pipeline.calls == []
    assert record.error == "Expected a worker to live until the row is made, but it died 2 times"
    assert make(task, 2, pipeline)[0].attempt == 2  # the last retry
    record, here = make(task, 3, pipeline)  # which had made it, and then died
    assert record.status == "done" and not here and len(pipeline.calls) == 1


def test_machines_with_other_weights_make_nothing(task: Task, pipeline: Any, shipped: Path) -> None:
    (shipped / "unet").mkdir()
    (shipped / "unet" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ZelligeError, match=r"Expected the same weights on every machine, but .* has another"):
        make(task, 1, pipeline)
    assert pipeline.calls == []


def test_folders_that_are_not_shared_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    with pytest.raises(ZelligeError, match=r"Expected every machine to have the folder .*gone, where the command was"):
        worker(out, start=str(tmp_path / "gone"))._settle()
    with pytest.raises(ZelligeError, match=r"to be one folder that all machines share, but .* has another"):
        worker(out)._settle()
    out.mkdir()
    (out / "manifest.jsonl").write_text("of another batch")
    with pytest.raises(ZelligeError, match="to be one folder that all machines share"):
        worker(out)._settle()
    assert problems(rows(1, model="no/such"), out)  # and a plan with faults never comes so far
