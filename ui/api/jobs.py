"""The routes of jobs: submit, look, follow, cancel, and read the files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse

from ui.api.documented import FILE_EXAMPLE, JOB_EXAMPLE, LINKS, failures
from ui.api.errors import ApiError, too_many
from ui.api.files import file_response, zip_response
from ui.api.schemas import FilesOut, JobIn, JobOut, files_out, job_out
from ui.api.service import Here, Service
from ui.job_store import Job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="A job's id.", examples=[JOB_EXAMPLE["id"]])]
_GONE = failures(404)
_JOB: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"example": JOB_EXAMPLE}}}}


@router.post(
    "",
    status_code=202,
    response_model=JobOut,
    summary="Make a material",
    responses={202: {"headers": {"Location": {"description": "Where the job is.", "schema": {"type": "string"}}},
                     "links": LINKS, "content": {"application/json": {"example": JOB_EXAMPLE}}}} | failures(400, 404,
                     408, 413, 422),
)  # fmt: skip
async def submit(body: JobIn, response: Response, service: Here) -> JobOut:
    """Queue a request; 429 with Retry-After where the queue is full."""
    job = service.queue.submit(body.to_request(service.settings))
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job_out(job, service.queue)


@router.get("/{id}", response_model=JobOut, summary="Look at a job", responses=_JOB | _GONE)
async def status(id: Id, service: Here) -> JobOut:
    """Its state, its place in the queue, its progress with the seconds left, and its files once it is done."""
    return job_out(service.job(id), service.queue)


@router.get(
    "/{id}/events",
    response_class=Response,
    summary="Follow a job",
    responses={200: {"content": {"text/event-stream": {"example": "event: progress\n"
                                                       'data: {"id": "…", "state": "running", "progress": 0.32}\n\n'}},
                     "description": "Server-sent events; the data of each is a job."}} | _GONE,
)  # fmt: skip
async def events(id: Id, service: Here) -> Response:
    """Its state now and after every change: `progress` while it waits and runs, then `done`, `failed` or `cancelled`.
    Each event's id is the version of the state."""
    service.job(id)
    if service.streams >= service.settings.max_streams:
        raise too_many(f"Expected at most {service.settings.max_streams} clients that follow events, but got more", 5)
    return StreamingResponse(_events(id, service), media_type="text/event-stream")


@router.post("/{id}/cancel", response_model=JobOut, summary="Stop a job", responses=_JOB | _GONE)
def cancel(id: Id, service: Here) -> JobOut:
    """A waiting job stops at once, a running one at its next denoising step; what is finished stays as it is."""
    service.job(id)
    service.queue.cancel(id)
    return job_out(service.job(id), service.queue)


@router.delete("/{id}", status_code=204, response_class=Response, summary="Stop and delete a job", responses=_GONE)
def delete(id: Id, service: Here) -> Response:
    """Its record and its files are gone after this, those of a running job as soon as it has stopped."""
    service.job(id)
    service.queue.forget(id)
    return Response(status_code=204)


@router.get(
    "/{id}/files",
    response_model=FilesOut,
    summary="List a result",
    responses={200: {"content": {"application/json": {"example": {"files": [FILE_EXAMPLE]}}}}} | failures(404, 409),
)
async def files(id: Id, service: Here) -> FilesOut:
    """The files of a job that is done."""
    return FilesOut(files=files_out(_done(id, service)))


@router.get(
    "/{id}/files/{name:path}",
    response_class=Response,
    summary="Read a file",
    responses={200: {"content": {"image/png": {"example": "‰PNG…"}, "application/json": {},
    "application/octet-stream": {}},
                     "description": "The file."}} | failures(404, 409),
)  # fmt: skip
def file(
    id: Id, name: Annotated[str, Path(description="As the list has it.", examples=["basecolor.png"])], service: Here
) -> Response:
    """A file of a job that is done, by the name that the list of its files has."""
    return file_response(service.queue.store, _done(id, service), name)


@router.get(
    "/{id}/zip",
    response_class=Response,
    summary="Read all files",
    responses={200: {"content": {"application/zip": {"example": "PK…"}}, "description": "A ZIP archive."}}
    | failures(404, 409),
)
def archive(id: Id, service: Here) -> Response:
    """All files of a job that is done, as they are."""
    return zip_response(service.queue.store, _done(id, service))


def _done(id: str, service: Service) -> Job:
    job = service.job(id)
    if job.state != "done":
        raise ApiError(409, f"Expected a job that is done, but it is {job.state}", code="job_not_done")
    return job


async def _events(id: str, service: Service) -> AsyncIterator[str]:
    service.streams += 1
    try:
        async for job in service.hub.follow(id):
            if job is None:
                yield ": still here\n\n"
            else:
                kind = "progress" if job.active else job.state
                yield f"id: {job.version}\nevent: {kind}\ndata: {job_out(job, service.queue).model_dump_json()}\n\n"
    finally:
        service.streams -= 1
