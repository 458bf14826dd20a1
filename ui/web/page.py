"""What the builders of the tabs hand to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio as gr

    from ui.request import Kind, Request
    from ui.web.work import Studio


@dataclass(frozen=True)
class Filled:
    """A form that a recall fills: `fill` makes values for `inputs` of a request."""

    title: str
    """Of its tab."""
    inputs: Sequence[Any]
    notes: gr.HTML
    fill: Callable[[Request], list[Any]]


@dataclass
class Page:
    """The page while it is built: what all tabs share."""

    studio: Studio
    tabs: gr.Tabs
    tab: gr.Tab
    """The one that is being built."""
    forms: dict[Kind, Filled] = field(default_factory=dict)
    """By the kind of request that they make."""
