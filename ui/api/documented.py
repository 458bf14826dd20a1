"""What the OpenAPI document says of every route: its failures, and examples."""

from __future__ import annotations

from typing import Any

from ui.api.errors import TYPES, Failure

DESCRIPTIONS = {
    400: "The body is not JSON, or no form.",
    401: "The token is missing or another.",
    403: "Sent by another site's page, or under a name that is not this server's.",
    404: "There is no such thing.",
    405: "Another method.",
    408: "The body took too long.",
    409: "The job is not done.",
    413: "More than this server takes: bytes, pixels, samples, steps or files.",
    415: "Another kind of body.",
    422: "A value is out of range.",
    429: "Too many requests, or no place in the queue.",
    500: "The job failed.",
    503: "The job was cancelled, or the server stops.",
}
EXAMPLES = {
    413: "Expected at most 4194304 pixels here, but got 8192x8192",
    422: "Expected size to be WIDTHxHEIGHT in pixels, such as 1024x768, but got '512'",
    429: "Expected a free place in the queue, but 32 jobs are waiting",
}
RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}, "required": True}}

LINKS = {
    name: {"operationId": name, "parameters": {"id": "$response.body#/id"}}
    for name in ("status", "events", "cancel", "files", "archive", "delete")
}
"""What can be done with the id of a new job."""

JOB_EXAMPLE: dict[str, Any] = {
    "id": "0f3c5bd2a0f84d1f9f4f9a2d7c1f4b11",
    "state": "queued",
    "position": 1,
    "progress": 0.0,
    "eta_seconds": 21.5,
    "sample": 0,
    "step": 0,
    "steps": 0,
    "created": 1764000000.0,
    "started": None,
    "finished": None,
    "error": None,
    "request": {"prompt": "mossy cobblestone wall", "kind": "material", "size": "512x512", "seed": 7},
    "files": [],
}
FILE_EXAMPLE = {"name": "basecolor.png", "bytes": 524288, "url": f"/v1/jobs/{JOB_EXAMPLE['id']}/files/basecolor.png"}
SCORES_EXAMPLE: dict[str, Any] = {
    "weights": "0.1",
    "results": [
        {
            "name": "wall.png",
            "score": {
                "width": 512, "height": 512, "both": 0.91, "x": 0.94, "y": 0.97, "seam_x": 1.02, "seam_y": 0.98,
                "verdict": "tiles",
            },
        },
        {"name": "notes.txt", "error": "Expected an image (PNG, JPEG, WEBP), but it is none"},
    ],
}  # fmt: skip


def failures(*codes: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: these, and those that every route has."""
    return {code: _failure(code) for code in sorted({*codes, 401, 403, 405, 422, 429})}


def _failure(code: int) -> dict[str, Any]:
    message = EXAMPLES.get(code, DESCRIPTIONS[code])
    example = {"error": {"message": message, "type": TYPES[code], "code": None, "param": None}}
    content = {"application/json": {"example": example}}
    told: dict[str, Any] = {"model": Failure, "description": DESCRIPTIONS[code], "content": content}
    return told | {"headers": RETRY_AFTER} if code == 429 else told
