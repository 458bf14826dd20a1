"""The page: its tabs, its look, and how it is served."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from asd.errors import ZelligeError

_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DISABLE_TELEMETRY": "1",
}
if os.environ.get("GRADIO_VIBE_MODE"):
    raise ZelligeError("Expected GRADIO_VIBE_MODE to be unset, since it lets the page run any code, but it is set")
# gradio and huggingface_hub read these once, as they are imported
os.environ.update(_QUIET)

import gradio as gr  # noqa: E402 - after the environment

from ui.address import LOOPBACK  # noqa: E402 - as above
from ui.web import batch, history, image, material, photo, score, upscale  # noqa: E402 - as above
from ui.web.page import Page  # noqa: E402 - as above
from ui.web.preview import STATIC  # noqa: E402 - as above
from ui.web.splash import Splash  # noqa: E402 - as above
from ui.web.theme import theme  # noqa: E402 - as above
from ui.web.uploads import MAX_FILE  # noqa: E402 - as above
from ui.web.work import Studio, shipped  # noqa: E402 - as above

if TYPE_CHECKING:
    from fastapi import FastAPI

Made = TypeVar("Made")

TABS = (material, image, upscale, photo, score, batch, history)
"""One module per tab, in order: `TITLE` and `build(page)`. A new tab is a module and its name here."""


def build(out: str | Path = "out", *, device: str = "auto") -> gr.Blocks:
    """The page as Gradio blocks; results go into folders of `out`. `mount` serves it with its look.

    No model is loaded before the first job, and torch is not imported. Raises ZelligeError where `out` is no folder.
    """
    return build_studio(Studio(out=Path(out), models=shipped(device)))


def build_studio(studio: Studio) -> gr.Blocks:
    """`build` of a studio that shares its line and its models with others."""
    if studio.out.exists() and not studio.out.is_dir():
        raise ZelligeError(f"Expected a folder for the results, but got the file {studio.out}")
    return _in_loop(lambda: _build(studio))


def _build(studio: Studio) -> gr.Blocks:
    gr.set_static_paths([studio.views.root])
    with gr.Blocks(title="zellige", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as blocks:
        gr.HTML(_read("header.html"), apply_default_css=False, js_on_load=_read("header.js"), elem_id="z-header")
        with gr.Tabs(elem_id="z-tabs") as tabs:
            page: Page | None = None
            for module in TABS:
                with gr.Tab(module.TITLE, id=module.TITLE) as tab:
                    page = Page(studio, tabs, tab) if page is None else replace(page, tab=tab)
                    module.build(page)
    # the line is the queue; Gradio's own must only hand everything on
    # Gradio checks that a file in a call was uploaded only in blocks that it launched itself, and these are mounted
    blocks.has_launched = True
    blocks.queue(api_open=False, max_size=64, default_concurrency_limit=None)
    return blocks


def mount(app: FastAPI, blocks: gr.Blocks | None = None, path: str = "/", **options: Any) -> FastAPI:
    """Serve the page on `app` at `path`, with its look.

    `options` are those of `gradio.mount_gradio_app`, such as `auth_dependency`. Whoever mounts it on an application of
    their own puts `ui.web.guard.Guard` or a guard of their own before it.
    """
    look: dict[str, Any] = {
        "theme": theme(),
        "css": _read("page.css"),
        "head": '<meta name="color-scheme" content="light dark">',
        "js": _read("page.js"),
        "app_kwargs": {"openapi_url": None, "docs_url": None, "redoc_url": None},
        "footer_links": [],
        "run_history": False,
        "show_error": False,
        "max_file_size": MAX_FILE,
        "enable_monitoring": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
    }
    if path == "/":
        look["favicon_path"] = str(STATIC / "icon.svg")
    app.add_middleware(Splash, path=path)
    page = build() if blocks is None else blocks
    return _in_loop(lambda: gr.mount_gradio_app(app, page, path, **(look | options)))


def application(
    out: str | Path = "out",
    *,
    token: str | None = None,
    hosts: Sequence[str] | None = LOOPBACK,
    device: str = "auto",
) -> FastAPI:
    """The page as an ASGI application behind `ui.web.guard.Guard`: what `zellige ui` serves."""
    from fastapi import FastAPI

    from ui.web.guard import Guard

    app = FastAPI(title="zellige", docs_url=None, redoc_url=None, openapi_url=None)
    mount(app, build(out, device=device))
    app.add_middleware(Guard, token=token, hosts=hosts)
    return app


def _in_loop(work: Callable[[], Made]) -> Made:
    """Gradio makes an event loop for each of its locks where none runs, and leaves them open."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return work()

    async def run() -> Made:
        return work()

    return asyncio.run(run())


def _read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
