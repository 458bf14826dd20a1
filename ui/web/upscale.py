"""The tab Upscale: a picture, larger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from asd.errors import SizeError, ZelligeError
from ui.request import Request
from ui.web import fields
from ui.web.given import Given
from ui.web.making import Bench, another_seed, go_and_stop
from ui.web.packs import Download
from ui.web.page import Filled, Page
from ui.web.preview import preview, status
from ui.web.progress import note
from ui.web.uploads import check_image
from ui.web.views import picture_size

TITLE = "Upscale"
WELCOME = "Give a picture of a surface, and press Enlarge. The model adds detail that fits it."
FACTORS = [("2 ×", "2"), ("3 ×", "3"), ("4 ×", "4"), ("To a size", "size")]
HINT = "How large it becomes will be here."
FIELDS = 11
"""Inputs of the form."""


class Form:
    """Inputs, in the order of `inputs`; the handlers get their values in that order."""

    def __init__(self) -> None:
        self.given = Given("Picture", "z-upscale", 150)
        self.factor = gr.Radio(FACTORS, value="2", label="Enlarge", elem_id="z-upscale-factor")
        with gr.Column(visible=False, elem_id="z-upscale-size") as self.sides:
            self.width, self.height = fields.size("z-upscale", 1024)
        self.will = gr.Markdown(HINT, elem_id="z-upscale-will")
        self.seamless = gr.Radio(fields.SEAMLESS, value="none", label="Tiles", elem_id="z-upscale-seamless")
        self.prompt = fields.prompt("z-upscale", "what is in the picture, if you like", lines=1)
        with gr.Accordion("Strength, steps, seed", open=False, elem_id="z-upscale-more"):
            self.strength = fields.optional(
                "Strength, 0 to 1", "the model's", "z-upscale-strength", info="How much is made anew: more is bolder"
            )
            with gr.Row(elem_classes="z-pair"):
                self.steps = fields.optional("Steps", "the model's", "z-upscale-steps")
                self.guidance = fields.optional("Guidance", "the model's", "z-upscale-guidance")
            self.negative = fields.prompt("z-upscale-negative", "", label="Lead away from", lines=1)
            self.seed = gr.Textbox("0", label="Seed", max_lines=1, min_width=90, elem_id="z-upscale-seed")
            with gr.Row(elem_classes="z-chips"):
                self.another = gr.Button("Another seed", size="sm", min_width=40, elem_id="z-upscale-another")

    @property
    def inputs(self) -> list[Any]:
        """The components, in the order in which `request` takes their values."""
        return [
            self.given.file, self.factor, self.width, self.height, self.seamless, self.prompt, self.strength,
            self.steps, self.guidance, self.negative, self.seed,
        ]  # fmt: skip


def build(page: Page) -> None:
    """The tab's components and what they do."""
    studio = page.studio
    with gr.Row(elem_classes="z-columns"):
        with gr.Column(elem_classes="z-side", min_width=300):
            form = Form()
            go, stop = go_and_stop("Enlarge", "z-upscale-go", "z-upscale-stop")
        with gr.Column(elem_classes="z-main", min_width=300):
            notes = status(note(WELCOME), "z-upscale-status")
            look = preview("z-upscale-preview", "Nothing enlarged yet", "Before and after, under one slider, as near "
                           "as you like.")  # fmt: skip
            after = Download(studio, "z-upscale")
    bench = Bench(studio, TITLE, notes, look, after, go, stop)
    bench.connect(form.inputs, request)
    page.forms["upscale"] = Filled(TITLE, form.inputs, notes, fill)
    form.another.click(another_seed, None, form.seed, **fields.QUICK)
    size = [form.given.file, form.factor, form.width, form.height]
    form.given.connect()
    for field in size:
        field.change(on_size, size, [form.sides, form.will], **fields.QUICK)


def on_size(file: str | None, factor: str, width: Any, height: Any) -> tuple[Any, str]:
    """Whether the fields of the size are shown, and in words what will come out."""
    own = gr.update(visible=factor == "size")
    if not file:
        return own, HINT
    try:
        before = picture_size(check_image(file))
        after = target(before, factor, width, height)
    except ZelligeError as error:
        return own, str(error)
    return own, f"{before[0]} × {before[1]} becomes {after[0]} × {after[1]} pixels."


def target(before: tuple[int, int], factor: str, width: Any, height: Any) -> tuple[int, int]:
    """The size to come; raises ZelligeError for one that is smaller than the picture's."""
    if factor != "size":
        times = fields.number("enlarge", factor)
        if times not in (2, 3, 4):
            raise ZelligeError("Expected to enlarge 2, 3 or 4 times, or to a size, but got something else")
        return int(before[0] * times), int(before[1] * times)
    after = fields.whole("width", width), fields.whole("height", height)
    if not all(isinstance(side, int) for side in after) or after[0] * after[1] < before[0] * before[1]:
        raise SizeError(f"Expected a size of at least the picture's {before[0]}x{before[1]}, "
                        f"but got {after[0]}x{after[1]}")  # fmt: skip
    return after


def request(values: Sequence[Any]) -> Request:
    """The request that the values of `Form.inputs` make; raises ZelligeError for one that is wrong."""
    given, factor, width, height, seamless, prompt, strength, steps, guidance, negative, seed = values
    if not given:
        raise ZelligeError("Expected a picture, but got none")
    path = check_image(given)
    return Request.from_dict(
        {
            "kind": "upscale",
            "image": str(path),
            "size": target(picture_size(path), factor, width, height),
            "seamless": seamless,
            "prompt": prompt or "",
            "strength": fields.number("strength", strength),
            "steps": fields.number("steps", steps),
            "guidance": fields.number("guidance", guidance),
            "negative": fields.text_or_none(negative),
            "seed": fields.seed_of(seed),
        }
    )


def fill(made: Request) -> list[Any]:
    """Values for `Form.inputs` that make this request."""
    numbers = (fields.text_of(value) for value in (made.strength, made.steps, made.guidance))
    return [
        made.image, "size", *made.size, made.seamless, made.prompt, *numbers, made.negative or "", str(made.seed),
    ]  # fmt: skip
