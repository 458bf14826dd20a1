"""The tab Score."""

from __future__ import annotations

import gradio as gr

from ui.web.page import Page

TITLE = "Score"


def build(page: Page) -> None:
    gr.Markdown("soon")
