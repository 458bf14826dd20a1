"""Sampling in tiles: predict in tiles, put the predictions on one canvas, step the canvas once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .clean import CleanHook, steered
from .tiles import Layout, Place, TileError, TilePlan


class Predictor(Protocol):
    """The network, guidance included: tiles (B, C, h, w) at one time step, and where each lies, to (B, C', h, w).

    The places are the hook for all that differs from tile to tile: prompts, control images, position ids.
    """

    def __call__(self, tiles: Tensor, timestep: Any, places: Sequence[Place], /) -> Tensor: ...


class Scheduler(Protocol):
    """A diffusers scheduler on which `set_timesteps` was called."""

    timesteps: Any

    def step(self, model_output: Any, timestep: Any, sample: Any) -> Any: ...


class StepDone(NamedTuple):
    """What `on_step` is told: the step in the plan, its time step, the canvas after it, and network calls so far."""

    step: int
    timestep: Any
    latents: Tensor
    calls: int


@torch.no_grad()
def denoise(
    model_fn: Predictor,
    latents: Tensor,
    scheduler: Scheduler,
    plan: TilePlan,
    *,
    timesteps: Sequence[Any] | Tensor | None = None,
    batch: int = 4,
    first: int = 0,
    generator: torch.Generator | list[torch.Generator] | None = None,
    on_step: Callable[[StepDone], Tensor | None] | None = None,
    steer: CleanHook | None = None,
) -> Tensor:
    """Sample a canvas (N, C, H, W) of any size with any diffusers scheduler; returns it after the last step.

    At every step the canvas is scaled as the scheduler asks, predicted in the plan's tiles, and the scheduler steps the
    canvas as a whole: it never learns of the tiles, so solvers that remember earlier steps work as they are. Where one
    tile covers the canvas this is the ordinary loop, and its result the same to the bit. On an axis that wraps, that
    tile too is cut in another place at each step, which a network on a torus doesn't see and any other needs.

    Args:
        model_fn: the network, in `Seamless` along `plan.tile_seamless` and no other axis.
        latents: starting noise, scaled by `scheduler.init_noise_sigma`, or a noised image.
        scheduler: with its time steps set.
        plan: for a canvas of this size.
        timesteps: those to run, if not all of the scheduler's.
        batch: tiles, of all images together, that go through the network at once.
        first: index of the first of these steps in the plan, for a run that goes on where another stopped.
        generator: for schedulers that draw noise.
        on_step: called after every step; a tensor that it returns replaces the canvas, and what it raises ends the run.
        steer: changes the clean canvas that is predicted at every step, such as `asd.tile_guide.TileGuide`.

    Raises:
        TileError: the canvas isn't the plan's, a batch below 1, or the network answers in another shape.
    """
    if latents.ndim != 4 or tuple(latents.shape[-2:]) != plan.size:
        raise TileError(
            f"Expected latents of shape (N, C, {plan.size[0]}, {plan.size[1]}), but got {tuple(latents.shape)}."
        )
    options = _accepted(scheduler.step, generator=generator)
    scale: Callable[[Tensor, Any], Tensor] | None = getattr(scheduler, "scale_model_input", None)
    prediction: Tensor | None = None
    calls = 0
    for i, timestep in enumerate(scheduler.timesteps if timesteps is None else timesteps):
        layout = plan.layout(first + i)
        scaled = latents if scale is None else scale(latents, timestep)
        prediction = predict(model_fn, scaled, timestep, layout, batch=batch, previous=prediction)
        answer = prediction if steer is None else steered(scheduler, prediction, scaled, timestep, steer)
        latents = scheduler.step(answer, timestep, latents, **options)[0]
        calls += layout.calls * len(latents)
        if on_step is not None:
            replaced = on_step(StepDone(first + i, timestep, latents, calls))
            latents = latents if replaced is None else replaced
    return latents


def predict(
    model_fn: Predictor,
    canvas: Tensor,
    timestep: Any,
    layout: Layout,
    *,
    batch: int = 4,
    previous: Tensor | None = None,
) -> Tensor:
    """The network's prediction for a canvas (N, C, H, W), from the tiles of one layout.

    Cells that no tile answers for are taken from `previous`, or are zero: that happens with the published rule alone.

    Raises:
        TileError: a batch below 1, or the network answers in another shape.
    """
    if batch < 1:
        raise TileError(f"Expected a batch of at least 1 tile, but got {batch}.")
    jobs = [(sample, row, column) for sample in range(len(canvas)) for row, column in layout.tiles()]
    made: Tensor | None = None
    kind = canvas.dtype
    for at in range(0, len(jobs), batch):
        part = jobs[at : at + batch]
        places = [Place(n, row.cells, column.cells) for n, row, column in part]
        tiles = torch.stack([place.crop(canvas) for place in places])
        answers = model_fn(tiles, timestep, places)
        if answers.shape[0] != len(part) or answers.shape[2:] != tiles.shape[2:]:
            raise TileError(
                f"Expected predictions of shape ({len(part)}, C, {tiles.shape[2]}, {tiles.shape[3]}), "
                f"but got {tuple(answers.shape)}."
            )
        if made is None:
            # sums of many halves: in the prediction's own half precision they would lose what blending gains
            kind, sums = answers.dtype, torch.promote_types(answers.dtype, torch.float32)
            made = answers.new_zeros((len(canvas), answers.shape[1], *canvas.shape[-2:]), dtype=sums)
        for (n, row, column), answer in zip(part, answers, strict=True):
            inside = (slice(row.start, row.stop), slice(column.start, column.stop))
            weight = (row.weight[inside[0], None] * column.weight[None, inside[1]]).to(made)
            rows, columns = row.cells[inside[0]].to(made.device), column.cells[inside[1]].to(made.device)
            made[n, :, rows[:, None], columns[None]] += answer[:, *inside] * weight
    if made is None:
        raise TileError(f"Expected a batch of at least one image, but got latents of shape {tuple(canvas.shape)}.")
    made = made.to(kind)
    if previous is not None and layout.stale_share > 0:
        made = torch.where(layout.covered().to(made.device), made, previous)
    return made


def _accepted(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """The options a scheduler's step takes; what it returns is asked for as a tuple."""
    names = inspect.signature(function).parameters
    given = {name: value for name, value in options.items() if value is not None and name in names}
    return given | ({"return_dict": False} if "return_dict" in names else {})
