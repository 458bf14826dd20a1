"""What the builders of the tabs hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio as gr

    from ui.web.forms import Form
    from ui.web.work import Studio


@dataclass
class Page:
    """The page while it is built: what all tabs share, and the form that a recall fills."""

    studio: Studio
    tabs: gr.Tabs
    form: Form | None = None
    recalled: list[Any] = field(default_factory=list)
    """Components beside the form that a recall changes: the note above it."""
