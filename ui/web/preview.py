"""The preview on the page: tiles that can be dragged, a lit solid, maps, score and seams, all in the browser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

STATIC = Path(__file__).with_name("static")
FILES = ("solid.js", "tiles.js", "picture.js", "preview.js")


def preview(elem_id: str, title: str, text: str) -> gr.HTML:
    """The component; its value is from `shown`, and it triggers `select` with the index of the item that is looked at.

    As long as there is none, it shows `title` and `text`, which are plain.
    """
    return gr.HTML(
        value=shown([]),
        html_template=f'<div class="z-preview" data-title="{title}" data-text="{text}"></div>',
        js_on_load=script(),
        elem_id=elem_id,
        apply_default_css=False,
        container=False,
    )


def status(text: str, elem_id: str) -> gr.HTML:
    """The place of notes and progress."""
    script = (STATIC / "status.js").read_text(encoding="utf-8")
    return gr.HTML(text, js_on_load=script, elem_id=elem_id, apply_default_css=False)


def shown(items: Sequence[dict[str, Any]], chosen: int = 0) -> str:
    """What the browser is told of results: everything but their place on the server."""
    plain = [{key: value for key, value in item.items() if key not in ("folder", "download")} for item in items]
    return json.dumps({"items": plain, "chosen": chosen})


@cache
def script() -> str:
    """The preview's JavaScript, a function's body: Gradio calls it with `element`, `props`, `trigger` and `watch`."""
    return '"use strict";\n' + "\n".join((STATIC / name).read_text(encoding="utf-8") for name in FILES)
