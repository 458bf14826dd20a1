"""A ticket in words: its place in the queue, how far it is, how long it will take, and why it failed."""

from __future__ import annotations

import html
from collections.abc import Generator

from ui.line import Ticket

TICK = 0.5
"""Seconds between two looks where nothing changes; the time left goes on."""


def watch(ticket: Ticket) -> Generator[str, None, None]:
    """Markup of the ticket, again whenever it changes, until it is over; whoever stops listening stops the work."""
    shown = ""
    try:
        while not ticket.over:
            now = running(ticket)
            if now != shown:
                yield now
                shown = now
            ticket.wait(TICK)
    finally:
        if not ticket.over:
            ticket.stop()


def running(ticket: Ticket) -> str:
    """Markup of a ticket that is not over."""
    if ticket.stopping:
        return bar("Stopping after this step", ticket.done)
    if ticket.state == "waiting":
        ahead = ticket.ahead
        return bar(f"Waiting: {ahead} {'job' if ahead == 1 else 'jobs'} first" if ahead else "Starting", None)
    left = ticket.seconds_left
    return bar(ticket.label or "Starting", ticket.done or None, "" if left is None else f"{clock(left)} left")


def bar(label: str, done: float | None, right: str = "") -> str:
    """A labelled bar; `done` None is a bar of unknown length."""
    value = "" if done is None else f' value="{done:.3f}"'
    percent = "" if done is None else f"{done:.0%}"
    end = " · ".join(part for part in (percent, right) if part)
    text = html.escape(label)
    return (
        f'<div class="z-progress"><p class="z-line"><span>{text}</span><span class="z-number">{html.escape(end)}</span>'
        f'</p><progress max="1"{value} aria-label="{text}"></progress></div>'
    )


def note(text: str, *, kind: str = "plain") -> str:
    """A sentence; of kind "plain", "good" or "bad"."""
    role = ' role="alert"' if kind == "bad" else ""
    return f'<p class="z-note z-{kind}"{role}>{html.escape(sentence(text))}</p>'


def sentence(text: str) -> str:
    """A message as one line that starts large and ends with a stop."""
    line = " ".join(text.split())
    return f"{line[:1].upper()}{line[1:].rstrip('.')}." if line else ""


def clock(seconds: float) -> str:
    """
    >>> clock(0.2), clock(59.4), clock(61), clock(7300)
    ('1 s', '60 s', '1 min 1 s', '2 h 2 min')
    """
    whole = max(1, int(-(-seconds // 1)))
    if whole <= 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {round(whole % 3600 / 60)} min"
