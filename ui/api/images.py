"""The route of OpenAI's clients: a prompt in, pictures out, in one answer."""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from pathlib import PurePosixPath

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from ui.api.documented import failures
from ui.api.errors import ApiError
from ui.api.files import read_file
from ui.api.schemas import ImageOut, ImagesIn, ImagesOut
from ui.api.service import Here, Service
from ui.job_store import Job

router = APIRouter(prefix="/v1", tags=["images"])

LOOK_SECONDS = 1.0
"""How often a client that hung up is noticed; its job is cancelled then."""


@router.post(
    "/images/generations",
    response_model=ImagesOut,
    response_model_exclude_none=True,
    summary="Make images as OpenAI's clients ask for them",
    responses={200: {"content": {"application/json": {"example": {
        "created": 1764000000, "data": [{"b64_json": "iVBORw0KGgo="}]}}}}}
    | failures(400, 404, 408, 413, 422, 500, 503),
)  # fmt: skip
async def generate(body: ImagesIn, request: Request, service: Here) -> ImagesOut:
    """Answers when the images are made. A client that hangs up cancels its job."""
    job = service.queue.submit(body.to_request(service.settings))
    try:
        job = await _finished(job, request, service)
    except BaseException:
        service.queue.cancel(job.id)
        raise
    if job.state == "failed":
        raise ApiError(500, job.error or "the job failed", code="job_failed")
    if job.state == "cancelled":
        raise ApiError(503, "Expected the job to run to its end, but it was cancelled", code="job_cancelled")
    names = [name for name in job.files if PurePosixPath(name).name == f"{body.map}.png"]
    if body.response_format == "b64_json":
        data = [ImageOut(b64_json=await run_in_threadpool(_base64, service, job, name)) for name in names]
    else:
        base = str(request.base_url).rstrip("/")
        data = [ImageOut(url=base + service.access.sign(f"/v1/jobs/{job.id}/files/{name}")) for name in names]
    return ImagesOut(created=int(job.finished or 0), data=data)


async def _finished(job: Job, request: Request, service: Service) -> Job:
    followed = service.hub.follow(job.id, LOOK_SECONDS)
    with suppress(StopAsyncIteration):
        while True:
            now = await anext(followed)
            if now is not None and not now.active:
                return now
            if await request.is_disconnected():
                raise asyncio.CancelledError
    raise ApiError(503, "Expected the job to run to its end, but the server stops", code="stopping")


def _base64(service: Service, job: Job, name: str) -> str:
    return base64.b64encode(read_file(service.queue.store, job, name)).decode("ascii")
