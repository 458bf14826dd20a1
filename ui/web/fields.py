"""Fields of the forms, and what their values mean."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import gradio as gr

from asd.errors import ZelligeError
from ui.request import MAX_PROMPT
from ui.web.uploads import printable

QUICK: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
"""How Gradio calls what answers at once: without a place in its queue, a bar or a name in its API."""

SEAMLESS = [("Both ways", "xy"), ("Left–right", "x"), ("Top–bottom", "y"), ("Off", "none")]
IMAGES = [".png", ".jpg", ".jpeg", ".webp"]
MOST_AT_ONCE = 16
"""Samples of one press of the button; a batch makes more."""


def prompt(key: str, placeholder: str, **more: Any) -> gr.Textbox:
    """A field for a prompt; its id is `key`-prompt."""
    given: dict[str, Any] = {"label": "Prompt", "lines": 2, "max_lines": 5, "max_length": MAX_PROMPT} | more
    return gr.Textbox(placeholder=placeholder, elem_id=f"{key}-prompt", **given)


def chips(texts: tuple[str, ...], field: gr.Textbox) -> None:
    """Buttons that fill a field with one of `texts`."""
    with gr.Row(elem_classes="z-chips"):
        for text in texts:
            chip = gr.Button(text, size="sm", min_width=40)
            chip.click(None, None, field, js=f"() => {text!r}", queue=False, api_visibility="private")


def size(key: str, side: int | None = 512, **more: Any) -> tuple[gr.Number, gr.Number]:
    """Fields for width and height."""
    given: dict[str, Any] = {"minimum": 1, "step": 64, "min_width": 90} | more
    with gr.Row(elem_classes="z-pair"):
        width = gr.Number(side, label="Width, px", elem_id=f"{key}-width", **given)
        height = gr.Number(side, label="Height, px", elem_id=f"{key}-height", **given)
    return width, height


def optional(label: str, placeholder: str, elem_id: str, **more: Any) -> gr.Textbox:
    """A field for a number or nothing: Gradio's own for numbers turns nothing into 0."""
    return gr.Textbox("", label=label, placeholder=placeholder, max_lines=1, min_width=80, elem_id=elem_id, **more)


def whole(name: str, value: Any) -> Any:
    """A whole number as it is; anything else is for `Request` to refuse, but for fractions and nothing."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, float):
        raise ZelligeError(f"Expected {name} to be a whole number, but got {'nothing' if value is None else value}")
    return value


def count_of(value: Any) -> int:
    """How many samples: at most `MOST_AT_ONCE`."""
    count = whole("best of", value)
    if isinstance(count, int) and count > MOST_AT_ONCE:
        raise ZelligeError(f"Expected at most {MOST_AT_ONCE} samples at once, but got {count}; a batch makes more")
    return count


def seed_of(value: Any) -> int:
    """A seed, which is text in the form: the browser's numbers end at 2^53."""
    text = str(value).strip()
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise ZelligeError(f"Expected seed to be a whole number, but got {printable(text, 30) or 'nothing'}")
    return int(text)


def number(name: str, value: Any) -> int | float | None:
    """What a field holds; None for nothing."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if not re.fullmatch(r"[+-]?([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})", text):
        raise ZelligeError(f"Expected {name} to be a number or empty, but got {printable(text, 30)}")
    return float(text) if "." in text else int(text)


def text_of(value: Any) -> str:
    """What `number` reads back to the bit; "" for no number."""
    return format(Decimal(repr(value)), "f") if isinstance(value, int | float) else ""  # no 1e-05


def text_or_none(value: Any) -> Any:
    """What a field of text holds; None for nothing."""
    return value if not isinstance(value, str) or value.strip() else None
