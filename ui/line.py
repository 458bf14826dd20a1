"""`Line`: the one queue of a program. Work waits its turn, tells how far it is, and stops when asked to."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from asd.errors import ZelligeError
from ui.estimate import GUESSED_RATE

log = logging.getLogger(__name__)

SAYS_LITTLE = 1.5
"""Seconds after which the speed so far says how long the rest will take."""
LONGEST_RETRY = 600
"""Seconds."""

State = Literal["waiting", "running", "done", "failed", "stopped"]


class QueueFullError(ZelligeError):
    """No place in the queue; `retry_after` seconds until there may be one."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"Expected a free place in the queue, but {waiting} jobs are waiting")
        self.retry_after = retry_after


class Stopped(KeyboardInterrupt):
    """Raised inside the work when its owner stops it; like Ctrl-C, jobs and batches keep what is whole."""


class Ticket:
    """One piece of work: `state`, the share `done` (0 to 1) once it runs, and in the end `result` or `error`."""

    def __init__(
        self, line: Line, owner: str, work: Callable[[Ticket], Any], cost: float, after: Callable[[Ticket], None] | None
    ) -> None:
        self.owner = owner
        self.cost = cost
        """Pixels, as `ui.estimate.work` counts them; 0 for what takes no time beside a result."""
        self.state: State = "waiting"
        self.done = 0.0
        self.label = ""
        self.result: Any = None
        self.error: str | None = None
        self.started: float | None = None
        self._line = line
        self._work = work
        self._after = after
        self._stop = False
        self._counted_from: float | None = None

    def report(self, done: float, label: str = "") -> None:
        """Called by the work: how far it is. Raises `Stopped` once the owner wants no more of it."""
        self.check()
        with self._line.changed:
            self.done, self.label = max(self.done, min(1.0, done)), label
            self._line.changed.notify_all()

    def check(self) -> None:
        """Raise `Stopped` once the owner wants no more of it."""
        if self._stop:
            raise Stopped("stopped by its owner")

    def begin(self) -> None:
        """Called by the work when what it reports starts: loading a model does not count for the time left."""
        with self._line.changed:
            self._counted_from = time.monotonic()

    def stop(self) -> None:
        """Ask the work to stop; it does at its next `report`, or at once if it waits."""
        with self._line.changed:
            waiting = self in self._line._waiting
            self._stop = not self.over
            if waiting:
                self._line._waiting.remove(self)
            self._line.changed.notify_all()
        if waiting:
            self._line._end(self, "stopped")

    @property
    def stopping(self) -> bool:
        return self._stop and not self.over

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "stopped")

    @property
    def ahead(self) -> int:
        """Pieces of work before this one, those that run among them."""
        with self._line.changed:
            if self not in self._line._waiting:
                return 0
            return self._line._waiting.index(self) + len(self._line._running)

    @property
    def seconds_left(self) -> float | None:
        """By the mean speed so far; None as long as that says little."""
        if self.state != "running" or self._counted_from is None or self.done <= 0:
            return None
        passed = time.monotonic() - self._counted_from
        return passed * (1 - self.done) / self.done if passed >= SAYS_LITTLE or self.done >= 0.1 else None

    @property
    def eta(self) -> float | None:
        """Seconds until it is through, with all that is before it; a guess. None once it is."""
        with self._line.changed:
            return None if self.over else self._line._left(self)

    def wait(self, seconds: float) -> None:
        """Return when anything in the line changes, or after `seconds`."""
        with self._line.changed:
            if not self.over:
                self._line.changed.wait(seconds)


