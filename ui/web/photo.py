"""The tab Photo to maps: the maps of a photographed surface, which is made to tile where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from asd.errors import ZelligeError
from ui.request import Request
from ui.web import fields
from ui.web.given import Given
from ui.web.making import Bench, go_and_stop
from ui.web.packs import Packs
from ui.web.page import Filled, Page
from ui.web.preview import preview, status
from ui.web.progress import note
from ui.web.uploads import check_image

TITLE = "Photo to maps"
WELCOME = "Give a photo of a surface, from straight above and in even light."
SEAMLESS = [("Make it tile", "xy"), ("Left–right", "x"), ("Top–bottom", "y"), ("As it is", "auto")]
FIELDS = 5
"""Inputs of the form."""


class Form:
    """Inputs, in the order of `inputs`; the handlers get their values in that order."""

    def __init__(self) -> None:
        self.given = Given("Photo", "z-photo", 150)
        self.seamless = gr.Radio(
            SEAMLESS, value="xy", label="Tiles", elem_id="z-photo-seamless",
            info="A photo with a seam is joined along the cut that shows least; most pixels stay as they are.",
        )  # fmt: skip
        with gr.Accordion("Size, files", open=False, elem_id="z-photo-more"):
            with gr.Row(elem_classes="z-pair"):
                self.width = fields.optional("Width, px", "the photo's", "z-photo-width")
                self.height = fields.optional("Height, px", "the photo's", "z-photo-height")
            self.height_format = gr.Radio([("16-bit PNG", "png16"), ("EXR", "exr")], value="png16", label="Height file")

    @property
    def inputs(self) -> list[Any]:
        """The components, in the order in which `request` takes their values."""
        return [self.given.file, self.seamless, self.width, self.height, self.height_format]


def build(page: Page) -> None:
    """The tab's components and what they do."""
    studio = page.studio
    with gr.Row(elem_classes="z-columns"):
        with gr.Column(elem_classes="z-side", min_width=300):
            form = Form()
            go, stop = go_and_stop("Make maps", "z-photo-go", "z-photo-stop")
            gr.Markdown(
                "Basecolor is the photo: shadows and highlights stay in it. Height, roughness and metal are what the "
                "network takes them for."
            )
        with gr.Column(elem_classes="z-main", min_width=300):
            notes = status(note(WELCOME), "z-photo-status")
            look = preview(
                "z-photo-preview", "No maps yet",
                "The tile, a solid that you can turn, every map, and how well the photo tiled before and after.",
            )  # fmt: skip
            packs = Packs(studio, "z-photo")
    bench = Bench(studio, TITLE, notes, look, packs, go, stop)
    bench.connect(form.inputs, request)
    page.forms["maps"] = Filled(TITLE, form.inputs, notes, fill)
    form.given.connect()


def request(values: Sequence[Any]) -> Request:
    """The request that the values of `Form.inputs` make; raises ZelligeError for one that is wrong."""
    given, seamless, width, height, height_format = values
    if not given:
        raise ZelligeError("Expected a photo, but got none")
    asked: dict[str, Any] = {"kind": "maps", "image": str(check_image(given)), "seamless": seamless}
    sides = fields.number("width", width), fields.number("height", height)
    if (sides[0] is None) != (sides[1] is None):
        raise ZelligeError("Expected width and height or neither, but got one of them")
    if sides[0] is not None:
        asked["size"] = list(sides)
    return Request.from_dict(asked | {"height_format": height_format})


def fill(made: Request) -> list[Any]:
    """Values for `Form.inputs` that make this request."""
    own = made.size == (0, 0)
    sides = ("", "") if own else tuple(map(str, made.size))
    return [made.image, made.seamless, *sides, made.height_format]
