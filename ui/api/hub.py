"""`Hub`: changes on the workers' threads wake whoever waits on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from ui.job_store import Job
from ui.queue import JobQueue


class Hub:
    """Follow jobs of a queue from coroutines; made and used on one event loop."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._pulse = asyncio.Event()
        self._stop = queue.listen(lambda _job: self._wake())

    def close(self) -> None:
        """End every `follow`."""
        self.closed = True
        self._stop()
        self._beat()

    async def follow(self, id: str, every: float = 15.0) -> AsyncIterator[Job | None]:
        """The job now and after each change until it is finished; None when `every` seconds passed without one."""
        seen = -1
        while not self.closed:
            pulse = self._pulse  # before the look, so that nothing between both is missed
            job = self.queue.get(id)
            if job is None:
                return
            if job.version != seen:
                seen = job.version
                yield job
                if not job.active:
                    return
                continue
            try:
                await asyncio.wait_for(pulse.wait(), every)
            except TimeoutError:
                yield None

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._beat)

    def _beat(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()
