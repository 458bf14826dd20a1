"""The tab Material: from a prompt to maps that tile, looked at from all sides, ranked and packed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from asd.errors import ZelligeError
from materials.export.targets import TARGETS
from ui.web import forms
from ui.web.desk import unforeseen
from ui.web.forms import Form
from ui.web.page import Page
from ui.web.preview import preview, shown
from ui.web.progress import note, running, watch
from ui.web.uploads import read_recall
from ui.web.work import Studio, make_material, pack

TITLE = "Material"
WELCOME = "Say what it is made of, and press Make. Everything stays on this machine."
FIELDS = 19
"""Inputs of the form."""
KEPT_IMAGES = "kept-maps"
"""In the folder of results: images that maps were kept from."""


def build(page: Page) -> None:
    """The tab's components and what they do."""
    studio = page.studio
    made = gr.State([])
    chosen = gr.State(0)
    with gr.Row(elem_classes="z-columns"):
        with gr.Column(elem_classes="z-side", min_width=300):
            form = Form()
            with gr.Row(elem_classes="z-go"):
                go = gr.Button("Make", variant="primary", elem_id="z-make", scale=3)
                stop = gr.Button("Stop", elem_id="z-stop", interactive=False, scale=1, min_width=70)
            drop = gr.File(label="Recall: drop a result's PNG here", file_types=[".png"], file_count="single", height=110,
                           elem_id="z-recall")  # fmt: skip
        with gr.Column(elem_classes="z-main", min_width=300):
            status = gr.HTML(note(WELCOME), elem_id="z-status", apply_default_css=False)
            look = preview("Preview", "z-preview")
            with gr.Group(visible=False, elem_id="z-after") as after:
                targets = gr.CheckboxGroup(list(TARGETS), value=["gltf"], label="Export for", elem_id="z-targets")
                with gr.Row(elem_classes="z-go"):
                    export = gr.Button("Pack as ZIP", elem_id="z-export", min_width=120)
                    again = gr.Button("Again with this seed", elem_id="z-again", min_width=120)
                packs = gr.File(label="Download", visible=False, interactive=False, file_count="multiple",
                                elem_id="z-packs")  # fmt: skip
    page.form, page.recalled = form, [status]

    def on_make(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        yield from make(studio, owner(request), values)

    def on_stop(request: gr.Request) -> None:
        studio.desk.stop(owner(request))

    def on_export(items: list[dict[str, Any]], index: int, names: list[str]) -> tuple[Any, Any]:
        return export_chosen(studio, items, index, names)

    outputs = [status, look, made, chosen, after, packs, go, stop]
    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    quick: dict[str, Any] = private | {"queue": False}
    go.click(on_make, form.inputs, outputs, **private)
    form.prompt.submit(on_make, form.inputs, outputs, **private)
    stop.click(on_stop, None, None, **quick)
    form.another.click(another_seed, None, form.seed, **quick)
    drop.upload(recall, drop, [*form.inputs, status, drop], **quick)
    look.select(select, made, [chosen, packs], **quick)
    again.click(same_seed, [made, chosen], [form.seed, form.count], **quick).success(
        on_make, form.inputs, outputs, **private
    )
    export.click(on_export, [made, chosen, targets], [packs, status], **private)


def make(studio: Studio, owner: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Values for status, preview, state, choice, the row below, packs and both buttons, from the click to the result."""
    skip = gr.skip()
    try:
        wanted = forms.keep_images(forms.request(values), studio.out / KEPT_IMAGES)
        ticket = studio.desk.submit(owner, partial(make_material, studio, wanted))
    except (ZelligeError, OSError) as error:
        yield note(told(error), kind="bad"), *[skip] * 7
        return
    yield running(ticket), *[skip] * 5, gr.update(interactive=False), gr.update(interactive=True)
    for text in watch(ticket):
        yield text, *[skip] * 7
    buttons = gr.update(interactive=True), gr.update(interactive=False)
    if ticket.state != "done":
        failed = ticket.state == "failed"
        text = note(ticket.error or "", kind="bad") if failed else note("Stopped; nothing was kept.")
        yield text, *[skip] * 5, *buttons
        return
    items: list[dict[str, Any]] = ticket.result
    fewer = f"Stopped: {len(items)} of {wanted.count} were made." if len(items) < wanted.count else ""
    best = f"The best of {len(items)} comes first." if len(items) > 1 else f"Made {Path(items[0]['folder']).name}."
    text = note(fewer or best, kind="plain" if fewer else "good")
    yield text, shown(items), items, 0, gr.update(visible=True), gr.update(value=None, visible=False), *buttons


def owner(request: gr.Request) -> str:
    """Who a ticket of this tab belongs to: a browser's session."""
    return f"{TITLE} {request.session_hash}"


def another_seed() -> str:
    """A seed that any JSON reader takes."""
    return str(secrets.randbelow(2**32))


def same_seed(items: list[dict[str, Any]], index: int) -> tuple[str, int]:
    """Seed and count that make the chosen result alone."""
    return item_of(items, index)["seed"], 1


def recall(file: str | None) -> tuple[Any, ...]:
    """Values for the form, the note and the drop field, from a PNG that zellige wrote."""
    skip = gr.skip()
    if not file:
        return tuple(skip for _ in range(FIELDS + 2))
    try:
        found, left = read_recall(file)
        filled = forms.fill(found)
    except ZelligeError as error:
        return *[skip] * FIELDS, note(str(error), kind="bad"), None
    without = f", but for {' and '.join(left)}" if left else ""
    return *filled, note(f"All settings of {Path(file).name[:80]} are back{without}."), None


def select(items: list[dict[str, Any]], event: gr.EventData) -> tuple[int, Any]:
    """The index that the preview tells, checked; an older pack is of another result."""
    index = getattr(event, "index", None)
    if not isinstance(index, int) or not 0 <= index < len(items):
        return 0, gr.skip()
    return index, gr.update(value=None, visible=False)


def export_chosen(studio: Studio, items: list[dict[str, Any]], index: int, names: list[str]) -> tuple[Any, Any]:
    """The pack files of the chosen result and a note."""
    try:
        files = pack(studio, Path(item_of(items, index)["folder"]), names)
    except (ZelligeError, OSError) as error:
        return gr.update(value=None, visible=False), note(told(error), kind="bad")
    return gr.update(value=[str(file) for file in files], visible=True), note("The pack is below.", kind="good")


def item_of(items: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """Raises gr.Error where there is none, which keeps what follows from running."""
    if not 0 <= index < len(items):
        raise gr.Error("Make a material first.", print_exception=False)
    return items[index]


def told(error: Exception) -> str:
    """An error as a sentence."""
    return str(error) if isinstance(error, ZelligeError) else unforeseen(error)
