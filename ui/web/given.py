"""A picture that is given to a tab: where it is dropped, what it is, and the size that follows from it."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import gradio as gr

from asd.errors import ZelligeError
from ui.web import fields
from ui.web.progress import note
from ui.web.uploads import printable
from ui.web.views import picture_size, small_copy


class Given:
    """`file` is the field, `card` shows what lies in it."""

    def __init__(self, label: str, key: str, height: int = 120) -> None:
        self.file = gr.File(label=label, file_types=fields.IMAGES, height=height, elem_id=f"{key}-given",
                            elem_classes="z-given")  # fmt: skip
        self.card = gr.HTML("", elem_id=f"{key}-card", apply_default_css=False)

    def connect(self) -> None:
        """Let the card follow the field."""
        self.file.change(on_card, self.file, self.card, show_progress="hidden", api_visibility="private", queue=False)


def on_card(file: str | None) -> str:
    """Markup of an upload; a note in place of one that is no image, nothing for none."""
    if not file:
        return ""
    try:
        small, (width, height) = small_copy(Path(file)), picture_size(Path(file))
    except ZelligeError as error:
        return note(str(error), kind="bad")
    data = io.BytesIO()
    small.save(data, format="WEBP", quality=82)
    # inside of the page, since a page that is mounted elsewhere has other addresses
    source = f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
    name = html.escape(printable(Path(file).name, 40))
    told = f"<figcaption><strong>{name}</strong><span>{width} × {height} px</span></figcaption>"
    return f'<figure class="z-card"><img src="{source}" alt="">{told}</figure>'
