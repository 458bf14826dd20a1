"""`build`: settings to a FastAPI app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi.routing import APIRoute

from ui.api import images, jobs, scores
from ui.api.documented import failures
from ui.api.errors import add_handlers
from ui.api.guard import Guard
from ui.api.metrics import CONTENT_TYPE
from ui.api.page import build_page, mount_page
from ui.api.service import Here, Load, Service
from ui.api.settings import Settings
from ui.cli import VERSION

DESCRIPTION = """Tileable PBR materials of any size from text, and how well a texture tiles.

Errors are `{"error": {"message", "type", "code", "param"}}`. 429 comes with `Retry-After`."""


def build(settings: Settings, *, load: Load | None = None, page: Any = "auto") -> FastAPI:
    """The app of a server. Its queue starts and stops with the app's lifespan.

    Args:
        settings: places and limits.
        load: a model's name, as requests give it, to a pipeline; by default those of the settings are loaded.
        page: a `gradio.Blocks` to mount at /; "auto" takes that of `ui.web`, None none.
    """
    service = Service(settings, load)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    # the pages of /docs would load their scripts from elsewhere
    app = FastAPI(title="zellige", version=VERSION, description=DESCRIPTION, lifespan=lifespan, docs_url=None,
                  redoc_url=None, redirect_slashes=False,
                  generate_unique_id_function=lambda route: route.name)  # fmt: skip
    app.state.service = service
    routers = [scores.router, jobs.router, images.router, router]
    add_handlers(app, [route for part in routers for route in part.routes if isinstance(route, APIRoute)])
    for part in routers:
        app.include_router(part)
    app.openapi = lambda: _document(app)
    if page is not None:
        mount_page(app, build_page(service) if page == "auto" else page)
    # last, so that it stands before all else
    app.add_middleware(Guard, settings=settings, access=service.access, metrics=service.metrics)
    return app


_HEALTHY: Any = {200: {"content": {"application/json": {"example": {"status": "ok", "version": VERSION}}}}} | {
    code: told for code, told in failures().items() if code in (403, 405)
}
_METRICS: Any = {200: {"content": {"text/plain": {"schema": {"type": "string"}, "example":
                       "# TYPE zellige_jobs_waiting gauge\nzellige_jobs_waiting 0.0\n"}}}} | failures()  # fmt: skip
router = APIRouter(tags=["server"])


@router.get("/healthz", summary="Whether the server is up", response_model=dict[str, str], responses=_HEALTHY)
async def healthz() -> dict[str, str]:
    """Needs no token."""
    return {"status": "ok", "version": VERSION}


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses=_METRICS)
def metrics(service: Here) -> Response:
    """Requests, times, jobs, scores, and the process's memory."""
    return Response(service.metrics.text(service.queue), media_type=CONTENT_TYPE)


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes,
                               tags=[{"name": name} for name in ("scores", "jobs", "images", "server")])  # fmt: skip
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        document["paths"]["/healthz"]["get"]["security"] = []
        app.openapi_schema = document
    return app.openapi_schema
