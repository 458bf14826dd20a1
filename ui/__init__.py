"""Thin shells over one `Request`: the command line and the jobs it starts. Names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ui.jobs import JobInterrupted, Progress, Result, Sample, run_job
    from ui.request import Request

__all__ = ["JobInterrupted", "Progress", "Request", "Result", "Sample", "run_job"]

_HOMES = {
    "JobInterrupted": "ui.jobs",
    "Progress": "ui.jobs",
    "Request": "ui.request",
    "Result": "ui.jobs",
    "Sample": "ui.jobs",
    "run_job": "ui.jobs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
