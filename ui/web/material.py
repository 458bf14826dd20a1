"""The tab Material: from a prompt to maps that tile, looked at from all sides, ranked and packed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from asd.errors import ZelligeError
from ui.web import forms
from ui.web.forms import Form
from ui.web.packs import NOTHING, Packs, checked_index, item_of
from ui.web.page import Page
from ui.web.preview import preview, shown, status
from ui.web.progress import note, running, watch
from ui.web.uploads import printable, read_recall
from ui.web.work import Studio, make_material

TITLE = "Material"
WELCOME = "Say what it is made of, and press Make. Everything stays on this machine."
KEPT_IMAGES = "kept-maps"
"""In the folder of results: images that maps were kept from."""


def build(page: Page) -> None:
    """The tab's components and what they do."""
    studio = page.studio
    made, chosen = gr.State([]), gr.State(0)
    with gr.Row(elem_classes="z-columns"):
        with gr.Column(elem_classes="z-side", min_width=300):
            form = Form()
            with gr.Row(elem_classes="z-go"):
                go = gr.Button("Make", variant="primary", elem_id="z-make", scale=3, min_width=120)
                stop = gr.Button("Stop", elem_id="z-stop", interactive=False, scale=1, min_width=70)
            drop = gr.File(
                label="Recall settings from a result's PNG", file_types=[".png"], height=84, elem_id="z-recall"
            )
        with gr.Column(elem_classes="z-main", min_width=300):
            notes = status(note(WELCOME), "z-status")
            look = preview(
                "z-preview", "Nothing made yet",
                "Repeats that you can drag, a solid that you can turn, every map, and how well it tiles will be here.",
            )  # fmt: skip
            packs = Packs(studio, "z-material", ("Again with this seed", "z-again"))
    packs.connect(made, chosen)
    page.form, page.status = form, notes

    def on_make(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        yield from make(studio, _owner(request), values)

    def on_stop(request: gr.Request) -> None:
        studio.desk.stop(_owner(request))

    outputs = [notes, look, made, chosen, packs.row, packs.files, go, stop]
    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    quick: dict[str, Any] = private | {"queue": False}
    go.click(on_make, form.inputs, outputs, **private)
    form.prompt.submit(on_make, form.inputs, outputs, **private)
    stop.click(on_stop, None, None, **quick)
    form.another.click(another_seed, None, form.seed, **quick)
    drop.upload(recall, drop, [*form.inputs, notes, drop], **quick)
    look.select(select, made, [chosen, packs.files], **quick)
    packs.more.click(same_seed, [made, chosen], [form.seed, form.count], **quick).success(
        on_make, form.inputs, outputs, **private
    )


def make(studio: Studio, owner: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Values for status, preview, results, choice, the row below, packs and both buttons, from the click to the end."""
    skip = gr.skip()
    try:
        wanted = forms.keep_images(forms.request(values), studio.out / KEPT_IMAGES)
        ticket = studio.desk.submit(owner, partial(make_material, studio, wanted))
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
    place = f"in {Path(items[0]['folder']).relative_to(studio.out).parts[0]}"
    if len(items) < wanted.count:
        text = note(f"Stopped: {len(items)} of {wanted.count} were made, {place}.")
    else:
        text = f"Made {len(items)}, the best first, {place}." if len(items) > 1 else f"Made, {place}."
        text = note(text, kind="good")
    yield text, shown(items), items, 0, gr.update(visible=True), NOTHING, *buttons


def another_seed() -> str:
    """A seed that every program takes."""
    return str(secrets.randbelow(2**32))


def same_seed(items: list[dict[str, Any]], index: int) -> tuple[str, int]:
    """Seed and count that make the chosen result alone; gr.Error where there is none, so that nothing follows."""
    try:
        return item_of(items, index)["seed"], 1
    except ZelligeError as error:
        raise gr.Error(str(error), print_exception=False) from error


def recall(file: str | None) -> tuple[Any, ...]:
    """Values for the form, the note and the drop field, from a PNG that zellige wrote."""
    skip = gr.skip()
    if not file:
        return *[skip] * forms.FIELDS, skip, skip
    try:
        found, left = read_recall(file)
    except ZelligeError as error:
        return *[skip] * forms.FIELDS, note(str(error), kind="bad"), None
    without = f", but for {' and '.join(left)}" if left else ""
    return *forms.fill(found), note(f"All settings of {printable(Path(file).name)} are back{without}."), None


def select(items: list[dict[str, Any]], event: gr.EventData) -> tuple[int, Any]:
    """The index that the preview tells; an older pack is of another result."""
    index = checked_index(items, event)
    return (0, gr.skip()) if index is None else (index, NOTHING)


def _owner(request: gr.Request) -> str:
    return f"{TITLE} {request.session_hash}"
