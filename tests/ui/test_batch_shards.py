"""Batches shared by several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asd.errors import ZelligeError
from tests.ui.batches import go, hidden, ids, pixels, rows
from tests.ui.conftest import PlainPipeline
from ui.results import merge, verify
from ui.shards import Shard, local_rank, parse_shard

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("shipped", "quick")


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


RACERS = """
import os, sys
import materials.files, ui.fingerprint, ui.jobs
from functools import partial
from pathlib import Path
from tests.ui.batches import rows
from tests.ui.conftest import PlainPipeline
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
