from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from benchmarks.endurance import Sample, figures_of, slope
from benchmarks.kills import Watch, decoded, judge, kill_forks, make_rows, write_manifest
from benchmarks.processes import descendants, usage
from tests.ui.batches import rows
from tests.ui.conftest import PlainPipeline, pipeline, quick, shipped
from ui.batch import plan_batch, run_batch
from ui.manifest import read_manifest

__all__ = ["pipeline", "quick", "shipped"]  # fixtures

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def run(manifest: Path, out: Path) -> int:
    run_batch(plan_batch(manifest, read_manifest(manifest), out))
    return 0


@pytest.mark.usefixtures("shipped", "quick")
def test_killed_forks_and_what_is_judged(pipeline: PlainPipeline, tmp_path: Path) -> None:
    made = make_rows(6, 3, (8, 8), 2, None)
    assert made[4].request == made[1].request != made[2].request
    manifest = write_manifest(tmp_path / "m.jsonl", made)
    run(write_manifest(tmp_path / "few.jsonl", made[:3]), tmp_path / "whole")
    out = tmp_path / "out"
    watch = Watch(out=out, rows=frozenset(row.id for row in made))
    moments = iter([0.0, 0.02, 0.05])
    assert 1 <= kill_forks(partial(run, manifest, out), 3, lambda: next(moments), watch) <= 3
    assert watch.looks >= 1 and watch.partial == [] and watch.whole == watch.rows
    figures = judge(made, out, tmp_path / "whole", 3, watch)
    assert all(figure.passed is not False for figure in figures)
    (out / "r0001" / "height.png").write_bytes((out / "r0002" / "height.png").read_bytes())
    assert decoded(out / "r0001") != decoded(out / "r0004")
    failed = {figure.name for figure in judge(made, out, tmp_path / "whole", 3, watch) if figure.passed is False}
    assert failed == {"rows whose decoded pixels differ", "rows that differ from their hashes"}


@pytest.mark.usefixtures("shipped", "quick")
def test_what_should_never_be_seen_is_noticed(pipeline: PlainPipeline, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_batch(plan_batch("m", rows(4), out))
    (out / "r0" / "half.png").touch()
    (out / "r1" / "row.json").unlink()
    (out / "r2" / "ao.png").write_bytes(b"")
    (out / "x.png").touch()
    (out / "results-0001-of-0001.jsonl").write_bytes(b'{"id"')
    watch = Watch(out=out, rows=frozenset(row.id for row in rows(4)))
    watch.look()
    assert watch.whole == {"r3"}
    assert sorted(watch.partial) == [
        "a torn line",
        "r0 has other files than its record says",
        "r1 has no record",
        "r2/ao.png is not what its record says",
        "x.png is in the folder",
    ]


def test_growth_is_a_slope() -> None:
    assert slope([(x, x / 10 + 9 * (x == 20)) for x in range(50)]) == pytest.approx(0.1)
    steady = [Sample(job=job, resident=10**9 + (job % 3) * 10**6, threads=9, files=30) for job in range(0, 5001, 50)]
    assert all(figure.passed is not False for figure in figures_of(steady, 500, 10.0))
    leaking = [Sample(job=each.job, resident=each.resident + each.job * 20_000, threads=9 + each.job // 1000,
                      files=30 + each.job // 100) for each in steady]  # fmt: skip
    failed = [figure.name for figure in figures_of(leaking, 500, 10.0) if figure.passed is False]
    assert len(failed) == 3


def test_usage_of_this_process() -> None:
    before = usage()
    assert before.resident > 10**7 and before.threads >= 1 and before.files >= 3
    with open(os.devnull):
        assert usage().files == before.files + 1
    assert descendants(os.getpid())[0] == os.getpid()
