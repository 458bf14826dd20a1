"""`JobQueue`: a bounded queue of requests and the threads that turn them into results, one at a time each."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from asd.errors import OutputError, ZelligeError
from ui.estimate import GUESSED_RATE, work
from ui.job_store import Job, JobStore, State
from ui.jobs import Pipeline, Progress, run_job
from ui.request import Request

log = logging.getLogger(__name__)

STEPS_SHARE = 0.75
"""Part of a sample's time that its denoising steps take; the rest decodes and writes."""
_STILL = object()


class QueueFullError(ZelligeError):
    """No place in the queue; `retry_after` seconds until there may be one."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"Expected a free place in the queue, but {waiting} jobs are waiting")
        self.retry_after = retry_after


class _Cancelled(Exception):  # noqa: N818 - no error
    """Raised inside a job that somebody cancelled."""


class JobQueue:
    """Runs requests in the order of `submit`; every job is queued, running, then done, failed or cancelled.

    Args:
        store: where results and records go; finished jobs that it evicts are forgotten here too.
        load: a model's name (`Request.model`) to a pipeline. Each worker has its own, one at a time.
        workers: threads; more than one only pays with a device each.
        max_queue: jobs that may wait.

    Raises ZelligeError for less than one worker or place.
    """

    def __init__(
        self, store: JobStore, load: Callable[[str | None], Pipeline], *, workers: int = 1, max_queue: int = 32
    ) -> None:
        if workers < 1 or max_queue < 1:
            raise ZelligeError(f"Expected at least one worker and one place, but got {workers} and {max_queue}")
        self.store, self.max_queue = store, max_queue
        self._load, self._workers = load, workers
        self._rate = GUESSED_RATE * 1e6
        self._changed = threading.Condition()
        self._closed = False
        self._waiting: deque[str] = deque()
        self._stopping: set[str] = set()
        self._forgotten: set[str] = set()
        self._listeners: list[Callable[[Job], None]] = []
        self._jobs: dict[str, Job] = {job.id: job for job in store.load()}
        """Waiting, running and kept jobs."""
        self._threads = [threading.Thread(target=self._work, name=f"job-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, request: Request) -> Job:
        """Put a request at the end. Raises QueueFullError, and ZelligeError after `close`."""
        with self._changed:
            if self._closed:
                raise ZelligeError("Expected a queue that is open, but it is being closed")
            if len(self._waiting) >= self.max_queue:
                raise QueueFullError(len(self._waiting), max(1, min(600, round(self._left(self._waiting[0])))))
            job = Job(id=secrets.token_hex(16), request=request, created=time.time())
            self._jobs[job.id] = job
            self._waiting.append(job.id)
            self._changed.notify()
        self._tell(job)
        return job

    def get(self, id: str) -> Job | None:
        """The job as it is now; None for one that never was or is no longer kept."""
        with self._changed:
            return self._jobs.get(id)

    def jobs(self) -> list[Job]:
        """All jobs that are known, oldest first."""
        with self._changed:
            return sorted(self._jobs.values(), key=lambda job: (job.created, job.id))

    def waiting(self) -> int:
        """How many jobs wait."""
        with self._changed:
            return len(self._waiting)

    def position(self, id: str) -> int | None:
        """How many jobs are ahead of a waiting one, those that run included; None if it doesn't wait."""
        with self._changed:
            if id not in self._waiting:
                return None
            return self._waiting.index(id) + sum(job.state == "running" for job in self._jobs.values())

    def eta(self, id: str) -> float | None:
        """Seconds until an active job is through, by its own pace and that of the jobs before; None for others."""
        with self._changed:
            return self._left(id) if id in self._jobs and self._jobs[id].active else None

    def cancel(self, id: str) -> Job | None:
        """Stop a job: a waiting one at once, a running one at its next denoising step; others stay as they are.

        Nothing of a cancelled job is kept but its record. None for an unknown id.
        """
        with self._changed:
            job = self._jobs.get(id)
            if job is None or not job.active:
                return job
            if id not in self._waiting:
                self._stopping.add(id)
                return job
            self._waiting.remove(id)
        return self._finish(job, "cancelled")

    def forget(self, id: str) -> bool:
        """Cancel a job and delete its record and files; False for an unknown id."""
        with self._changed:
            if id not in self._jobs:
                return False
            self._forgotten.add(id)
        job = self.cancel(id)
        if job is not None and not job.active:
            self._drop(id)
        return True

    def listen(self, listener: Callable[[Job], None]) -> Callable[[], None]:
        """Call `listener` with every new state, on the thread that made it; the returned function ends that."""
        with self._changed:
            self._listeners.append(listener)

        def stop() -> None:
            with self._changed:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def close(self, timeout: float = 60.0) -> None:
        """Cancel everything and wait for the workers, then let the store go."""
        with self._changed:
            self._closed = True
            active = [job.id for job in self._jobs.values() if job.active]
            self._changed.notify_all()
        for id in active:
            self.cancel(id)
        for thread in self._threads:
            thread.join(timeout)
        self.store.close()

    def _work(self) -> None:
        model: Any = _STILL
        pipeline: Pipeline | None = None
        while (job := self._next()) is not None:
            try:
                if pipeline is None or model != job.request.model:
                    pipeline = None  # frees the memory first
                    pipeline, model = self._load(job.request.model), job.request.model
                run_job(job.request, self.store.folder(job.id), pipeline, self._reporter(job.id))
                self._check(job.id)
            except _Cancelled:
                self._finish(job, "cancelled")
            except Exception as error:
                self._finish(job, "failed", self._sentence(job, error))
            else:
                self._finish(job, "done")

    def _next(self) -> Job | None:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            id = self._waiting.popleft()
            job = self._change(id, state="running", started=time.time())
        self._tell(job)
        return job

    def _reporter(self, id: str) -> Callable[[Progress], None]:
        def report(progress: Progress) -> None:
            self._check(id)
            with self._changed:
                job = self._change(id, sample=progress.sample, step=progress.step, steps=progress.steps)
            self._tell(job)

        return report

    def _check(self, id: str) -> None:
        with self._changed:
            if id in self._stopping or self._closed:
                raise _Cancelled

    def _finish(self, job: Job, state: State, error: str | None = None) -> Job:
        now = time.time()
        with self._changed:
            job = self._jobs[job.id]
            done = replace(job, state=state, error=error, finished=now, version=job.version + 1)
        gone: list[str] = []
        try:
            done, gone = self.store.finish(done)
        except (OutputError, OSError) as refusal:
            log.error("the record of job %s is not written: %s", done.id, refusal)
            if state == "done":
                done = replace(done, state="failed", error="Expected to write the result, but the system refused")
        with self._changed:
            self._stopping.discard(done.id)
            self._jobs.pop(done.id, None)
            self._jobs[done.id] = done
            for id in gone:
                self._jobs.pop(id, None)
            if done.state == "done" and done.started is not None and now > done.started:
                self._rate += 0.3 * (work(done.request) / (now - done.started) - self._rate)
            drop = done.id in self._forgotten
        self._tell(done)
        if drop:
            self._drop(done.id)
        return done

    def _drop(self, id: str) -> None:
        with self._changed:
            self._jobs.pop(id, None)
            self._forgotten.discard(id)
        try:
            self.store.forget(id)
        except OSError as error:
            log.error("job %s is not deleted: %s", id, error)

    def _change(self, id: str, **values: Any) -> Job:
        job = self._jobs[id] = replace(self._jobs[id], **values, version=self._jobs[id].version + 1)
        return job

    def _tell(self, job: Job) -> None:
        for listener in list(self._listeners):
            try:
                listener(job)
            except Exception:
                log.exception("a listener of the queue failed")

    def _left(self, id: str) -> float:
        """Seconds until a job is through; inside the lock."""
        job = self._jobs[id]
        if job.state == "running":
            return self._running_left(job)
        ahead = list(self._waiting)[: self._waiting.index(id)] if id in self._waiting else []
        seconds = sum(work(self._jobs[other].request) for other in ahead) / self._rate
        seconds += sum(self._running_left(other) for other in self._jobs.values() if other.state == "running")
        return seconds / self._workers + work(job.request) / self._rate

    def _running_left(self, job: Job) -> float:
        elapsed = time.time() - (job.started or time.time())
        guess = work(job.request) / self._rate
        done = fraction(job)
        # the first steps include the loading of the model
        return max(0.0, elapsed / done * (1 - done) if done > 0.1 else guess - elapsed)

    def _sentence(self, job: Job, error: Exception) -> str:
        if isinstance(error, ZelligeError):
            folder = self.store.folder(job.id)
            told = " ".join(str(error).split()).replace(str(folder), "the result's folder")
            return told.replace(str(self.store.root), "the jobs' folder")[:500]
        log.error("job %s failed", job.id, exc_info=error)
        return f"an error inside the program ({type(error).__name__}); the server's log has it"


def fraction(job: Job) -> float:
    """How much of a job is done, 0 to 1."""
    if job.state == "done":
        return 1.0
    inside = STEPS_SHARE * job.step / job.steps if job.steps else 0.0
    return min(1.0, (job.sample + inside) / job.request.count)
