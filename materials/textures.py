"""Pictures of textures by the material model: from a prompt, from a picture, larger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from asd.pictures import to_tensor
from asd.sampling import StepDone
from asd.seamless import SeamlessAxes, parse_axes
from asd.two_stage import Settings, finished, first_stage, image_to_image, pasted, steps_run
from asd.upscaling import upscale
from materials.detail import add_detail
from materials.errors import ZelligeError
from materials.grain import STRENGTH as GRAIN
from materials.pipeline import STEPS, MaterialPipeline
from materials.texture_model import TextureModel

STRENGTH = 0.6
"""Of a given picture, how much is made anew."""
UPSCALE_STRENGTH = 0.1
UPSCALE_STEPS = 20
UPSCALE_GUIDANCE = 1.0


@torch.no_grad()
def paint_texture(
    pipeline: MaterialPipeline,
    prompt: str,
    *,
    size: tuple[int, int] = (512, 512),
    seamless: SeamlessAxes = "xy",
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    scale: float | None = None,
    negative: str | None = None,
    image: Any = None,
    mask: Any = None,
    strength: float | None = None,
    grain: float = GRAIN,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """A picture (3, height, width) in [0, 1], sRGB, of `size` = (width, height) pixels.

    Beyond 560 pixels a side or so it is made in moving tiles, from noise at its full size: a larger picture shows more
    of the surface, not the same larger. (A texture has no shape as a whole for a first stage to find, and the shipped
    model's second stage blurs.)

    Args:
        pipeline: the material model.
        prompt: what it is.
        seamless: axes on which it tiles.
        steps, guidance, scale: see `MaterialPipeline.__call__`.
        negative: what guidance leads away from.
        image, mask: what to start from, and where (white) it is to be made anew; see `asd.pictures.to_tensor`.
        strength: how much of `image` is given up.
        grain: strength of the fine detail that the autoencoder can't keep.
        callback: called as (step, steps).

    Raises:
        ZelligeError: an argument out of range, or a mask without an image.
    """
    if mask is not None and image is None:
        raise ZelligeError("Expected an image to go with the mask, but got none.")
    if strength is not None and image is None:
        raise ZelligeError("Expected an image to go with strength, but got none.")
    strength = STRENGTH if strength is None else strength
    steps = STEPS if steps is None else steps
    wrap_x, wrap_y = parse_axes(seamless)
    model = TextureModel(pipeline, [prompt], negative=negative, guidance=guidance, scale=scale)
    total = len(steps_run(model.scheduler, steps, 1.0 if image is None else strength))

    def noise(canvas: tuple[int, int]) -> Tensor:
        return torch.randn((1, model.channels, *canvas), generator=torch.Generator().manual_seed(seed))

    def step_done(done: StepDone) -> None:
        if callback is not None:
            callback(done.step + 1, total)

    settings = Settings(steps=steps, noise=noise, seamless=seamless, seed=seed, on_step=step_done)
    given: Tensor | None = None
    hole: Tensor | None = None
    if image is None:
        canvas = model.least_size(size)
        latents = first_stage(model, canvas, settings)
        made = finished(model, latents, canvas, size, seamless)
    else:
        given = to_tensor(image)[:1] * 2 - 1
        hole = None if mask is None else to_tensor(mask, 1)[:1]
        latents = image_to_image(model, given, size, settings, strength=strength, mask=hole)
        made = finished(model, latents, size, size, seamless)
    pixels = (made[0] * 0.5 + 0.5).clamp(0, 1)
    pixels = add_detail(pixels, seed, pipeline.detailer, wrap_x=wrap_x, wrap_y=wrap_y, strength=grain)
    if given is not None and hole is not None:
        pixels = pasted(pixels[None] * 2 - 1, given, hole, seamless)[0] * 0.5 + 0.5
    return pixels.clamp(0, 1)


def upscale_texture(
    pipeline: MaterialPipeline,
    image: Any,
    *,
    size: tuple[int, int],
    prompt: str = "",
    seamless: SeamlessAxes = "none",
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    strength: float | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """`image` at `size` = (width, height), as (3, height, width) in [0, 1]; the arguments are `paint_texture`'s."""
    guidance = UPSCALE_GUIDANCE if guidance is None else guidance
    model = TextureModel(pipeline, [prompt], negative=negative, guidance=guidance)
    return upscale(
        image,
        model,
        size=size,
        strength=UPSCALE_STRENGTH if strength is None else strength,
        steps=UPSCALE_STEPS if steps is None else steps,
        faithful=True,
        seamless=seamless,
        seed=seed,
        output_type="pt",
        callback=callback,
    )
