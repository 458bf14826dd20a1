"""What an error looks like to a client: `{"error": {"message", "type", "code"}}`, OpenAI's shape, everywhere."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from asd.errors import ZelligeError
from ui.line import QueueFullError

log = logging.getLogger(__name__)

TYPES = {400: "bad_request", 401: "authentication_error", 403: "forbidden", 404: "not_found", 405: "not_allowed",
         408: "timeout", 409: "conflict", 413: "too_large", 415: "unsupported_media_type",
         422: "invalid_request_error", 429: "rate_limit_error", 500: "server_error", 503: "unavailable"}  # fmt: skip
SENTENCES = {
    404: "Expected a path of this API, but got another",
    405: "Expected a method that this path has, but got another",
}


class Fault(BaseModel):
    """What went wrong."""

    message: str = Field(description="One sentence for a person.")
    type: str = Field(description="The kind of error, such as invalid_request_error.")
    code: str | None = Field(default=None, description="A name for programs, where there is one.")
    param: str | None = Field(default=None, description="The field it is about, where there is one.")


class Failure(BaseModel):
    """The body of every answer that is an error."""

    error: Fault


class ApiError(Exception):
    """An answer that is an error; `headers` go with it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """JSON in ASCII, so that whatever it quotes can be sent."""
        fault = {"message": self.message, "type": TYPES.get(self.status, "error"), "code": self.code}
        return json.dumps({"error": fault | {"param": self.param}}).encode()

    def response(self) -> Response:
        return Response(self.body(), self.status, self.headers, "application/json")


def too_many(message: str, retry_after: float) -> ApiError:
    """429 with Retry-After in whole seconds, at least 1."""
    seconds = str(max(1, math.ceil(retry_after)))
    return ApiError(429, message, code="try_again", headers={"Retry-After": seconds})


def add_handlers(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Every error that a route raises becomes a `Failure`; `routes` say what a path allows."""

    async def api(_request: Request, error: Any) -> Response:
        return error.response()

    async def invalid(_request: Request, error: Any) -> Response:
        return invalid_error(error.errors()).response()

    async def refused(_request: Request, error: Exception) -> Response:
        if isinstance(error, QueueFullError):
            return too_many(str(error), error.retry_after).response()
        return ApiError(422, str(error)[:500]).response()

    async def http(request: Request, error: Any) -> Response:
        status, headers = error.status_code, dict(error.headers or {})
        if status == 405:  # the framework only names the methods of the first route that has the path
            found = [route.methods or set() for route in routes if route.path_regex.match(request.url.path)]
            headers["Allow"] = ", ".join(sorted(set[str]().union(*found))) or headers.get("Allow", "")
        return ApiError(status, SENTENCES.get(status) or str(error.detail)[:200], headers=headers).response()

    async def unexpected(_request: Request, error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return ApiError(500, "an error inside the program; the server's log has it").response()

    app.add_exception_handler(ApiError, api)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ZelligeError, refused)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


def invalid_error(errors: Any) -> ApiError:
    """422 that says the first thing pydantic found, 400 for a body that is no JSON."""
    first = errors[0] if errors else {}
    place = ".".join(str(part) for part in first.get("loc", ())[1:]) or "the body"
    if first.get("type") == "json_invalid":
        return ApiError(400, f"Expected a body of JSON, but got: {first.get('ctx', {}).get('error', '')}"[:300])
    message = str(first.get("msg", "it doesn't fit")).removeprefix("Value error, ")
    given = ascii(first.get("input"))
    given = given if len(given) <= 80 else f"{given[:60]}... ({len(given)} characters)"
    if message.startswith("Expected"):
        return ApiError(422, message[:500], param=place[:200])
    return ApiError(422, f"Expected {place[:200]} to fit its description ({message[:200]}), but got {given}",
                    param=place[:200])  # fmt: skip
