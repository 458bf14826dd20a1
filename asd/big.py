"""Enlarging a picture to any size in bounded memory, in a folder that a killed run goes on from."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .canvas_file import Enlarged, Sink, create, opened, replacing, to_bytes
from .checkpoint import StepCheckpoint
from .errors import OutputError
from .job_folder import RESULT, Bytes, begin, check_bytes, cut, publish, release
from .latent_model import LatentModel
from .sampling import StepDone
from .seamless import SeamlessAxes, parse_axes
from .sizes import Size
from .tiles import Place, TilePlan
from .two_stage import Settings, Tiling, canvas_for, passes, sample, steps_run, whole_tile
from .vae_layers import Span

HISTORY = 3
"""Canvases that a checkpoint holds at most: the canvas, and what a solver of order 3 remembers."""


@dataclass(frozen=True, kw_only=True)
class Enlargement:
    """What to do; equal ones, with one model, make equal bytes.

    Attributes:
        size: (width, height) in pixels.
        strength, steps, anchor, seamless, seed, tiling, faithful: see `asd.upscale`.
        model: what decides the network's answers, as text, such as a hash of the weights.
    """

    size: tuple[int, int]
    strength: float
    steps: int
    anchor: float = 1.0
    seamless: SeamlessAxes = "none"
    seed: int = 0
    tiling: Tiling = field(default_factory=Tiling)
    faithful: bool = False
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a job that has not begun: network calls, tiles of the autoencoder, bytes in its folder at most."""

    calls: int
    steps: int
    disk: int


def enlargement_cost(image_size: tuple[int, int], model: LatentModel, job: Enlargement) -> Cost:
    """What `enlarge` of an image of (width, height) will take."""
    sizes = passes(image_size, job.size) or [Size(*job.size)]
    steps = len(steps_run(model.scheduler, job.steps, job.strength))
    calls = disk = 0
    for size in sizes:
        canvas = canvas_for(model, size, job.seamless)
        tile = job.tiling.tile or whole_tile(model, canvas) or model.tile
        calls += steps * TilePlan(canvas, tile, job.tiling.method, job.seamless).layout(1).calls
        pixels = canvas[0] * canvas[1] * model.factor**2
        latents = 4 * model.channels * canvas[0] * canvas[1]
        disk = max(disk, pixels * (3 + 6 * job.faithful + 3) + latents * (1 + 2 * HISTORY)) + 3 * size[0] * size[1]
    return Cost(calls=calls, steps=steps * len(sizes), disk=disk)


@torch.no_grad()
def seconds_per_call(model: LatentModel, job: Enlargement) -> float:
    """Of one tile through the network, by trying it."""
    side = job.tiling.tile or model.tile
    timestep = steps_run(model.scheduler, job.steps, job.strength)[0]
    place = Place(0, torch.arange(side), torch.arange(side))
    tile = torch.zeros(1, model.channels, side, side, device=model.device)
    began = time.perf_counter()
    model.predictor((side, side), "none")(tile, timestep, [place]).cpu()
    return time.perf_counter() - began


@torch.no_grad()
def enlarge(
    image: Bytes,
    model: LatentModel,
    folder: str | Path,
    job: Enlargement,
    *,
    callback: Callable[[int, int], None] | None = None,
) -> Bytes:
    """Enlarge a picture (3, h, w) of bytes as `asd.upscale` does; returns the result, mapped from a file in `folder`.

    After every step the canvas and the scheduler's memory go to the disk at once or not at all. A run that stops, by an
    exception, Ctrl-C or kill -9, is gone on with by the same call, and the bytes are those of a run without a stop.
    Pixels are never in memory as a whole.

    Args:
        image: sRGB.
        model: network, autoencoder and prompt.
        folder: the job's own; it is made if need be.
        job: size, strength, ...
        callback: called as (step, steps); a run that is gone on with starts with a higher step.

    Raises:
        ZelligeError: the folder is of another job, or a number is out of range.
        OutputError: the disk has no room.
        CheckpointError: a file in the folder is damaged.
    """
    folder = Path(folder)
    check_bytes(image)
    told = {name: getattr(job, name) for name in job.__dataclass_fields__}
    name = begin(folder, image, told | {"tiling": {name: getattr(job.tiling, name) for name in ("tile", "method")}})
    wrap_x, wrap_y = parse_axes(job.seamless)
    image = cut(image, job.size, wrap_x=wrap_x, wrap_y=wrap_y)
    sizes = passes((image.shape[2], image.shape[1]), job.size) or [Size(*job.size)]
    targets = [*(folder / f"pass-{k}.npy" for k in range(len(sizes) - 1)), folder / RESULT]
    each = len(steps_run(model.scheduler, job.steps, job.strength))
    finished = [k for k, target in enumerate(targets) if target.is_file()]
    for k in range(max(finished, default=0), len(sizes)):

        def step_done(done: StepDone, k: int = k) -> None:
            if callback is not None:
                callback(k * each + done.step + 1, len(sizes) * each)

        if not targets[k].is_file():
            _pass(image, sizes[k], model, folder, f"{k}", targets[k], job, name, step_done)
        image = opened(targets[k])
        for rest in (*folder.glob(f"{k}-*"), *folder.glob(f".{k}-*"), *targets[:k]):
            rest.unlink(missing_ok=True)
    return image


