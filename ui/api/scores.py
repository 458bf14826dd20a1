"""The route of scores: many images in, a score or a reason for each out."""

from __future__ import annotations

import csv
import io
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from ui.api.documented import SCORES_EXAMPLE, failures
from ui.api.errors import ApiError
from ui.api.schemas import Score, ScoreOut, ScoresOut
from ui.api.score_pool import shown_name
from ui.api.service import Here
from ui.csv_cell import csv_cell

router = APIRouter(prefix="/v1", tags=["scores"])

COLUMNS: tuple[str, ...] = ("name", "width", "height", "both", "x", "y", "seam_x", "seam_y", "verdict", "error")
_FORM = {
    "type": "object",
    "required": ["files"],
    "additionalProperties": False,
    "properties": {
        "files": {
            "type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"},
            "description": "PNG, JPEG or WebP images.",
        },
    },
}  # fmt: skip


@router.post(
    "/score",
    response_model=ScoresOut,
    response_model_exclude_none=True,
    summary="Score images",
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
    responses={200: {"content": {"application/json": {"example": SCORES_EXAMPLE},
                                 "text/csv": {"example": ",".join(COLUMNS) + "\n"}}}}
    | failures(400, 408, 413, 415, 422),
)  # fmt: skip
async def score(request: Request, service: Here) -> Any:
    """How well each image tiles; an upload that has no score says why and doesn't keep the others from theirs.

    `Accept: text/csv` gives a table. 429 with Retry-After where enough requests are in work.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(415, "Expected multipart/form-data with images named files, but got another kind of body")
    async with service.pool.place():
        results = await _score_form(request, service)
    if "text/csv" in request.headers.get("accept", ""):
        return Response(_table(results), media_type="text/csv")
    from textile_metric.weights import VERSION

    return ScoresOut(weights=VERSION, results=results)


async def _score_form(request: Request, service: Here) -> list[ScoreOut]:
    most = service.settings.max_files
    try:
        # one more than allowed, so that too many is told from a damaged form
        async with request.form(max_files=most + 1, max_fields=1, max_part_size=1024) as form:
            entries = form.multi_items()
            files = [value for key, value in entries if key == "files" and isinstance(value, UploadFile)]
            if len(files) != len(entries):
                raise ApiError(422, "Expected only files under the name files, but got another field", param="files")
            if not files:
                raise ApiError(422, "Expected at least one file under the name files, but got none", param="files")
            if len(files) > most:
                raise ApiError(413, f"Expected at most {most} files, but got more", param="files")
            return [await _score_file(file, service) for file in files]
    except (HTTPException, MultiPartException, ValueError) as error:
        told = str(getattr(error, "detail", error))[:200]
        if told.startswith("Too many files"):
            raise ApiError(413, f"Expected at most {most} files, but got more", param="files") from error
        raise ApiError(400, f"Expected a form that is whole, but got: {ascii(told)[1:-1]}") from error


async def _score_file(file: UploadFile, service: Here) -> ScoreOut:
    found = await service.pool.score(await file.read())
    service.metrics.scores.labels("score" if "score" in found else "error").inc()
    score = Score(**found["score"]) if "score" in found else None
    return ScoreOut(name=shown_name(file.filename), score=score, error=found.get("error"))


def _table(results: list[ScoreOut]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for each in results:
        row = {"name": each.name, "error": each.error or ""} | (each.score.model_dump() if each.score else {})
        writer.writerow({key: csv_cell(value) if isinstance(value, str) else value for key, value in row.items()})
    return text.getvalue()
