"""What the page's worker does: requests through `run_job`, with the model loaded once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asd.errors import ZelligeError
from ui import jobs
from ui.enlarging import in_one_step
from ui.jobs import JobInterrupted, Pipeline, Progress, run_job
from ui.line import Line, Stopped, Ticket, unforeseen
from ui.models import Models
from ui.request import Kind, Request
from ui.web.limits import Limits
from ui.web.uploads import slug
from ui.web.views import Views

if TYPE_CHECKING:
    from materials.material import Material

MAX_WAITING = 16
"""Pieces of work that may wait: more would wait for longer than anybody does."""
STEPS_SHARE: dict[Kind, float] = {"material": 0.62, "image": 0.8, "upscale": 0.9, "maps": 0.8}
"""Of the time of a sample, what its steps take; the rest is decoding and writing (at 128 and 512 pixels)."""
STEP: dict[Kind, str] = {"material": "step", "image": "step", "upscale": "step", "maps": "pass"}
FIRST: dict[Kind, str] = {"material": "Starting", "image": "Starting", "upscale": "Reading the picture",
                          "maps": "Reading the photo"}  # fmt: skip


def shipped(device: str) -> Models:
    """The model in the package, on a device."""
    return Models(lambda name: jobs._load(name, device))


@dataclass(frozen=True)
class Studio:
    """What the tabs share: where results go, the worker, and what the browser is shown."""

    out: Path
    models: Models = field(default_factory=lambda: shipped("auto"))
    line: Line = field(default_factory=lambda: Line(places=MAX_WAITING))
    views: Views = field(default_factory=Views)
    limits: Limits = field(default_factory=Limits)

    def plain(self, text: str) -> str:
        """A sentence without the places of this machine in it."""
        for place in (str(self.out.resolve()), str(self.out)):
            text = text.replace(f"{place}/", "")
        return text

    def told(self, error: Exception) -> str:
        """An error as a sentence for the page."""
        return self.plain(str(error) if isinstance(error, ZelligeError) else unforeseen(error))

    def new_folder(self, request: Request) -> Path:
        """A folder of `out` that is not there yet, named after the time and the prompt."""
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{slug(request.prompt, request.kind)}"
        for number in range(1, 1000):
            folder = self.out / (stem if number == 1 else f"{stem}-{number}")
            if not folder.exists():
                return folder
        raise ZelligeError(f"Expected a free name for the result, but {stem} is taken a thousand times")


def make_results(studio: Studio, request: Request, ticket: Ticket) -> list[dict[str, Any]]:
    """Make the request's samples and describe them for the preview, best score first.

    Where the owner stops it, the samples that are whole are described, and `Stopped` is raised if there are none.
    """
    pipeline = None
    if not in_one_step(request):
        ticket.report(0.0, "Loading the model")
        pipeline = studio.models(None)
    out = studio.new_folder(request)
    ticket.report(0.0, FIRST[request.kind])
    ticket.begin()
    each = 1 / request.count

    def show(progress: Progress) -> None:
        within = STEPS_SHARE[request.kind] * progress.step / progress.steps
        which = f"Sample {progress.sample + 1} of {progress.count}, " if progress.count > 1 else ""
        text = f"{which}{STEP[request.kind]} {progress.step} of {progress.steps}"
        ticket.report(0.97 * each * (progress.sample + within), text[:1].upper() + text[1:])

    # other kinds take the pipeline apart, and their last step is their last chance to stop
    given: Any = _Stoppable(pipeline, ticket) if pipeline is not None and request.kind == "material" else pipeline
    try:
        folders = [sample.folder for sample in run_job(request, out, given, show).samples]
    except JobInterrupted as stopped:
        folders = [sample.folder for sample in stopped.result.samples]
        if not folders:
            raise Stopped from stopped
        return describe(studio, folders, lambda done: None)
    finally:
        for begun in out.parent.glob(f".{out.name}.*.job"):  # an enlargement's, which nobody can take up here
            shutil.rmtree(begun, ignore_errors=True)
    return describe(studio, folders, lambda done: ticket.report(0.97 + 0.03 * done, "Preparing the preview"))


def describe(studio: Studio, folders: list[Path], show: Callable[[float], None]) -> list[dict[str, Any]]:
    """What the preview shows of result folders, best score first; `folder` stays on the server."""
    items = []
    for place, folder in enumerate(folders):
        show(place / len(folders))
        items.append(studio.views.result(folder, studio.out) | {"folder": str(folder)})
    return sorted(items, key=_rank)


def _rank(item: Mapping[str, Any]) -> tuple[float, float]:
    score = item["score"]
    return (0.0, 0.0) if score is None else (-score["both"], max(score["seam_x"], score["seam_y"]))


class _Stoppable:
    """A pipeline that notices a stop also between the last step and the files."""

    def __init__(self, pipeline: Pipeline, ticket: Ticket) -> None:
        self.pipeline = pipeline
        self.ticket = ticket

    def __call__(self, prompt: str, **options: Any) -> Material:
        material = self.pipeline(prompt, **options)
        self.ticket.report(self.ticket.done, "Writing the files")
        return material
