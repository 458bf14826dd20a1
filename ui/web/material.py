"""The tab Material: from a prompt to maps that tile, looked at from all sides, ranked and packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from asd.errors import ZelligeError
from ui.web import fields, forms, making
from ui.web.forms import Form
from ui.web.making import Bench, another_seed, go_and_stop
from ui.web.packs import Packs
from ui.web.page import Filled, Page
from ui.web.preview import preview, status
from ui.web.progress import note
from ui.web.uploads import printable, read_recall
from ui.web.work import Studio

TITLE = "Material"
WELCOME = "Say what it is made of, and press Make. Everything stays on this machine."


def build(page: Page) -> None:
    """The tab's components and what they do."""
    studio = page.studio
    with gr.Row(elem_classes="z-columns"):
        with gr.Column(elem_classes="z-side", min_width=300):
            form = Form()
            go, stop = go_and_stop("Make", "z-make", "z-stop")
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
    bench = Bench(studio, TITLE, notes, look, packs, go, stop)
    bench.connect(form.inputs, forms.request, also=[form.prompt.submit], seed=[form.seed, form.count])
    page.forms["material"] = Filled(TITLE, form.inputs, notes, forms.fill)
    form.another.click(another_seed, None, form.seed, **fields.QUICK)
    drop.upload(recall, drop, [*form.inputs, notes, drop], **fields.QUICK)


def make(studio: Studio, owner: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """`making.make` of what the form holds."""
    yield from making.make(studio, owner, lambda: forms.request(values))


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
