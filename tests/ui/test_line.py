from __future__ import annotations

import threading
from typing import Any

import pytest

from asd.errors import ZelligeError
from ui.line import Line, QueueFullError, Ticket
from ui.web.progress import clock, note, running, watch


def finish(*tickets: Ticket) -> None:
    for ticket in tickets:
        for _ in range(1000):
            if ticket.over:
                break
            ticket.wait(0.02)
        assert ticket.over


class Gate:
    """Work that reports until it is let go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Event()

    def __call__(self, ticket: Ticket) -> str:
        ticket.begin()
        self.begun.set()
        while not self.open.wait(0.005):
            ticket.report(0.25, "half of a half")
        return "made"


def test_first_come_first_served() -> None:
    line, gate, order = Line(places=16), Gate(), []
    first = line.submit("a", gate)
    rest = [line.submit("b", lambda ticket, i=i: order.append(i)) for i in range(3)]
    assert gate.begun.wait(5)
    assert [ticket.ahead for ticket in rest] == [1, 2, 3]
    assert "Waiting: 1 job first" in running(rest[0]) and "Waiting: 3 jobs first" in running(rest[2])
    gate.open.set()
    finish(first, *rest)
    assert order == [0, 1, 2] and first.result == "made" and first.state == "done"


def test_stopping_what_runs_and_what_waits() -> None:
    line, gate, ran = Line(places=16), Gate(), []
    first, second = line.submit("a", gate), line.submit("b", lambda ticket: ran.append(1))
    third = line.submit("b", lambda ticket: ran.append(2))
    assert gate.begun.wait(5)
    second.stop()
    assert second.state == "stopped" and third.ahead == 1
    assert line.stop("nobody") == 0 and line.stop("a") == 1
    finish(first, third)
    assert first.state == "stopped" and first.error is None and ran == [2]


def test_errors_are_sentences() -> None:
    line = Line(places=16)

    def raising(error: BaseException) -> Any:
        def work(ticket: Ticket) -> None:
            raise error

        ticket = line.submit("a", work)
        finish(ticket)
        assert ticket.state == "failed"
        return ticket.error

    assert raising(ZelligeError("Expected oak, but got elm")) == "Expected oak, but got elm"
    assert raising(OSError(28, "No space left on device")).endswith("refused: No space left on device")
    assert raising(RuntimeError("two\nlines")).startswith("An error inside the program (RuntimeError: two lines)")
    done = line.submit("a", lambda ticket: 7)
    finish(done)
    assert done.result == 7  # the worker outlives them all


def test_a_full_line_refuses() -> None:
    line, gate = Line(places=16), Gate()
    first = line.submit("a", gate)
    assert gate.begun.wait(5)
    waiting = [line.submit("a", lambda ticket: None) for _ in range(16)]
    with pytest.raises(QueueFullError, match="16 jobs are waiting"):
        line.submit("a", lambda ticket: None)
    gate.open.set()
    finish(first, *waiting)


def test_progress_has_time_left_and_ends() -> None:
    line, gate = Line(places=16), Gate()
    ticket = line.submit("a", gate)
    shown = watch(ticket)
    told = next(shown)
    while "left" not in told:
        told = next(shown)
    assert 'value="0.250"' in told and "25% · 1 s left" in told
    gate.open.set()
    list(shown)
    assert ticket.state == "done"


def test_who_stops_looking_stops_the_work() -> None:
    line, gate = Line(places=16), Gate()
    ticket = line.submit("a", gate)
    shown = watch(ticket)
    next(shown)
    shown.close()  # what Gradio does when the browser goes away
    finish(ticket)
    assert ticket.state == "stopped"


def test_notes_are_escaped_sentences() -> None:
    assert note("expected <b>x</b>\nbut got 'y'") == (
        '<p class="z-note z-plain">Expected &lt;b&gt;x&lt;/b&gt; but got &#x27;y&#x27;.</p>'
    )
    assert 'role="alert"' in note("bad", kind="bad")
    assert [clock(s) for s in (0, 59.1, 61, 3600, 7300)] == ["1 s", "60 s", "1 min 1 s", "1 h 0 min", "2 h 2 min"]


def test_what_is_before_counts_for_the_time_left() -> None:
    line, gate = Line(), Gate()
    first = line.submit("a", gate, cost=1e4)
    second, third = line.submit("b", lambda ticket: None, cost=1e4), line.submit("b", lambda ticket: None)
    assert gate.begun.wait(5)
    with line.changed:
        third_eta, second_eta, first_eta = third.eta, second.eta, first.eta  # latest first: time passes between them
    assert first_eta is not None and second_eta is not None and third_eta is not None
    assert 0 < first_eta < second_eta <= third_eta
    gate.open.set()
    finish(first, second, third)
    assert first.eta is None and line.waiting == 0


def test_listeners_hear_of_every_end_before_the_next_begins() -> None:
    line, gate, heard = Line(), Gate(), []
    line.listen(lambda ticket, state: heard.append((ticket.owner, state)))
    first = line.submit("a", gate, after=lambda ticket: heard.append(("after", ticket.state)))
    second = line.submit("b", lambda ticket: heard.append(("begun", "")))
    third = line.submit("c", gate, after=lambda ticket: heard.append(("after", ticket.state)))
    third.stop()
    gate.open.set()
    finish(first, second, third)
    wanted = [("c", "stopped"), ("after", "stopped"), ("a", "done"), ("after", "done"), ("begun", ""), ("b", "done")]
    assert heard == wanted


def test_a_closed_line_takes_nothing_until_it_is_opened() -> None:
    line, gate = Line(), Gate()
    tickets = [line.submit("a", gate), line.submit("a", gate)]
    line.close(10)
    assert [ticket.state for ticket in tickets] == ["stopped", "stopped"]
    with pytest.raises(ZelligeError, match="being closed"):
        line.submit("a", gate)
    line.open()
    again = line.submit("a", lambda ticket: 7)
    finish(again)
    assert again.result == 7
    line.close(10)


@pytest.mark.parametrize("options", [{"workers": 0}, {"places": 0}])
def test_limits_below_one(options: dict[str, int]) -> None:
    with pytest.raises(ZelligeError, match="at least one worker and one place"):
        Line(**options)
