"""The bodies of requests and answers, with the limits that a document can state; `Settings` has the others."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ui.api.errors import ApiError
from ui.api.settings import SHIPPED, Settings
from ui.job_store import Job, State
from ui.queue import JobQueue, fraction
from ui.request import MAX_COUNT, MAX_PROMPT, MAX_STEPS, HeightFormat, Refine, Request, Seamless

_PLAIN = r"[^\x00-\x09\x0B-\x1F\x7F]"
Prompt = Annotated[
    str,
    Field(
        min_length=1, max_length=MAX_PROMPT, pattern=rf"^{_PLAIN}*[^\x00-\x20\x7F\s]{_PLAIN}*$",
        description="What to make. No control characters.", examples=["mossy cobblestone wall"],
    ),
]  # fmt: skip
Size = Annotated[
    str,
    Field(pattern=r"^[1-9][0-9]{0,5}x[1-9][0-9]{0,5}$", description="Width x height in pixels.", examples=["512x512"]),
]


def _whole(value: object) -> object:
    """To JSON, 7.0 is a whole number too, and true is none."""
    if isinstance(value, bool):
        raise ValueError("Expected a whole number, but got true or false")
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_whole)
Count = Annotated[int, Field(ge=1, le=MAX_COUNT, strict=True, description="Samples; sample i has seed + i."), _WHOLE]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS, strict=True), _WHOLE]
Scalar = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seed = Annotated[
    int,
    Field(ge=0, le=2**53 - 1, strict=True, description="As far as every JSON reader keeps whole numbers exact."),
    _WHOLE,
]
Name = Annotated[
    str,
    Field(min_length=1, max_length=64, description="A model of this server, by the name that its operator gave it."),
]


class Lock(BaseModel):
    """Maps kept at one value."""

    model_config = ConfigDict(extra="forbid", strict=True)

    basecolor: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$", examples=["#8b5a2b"])] | None = None
    height: Scalar | None = None
    roughness: Scalar | None = None
    metallic: Scalar | None = None


class JobIn(BaseModel):
    """What to make: the fields of `zellige material`; images and paths of this server cannot be named."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"prompt": "mossy cobblestone wall", "size": "512x512", "seed": 7}]},
    )

    prompt: Prompt
    kind: Literal["material"] = "material"
    size: Size = "512x512"
    seamless: Seamless = "xy"
    seed: Seed = 0
    count: Count = 1
    steps: Steps | None = None
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False, strict=True)] | None = None
    scale: Annotated[Scalar, Field(strict=True, description="Size of the pattern, 0 to 1.")] | None = None
    refine: Annotated[
        Refine,
        Field(description="Made with so many times fewer texels along a side and refined to `size`: finer, not more."),
        _WHOLE,
    ] = 1
    lock: Lock = Field(default_factory=Lock)
    model: Name | None = None
    height_format: HeightFormat = "png16"
    strip_metadata: Annotated[bool, Field(strict=True, description="Leave prompt, seed and origin out.")] = False

    def to_request(self, settings: Settings) -> Request:
        """The `Request`, within the settings' limits.

        Raises ApiError: 413 for more than the limits allow, 404 for a model that is none of the server's.
        """
        values = self.model_dump(exclude_none=True)
        values["model"] = known_model(self.model, settings)
        request = Request.from_dict(values)
        for name, value, limit in (("count", request.count, settings.max_count),
                                   ("steps", request.steps or 0, settings.max_steps)):  # fmt: skip
            if value > limit:
                raise ApiError(413, f"Expected {name} of at most {limit} here, but got {value}", param=name)
        check_pixels(request.size, settings)
        return request


def known_model(name: str | None, settings: Settings) -> str | None:
    """The name as `Request.model` has it. Raises ApiError for one that the server doesn't have."""
    if name in (None, SHIPPED):
        return None
    if name not in settings.models:
        known = ", ".join([SHIPPED, *settings.models])
        raise ApiError(404, f"Expected a model of this server ({known}), but got {ascii(name)[:80]}",
                       code="model_not_found", param="model")  # fmt: skip
    return name


def check_pixels(size: tuple[int, int], settings: Settings) -> None:
    """Raises ApiError for an image of more pixels than the server takes."""
    if size[0] * size[1] > settings.max_pixels:
        raise ApiError(413, f"Expected at most {settings.max_pixels} pixels here, but got {size[0]}x{size[1]}",
                       code="too_many_pixels", param="size")  # fmt: skip


