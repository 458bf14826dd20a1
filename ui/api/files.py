"""Files of results as answers: types from a short list, never shown as a page, never outside the job's folder."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from fastapi.responses import Response, StreamingResponse

from ui.api.errors import ApiError
from ui.job_store import Job, JobStore, opened

TYPES = {".png": "image/png", ".json": "application/json", ".exr": "application/octet-stream"}
CHUNK = 256 * 1024


def file_response(store: JobStore, job: Job, name: str) -> Response:
    """One file by the name that the result's list has. Raises ApiError 404 for any other."""
    try:
        handle = os.fdopen(store.open(job, name), "rb")
    except FileNotFoundError:
        raise ApiError(404, "Expected a file of this result, but got another name", code="file_not_found") from None
    length = os.fstat(handle.fileno()).st_size
    path = PurePosixPath(name)
    media = TYPES.get(path.suffix, "application/octet-stream")
    kind = "inline" if media == "image/png" else "attachment"
    headers = {"Content-Length": str(length), "Content-Disposition": f'{kind}; filename="{path.name}"'}
    return StreamingResponse(_chunks(handle), media_type=media, headers=headers)


def read_file(store: JobStore, job: Job, name: str) -> bytes:
    """The content of a file; raises ApiError 404 where it is gone."""
    try:
        with opened(store, job, name) as handle:
            return handle.read()
    except FileNotFoundError:
        raise ApiError(404, "Expected a result that is kept, but it is gone", code="file_not_found") from None


def zip_response(store: JobStore, job: Job) -> Response:
    """All files, stored as they are (PNG does not shrink), in a stream that takes no room."""
    headers = {"Content-Disposition": f'attachment; filename="{job.id}.zip"'}
    return StreamingResponse(_zipped(store, job), media_type="application/zip", headers=headers)


def _chunks(handle: Any) -> Iterator[bytes]:
    with handle:
        while data := handle.read(CHUNK):
            yield data


class _Pipe:
    """What `zipfile` writes to: it cannot seek, so that nothing has to be kept."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: Any) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def flush(self) -> None: ...

    def take(self) -> bytes:
        data = b"".join(self.parts)
        self.parts.clear()
        return data


def _zipped(store: JobStore, job: Job) -> Iterator[bytes]:
    pipe: Any = _Pipe()  # it only writes
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for name in job.files:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            with opened(store, job, name) as source, archive.open(entry, "w", force_zip64=True) as target:
                while data := source.read(CHUNK):
                    target.write(data)
                    yield pipe.take()
    yield pipe.take()
