"""The web page at /, behind the guard of the API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from ui.api.settings import Settings


def build_page(settings: Settings) -> Any:
    """What `ui.web.build` makes, a `gradio.Blocks`; its results lie in a folder beside that of the jobs."""
    from ui.web import build

    out = Path(settings.out)
    return build(out.with_name(f"{out.name}-page"), device=settings.device)


def mount_page(app: FastAPI, page: Any) -> FastAPI:
    """Put the page at /, behind every route that the app has by now."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from ui.web import mount

    return mount(app, page, "/")
