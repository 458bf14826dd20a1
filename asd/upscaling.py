"""`upscale`: an image enlarged, by the shipped upscaler or by the second stage of a diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import SizeError, ZelligeError
from .job_folder import cut
from .latent_model import LatentModel
from .pictures import check_output_type, from_tensor, to_tensor
from .sampling import StepDone
from .seamless import SeamlessAxes, parse_axes
from .sizes import Size
from .texture_enlarge import enlarged_texture, load_upscaler
from .texture_upscaler import TextureUpscaler
from .two_stage import Settings, Tiling, faithful_stage, finished, passes, second_stage, steps_run

if TYPE_CHECKING:
    from .pipeline import AnySizePipeline

STEPS = 30
STRENGTH = 0.3


@torch.no_grad()
def upscale(
    image: Any,
    model: TextureUpscaler | LatentModel | AnySizePipeline | str | Path | None = None,
    *,
    size: tuple[int, int] | None = None,
    factor: float | None = None,
    prompt: str = "",
    negative_prompt: str | None = None,
    guidance_scale: float | None = None,
    strength: float | None = None,
    steps: int | None = None,
    anchor: float | None = None,
    faithful: bool = False,
    seamless: SeamlessAxes = "none",
    seed: int = 0,
    tiling: Tiling | None = None,
    output_type: str = "pil",
    callback: Callable[[int, int], None] | None = None,
) -> Any:
    """Enlarge an image: with the shipped upscaler in one step for each factor of 4, or with a text-to-image model.

    The latter works at most twofold a pass: noise, then moving tiles, colours anchored.

    Args:
        image: a PIL image, file, array or tensor, see `asd.pictures.to_tensor`.
        model: None for the upscaler that ships, which takes none of the options that are marked; another
            `TextureUpscaler`; an `AnySizePipeline`, the folder or hub id of one, or any `LatentModel`, which knows its
            prompt.
        size: (width, height) in pixels, or
        factor: how many times larger each side becomes.
        prompt, negative_prompt, guidance_scale: (diffusion) for an `AnySizePipeline`.
        strength: (diffusion) above 0, up to 1: how much each pass may change, 0.3 by default.
        steps: (diffusion) of the whole schedule, 30 by default; a pass runs a share of `strength` of them.
        anchor: (diffusion) 0 to 1, how firmly low frequencies are kept, 1 by default.
        faithful: (diffusion) add the network's changes to the enlarged image, so that what its autoencoder loses stays.
        seamless: axes on which the image tiles and shall go on tiling.
        seed: of the noise.
        tiling: (diffusion) how canvases are cut.
        output_type: "pil" (one image), "np" (H, W, 3) or "pt" (3, H, W), both in [0, 1].
        callback: called as (step, steps) after every step of all passes; as (done, all) units by the upscaler.

    Raises:
        CheckpointError: no model, and none ships with this build.
        SizeError: neither size nor factor or both, or a size that is smaller than the image.
        ZelligeError: another argument out of range.
    """
    check_output_type(output_type)
    if output_type == "latent":
        raise ZelligeError("Expected output_type to be pil, np or pt, but got 'latent'.")
    parse_axes(seamless)
    pixels = to_tensor(image)[:1] * 2 - 1
    source = Size(pixels.shape[-1], pixels.shape[-2])
    target = target_size(source, size, factor)
    if model is None or isinstance(model, TextureUpscaler):
        options = {"prompt": prompt or None, "negative_prompt": negative_prompt, "guidance_scale": guidance_scale}
        options |= {"strength": strength, "steps": steps, "anchor": anchor, "faithful": faithful or None}
        _refuse(options | {"tiling": tiling})
        network = load_upscaler() if model is None else model
        wrap_x, wrap_y = parse_axes(seamless)
        part = cut((pixels[0] * 0.5 + 0.5).cpu().numpy(), target, wrap_x=wrap_x, wrap_y=wrap_y)
        made = enlarged_texture(
            torch.from_numpy(part), network, target, seamless=seamless, seed=seed, callback=callback
        )
        return from_tensor(made[None] * 2 - 1, output_type)[0]
    strength, steps = STRENGTH if strength is None else strength, STEPS if steps is None else steps
    anchor = 1.0 if anchor is None else anchor
    known = _known(model, prompt, negative_prompt, guidance_scale)
    sizes = passes(source, target) or [target]
    total = len(sizes) * len(steps_run(known.scheduler, steps, strength))
    done = 0

    def step_done(_: StepDone) -> None:
        nonlocal done
        done += 1
        if callback is not None:
            callback(done, total)

    draw = torch.Generator().manual_seed(seed + 1)

    def noise(canvas: tuple[int, int]) -> Tensor:
        return torch.randn((1, known.channels, *canvas), generator=torch.Generator().manual_seed(seed))

    settings = Settings(
        steps=steps, noise=noise, seamless=seamless, tiling=tiling or Tiling(), generator=draw, seed=seed,
        on_step=step_done,
    )  # fmt: skip
    if faithful:
        for each in sizes:
            pixels = faithful_stage(known, pixels, each, settings, strength=strength, anchor=anchor)
    else:
        latents, at = second_stage(known, pixels, sizes, settings, strength=strength, anchor=anchor)
        pixels = finished(known, latents, at, target, seamless)
    return from_tensor(pixels, output_type)[0]


def target_size(source: tuple[int, int], size: tuple[int, int] | None, factor: float | None) -> Size:
    """Pixels to enlarge to.

    >>> target_size((300, 200), None, 1.5)
    Size(width=450, height=300)
    """
    if (size is None) == (factor is None):
        raise SizeError("Expected either a size or a factor to enlarge to, but got both or neither.")
    if factor is not None and not 1 <= factor <= 64:
        raise SizeError(f"Expected a factor from 1 to 64, but got {factor:g}.")
    target = Size(*size) if size is not None else Size(*(round(side * (factor or 1)) for side in source))
    if target[0] * target[1] < source[0] * source[1]:
        raise SizeError(
            f"Expected a size of at least the image's {source[0]}x{source[1]}, but got {target[0]}x{target[1]}."
        )
    return target


def _refuse(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if value is not None:
            raise ZelligeError(f"Expected no {name} with the upscaler, which works in one step, but got {value!r}.")


def _known(model: Any, prompt: str, negative: str | None, guidance: float | None) -> LatentModel:
    if isinstance(model, str | Path):
        from .pipeline import AnySizePipeline

        model = AnySizePipeline.from_pretrained(model)
    if hasattr(model, "latent_model"):
        return model.latent_model(prompt, negative_prompt=negative, guidance_scale=guidance)
    if prompt or negative or guidance is not None:
        raise ZelligeError("Expected prompt and guidance with an AnySizePipeline, but got them with a bare model.")
    return model
