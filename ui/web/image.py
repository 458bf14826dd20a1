"""The tab Image: from a prompt, or a picture and a prompt, to a picture of any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from asd.errors import ZelligeError
from ui.request import Request
from ui.web import fields
from ui.web.given import Given
from ui.web.making import Bench, another_seed, go_and_stop
from ui.web.packs import Download
from ui.web.page import Filled, Page
from ui.web.preview import preview, status
from ui.web.progress import note
from ui.web.uploads import check_image, printable, read_recall
from ui.web.views import picture_size

TITLE = "Image"
WELCOME = "Say what to paint, at any size. The model is the one for textures: surfaces, not scenes."
EXAMPLES = ("weathered teal paint", "gold leaf on slate", "lichen on granite", "blue glazed tiles", "dry cracked mud")
FIELDS = 13
"""Inputs of the form."""
FITS = 1_000_000
"""Pixels up to which the size follows a picture that is given: more takes long, and has to be asked for."""


class Form:
    """Inputs, in the order of `inputs`; the handlers get their values in that order."""

    def __init__(self) -> None:
        self.prompt = fields.prompt("z-paint", "weathered teal paint")
        fields.chips(EXAMPLES, self.prompt)
        self.width, self.height = fields.size("z-paint", 768)
        self.seamless = gr.Radio(fields.SEAMLESS, value="xy", label="Tiles", elem_id="z-paint-seamless")
        with gr.Row(elem_classes="z-pair"):
            self.seed = gr.Textbox("0", label="Seed", max_lines=1, min_width=90, elem_id="z-paint-seed")
            self.count = gr.Number(1, label="Samples", minimum=1, step=1, min_width=90, elem_id="z-paint-count")
        with gr.Row(elem_classes="z-chips"):
            self.another = gr.Button("Another seed", size="sm", min_width=40, elem_id="z-paint-another")
        with gr.Accordion("Start from a picture", open=False, elem_id="z-paint-from"):
            self.given = Given("Picture", "z-paint")
            self.strength = fields.optional(
                "Strength, 0 to 1", "the model's", "z-paint-strength", info="How much of the picture is given up"
            )
            self.mask = gr.File(label="Mask: white is painted anew", file_types=fields.IMAGES, height=96,
                                elem_id="z-paint-mask")  # fmt: skip
        with gr.Accordion("Steps, guidance, pattern", open=False):
            with gr.Row(elem_classes="z-pair"):
                self.steps = fields.optional("Steps", "the model's", "z-paint-steps")
                self.guidance = fields.optional("Guidance", "the model's", "z-paint-guidance")
            self.scale = fields.optional("Pattern size, 0 to 1", "what fits the size", "z-paint-scale",
                                         info="0: 256 texels along a pattern, 1: 512")  # fmt: skip
            self.negative = fields.prompt("z-paint-negative", "", label="Lead away from", lines=1)

    @property
    def inputs(self) -> list[Any]:
        """The components, in the order in which `request` takes their values."""
        return [
            self.prompt, self.width, self.height, self.seamless, self.seed, self.count, self.given.file, self.strength,
            self.mask, self.steps, self.guidance, self.scale, self.negative,
        ]  # fmt: skip


def build(page: Page) -> None:
    """The tab's components and what they do."""
    studio = page.studio
    with gr.Row(elem_classes="z-columns"):
        with gr.Column(elem_classes="z-side", min_width=300):
            form = Form()
            go, stop = go_and_stop("Paint", "z-paint-go", "z-paint-stop")
            drop = gr.File(label="Recall settings from a result's PNG", file_types=[".png"], height=84,
                           elem_id="z-paint-recall")  # fmt: skip
        with gr.Column(elem_classes="z-main", min_width=300):
            notes = status(note(WELCOME), "z-paint-status")
            look = preview("z-paint-preview", "Nothing painted yet", "The picture, to look at from near and far; as "
                           "repeats where it tiles, and beside what it was made of.")  # fmt: skip
            after = Download(studio, "z-paint", ("Again with this seed", "z-paint-again"))
    bench = Bench(studio, TITLE, notes, look, after, go, stop)
    bench.connect(form.inputs, request, also=[form.prompt.submit], seed=[form.seed, form.count])
    page.forms["image"] = Filled(TITLE, form.inputs, notes, fill)
    form.another.click(another_seed, None, form.seed, **fields.QUICK)
    form.given.connect()
    form.given.file.upload(on_given, form.given.file, [form.width, form.height, form.seamless], **fields.QUICK)
    drop.upload(on_recall, drop, [*form.inputs, notes, drop], **fields.QUICK)


def on_given(file: str | None) -> tuple[Any, ...]:
    """Values for the size and the axes: those of a picture, which is no tile unless that is asked for."""
    try:
        width, height = fitted(picture_size(check_image(file or "")))
    except ZelligeError:  # which the card tells
        return (gr.skip(),) * 3
    return width, height, "none"


def fitted(size: tuple[int, int]) -> tuple[int, int]:
    """A size of the same shape, of at most `FITS` pixels.

    >>> fitted((640, 480)), fitted((4000, 3000))
    ((640, 480), (1152, 864))
    """
    width, height = size
    if width * height <= FITS:
        return size
    share = (FITS / (width * height)) ** 0.5
    return max(8, int(width * share) // 8 * 8), max(8, int(height * share) // 8 * 8)


def request(values: Sequence[Any]) -> Request:
    """The request that the values of `Form.inputs` make; raises ZelligeError for one that is wrong."""
    prompt, width, height, seamless, seed, count, given, strength, mask, steps, guidance, scale, negative = values
    return Request.from_dict(
        {
            "kind": "image",
            "prompt": prompt,
            "size": [fields.whole("width", width), fields.whole("height", height)],
            "seamless": seamless,
            "seed": fields.seed_of(seed),
            "count": fields.count_of(count),
            "image": str(check_image(given)) if given else None,
            "strength": fields.number("strength", strength),
            "mask": str(check_image(mask)) if mask else None,
            "steps": fields.number("steps", steps),
            "guidance": fields.number("guidance", guidance),
            "scale": fields.number("pattern size", scale),
            "negative": fields.text_or_none(negative),
        }
    )


def fill(made: Request) -> list[Any]:
    """Values for `Form.inputs` that make this request."""
    numbers = (fields.text_of(value) for value in (made.steps, made.guidance, made.scale))
    return [
        made.prompt, *made.size, made.seamless, str(made.seed), made.count, made.image, fields.text_of(made.strength),
        made.mask, *numbers, made.negative or "",
    ]  # fmt: skip


def on_recall(file: str | None) -> tuple[Any, ...]:
    """Values for the form, the note and the drop field, from a PNG that zellige wrote."""
    skip = gr.skip()
    if not file:
        return *[skip] * FIELDS, skip, skip
    try:
        found, left = read_recall(file, "image")
    except ZelligeError as error:
        return *[skip] * FIELDS, note(str(error), kind="bad"), None
    without = f", but for {' and '.join(left)}" if left else ""
    return *fill(found), note(f"All settings of {printable(Path(file).name)} are back{without}."), None
