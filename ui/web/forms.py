"""The settings of a material as inputs on the page, and both ways between them and a `Request`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_args

import gradio as gr

from asd.errors import ZelligeError
from materials.defaults import FEW_STEPS, GUIDANCE
from ui.request import LockedMap, Request
from ui.web import fields
from ui.web.uploads import check_image, printable

EXAMPLES = ("mossy cobblestone wall", "red brick wall", "rusty painted metal", "brown leather", "oak planks")
FIELDS = 20
"""Inputs of the form."""
SCALARS = ("roughness", "metallic", "height")


class Form:
    """Inputs, in the order of `inputs`; the handlers get their values in that order."""

    def __init__(self) -> None:
        self.prompt = fields.prompt("z", "mossy cobblestone wall", autofocus=True)
        fields.chips(EXAMPLES, self.prompt)
        self.width, self.height = fields.size("z")
        self.seamless = gr.Radio(fields.SEAMLESS, value="xy", label="Tiles", elem_id="z-seamless")
        with gr.Row(elem_classes="z-pair"):
            self.seed = gr.Textbox("0", label="Seed", max_lines=1, min_width=90, elem_id="z-seed")
            self.count = gr.Number(1, label="Best of", minimum=1, step=1, min_width=90, elem_id="z-count")
        with gr.Row(elem_classes="z-chips"):
            self.another = gr.Button("Another seed", size="sm", min_width=40, elem_id="z-another")
        with gr.Accordion("Steps, guidance, pattern", open=False):
            with gr.Row(elem_classes="z-pair"):
                self.steps = fields.optional("Steps", str(FEW_STEPS), "z-steps")
                self.guidance = fields.optional("Guidance", f"{GUIDANCE:g}", "z-guidance")
            self.scale = fields.optional("Pattern size, 0 to 1", "what fits the size", "z-scale",
                                   info="0: 256 texels along a pattern, 1: 512")  # fmt: skip
            self.refine = gr.Radio(
                [("No", 1), ("2 times", 2), ("4 times", 4), ("8 times", 8)], value=1, label="Finer", elem_id="z-refine",
                info="Made with so many times fewer texels along a side, then given detail: the same layout, finer",
            )  # fmt: skip
            self.height_format = gr.Radio([("16-bit PNG", "png16"), ("EXR", "exr")], value="png16", label="Height file")
        with gr.Accordion("Keep maps", open=False, elem_id="z-locks"):
            gr.Markdown("A map that is kept comes out as you give it; the others are made as ever. Empty is free.")
            with gr.Row(elem_classes="z-pair"):
                self.scalars = [fields.optional(name.capitalize(), "0 to 1", f"z-lock-{name}") for name in SCALARS]
            self.colour = fields.optional("Basecolor", "#8b5a2b", "z-lock-basecolor")
            self.images = [
                gr.File(label=f"{name.capitalize()} from an image", file_types=fields.IMAGES,
                        file_count="single", height=96, elem_id=f"z-image-{name}")
                for name in get_args(LockedMap)
            ]  # fmt: skip

    @property
    def inputs(self) -> list[Any]:
        """The components, in the order in which `request` takes their values."""
        return [
            self.prompt, self.width, self.height, self.seamless, self.seed, self.count, self.steps, self.guidance,
            self.scale, self.refine, self.height_format, *self.scalars, self.colour, *self.images,
        ]  # fmt: skip


def request(values: Sequence[Any]) -> Request:
    """The request that the values of `Form.inputs` make; raises ZelligeError for one that is wrong."""
    prompt, width, height, seamless, seed, count, steps, guidance, scale, refine, height_format, *rest = values
    scalars, colour, images = rest[: len(SCALARS)], rest[len(SCALARS)], rest[len(SCALARS) + 1 :]
    given = {name: fields.number(f"the kept {name}", value) for name, value in zip(SCALARS, scalars, strict=True)}
    lock: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if colour is not None and str(colour).strip():
        lock["basecolor"] = _colour(str(colour).strip())
    for name, file in zip(get_args(LockedMap), images, strict=True):
        if file:
            if name in lock:
                raise ZelligeError(f"Expected one {name} to keep, but got a value and an image")
            lock[name] = str(check_image(file))
    return Request.from_dict(
        {
            "prompt": prompt,
            "size": [fields.whole("width", width), fields.whole("height", height)],
            "seamless": seamless,
            "seed": fields.seed_of(seed),
            "count": fields.count_of(count),
            "steps": fields.number("steps", steps),
            "guidance": fields.number("guidance", guidance),
            "scale": fields.number("pattern size", scale),
            "refine": refine,
            "lock": lock,
            "height_format": height_format,
        }
    )


def fill(made: Request) -> list[Any]:
    """Values for `Form.inputs` that make this request, but for locked images, which stay empty."""
    locks = dict(made.lock)
    colour = locks.get("basecolor", "")
    numbers = (fields.text_of(value) for value in (made.steps, made.guidance, made.scale))
    return [
        made.prompt, made.size[0], made.size[1], made.seamless, str(made.seed), made.count, *numbers,
        made.refine, made.height_format, *(fields.text_of(locks.get(name)) for name in SCALARS),
        colour if isinstance(colour, str) and colour.startswith("#") else "", *(None for _ in get_args(LockedMap)),
    ]  # fmt: skip


def _colour(text: str) -> str:
    if not re.fullmatch(r"#?[0-9a-fA-F]{6}", text):
        raise ZelligeError(f"Expected the kept basecolor to be a colour such as #a0522d, but got {printable(text, 30)}")
    return f"#{text.removeprefix('#')}"
