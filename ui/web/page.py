"""What the builders of the tabs hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

    from ui.web.forms import Form
    from ui.web.work import Studio


@dataclass
class Page:
    """The page while it is built: what all tabs share, and the form that a recall fills."""

    studio: Studio
    tabs: gr.Tabs
    tab: gr.Tab
    """The one that is being built."""
    form: Form | None = None
    status: gr.HTML | None = None
    """The note beside the form."""