class Line:
    """First come, first served: the processor is shared, and so are the networks' wrapped layers.

    Args:
        workers: threads; more than one only pays with a device each. They start with the first piece of work.
        places: pieces of work that may wait.

    Raises ZelligeError for less than one worker or place.
    """

    def __init__(self, *, workers: int = 1, places: int = 32) -> None:
        if workers < 1 or places < 1:
            raise ZelligeError(f"Expected at least one worker and one place, but got {workers} and {places}")
        self.changed = threading.Condition(threading.RLock())
        self.places = places
        self._workers = workers
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket] = []
        self._threads: list[threading.Thread] = []
        self._listeners: list[Callable[[Ticket, State], None]] = []
        self._closed = False
        self._rate = GUESSED_RATE * 1e6
        """Pixels per second."""

    def submit(
        self, owner: str, work: Callable[[Ticket], Any], *, cost: float = 0.0,
        after: Callable[[Ticket], None] | None = None,
    ) -> Ticket:  # fmt: skip
        """Put work at the end. Raises QueueFullError, and ZelligeError after `close`.

        `after` is called when it is over, by whoever ends it, and before the next one starts.
        """
        with self.changed:
            if self._closed:
                raise ZelligeError("Expected a queue that is open, but it is being closed")
            if len(self._waiting) >= self.places:
                left = round(self._left(self._waiting[0]))
                raise QueueFullError(len(self._waiting), max(1, min(LONGEST_RETRY, left)))
            ticket = Ticket(self, owner, work, cost, after)
            self._waiting.append(ticket)
            if len(self._threads) < self._workers:
                thread = threading.Thread(target=self._serve, name=f"job-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self.changed.notify_all()
        return ticket

    def stop(self, owner: str) -> int:
        """Stop all work of `owner`; how many pieces that were."""
        with self.changed:
            found = [ticket for ticket in (*self._running, *self._waiting) if ticket.owner == owner]
        for ticket in found:
            ticket.stop()
        return len(found)

    @property
    def waiting(self) -> int:
        """How many pieces of work wait."""
        with self.changed:
            return len(self._waiting)

    def listen(self, listener: Callable[[Ticket, State], None]) -> None:
        """Call `listener` with every ticket that ends and how, just before others see it."""
        self._listeners.append(listener)

    def close(self, timeout: float = 60.0) -> None:
        """Stop everything and wait for the workers; `open` lets work in again."""
        with self.changed:
            self._closed = True
            found = [*self._running, *self._waiting]
            self.changed.notify_all()
        for ticket in found:
            ticket.stop()
        for thread in self._threads:
            thread.join(timeout)
        self._threads.clear()

    def open(self) -> None:
        """Undo `close`."""
        with self.changed:
            self._closed = False

    def _serve(self) -> None:
        while True:
            with self.changed:
                while not self._waiting and not self._closed:
                    self.changed.wait()
                if self._closed:
                    return
                ticket = self._waiting.popleft()
                self._running.append(ticket)
                ticket.state, ticket.started = "running", time.monotonic()
                self.changed.notify_all()
            state: State = "done"
            try:
                ticket.result = ticket._work(ticket)
            except Stopped:
                state = "stopped"
            except ZelligeError as error:
                ticket.error, state = str(error), "failed"
            except BaseException as error:
                log.exception("a job failed")
                ticket.error, state = unforeseen(error), "failed"
            self._end(ticket, state)

    def _end(self, ticket: Ticket, state: State) -> None:
        for listener in self._listeners:
            self._call(listener, ticket, state)
        with self.changed:
            ticket.state = state
            if ticket in self._running:
                self._running.remove(ticket)
            if state == "done" and ticket.cost and ticket.started is not None:
                seconds = max(1e-3, time.monotonic() - ticket.started)
                self._rate += 0.3 * (ticket.cost / seconds - self._rate)
            self.changed.notify_all()
        after, ticket._after, ticket._work = ticket._after, None, _nothing  # which may hold images
        if after is not None:
            self._call(lambda ended, _state: after(ended), ticket, state)

    def _call(self, listener: Callable[[Ticket, State], None], ticket: Ticket, state: State) -> None:
        try:
            listener(ticket, state)
        except Exception:
            log.exception("a listener of the queue failed")

    def _left(self, ticket: Ticket) -> float:
        """Seconds until it is through; inside the lock."""
        if ticket.state == "running":
            return self._running_left(ticket)
        ahead = list(self._waiting)[: self._waiting.index(ticket)] if ticket in self._waiting else []
        seconds = sum(other.cost for other in ahead) / self._rate + sum(map(self._running_left, self._running))
        return seconds / self._workers + ticket.cost / self._rate

    def _running_left(self, ticket: Ticket) -> float:
        elapsed = time.monotonic() - (ticket.started or time.monotonic())
        # the first steps include the loading of the model
        if ticket.done > 0.1:
            return elapsed / ticket.done * (1 - ticket.done)
        return max(0.0, ticket.cost / self._rate - elapsed)


def _nothing(ticket: Ticket) -> None:
    return None


def unforeseen(error: BaseException) -> str:
    """A sentence for an error that is not the user's."""
    if isinstance(error, OSError):
        return f"Expected the system to carry this out, but it refused: {error.strerror or type(error).__name__}"
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"An error inside the program ({reason}); the server's log has more"
