"""The two stages of any-size diffusion: an image near the trained size, then the same network in tiles that move.

Any-Size-Diffusion (Zheng et al., AAAI 2024) enlarges an image that a model made at a size it knows, adds noise, and
denoises it in tiles (FSTD). Here each step also puts the canvas' low frequencies back to those of the enlarged image:
tiles that see a few trees each would otherwise drift apart in colour.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import SizeError, ZelligeError
from .latent_model import LatentModel
from .resample import resample
from .sampling import StepDone, denoise
from .seamless import Seamless, SeamlessAxes, parse_axes
from .sizes import Size
from .tiles import Method, TilePlan

PASS = 2.0
"""Largest enlargement of one pass, along a side: details are added at each scale on top of those before."""
LEAST = 1.1
"""Below this enlargement a second stage would add nothing; the image is resampled."""
WAVELENGTH = 8
"""Latent cells: coarser than this the anchor decides."""

OnStep = Callable[[StepDone], "Tensor | None"]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a canvas is cut: `tile` cells a side (None: the model's), how they lie, and how many go through at once."""

    tile: int | None = None
    method: Method = "fstd"
    batch: int = 4


class Keep(NamedTuple):
    """Inpainting: latents (N, C, H, W) kept where `mask` (N or 1, 1, H, W) is 0, and made anew where it is 1."""

    latents: Tensor
    mask: Tensor


