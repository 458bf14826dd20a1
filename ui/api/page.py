"""The web page at /, where `ui.web` is installed; it passes the same guard as the API."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from fastapi import FastAPI


def find_page() -> Any:
    """What `ui.web.build()` makes, a `gradio.Blocks`; None where there is no `ui.web`."""
    if find_spec("ui.web") is None:
        return None
    from importlib import import_module

    return import_module("ui.web").build()


def mount_page(app: FastAPI, page: Any) -> FastAPI:
    """Put the page at /, behind every route that the app has by now."""
    import os

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio

    return gradio.mount_gradio_app(app, page, path="/")
