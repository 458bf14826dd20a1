"""The tab History."""

from __future__ import annotations

import gradio as gr

from ui.web.page import Page

TITLE = "History"


def build(page: Page) -> None:
    gr.Markdown("soon")
