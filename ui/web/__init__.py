"""The web page over `Request` and `run_job`. Names are imported on first use: gradio is heavy, torch heavier."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ui.web.app import build, mount

__all__ = ["build", "mount"]

_HOMES = {"build": "ui.web.app", "mount": "ui.web.app"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
