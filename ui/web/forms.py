"""The settings of a material as inputs on the page, and both ways between them and a `Request`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from asd.errors import ZelligeError
from ui.request import MAX_PROMPT, LockedMap, Request
from ui.web.uploads import check_image, printable

EXAMPLES = ("mossy cobblestone wall", "red brick wall", "rusty painted metal", "brown leather", "oak planks")
SEAMLESS = [("Both ways", "xy"), ("Left–right", "x"), ("Top–bottom", "y"), ("Off", "none")]
FIELDS = 19
"""Inputs of the form."""
SCALARS = ("roughness", "metallic", "height")
MOST_AT_ONCE = 16
"""Samples of one press of the button; a batch makes more."""


class Form:
    """Inputs, in the order of `inputs`; the handlers get their values in that order."""

    def __init__(self) -> None:
        self.prompt = gr.Textbox(
            label="Prompt", placeholder="mossy cobblestone wall", lines=2, max_lines=5, max_length=MAX_PROMPT,
            autofocus=True, elem_id="z-prompt",
        )  # fmt: skip
        with gr.Row(elem_classes="z-chips"):
            for text in EXAMPLES:
                chip = gr.Button(text, size="sm", min_width=40)
                chip.click(None, None, self.prompt, js=f"() => {text!r}", queue=False, api_visibility="private")
        with gr.Row(elem_classes="z-pair"):
            self.width = gr.Number(512, label="Width, px", minimum=1, step=64, min_width=90, elem_id="z-width")
            self.height = gr.Number(512, label="Height, px", minimum=1, step=64, min_width=90, elem_id="z-height")
        self.seamless = gr.Radio(SEAMLESS, value="xy", label="Tiles", elem_id="z-seamless")
        with gr.Row(elem_classes="z-pair"):
            self.seed = gr.Textbox("0", label="Seed", max_lines=1, min_width=90, elem_id="z-seed")
            self.count = gr.Number(1, label="Best of", minimum=1, step=1, min_width=90, elem_id="z-count")
        with gr.Row(elem_classes="z-chips"):
            self.another = gr.Button("Another seed", size="sm", min_width=40, elem_id="z-another")
        with gr.Accordion("Steps, guidance, pattern", open=False):
            with gr.Row(elem_classes="z-pair"):
                self.steps = _optional("Steps", "7", "z-steps")
                self.guidance = _optional("Guidance", "5", "z-guidance")
            self.scale = _optional("Pattern size, 0 to 1", "what fits the size", "z-scale",
                                   info="0: 256 texels along a pattern, 1: 512")  # fmt: skip
            self.height_format = gr.Radio([("16-bit PNG", "png16"), ("EXR", "exr")], value="png16", label="Height file")
        with gr.Accordion("Keep maps", open=False, elem_id="z-locks"):
            gr.Markdown("A map that is kept comes out as you give it; the others are made as ever. Empty is free.")
            with gr.Row(elem_classes="z-pair"):
                self.scalars = [_optional(name.capitalize(), "0 to 1", f"z-lock-{name}") for name in SCALARS]
            self.colour = _optional("Basecolor", "#8b5a2b", "z-lock-basecolor")
            self.images = [
                gr.File(label=f"{name.capitalize()} from an image", file_types=[".png", ".jpg", ".jpeg", ".webp"],
                        file_count="single", height=96, elem_id=f"z-image-{name}")
                for name in get_args(LockedMap)
            ]  # fmt: skip

    @property
    def inputs(self) -> list[Any]:
        """The components, in the order in which `request` takes their values."""
        return [
            self.prompt, self.width, self.height, self.seamless, self.seed, self.count, self.steps, self.guidance,
            self.scale, self.height_format, *self.scalars, self.colour, *self.images,
        ]  # fmt: skip


def _optional(label: str, placeholder: str, elem_id: str, **more: Any) -> gr.Textbox:
    """A field for a number or nothing: Gradio's own for numbers turns nothing into 0."""
    return gr.Textbox("", label=label, placeholder=placeholder, max_lines=1, min_width=80, elem_id=elem_id, **more)


