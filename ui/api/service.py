"""`Service`: what the routes of one server share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request

from ui.api.access import Access
from ui.api.errors import ApiError
from ui.api.hub import Hub
from ui.api.metrics import Metrics
from ui.api.score_pool import ScorePool
from ui.api.settings import Settings
from ui.job_store import Job, JobStore
from ui.jobs import Pipeline
from ui.line import Line
from ui.models import Models
from ui.queue import JobQueue

Load = Callable[[str | None], Pipeline]


class Service:
    """Made with the app; `running` starts the queue and the score processes, and stops them."""

    queue: JobQueue
    hub: Hub
    pool: ScorePool

    def __init__(self, settings: Settings, load: Load | None = None) -> None:
        self.settings = settings
        self.access = Access(settings)
        self.metrics = Metrics()
        self.streams = 0
        self.models = Models(load or self._load_model)
        self.line = Line(places=settings.max_queue)
        """The one queue of the server: of its jobs and of its page."""
        self.line.listen(self.metrics.ended)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        settings = self.settings
        store = JobStore(settings.out, keep=settings.keep, keep_bytes=settings.keep_bytes)
        self.line.open()
        self.queue = JobQueue(store, self.models, line=self.line)
        self.hub = Hub(self.queue)
        self.pool = ScorePool(settings.score_workers, waiting=settings.max_scores, max_pixels=settings.max_pixels,
                              seconds=settings.score_seconds)  # fmt: skip
        try:
            yield
        finally:
            self.hub.close()
            self.pool.close()
            self.line.close()
            self.queue.close()

    def stop_following(self) -> None:
        """End the answers that last as long as a job."""
        self.hub.close()

    def job(self, id: str) -> Job:
        """The job as it is now. Raises ApiError 404 for one that is not there."""
        job = self.queue.get(id)
        if job is None:
            raise ApiError(404, "Expected the id of a job that is kept here, but got another", code="job_not_found")
        return job

    def _load_model(self, name: str | None) -> Pipeline:
        from ui.jobs import _load

        return _load(None if name is None else self.settings.models[name], self.settings.device)


def _service(request: Request) -> Service:
    return request.app.state.service


Here = Annotated[Service, Depends(_service)]
"""The parameter by which a route gets the service."""