class FileOut(BaseModel):
    """A file of a result."""

    name: str = Field(examples=["basecolor.png"])
    bytes: int
    url: str = Field(examples=["/v1/jobs/0f3c5bd2a0f84d1f9f4f9a2d7c1f4b11/files/basecolor.png"])


class JobOut(BaseModel):
    """A job as it is now."""

    id: str = Field(examples=["0f3c5bd2a0f84d1f9f4f9a2d7c1f4b11"])
    state: State
    position: int | None = Field(description="Jobs ahead of a waiting one.")
    progress: float = Field(ge=0, le=1)
    eta_seconds: float | None = Field(description="Until it is through, by an estimate; null once it is.")
    sample: int = Field(description="Samples finished before the one in work.")
    step: int = Field(description="Denoising steps of that one.")
    steps: int
    created: float = Field(description="Seconds since 1970, as the others.")
    started: float | None
    finished: float | None
    error: str | None = Field(description="Why it failed.")
    request: dict[str, Any]
    files: list[FileOut]


class FilesOut(BaseModel):
    """The files of a result."""

    files: list[FileOut]


def job_out(job: Job, queue: JobQueue) -> JobOut:
    """What clients see of a job."""
    return JobOut(
        id=job.id,
        state=job.state,
        position=queue.position(job.id),
        progress=round(fraction(job), 4),
        eta_seconds=None if (eta := queue.eta(job.id)) is None else round(eta, 1),
        sample=job.sample,
        step=job.step,
        steps=job.steps,
        created=job.created,
        started=job.started,
        finished=job.finished,
        error=job.error,
        request=job.request.to_dict(),
        files=files_out(job),
    )


def files_out(job: Job) -> list[FileOut]:
    """The files of a job that is done."""
    return [FileOut(name=name, bytes=size, url=f"/v1/jobs/{job.id}/files/{name}") for name, size in job.files.items()]


class Score(BaseModel):
    """How well one image tiles; see docs/score.md."""

    width: int
    height: int
    both: float
    x: float
    y: float
    seam_x: float
    seam_y: float
    verdict: str = Field(examples=["tiles"])


class ScoreOut(BaseModel):
    """One uploaded file: its score, or why it has none."""

    name: str = Field(examples=["wall.png"])
    score: Score | None = None
    error: str | None = None


class ScoresOut(BaseModel):
    """The results in the order of the upload."""

    weights: str = Field(description="Version of the score's weights.")
    results: list[ScoreOut]


class ImagesIn(BaseModel):
    """OpenAI's request for images. What this program cannot do is refused, not ignored; `user` alone has no effect."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"prompt": "red brick wall", "size": "512x512", "response_format": "b64_json"}]
        },
    )

    prompt: Prompt
    model: Name | None = None
    n: Count | None = 1
    size: Size | Literal["auto"] | None = "auto"
    response_format: Literal["b64_json", "url"] | None = "url"
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto"] | None = None
    output_format: Literal["png"] | None = None
    style: None = None
    stream: Literal[False] | None = None
    user: Annotated[str, Field(max_length=256)] | None = None
    map: Annotated[
        Literal["basecolor", "normal", "height", "roughness", "metallic", "ao", "preview", "tiled"],
        Field(description="Not OpenAI's: which picture of the material to answer with."),
    ] = "basecolor"
    seed: Seed = 0
    seamless: Seamless = "xy"
    steps: Steps | None = None

    def to_request(self, settings: Settings) -> Request:
        """The `Request`; raises as `JobIn.to_request`."""
        size = "512x512" if self.size in (None, "auto") else self.size
        job = JobIn(
            prompt=self.prompt, size=size, seed=self.seed, count=self.n or 1, steps=self.steps,
            seamless=self.seamless, model=self.model,
        )  # fmt: skip
        return job.to_request(settings)


class ImageOut(BaseModel):
    """One image, in the form that was asked for."""

    b64_json: str | None = None
    url: str | None = Field(default=None, description="Readable without the token for an hour.")


class ImagesOut(BaseModel):
    """OpenAI's answer."""

    created: int
    data: list[ImageOut]
