"""The one worker behind the page: work waits its turn, tells how far it is, and stops when asked to."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from asd.errors import ZelligeError

log = logging.getLogger(__name__)

MAX_WAITING = 16
"""Pieces of work that may wait: more would wait for longer than anybody does."""

SAYS_LITTLE = 1.5
"""Seconds after which the speed so far says how long the rest will take."""

State = Literal["waiting", "running", "done", "failed", "stopped"]


class Stopped(KeyboardInterrupt):
    """Raised inside the work when its owner stops it; like Ctrl-C, jobs and batches keep what is whole."""


class Ticket:
    """One piece of work: `state`, the share `done` (0 to 1) once it runs, and in the end `result` or `error`."""

    def __init__(self, owner: str, work: Callable[[Ticket], Any], desk: Desk) -> None:
        self.owner = owner
        self.state: State = "waiting"
        self.done = 0.0
        self.label = ""
        self.result: Any = None
        self.error: str | None = None
        self._work = work
        self._desk = desk
        self._stop = False
        self._counted_from: float | None = None

    def report(self, done: float, label: str = "") -> None:
        """Called by the work: how far it is. Raises `Stopped` once the owner wants no more of it."""
        if self._stop:
            raise Stopped("stopped by its owner")
        with self._desk.changed:
            self.done, self.label = max(self.done, min(1.0, done)), label
            self._desk.changed.notify_all()

    def begin(self) -> None:
        """Called by the work when what it reports starts: loading a model does not count for the time left."""
        with self._desk.changed:
            self._counted_from = time.monotonic()

    def stop(self) -> None:
        """Ask the work to stop; it does at its next `report`, or at once if it waits."""
        with self._desk.changed:
            self._stop = True
            if self.state == "waiting":
                self.state = "stopped"
                self._desk.waiting.remove(self)
            self._desk.changed.notify_all()

    @property
    def stopping(self) -> bool:
        return self._stop and not self.over

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "stopped")

    @property
    def ahead(self) -> int:
        """Pieces of work before this one, the running one among them."""
        with self._desk.changed:
            if self.state != "waiting":
                return 0
            return self._desk.waiting.index(self) + (self._desk.running is not None)

    @property
    def seconds_left(self) -> float | None:
        """By the mean speed so far; None as long as that says little."""
        if self.state != "running" or self._counted_from is None or self.done <= 0:
            return None
        passed = time.monotonic() - self._counted_from
        return passed * (1 - self.done) / self.done if passed >= SAYS_LITTLE or self.done >= 0.1 else None

    def wait(self, seconds: float) -> None:
        """Return when anything at the desk changes, or after `seconds`."""
        with self._desk.changed:
            if not self.over:
                self._desk.changed.wait(seconds)


class Desk:
    """First come, first served, one at a time: the processor is shared, and so are the networks' wrapped layers."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.waiting: deque[Ticket] = deque()
        self.running: Ticket | None = None
        self._worker: threading.Thread | None = None

    def submit(self, owner: str, work: Callable[[Ticket], Any]) -> Ticket:
        """Queue `work`; raises ZelligeError where too much waits already."""
        with self.changed:
            if len(self.waiting) >= MAX_WAITING:
                raise ZelligeError(f"Expected at most {MAX_WAITING} jobs to wait, but they do; try again in a while")
            ticket = Ticket(owner, work, self)
            self.waiting.append(ticket)
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._serve, name="zellige-desk", daemon=True)
                self._worker.start()
            self.changed.notify_all()
        return ticket

    def stop(self, owner: str) -> int:
        """Stop all work of `owner`; how many pieces that were."""
        with self.changed:
            found = [ticket for ticket in (self.running, *self.waiting) if ticket is not None and ticket.owner == owner]
        for ticket in found:
            ticket.stop()
        return len(found)

    def _serve(self) -> None:
        while True:
            with self.changed:
                while not self.waiting:
                    self.changed.wait()
                ticket = self.running = self.waiting.popleft()
                ticket.state = "running"
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
            with self.changed:
                ticket.state, self.running = state, None
                ticket._work = _nothing  # which may hold images
                self.changed.notify_all()


def _nothing(ticket: Ticket) -> None:
    return None


def unforeseen(error: BaseException) -> str:
    """A sentence for an error that is not the user's."""
    if isinstance(error, OSError):
        return f"Expected the system to carry this out, but it refused: {error.strerror or type(error).__name__}"
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"An error inside the program ({reason}); the server's log has more"
