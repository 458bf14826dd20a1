"""The HTTP API: `build(Settings(...))` is a FastAPI app over the same `Request` as the command line."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ui.api.app import build
    from ui.api.settings import Settings

__all__ = ["Settings", "build"]

_HOMES = {"Settings": "ui.api.settings", "build": "ui.api.app"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