def steps_run(scheduler: Any, steps: int, strength: float, device: torch.device | str = "cpu") -> Tensor:
    """Set a scheduler's time steps and return those that img2img of this strength runs, as diffusers counts them."""
    if steps < 1:
        raise ZelligeError(f"Expected steps of at least 1, but got {steps}.")
    if not 0 < strength <= 1:
        raise ZelligeError(f"Expected a strength above 0, up to 1, but got {strength:g}.")
    with numpy_2():
        scheduler.set_timesteps(steps, device=device)
    first = max(steps - max(1, min(int(steps * strength), steps)), 0) * getattr(scheduler, "order", 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return scheduler.timesteps[first:]


def sample(
    model: LatentModel,
    noise: Tensor,
    *,
    steps: int,
    seamless: SeamlessAxes = "none",
    start: Tensor | None = None,
    strength: float = 1.0,
    anchor: float = 0.0,
    keep: Keep | None = None,
    tiling: Tiling | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    plan_generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Denoise a canvas of any size in tiles; returns latents (N, C, H, W).

    Args:
        model: network, prompt and scheduler.
        noise: (N, C, H, W), of standard deviation 1.
        steps: of the whole schedule; with `start` a share of `strength` of them is run.
        seamless: axes on which the canvas is a torus.
        start: latents that the noise is added to; None starts from noise alone.
        strength: 0 to 1, how much of `start` is given up.
        anchor: 0 to 1, how firmly the low frequencies of `start` are kept at every step.
        keep: what stays, for inpainting.
        tiling: how the canvas is cut; None for one of the model's own tile.
        generator: for schedulers that draw noise.
        plan_generator: where the start of the tiles' offsets comes from.
        on_step: called after every step; a tensor that it returns replaces the canvas.

    Raises:
        ZelligeError: steps, strength or anchor out of range.
    """
    if not 0 <= anchor <= 1:
        raise ZelligeError(f"Expected an anchor from 0 to 1, but got {anchor:g}.")
    tiling = tiling or Tiling()
    scheduler = model.scheduler
    timesteps = steps_run(scheduler, steps, strength if start is not None else 1.0, noise.device)
    canvas_size = (noise.shape[-2], noise.shape[-1])
    plan = TilePlan(
        canvas_size,
        tiling.tile or whole_tile(model, canvas_size) or model.tile,
        tiling.method,
        seamless,
        generator=plan_generator,
    )
    if start is None:
        latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    else:
        latents = noised(scheduler, start, noise, timesteps[:1])
    order = getattr(scheduler, "order", 1)

    def after(done: StepDone) -> Tensor | None:
        canvas, following = done.latents, timesteps[done.step + 1 : done.step + 2]
        # between the halves of a two-part step the solver keeps the canvas it started from
        if (done.step + 1) % order == 0 or len(following) == 0:
            if anchor > 0 and start is not None:
                wanted = noised(scheduler, start, noise, following)
                canvas = canvas + anchor * coarse(wanted - canvas, seamless)
            if keep is not None:
                canvas = torch.lerp(noised(scheduler, keep.latents, noise, following), canvas, keep.mask.to(canvas))
        replaced = None if on_step is None else on_step(done._replace(latents=canvas))
        return canvas if replaced is None else replaced

    with numpy_2(), Seamless(model.network, plan.tile_seamless):
        return denoise(
            model.predictor(plan.size, seamless),
            latents,
            scheduler,
            plan,
            timesteps=timesteps,
            batch=tiling.batch,
            generator=generator,
            on_step=after,
        )


def noised(scheduler: Any, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Latents with the noise that a scheduler's canvas holds at a time step; at none (the end) they are as given."""
    if len(timestep) == 0:
        return latents.to(noise)
    add = scheduler.scale_noise if hasattr(scheduler, "scale_noise") else None
    if add is not None:
        return add(latents.to(noise), timestep, noise)
    return scheduler.add_noise(latents.to(noise), noise, timestep)


def coarse(x: Tensor, seamless: SeamlessAxes) -> Tensor:
    """The part of (N, C, H, W) with waves longer than `WAVELENGTH` cells, on a torus along the axes given."""
    wrap_x, wrap_y = parse_axes(seamless)
    height, width = x.shape[-2:]
    # half as many samples as the shortest wave kept; an image smaller than that keeps its mean
    small = (max(1, round(2 * height / WAVELENGTH)), max(1, round(2 * width / WAVELENGTH)))
    down = resample(x.float(), small, wrap_x=wrap_x, wrap_y=wrap_y)
    return resample(down, (height, width), wrap_x=wrap_x, wrap_y=wrap_y).to(x.dtype)


def whole_tile(model: LatentModel, canvas: tuple[int, int]) -> int | None:
    """The tile that holds all of a canvas no larger than what the network was trained on, whatever its ratio."""
    return max(canvas) if canvas[0] * canvas[1] <= (LEAST * model.tile) ** 2 else None


def canvas_for(model: LatentModel, size: tuple[int, int], seamless: SeamlessAxes) -> tuple[int, int]:
    """(height, width) in latent cells of the canvas for an image of `size` = (width, height) pixels.

    Without a seam to keep, the canvas is the image and what fills its last cells. A torus must be whole cells, and
    where one tile is the whole torus, whole strides of the network: the nearest such size, to be resampled.

    Raises:
        SizeError: a side below 1.
    """
    if min(size) < 1:
        raise SizeError(f"Expected a size of at least 1x1 pixels, but got {size[0]}x{size[1]}.")
    wraps = parse_axes(seamless)
    made = [
        max(1, round(side / model.factor)) if wrap else -(-side // model.factor)
        for side, wrap in zip(size, wraps, strict=True)
    ]
    tile = whole_tile(model, (made[1], made[0])) or model.tile
    for axis, wrap in enumerate(wraps):
        if wrap and made[axis] <= tile:
            made[axis] = max(1, round(made[axis] / model.multiple)) * model.multiple
    return made[1], made[0]


def to_canvas(images: Tensor, model: LatentModel, seamless: SeamlessAxes) -> Tensor:
    """Images (N, C, H, W) on the pixels of their canvas: continued beyond a border, resampled along an axis that wraps."""
    wrap_x, wrap_y = parse_axes(seamless)
    height, width = images.shape[-2:]
    rows, columns = (cells * model.factor for cells in canvas_for(model, (width, height), seamless))
    torus = (rows if wrap_y else height, columns if wrap_x else width)
    images = resample(images, torus, wrap_x=wrap_x, wrap_y=wrap_y)
    right, bottom = columns - torus[1], rows - torus[0]
    return F.pad(images, (0, right, 0, bottom), mode="replicate") if right or bottom else images


def from_canvas(images: Tensor, size: tuple[int, int], seamless: SeamlessAxes) -> Tensor:
    """The exact pixels, `size` = (width, height), out of those of a canvas that `canvas_for` gave for them."""
    wrap_x, wrap_y = parse_axes(seamless)
    width, height = size
    images = images[..., : images.shape[-2] if wrap_y else height, : images.shape[-1] if wrap_x else width]
    return resample(images, (height, width), wrap_x=wrap_x, wrap_y=wrap_y)


def fitted(images: Tensor, size: tuple[int, int], seamless: SeamlessAxes) -> Tensor:
    """Images at `size` = (width, height): cut to its ratio where nothing wraps, then resampled."""
    wrap_x, wrap_y = parse_axes(seamless)
    width, height = size
    rows, columns = images.shape[-2:]
    wide = min(columns, max(1, round(rows * width / height)))
    high = min(rows, max(1, round(columns * height / width)))
    top, left = (0 if wrap_y else (rows - high) // 2), (0 if wrap_x else (columns - wide) // 2)
    images = images[..., top : top + (rows if wrap_y else high), left : left + (columns if wrap_x else wide)]
    return resample(images, (height, width), wrap_x=wrap_x, wrap_y=wrap_y)


def passes(source: tuple[int, int], target: tuple[int, int]) -> list[Size]:
    """The sizes (width, height) at which an image of `source` is refined on its way to `target`.

    >>> passes((512, 512), (2048, 2048))
    [Size(width=1024, height=1024), Size(width=2048, height=2048)]
    >>> passes((512, 512), (500, 500))
    []
    """
    factor = math.sqrt(target[0] * target[1] / (source[0] * source[1]))
    if factor < LEAST:
        return []
    # an enlargement of 2.2 is not worth two passes
    count = max(1, math.ceil(math.log(factor / LEAST, PASS)))
    back = [factor ** ((k + 1) / count - 1) for k in range(count)]
    made = [Size(max(1, round(target[0] * b)), max(1, round(target[1] * b))) for b in back]
    return [*made[:-1], Size(*target)]


def refine(
    model: LatentModel,
    images: Tensor,
    size: tuple[int, int],
    *,
    noise: Callable[[tuple[int, int]], Tensor],
    **options: Any,
) -> Tensor:
    """The second stage: images (N, 3, h, w) in [-1, 1] to latents whose canvas is that of `size` = (width, height).

    Args:
        model: network, prompt and scheduler.
        images: the first stage's, or any.
        size: pixels wanted.
        noise: called with a canvas' (height, width) for its noise.
        options: those of `sample`: steps, strength, anchor, seamless, ...
    """
    seamless: SeamlessAxes = options.get("seamless", "none")
    start = model.encode(to_canvas(fitted(images, size, seamless), model, seamless), seamless)
    return sample(model, noise((start.shape[-2], start.shape[-1])).to(start.device), start=start, **options)


@contextmanager
def numpy_2() -> Iterator[None]:
    """diffusers' DPMSolverMultistepScheduler hands numpy 2 a tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield
