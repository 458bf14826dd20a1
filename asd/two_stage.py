"""The two stages of any-size diffusion: an image near the trained size, then the same network in tiles that move.

Any-Size-Diffusion (Zheng et al., AAAI 2024) enlarges an image that a model made at a size it knows, adds noise, and
denoises it in tiles (FSTD). Here each step also puts the canvas' low frequencies back to those of the enlarged image:
tiles that see a few trees each would otherwise drift apart in colour.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .checkpoint import StepCheckpoint
from .clean import CleanHook
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


class StopRunError(Exception):
    """Raised by `on_step` to end a run; the canvas as it is then is the result."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all passes of one picture share.

    Attributes:
        steps: of the whole schedule; a pass that starts from an image runs a share of them.
        noise: noise of standard deviation 1 for a canvas of (height, width) cells, (N, C, height, width).
        seamless: axes on which the canvas is a torus.
        tiling: how canvases are cut.
        generator: for schedulers that draw noise.
        seed: where the tiles' offsets start; None: anywhere.
        on_step: called after every step; a tensor that it returns replaces the canvas, `StopRunError` ends the run.
        stopped: asked before each pass.
        steer: changes the clean latents that are predicted at every step of every pass.
    """

    steps: int
    noise: Callable[[tuple[int, int]], Tensor]
    seamless: SeamlessAxes = "none"
    tiling: Tiling = Tiling()
    generator: torch.Generator | list[torch.Generator] | None = None
    seed: int | None = None
    on_step: OnStep | None = None
    stopped: Callable[[], bool] = lambda: False
    steer: CleanHook | None = None


def sample(
    model: LatentModel,
    noise: Tensor,
    settings: Settings,
    *,
    start: Tensor | None = None,
    strength: float = 1.0,
    anchor: float = 0.0,
    keep: Keep | None = None,
    checkpoint: StepCheckpoint | None = None,
) -> Tensor:
    """Denoise a canvas of any size in tiles; returns latents (N, C, H, W).

    Args:
        model: network, prompt and scheduler.
        noise: (N, C, H, W), of standard deviation 1.
        settings: steps, tiles, axes.
        start: latents that the noise is added to; None starts from noise alone.
        strength: 0 to 1, how much of `start` is given up: the share of the steps that is run.
        anchor: 0 to 1, how firmly the low frequencies of `start` are kept at every step.
        keep: what stays, for inpainting.
        checkpoint: where the state goes after every step, and is taken from if it is there. The noise is not in it.

    Raises:
        CheckpointError: the checkpoint is damaged or another run's.
        ZelligeError: steps, strength or anchor out of range.
    """
    if not 0 <= anchor <= 1:
        raise ZelligeError(f"Expected an anchor from 0 to 1, but got {anchor:g}.")
    tiling, seamless, scheduler = settings.tiling, settings.seamless, model.scheduler
    timesteps = steps_run(scheduler, settings.steps, strength if start is not None else 1.0, noise.device)
    canvas_size = (noise.shape[-2], noise.shape[-1])
    plan = TilePlan(
        canvas_size,
        tiling.tile or whole_tile(model, canvas_size) or model.tile,
        tiling.method,
        seamless,
        generator=None if settings.seed is None else torch.Generator().manual_seed(settings.seed),
    )
    if start is None:
        latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    else:
        latents = noised(scheduler, start, noise, timesteps[:1])
    first, single = 0, settings.generator if isinstance(settings.generator, torch.Generator) else None
    if checkpoint is not None and (saved := checkpoint.load(scheduler, single)) is not None:
        first, latents = saved[0] + 1, saved[1].to(latents)
    order, last = getattr(scheduler, "order", 1), latents

    def after(done: StepDone) -> Tensor | None:
        canvas, following = done.latents, timesteps[done.step + 1 : done.step + 2]
        # between the halves of a two-part step the solver keeps the canvas it started from
        if (done.step + 1) % order == 0 or len(following) == 0:
            if anchor > 0 and start is not None:
                wanted = noised(scheduler, start, noise, following)
                canvas = canvas + anchor * coarse(wanted - canvas, seamless)
            if keep is not None:
                canvas = torch.lerp(noised(scheduler, keep.latents, noise, following), canvas, keep.mask.to(canvas))
        nonlocal last
        last = canvas
        if checkpoint is not None:  # before the callback, which may end the run
            checkpoint.save(done.step, last, scheduler, single)
        replaced = None if settings.on_step is None else settings.on_step(done._replace(latents=canvas))
        if replaced is not None:
            last = replaced
            if checkpoint is not None:
                checkpoint.save(done.step, last, scheduler, single)
        return last

    with numpy_2(), suppress(StopRunError), Seamless(model.network, plan.tile_seamless):
        return denoise(
            model.predictor(plan.size, plan.tile_seamless),
            latents,
            scheduler,
            plan,
            timesteps=timesteps[first:],
            first=first,
            batch=tiling.batch,
            generator=settings.generator,
            on_step=after,
            steer=settings.steer,
        )
    return last


def first_stage(model: LatentModel, size: tuple[int, int], settings: Settings, latents: Tensor | None = None) -> Tensor:
    """A picture of `size` = (width, height) from noise, `latents` or fresh; returns its latents.

    Raises:
        SizeError: latents of another shape than the canvas.
    """
    canvas = canvas_for(model, size, settings.seamless)
    return sample(model, _noise(model, canvas, settings, latents), settings)


def faithful_stage(
    model: LatentModel, images: Tensor, size: tuple[int, int], settings: Settings, *, strength: float, anchor: float
) -> Tensor:
    """One pass of the second stage that adds to the enlarged images what the network changed, and nothing else.

    Returns pixels (N, 3, height, width): enlarged + decode(refined) - decode(encode(enlarged)). What the autoencoder
    can't keep of an image is on both sides of that difference, so that it isn't lost; it costs one more decoding.
    """
    seamless, at = settings.seamless, Size(*size)
    enlarged = fitted(images, at, seamless)
    start = encoded(model, enlarged, seamless)
    noise = _noise(model, (start.shape[-2], start.shape[-1]), settings)
    made = sample(model, noise, settings, start=start, strength=strength, anchor=anchor)
    change = model.decode(made, seamless) - model.decode(start, seamless)
    return enlarged + from_canvas(change, at, seamless)


def encoded(model: LatentModel, images: Tensor, seamless: SeamlessAxes) -> Tensor:
    """Latents (model.count, C, H, W) of the canvas that holds images (N, 3, h, w), N = 1 or model.count."""
    latents = model.encode(to_canvas(images, model, seamless), seamless).to(model.device)
    return latents.expand(model.count, -1, -1, -1)


def second_stage(
    model: LatentModel,
    images: Tensor,
    sizes: Sequence[tuple[int, int]],
    settings: Settings,
    *,
    strength: float,
    anchor: float,
) -> tuple[Tensor, Size]:
    """Enlarge images (N, 3, h, w) in [-1, 1] to each of `sizes` = (width, height) in turn, at least one.

    Returns latents, and the size in pixels that they stand for: the last one, unless the run was stopped.
    """
    seamless, made, at = settings.seamless, None, Size(images.shape[-1], images.shape[-2])
    for size in sizes:
        if made is not None:
            if settings.stopped():
                break
            images = from_canvas(model.decode(made, seamless), at, seamless)
        at = Size(*size)
        start = encoded(model, fitted(images, at, seamless), seamless)
        noise = _noise(model, (start.shape[-2], start.shape[-1]), settings)
        made = sample(model, noise, settings, start=start, strength=strength, anchor=anchor)
    if made is None:
        raise SizeError("Expected at least one size to enlarge to, but got none.")
    return made, at


def image_to_image(
    model: LatentModel,
    images: Tensor,
    size: tuple[int, int],
    settings: Settings,
    *,
    strength: float,
    mask: Tensor | None = None,
    latents: Tensor | None = None,
) -> Tensor:
    """Images (N, 3, h, w) in [-1, 1] made anew at `size` = (width, height), in one pass; returns latents.

    Args:
        model, settings: as for `sample`.
        images: one, or as many as the model makes.
        size: pixels wanted.
        strength: how much is given up.
        mask: (N or 1, 1, h, w) in [0, 1], 1 where the images are to be made anew; a latent cell with any such pixel is.
        latents: the noise.
    """
    seamless = settings.seamless
    start = encoded(model, fitted(images, size, seamless), seamless)
    keep = None
    if mask is not None:
        pixels = to_canvas(fitted(mask, size, seamless).clamp(0, 1), model, seamless)
        keep = Keep(start, (F.max_pool2d(pixels, model.factor) > 0.5).to(start))
    noise = _noise(model, (start.shape[-2], start.shape[-1]), settings, latents)
    return sample(model, noise, settings, start=start, strength=strength, keep=keep)


def finished(
    model: LatentModel, latents: Tensor, at: tuple[int, int], size: tuple[int, int], seamless: SeamlessAxes
) -> Tensor:
    """Exact pixels (N, 3, H, W) of `size` = (width, height) from latents that stand for a picture of `at`."""
    return fitted(from_canvas(model.decode(latents, seamless), at, seamless), size, seamless)


def pasted(made: Tensor, images: Tensor, mask: Tensor, seamless: SeamlessAxes) -> Tensor:
    """What the mask keeps of `images` is their own pixels."""
    size = (made.shape[-1], made.shape[-2])
    return torch.lerp(fitted(images, size, seamless).to(made), made, fitted(mask, size, seamless).clamp(0, 1).to(made))


def _noise(model: LatentModel, canvas: tuple[int, int], settings: Settings, given: Tensor | None = None) -> Tensor:
    shape = (model.count, model.channels, *canvas)
    if given is not None and tuple(given.shape) != shape:
        raise SizeError(f"Expected latents of shape {shape}, but got {tuple(given.shape)}.")
    return (settings.noise(canvas) if given is None else given).to(model.device)


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
    """Images (N, C, H, W) on their canvas: continued beyond a border, resampled along an axis that wraps."""
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


@contextmanager
def numpy_2() -> Iterator[None]:
    """diffusers' DPMSolverMultistepScheduler hands numpy 2 a tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield
