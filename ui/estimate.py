"""How long a batch will take and how much disk, before it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asd.errors import ZelligeError
from materials.defaults import STEPS
from materials.density import base_size
from ui import memory
from ui.jobs import sized
from ui.output import free_space
from ui.request import Request
from ui.results import read_row

if TYPE_CHECKING:
    from ui.batch import Plan

GUESSED_RATE = 0.008
"""Megapixels per second of the shipped model with all its files on one thread of a busy machine: others make more."""
GUIDED_WORK = 10
"""How many times as long a guided material takes (measured at 256x256 px)."""
REFINED_WORK = 1.5
"""How many times as long as a pixel that is made one takes that is refined."""
LEAST_PIXELS = 256**2
"""Smaller results take as long: the model works at the size it was trained at, and the preview has one size."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is left to do: pixels, seconds at `rate` megapixels per second, and bytes at most."""

    rows: int
    kept: int
    pixels: int
    seconds: float
    rate: float
    rate_is: str
    """Where the rate comes from: "given", "measured on the rows that are whole" or "a guess"."""
    disk_bytes: int
    free_bytes: int | None


def estimate(plan: Plan, rate: float | None = None) -> Estimate:
    """What the plan takes at `rate` megapixels per second; by default that of the rows that are whole, or a guess."""
    rate_is = "given"
    if rate is None:
        rate, rate_is = _measured_rate(plan), "measured on the rows that are whole"
    if rate is None:
        rate, rate_is = GUESSED_RATE, "a guess"
    requests = [_sized(task.row.request) for task in plan.todo]
    return Estimate(
        rows=len(plan.todo),
        kept=len(plan.kept),
        pixels=sum(request.size[0] * request.size[1] * request.count for request in requests),
        seconds=sum(map(work, requests)) / 1e6 / rate,
        rate=rate,
        rate_is=rate_is,
        disk_bytes=sum(memory.disk_estimate(request.size, request.count) for request in requests),
        free_bytes=free_space(plan.out),
    )


def work(request: Request) -> float:
    """Pixels to make: small ones counted as `LEAST_PIXELS`, more steps, guidance and refinement as more pixels."""
    request = _sized(request)
    width, height = request.size if request.refine == 1 else base_size(request.size, request.refine)
    pixels = max(LEAST_PIXELS, width * height) * (1 if request.guide == "none" else GUIDED_WORK)
    pixels *= max(1.0, (request.steps or STEPS) / STEPS)
    if request.refine != 1:
        pixels += REFINED_WORK * request.size[0] * request.size[1]
    return request.count * pixels


def _sized(request: Request) -> Request:
    """The request with its size; a photo that has gone meanwhile is the job's to report."""
    try:
        return sized(request)
    except ZelligeError:
        return request


def _measured_rate(plan: Plan) -> float | None:
    done = seconds = 0.0
    for task in plan.kept:
        found = read_row(task.folder)
        if found is not None:
            done, seconds = done + work(task.row.request), seconds + found[0].seconds
    return done / 1e6 / seconds if seconds > 0 else None