def request(values: Sequence[Any]) -> Request:
    """The request that the values of `Form.inputs` make; raises ZelligeError for one that is wrong."""
    prompt, width, height, seamless, seed, count, steps, guidance, scale, height_format, *rest = values
    scalars, colour, images = rest[: len(SCALARS)], rest[len(SCALARS)], rest[len(SCALARS) + 1 :]
    given = {name: _number(f"the kept {name}", value) for name, value in zip(SCALARS, scalars, strict=True)}
    lock: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if colour is not None and str(colour).strip():
        lock["basecolor"] = _colour(str(colour).strip())
    for name, file in zip(get_args(LockedMap), images, strict=True):
        if file:
            if name in lock:
                raise ZelligeError(f"Expected one {name} to keep, but got a value and an image")
            lock[name] = str(check_image(file))
    made = Request.from_dict(
        {
            "prompt": prompt,
            "size": [_whole("width", width), _whole("height", height)],
            "seamless": seamless,
            "seed": _seed(seed),
            "count": _whole("best of", count),
            "steps": _number("steps", steps),
            "guidance": _number("guidance", guidance),
            "scale": _number("pattern size", scale),
            "lock": lock,
            "height_format": height_format,
        }
    )
    if made.count > MOST_AT_ONCE:
        raise ZelligeError(f"Expected at most {MOST_AT_ONCE} samples at once, but got {made.count}; a batch makes more")
    return made


def fill(made: Request) -> list[Any]:
    """Values for `Form.inputs` that make this request, but for locked images, which stay empty."""
    locks = dict(made.lock)
    colour = locks.get("basecolor", "")
    return [
        made.prompt, made.size[0], made.size[1], made.seamless, str(made.seed), made.count, _text(made.steps),
        _text(made.guidance), _text(made.scale), made.height_format, *(_text(locks.get(name)) for name in SCALARS),
        colour if isinstance(colour, str) and colour.startswith("#") else "", *(None for _ in get_args(LockedMap)),
    ]  # fmt: skip


def keep_images(made: Request, folder: Path) -> Request:
    """The request with its locked images copied into `folder` under the names of their contents.

    So that it can be made again when the browser's upload is long gone.
    """
    import dataclasses
    import hashlib
    import shutil

    lock = []
    for name, value in made.lock:
        if isinstance(value, str) and not value.startswith("#"):
            with open(value, "rb") as handle:
                told = hashlib.file_digest(handle, "sha256").hexdigest()
            place = folder / f"{told[:32]}{Path(value).suffix.lower()}"
            if not place.exists():
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(value, place)
            value = str(place)
        lock.append((name, value))
    return dataclasses.replace(made, lock=tuple(lock))


def _whole(name: str, value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, float):
        raise ZelligeError(f"Expected {name} to be a whole number, but got {'nothing' if value is None else value}")
    return value


def _seed(value: Any) -> int:
    text = str(value).strip()
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise ZelligeError(f"Expected seed to be a whole number, but got {printable(text, 30) or 'nothing'}")
    return int(text)


def _colour(text: str) -> str:
    if not re.fullmatch(r"#?[0-9a-fA-F]{6}", text):
        raise ZelligeError(f"Expected the kept basecolor to be a colour such as #a0522d, but got {printable(text, 30)}")
    return f"#{text.removeprefix('#')}"


def _number(name: str, value: Any) -> int | float | None:
    """What a field holds; None for nothing."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if not re.fullmatch(r"[+-]?([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})", text):
        raise ZelligeError(f"Expected {name} to be a number or empty, but got {printable(text, 30)}")
    return float(text) if "." in text else int(text)


def _text(value: Any) -> str:
    return format(Decimal(repr(value)), "f") if isinstance(value, int | float) else ""  # no 1e-05
