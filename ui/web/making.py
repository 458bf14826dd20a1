"""From a button to the preview: what all tabs that make something do."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from asd.errors import ZelligeError
from ui.estimate import work
from ui.request import Request
from ui.web.kept import keep
from ui.web.packs import NOTHING, After, checked_index, item_of
from ui.web.preview import shown
from ui.web.progress import note, running, watch
from ui.web.work import Studio, make_results


@dataclass(frozen=True)
class Bench:
    """A tab's components that change while something is made."""

    studio: Studio
    title: str
    notes: gr.HTML
    look: gr.HTML
    after: After
    go: gr.Button
    stop: gr.Button

    def connect(
        self, inputs: Sequence[Any], ask: Callable[[Sequence[Any]], Request], *,
        also: Sequence[Any] = (), seed: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        """Let the buttons work.

        Args:
            inputs: the components of the form, whose values `ask` makes a request of.
            also: further events that start it.
            seed: the fields of seed and number of samples, for the button that makes one of them again.
        """
        made, chosen = gr.State([]), gr.State(0)
        studio, after = self.studio, self.after

        def on_make(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
            yield from make(studio, self._owner(request), lambda: ask(values), after)

        def on_stop(request: gr.Request) -> None:
            studio.line.stop(self._owner(request))

        def on_select(items: list[dict[str, Any]], event: gr.EventData) -> tuple[int, Any]:
            return select(items, event, after)

        outputs = [self.notes, self.look, made, chosen, after.row, after.files, self.go, self.stop]
        private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        quick: dict[str, Any] = private | {"queue": False}
        for event in (self.go.click, *also):
            event(on_make, inputs, outputs, **private)
        self.stop.click(on_stop, None, None, **quick)
        self.look.select(on_select, made, [chosen, after.files], **quick)
        after.connect(made, chosen)
        if seed and after.more is not None:
            again = after.more.click(same_seed, [made, chosen], list(seed), **quick)
            again.success(on_make, inputs, outputs, **private)

    def _owner(self, request: gr.Request) -> str:
        return f"{self.title} {request.session_hash}"


def go_and_stop(text: str, go: str, stop: str) -> tuple[gr.Button, gr.Button]:
    """Both buttons below a form; `go` and `stop` are their ids."""
    with gr.Row(elem_classes="z-go"):
        first = gr.Button(text, variant="primary", elem_id=go, scale=3, min_width=120)
        second = gr.Button("Stop", elem_id=stop, interactive=False, scale=1, min_width=70)
    return first, second


def make(
    studio: Studio, owner: str, ask: Callable[[], Request], after: After | None = None
) -> Iterator[tuple[Any, ...]]:
    """Values for status, preview, results, choice, the row below, files and both buttons, from the click to the end."""
    skip = gr.skip()
    try:
        wanted = ask()
        studio.limits.check(wanted)
        wanted = keep(wanted, studio.out)
        ticket = studio.line.submit(owner, partial(make_results, studio, wanted), cost=work(wanted))
    except (ZelligeError, OSError) as error:
        yield note(studio.told(error), kind="bad"), *[skip] * 7
        return
    yield running(ticket), *[skip] * 5, gr.update(interactive=False), gr.update(interactive=True)
    for text in watch(ticket):
        yield text, *[skip] * 7
    buttons = gr.update(interactive=True), gr.update(interactive=False)
    if ticket.state != "done":
        text = note(studio.plain(ticket.error), kind="bad") if ticket.error else note("Stopped; nothing was kept.")
        yield text, *[skip] * 5, *buttons
        return
    items: list[dict[str, Any]] = ticket.result
    files = NOTHING if after is None else after.offered(items, 0)
    yield told(studio, items, wanted.count), shown(items), items, 0, gr.update(visible=True), files, *buttons


def told(studio: Studio, items: list[dict[str, Any]], wanted: int) -> str:
    """A note of what was made, and where it is."""
    place = f"in {Path(items[0]['folder']).relative_to(studio.out).parts[0]}"
    if len(items) < wanted:
        return note(f"Stopped: {len(items)} of {wanted} were made, {place}.")
    order = ", the best first" if items[0]["score"] is not None else ""
    return note(f"Made {len(items)}{order}, {place}." if len(items) > 1 else f"Made, {place}.", kind="good")


def another_seed() -> str:
    """A seed that every program takes."""
    return str(secrets.randbelow(2**32))


def same_seed(items: list[dict[str, Any]], index: int) -> tuple[str, int]:
    """Seed and count that make the chosen result alone; gr.Error where there is none, so that nothing follows."""
    try:
        return item_of(items, index)["seed"], 1
    except ZelligeError as error:
        raise gr.Error(str(error), print_exception=False) from error


def select(items: list[dict[str, Any]], event: gr.EventData, after: After | None = None) -> tuple[int, Any]:
    """The index that the preview tells; older files are of another result."""
    index = checked_index(items, event)
    if index is None:
        return 0, gr.skip()
    return index, NOTHING if after is None else after.offered(items, index)
