"""The tab Batch."""

from __future__ import annotations

import gradio as gr

from ui.web.page import Page

TITLE = "Batch"


def build(page: Page) -> None:
    gr.Markdown("soon")
