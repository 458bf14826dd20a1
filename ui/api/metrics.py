"""`Metrics`: what Prometheus reads at /metrics. Labels come from the program, never from a client."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ui.line import State, Ticket
from ui.queue import JobQueue

CONTENT_TYPE = CONTENT_TYPE_LATEST
_METHODS = {"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"}


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "zellige_requests", "Answered requests.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram("zellige_request_seconds", "Time to the end of an answer.", ["route"],
                                 buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
                                 registry=self.registry)  # fmt: skip
        self.jobs = Counter("zellige_jobs", "Finished jobs, the page's too.", ["state"], registry=self.registry)
        self.scores = Counter("zellige_scores", "Images that were to be scored.", ["outcome"], registry=self.registry)
        self.waiting = Gauge("zellige_jobs_waiting", "Jobs in the queue, the page's too.", registry=self.registry)
        self.kept = Gauge("zellige_jobs_kept", "Finished jobs that are kept.", registry=self.registry)

    def request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count an answer. `route` is a template such as /v1/jobs/{id}, None for a path that is none."""
        route = route or "other"
        self.requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def ended(self, _ticket: Ticket, state: State) -> None:
        """Count what ended, the page's too; a listener of the line."""
        self.jobs.labels("cancelled" if state == "stopped" else state).inc()

    def text(self, queue: JobQueue) -> bytes:
        """The exposition."""
        self.waiting.set(queue.waiting())
        self.kept.set(sum(not job.active for job in queue.jobs()))
        return generate_latest(self.registry)
