from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asd.errors import CheckpointError, OutputError, ZelligeError
from tests.ui.conftest import PlainPipeline
from ui.job_store import Job, JobStore, State
from ui.jobs import Progress, run_job
from ui.line import QueueFullError
from ui.queue import JobQueue, fraction
from ui.request import Request

SMALL = Request(prompt="oak", size=(8, 8), steps=2)


@contextmanager
def queue_in(folder: Path, load: Callable[[str | None], Any] | None = None, **options: Any) -> Iterator[JobQueue]:
    store = JobStore(folder, **{key: options.pop(key) for key in ("keep", "keep_bytes") if key in options})
    queue = JobQueue(store, load or (lambda _model: PlainPipeline()), **options)
    try:
        yield queue
    finally:
        queue.close()


def finished(queue: JobQueue, id: str) -> Job:
    for _ in range(12000):
        job = queue.get(id)
        assert job is not None
        if not job.active:
            return job
        time.sleep(0.01)
    raise AssertionError("still active")


class Fast:
    """`run_job` without a model: a small file, and the queue's progress; waits while `gate` is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, request: Request, out: Path, _pipeline: object, progress: Callable[[Progress], None]) -> None:
        for step in (1, 2):
            progress(Progress(sample=0, count=request.count, step=step, steps=2))
            assert self.gate.wait(180)
        out.mkdir()
        (out / "basecolor.png").write_bytes(bytes(1000))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Fast:
    made = Fast()
    monkeypatch.setattr("ui.queue.run_job", made)
    return made


def resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_five_thousand_jobs_leave_no_more_than_the_cache(
    tmp_path: Path, fast: Fast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _handle: None)  # the disk's time, not what is measured
    with queue_in(tmp_path, keep=50, max_queue=100) as queue:
        queue.listen(lambda job: None)
        figures: dict[int, tuple[int, int, int]] = {}
        last = ""
        for number in range(1, 5001):
            while queue.waiting() >= 100:
                time.sleep(0.001)
            last = queue.submit(Request(prompt=f"oak {number}", size=(8, 8))).id
            if number in (1000, 5000):
                finished(queue, last)
                gc.collect()
                figures[number] = resident(), threading.active_count(), len(os.listdir(f"/proc/{os.getpid()}/fd"))
        assert len(queue.jobs()) == len(queue.store._bytes) == 50
        # a record and a folder each, and the lock
        assert len(list(tmp_path.iterdir())) == 2 * 50 + 1
        assert figures[5000][0] - figures[1000][0] < 8_000_000
        assert figures[5000][1:] == figures[1000][1:]
        assert not queue._tickets and not queue._forgotten and not queue.line.waiting
    assert [job.request.prompt for job in JobStore(tmp_path, keep=50).load()][-1] == "oak 5000"


def test_files_are_those_of_run_job(tmp_path: Path) -> None:
    with queue_in(tmp_path / "jobs") as queue:
        job = finished(queue, queue.submit(SMALL).id)
    run_job(SMALL, tmp_path / "alone", PlainPipeline())
    alone = {path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()}
    assert {name: (tmp_path / "jobs" / job.id / name).read_bytes() for name in job.files} == alone
    assert job.files == {name: len(data) for name, data in alone.items()}


def test_jobs_run_in_order_and_say_how_far_they_are(tmp_path: Path, fast: Fast) -> None:
    seen: list[tuple[str, State, float]] = []
    with queue_in(tmp_path) as queue:
        queue.listen(lambda job: seen.append((job.request.prompt, job.state, fraction(job))))
        fast.gate.clear()
        ids = [queue.submit(Request(prompt=name, size=(8, 8))).id for name in "abc"]
        while (job := queue.get(ids[0])) is None or job.state != "running" or not job.step:
            time.sleep(0.01)
        assert [queue.position(id) for id in ids] == [None, 1, 2]
        assert (queue.eta(ids[2]) or 0) > (queue.eta(ids[1]) or 0) > (queue.eta(ids[0]) or 0) > 0
        fast.gate.set()
        for id in ids:
            finished(queue, id)
        assert queue.eta(ids[0]) is None and queue.position(ids[0]) is None
    assert [prompt for prompt, state, _ in seen if state == "done"] == ["a", "b", "c"]
    for name in "abc":
        told = [share for prompt, _, share in seen if prompt == name]
        assert told == sorted(told) and told[0] == 0 and told[-1] == 1


def test_a_full_queue(tmp_path: Path, fast: Fast) -> None:
    with queue_in(tmp_path, max_queue=1) as queue:
        fast.gate.clear()
        first = queue.submit(SMALL).id
        while queue.waiting():
            time.sleep(0.01)
        second = queue.submit(SMALL).id
        with pytest.raises(QueueFullError, match="a free place in the queue, but 1 jobs are waiting") as caught:
            queue.submit(SMALL)
        assert caught.value.retry_after >= 1
        cancelled = queue.cancel(second)
        assert cancelled is not None and cancelled.state == "cancelled"
        third = queue.submit(SMALL).id  # its place is free
        fast.gate.set()
        assert finished(queue, third).state == finished(queue, first).state == "done"


def test_cancelled_at_once_from_many_threads(tmp_path: Path, fast: Fast) -> None:
    with queue_in(tmp_path, max_queue=200) as queue:
        ids = [queue.submit(SMALL).id for _ in range(100)]
        threads = [threading.Thread(target=lambda: [queue.cancel(id) for id in ids]) for _ in range(4)]
        threads += [threading.Thread(target=lambda: [queue.forget(id) for id in ids[::2]])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for id in ids[1::2]:
            assert finished(queue, id).state in ("done", "cancelled")
        deadline = time.monotonic() + 10
        while [id for id in ids[::2] if queue.get(id) is not None] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not [id for id in ids[::2] if queue.get(id) is not None]
        names = {path.name.removesuffix(".json") for path in tmp_path.iterdir()} - {".serve.lock"}
        assert names == set(ids[1::2])


def test_a_model_that_does_not_load_fails_its_job_alone(tmp_path: Path) -> None:
    def load(model: str | None) -> PlainPipeline:
        if model == "bad":
            raise CheckpointError(f"Expected a material checkpoint in '{tmp_path / 'x'}', but it has none.")
        return PlainPipeline()

    with queue_in(tmp_path, load) as queue:
        bad = queue.submit(Request(prompt="oak", size=(8, 8), model="bad")).id
        good = queue.submit(SMALL).id
        job = finished(queue, bad)
        assert (
            job.state == "failed"
            and job.error == "Expected a material checkpoint in 'the jobs' folder/x', but it has none."
        )
        assert finished(queue, good).state == "done"


def test_evicted_by_bytes_but_never_the_newest(tmp_path: Path, fast: Fast) -> None:
    with queue_in(tmp_path, keep_bytes=2500) as queue:
        ids = [queue.submit(SMALL).id for _ in range(4)]
        finished(queue, ids[-1])
        assert [queue.get(id) is not None for id in ids] == [False, False, True, True]
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(ids[2:])
    with queue_in(tmp_path, keep_bytes=1) as queue:
        assert [job.id for job in queue.jobs()] == [ids[-1]]


def test_closing_stops_what_runs_and_what_waits(tmp_path: Path, fast: Fast) -> None:
    before = set(threading.enumerate())
    with queue_in(tmp_path) as queue:
        fast.gate.clear()
        ids = [queue.submit(SMALL).id for _ in range(3)]
        while queue.waiting() > 2:
            time.sleep(0.01)
        threading.Timer(0.2, fast.gate.set).start()
    assert {json.loads((tmp_path / f"{id}.json").read_bytes())["state"] for id in ids} == {"cancelled"}
    with pytest.raises(ZelligeError, match="being closed"):
        queue.submit(SMALL)
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("job-")]


def test_a_killed_servers_leftovers_go_and_its_results_stay(tmp_path: Path, fast: Fast) -> None:
    with queue_in(tmp_path) as queue:
        done = finished(queue, queue.submit(SMALL).id)
    for name in ("a" * 32, f".{'b' * 32}.12-0123abcd.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    (tmp_path / f".{'c' * 32}.json.12-0123abcd.tmp").write_text("{")
    (tmp_path / f"{'d' * 32}.json").write_text("{")
    with queue_in(tmp_path) as queue:
        assert queue.jobs() == [Job.from_record(done.to_record())]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".serve.lock", done.id, f"{done.id}.json", f"{'d' * 32}.json"}


def test_two_servers_do_not_share_a_folder(tmp_path: Path) -> None:
    with queue_in(tmp_path), pytest.raises(OutputError, match="a folder that no other server uses"):
        JobStore(tmp_path)
    JobStore(tmp_path).close()


def test_a_listener_that_fails_stops_nothing(tmp_path: Path, fast: Fast) -> None:
    def broken(_job: Job) -> None:
        raise RuntimeError("x")

    with queue_in(tmp_path) as queue:
        stop = queue.listen(broken)
        assert finished(queue, queue.submit(SMALL).id).state == "done"
        stop()
        stop()


@pytest.mark.parametrize("options", [{"workers": 0}, {"max_queue": 0}])
def test_limits_below_one(tmp_path: Path, options: dict[str, Any]) -> None:
    store = JobStore(tmp_path)
    with pytest.raises(ZelligeError, match="at least one worker and one place"):
        JobQueue(store, lambda _model: PlainPipeline(), **options)
    store.close()
    with pytest.raises(ZelligeError, match="keep to be at least 1"):
        JobStore(tmp_path, keep=0)