def _pass(
    image: Bytes,
    size: Size,
    model: LatentModel,
    folder: Path,
    stem: str,
    target: Path,
    job: Enlargement,
    name: str,
    on_step: Callable[[StepDone], None],
) -> None:
    wrap_x, wrap_y = parse_axes(job.seamless)
    wrap = (wrap_y, wrap_x)
    cells = canvas_for(model, size, job.seamless)
    canvas = (cells[0] * model.factor, cells[1] * model.factor)
    shown = (canvas[0] if wrap_y else size.height, canvas[1] if wrap_x else size.width)
    source = Enlarged(image, shown, canvas, wrap)
    start = _start(model, source, folder / f"{stem}-start.safetensors", job, name)
    noise = torch.randn(tuple(start.shape), generator=torch.Generator().manual_seed(job.seed)).to(model.device)
    settings = Settings(
        steps=job.steps,
        noise=lambda _: noise,
        seamless=job.seamless,
        tiling=job.tiling,
        generator=torch.Generator().manual_seed(job.seed + 1),
        seed=job.seed,
        on_step=on_step,
    )
    saved = StepCheckpoint(folder / f"{stem}-step.safetensors", name)
    latents = sample(
        model, noise, settings, start=start, strength=job.strength, anchor=job.anchor, checkpoint=saved
    )
    made = create(folder / f"{stem}-pixels.npy", (shown[1], shown[0]))
    base: Any = None
    if job.faithful:
        base = _base(model, start, folder / f"{stem}-base.npy", canvas, job)

    def put(rows: Span, columns: Span, tile: Tensor) -> None:
        tile = tile[0].float().cpu()
        if base is not None:
            enlarged = source.read(rows, columns, torch.device("cpu"))[0, :3]
            before = torch.from_numpy(base[:, rows.start : rows.stop, columns.start : columns.stop].astype(np.float32))
            tile = enlarged + tile - before
            release(base)
        high, wide = min(rows.stop, shown[0]) - rows.start, min(columns.stop, shown[1]) - columns.start
        if high > 0 and wide > 0:
            window = to_bytes(tile)[:, :high, :wide]
            made[:, rows.start : rows.start + high, columns.start : columns.start + wide] = window
            release(made)

    model.decode_into(latents, Sink(canvas, put), job.seamless)
    publish(made, folder / f"{stem}-pixels.npy", target, size, wrap)


def _start(model: LatentModel, source: Enlarged, path: Path, job: Enlargement, name: str) -> Tensor:
    """The enlarged picture's latents, kept because encoding takes as long as some steps."""
    from safetensors.torch import load_file, save_file

    if path.is_file():
        with suppress(Exception):  # damaged: encoded again
            return load_file(path)["start"].to(model.device)
    made = model.encode_from(source, job.seamless)
    with replacing(path) as beside:
        save_file({"start": made.contiguous().cpu()}, beside, {"job": name})
    return made


def _base(model: LatentModel, start: Tensor, path: Path, canvas: tuple[int, int], job: Enlargement) -> Any:
    """What the autoencoder makes of the latents alone, (3, H, W) in half precision, mapped."""
    path.unlink(missing_ok=True)
    try:
        made: Any = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(3, *canvas))
    except OSError as error:
        raise OutputError(f"Expected room at {path}, but got {error.strerror or error}.") from error

    def put(rows: Span, columns: Span, tile: Tensor) -> None:
        made[:, rows.start : rows.stop, columns.start : columns.stop] = tile[0].half().cpu().numpy()
        release(made)

    model.decode_into(start, Sink(canvas, put), job.seamless)
    return made
