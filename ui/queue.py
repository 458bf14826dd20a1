"""`JobQueue`: a bounded queue of requests and the threads that turn them into results, one at a time each."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from asd.errors import OutputError, ZelligeError
from ui.enlarging import in_one_step
from ui.estimate import work
from ui.job_store import Job, JobStore, State
from ui.jobs import Pipeline, Progress, run_job
from ui.line import Line, Stopped, Ticket
from ui.models import Models
from ui.request import Request

log = logging.getLogger(__name__)

STEPS_SHARE = 0.75
"""Part of a sample's time that its denoising steps take; the rest decodes and writes."""
_ENDS: dict[str, State] = {"done": "done", "failed": "failed", "stopped": "cancelled"}


class JobQueue:
    """Requests in a line; every job is queued, running, then done, failed or cancelled, and kept in a store.

    Args:
        store: where results and records go; finished jobs that it evicts are forgotten here too.
        load: a model's name (`Request.model`) to a pipeline. Each worker has its own, one at a time.
        line: the line to stand in with others; None for one of its own.
        workers: threads of its own line; more than one only pays with a device each.
        max_queue: jobs that may wait in its own line.

    Raises ZelligeError for less than one worker or place.
    """

    def __init__(
        self, store: JobStore, load: Callable[[str | None], Pipeline], *, line: Line | None = None, workers: int = 1,
        max_queue: int = 32,
    ) -> None:  # fmt: skip
        self.line = Line(workers=workers, places=max_queue) if line is None else line
        self.store = store
        self._load = load if isinstance(load, Models) else Models(load)
        self._own = line is None
        self._changed = self.line.changed
        self._forgotten: set[str] = set()
        self._listeners: list[Callable[[Job], None]] = []
        self._tickets: dict[str, Ticket] = {}
        """Of waiting and running jobs."""
        self._jobs: dict[str, Job] = {job.id: job for job in store.load()}
        """Waiting, running and kept jobs."""

    def submit(self, request: Request) -> Job:
        """Put a request at the end. Raises QueueFullError, and ZelligeError after `close`."""
        job = Job(id=secrets.token_hex(16), request=request, created=time.time())
        with self._changed:
            self._tickets[job.id] = self.line.submit(
                job.id, partial(self._run, job.id), cost=work(request), after=partial(self._over, job.id)
            )
            self._jobs[job.id] = job
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
        """How many pieces of work wait, others than jobs included."""
        return self.line.waiting

    def position(self, id: str) -> int | None:
        """How much is ahead of a waiting job, what runs included; None if it doesn't wait."""
        with self._changed:
            ticket = self._tickets.get(id)
            return None if ticket is None or ticket.state != "waiting" else ticket.ahead

    def eta(self, id: str) -> float | None:
        """Seconds until an active job is through, by its own pace and that of what is before; None for others."""
        with self._changed:
            ticket = self._tickets.get(id)
            return None if ticket is None else ticket.eta

    def cancel(self, id: str) -> Job | None:
        """Stop a job: a waiting one at once, a running one at its next denoising step; others stay as they are.

        Nothing of a cancelled job is kept but its record. None for an unknown id.
        """
        with self._changed:
            job, ticket = self._jobs.get(id), self._tickets.get(id)
        if job is None or ticket is None:
            return job
        ticket.stop()
        return self.get(id) or job

    def stopping(self, id: str) -> bool:
        """Whether a running job was cancelled and has not stopped yet."""
        ticket = self._tickets.get(id)
        return ticket is not None and ticket.stopping

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
        """Cancel everything and wait for it to stop, then let the store go."""
        with self._changed:
            active = list(self._tickets.values())
        if self._own:
            self.line.close(timeout)
        for ticket in active:
            ticket.stop()
        deadline = time.monotonic() + timeout
        with self._changed:
            self._changed.wait_for(lambda: not self._tickets, max(0.0, deadline - time.monotonic()))
        self.store.close()

    def _run(self, id: str, ticket: Ticket) -> None:
        with self._changed:
            job = self._change(id, state="running", started=time.time())
        self._tell(job)

        def report(progress: Progress) -> None:
            ticket.check()
            with self._changed:
                job = self._change(id, sample=progress.sample, step=progress.step, steps=progress.steps)
            ticket.report(fraction(job))
            self._tell(job)

        try:
            pipeline = None if in_one_step(job.request) else self._load(job.request.model)
            run_job(job.request, self.store.folder(id), pipeline, report)
            ticket.check()
        except KeyboardInterrupt as stopped:
            raise Stopped from stopped
        except Exception as error:
            raise ZelligeError(self._sentence(job, error)) from error

    def _over(self, id: str, ticket: Ticket) -> None:
        self._finish(id, _ENDS[ticket.state], ticket.error)

    def _finish(self, id: str, state: State, error: str | None) -> None:
        with self._changed:
            job = self._jobs[id]
            done = replace(job, state=state, error=error, finished=time.time(), version=job.version + 1)
        gone: list[str] = []
        try:
            done, gone = self.store.finish(done)
        except (OutputError, OSError) as refusal:
            log.error("the record of job %s is not written: %s", done.id, refusal)
            if state == "done":
                done = replace(done, state="failed", error="Expected to write the result, but the system refused")
        with self._changed:
            self._jobs.pop(id, None)
            self._jobs[id] = done
            for other in gone:
                self._jobs.pop(other, None)
            drop = id in self._forgotten
        self._tell(done)
        if drop:
            self._drop(id)
        with self._changed:
            self._tickets.pop(id, None)
            self._changed.notify_all()

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
