"""The web page at /, behind the guard of the API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from ui.api.service import Service


def build_page(service: Service) -> Any:
    """The page of `ui.web` as a `gradio.Blocks`, in the server's line, with its models and within its limits.

    Its results lie in a folder beside that of the jobs.
    """
    from ui.web.app import build_studio
    from ui.web.limits import Limits
    from ui.web.work import Studio

    settings = service.settings
    out = Path(settings.out)
    limits = Limits(pixels=settings.max_pixels, count=settings.max_count, steps=settings.max_steps)
    place = out.with_name(f"{out.name}-page")
    return build_studio(Studio(out=place, line=service.line, models=service.models, limits=limits))


def mount_page(app: FastAPI, page: Any) -> FastAPI:
    """Put the page at /, behind every route that the app has by now."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from ui.web import mount

    return mount(app, page, "/")
