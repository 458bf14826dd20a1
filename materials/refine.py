"""A material at a higher texel density: the layout stays, and the network adds the detail that now has room."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asd.resample import resample
from asd.sampling import StepDone
from asd.seamless import SeamlessAxes, parse_axes
from asd.two_stage import Settings, Tiling, finished, second_stage, steps_run
from materials.conditioning import SCALE_RANGE
from materials.consistent import consistent
from materials.density import FACTORS, base_size
from materials.detail import add_detail
from materials.errors import SizeError, ZelligeError
from materials.grain import STRENGTH as GRAIN
from materials.material import Material
from materials.pipeline import BASE_TEXELS, MaterialPipeline
from materials.texture_model import TextureModel

LARGEST_PASS = 4
"""Of one pass; more is done in two."""
STEPS, STRENGTH = 18, 0.23
"""Of the schedule, and the share of them that a pass runs: 4 steps from a noise level of 0.46."""
TILING = Tiling(method="overlap25")
"""In four steps, tiles that move but share nothing leave lines across smooth stones; a quarter shared leaves none."""
VAE_TILE = 96
"""Latent cells; the autoencoder sees some 20 more on every side, of which a small tile has more than of itself."""
ANCHOR = 1.0
"""Low frequencies of the latents are the base's at every step."""
LAYOUT = 8
"""Texels of the material before, per sample of the grid on which it decides: waves of twice that and longer are its."""
SALT = 0x2F7A1D9B
"""So that the noise is not the one that the material was made from."""


class MapsModel(TextureModel):
    """An `asd.latent_model.LatentModel` of all maps at once: what a `TextureModel` is of basecolor alone."""

    def encode(self, images: Tensor, seamless: SeamlessAxes) -> Tensor:
        """Latents of network maps (N, 8, H, W) in [-1, 1]."""
        vae = self.pipeline.vae
        return self._scaled(self._tiled(seamless).encode(images.to(self.device, vae.dtype), return_dict=False)[0])

    def decode(self, latents: Tensor, seamless: SeamlessAxes) -> Tensor:
        """Network maps (N, 8, H, W), float32 on the CPU, about [-1, 1]."""
        return self._tiled(seamless).decode(self._raw(latents), return_dict=False)[0].float().cpu()


def passes(size: tuple[int, int], factor: int) -> list[tuple[int, int]]:
    """The sizes (width, height) of the passes to `size`, the last.

    >>> passes((2048, 1024), 4), passes((2048, 1024), 8)
    ([(2048, 1024)], [(512, 256), (2048, 1024)])
    """
    return [size] if factor <= LARGEST_PASS else [base_size(size, LARGEST_PASS), size]


def refine_steps(scheduler: Any, factor: int) -> int:
    """Steps of all passes; it sets the scheduler's time steps."""
    return len(passes((1, 1), factor)) * len(steps_run(scheduler, STEPS, STRENGTH))


@torch.no_grad()
def refine(
    pipeline: MaterialPipeline,
    base: Material,
    prompt: str,
    *,
    factor: int = 2,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    scale: float | None = None,
    grain: float = GRAIN,
    lock: Mapping[str, Tensor] | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> Material:
    """`base` with `factor` times as many texels along its sides, on the same square metres.

    Its maps are enlarged and encoded together, taken to a noise level (SDEdit: Meng et al. 2022) and denoised in tiles,
    on a torus along the axes on which it tiles: the second stage of Any-Size-Diffusion (Zheng et al. 2024) for all maps
    in one latent, so that the new detail of one lies where that of the others does. What is wide stays the base's, in
    the latents at every step and in the maps at the end. Metres stay: size, depth, and where things are. What the
    network holds in memory is bounded by its tile.

    Args:
        pipeline: the model.
        base: without grain, which would be taken for a pattern.
        prompt: what the material is.
        factor: 2, 4 or 8.
        size: (width, height) in pixels of the result, `factor` times the base's by default or close to it.
        seed: of the noise.
        scale: pattern size of the base, see `MaterialPipeline.__call__`; the network is told `factor` times as much, as
            far as it learnt. By default what fits.
        grain: strength of the fine detail added to basecolor.
        lock: maps to keep, of the result's size.
        callback: called as (step, steps).

    Raises:
        ZelligeError: a factor that is none of these, or a model that can't. SizeError: a size that is not the factor's.
    """
    check_factor(pipeline, factor)
    if not prompt.strip():
        raise ZelligeError("Expected a prompt, but got an empty one.")
    size = (base.size[0] * factor, base.size[1] * factor) if size is None else size
    if base_size(size, factor) != base.size:
        raise SizeError(
            f"Expected a size whose {factor}th part is the material's {base.size[0]}x{base.size[1]}, "
            f"but got {size[0]}x{size[1]}."
        )
    scale = math.log2(min(base.size) / BASE_TEXELS) if scale is None else scale
    model = MapsModel(
        pipeline, [prompt], guidance=1.0, scale=min(SCALE_RANGE[1], max(SCALE_RANGE[0], scale + math.log2(factor))),
        vae_tile=VAE_TILE,
    )  # fmt: skip
    wrap_x, wrap_y = parse_axes(base.seamless)
    own = (seed ^ SALT) % 2**63
    total = refine_steps(model.scheduler, factor)
    done = 0

    def noise(canvas: tuple[int, int]) -> Tensor:
        return torch.randn((1, model.channels, *canvas), generator=torch.Generator().manual_seed(own))

    def step_done(_: StepDone) -> None:
        nonlocal done
        done += 1
        if callback is not None:
            callback(done, total)

    settings = Settings(steps=STEPS, noise=noise, seamless=base.seamless, tiling=TILING, seed=own, on_step=step_done)
    maps = base.to_network()[None]
    latents, at = second_stage(model, maps, passes(size, factor), settings, strength=STRENGTH, anchor=ANCHOR)
    made = finished(model, latents, at, size, base.seamless)
    made = (made + wide(maps, made, wrap_x=wrap_x, wrap_y=wrap_y)).clamp(-1, 1)[0]
    colour = made[:3] * 0.5 + 0.5
    made[:3] = add_detail(colour, seed, pipeline.detailer, wrap_x=wrap_x, wrap_y=wrap_y, strength=grain) * 2 - 1
    texel_m = [metres / side for metres, side in zip(base.size_m, base.size, strict=True)]
    # a side that the factor doesn't divide has a part of a texel more or less than the base, all of one size
    size_m = (texel_m[0] / factor * size[0], texel_m[1] / factor * size[1])
    crossover = 2 * LAYOUT * min(texel_m)
    return consistent(made, size_m, base.seamless, lock or {}, depth_m=base.depth_m, crossover_m=crossover)


def wide(base: Tensor, made: Tensor, *, wrap_x: bool, wrap_y: bool) -> Tensor:
    """What is to be added to `made` (N, C, H, W) so that its wide waves are those of `base` (N, C, h, w)."""
    wraps = {"wrap_x": wrap_x, "wrap_y": wrap_y}
    few = (max(1, base.shape[-2] // LAYOUT), max(1, base.shape[-1] // LAYOUT))
    height, width = made.shape[-2:]
    return resample(resample(base, few, **wraps) - resample(made, few, **wraps), (height, width), **wraps)


def check_factor(pipeline: MaterialPipeline, factor: int) -> None:
    """Raises ZelligeError for a factor that there is not, or a model whose maps cannot be encoded again."""
    if factor not in FACTORS:
        raise ZelligeError(f"Expected refine to be {' or '.join(map(str, FACTORS))}, but got {factor}.")
    if not pipeline.infers_maps:
        raise ZelligeError(f"Expected a model in the layout of the package's own to refine with, but got {factor}.")


def base_locks(locks: Mapping[str, Tensor], size: tuple[int, int], seamless: SeamlessAxes) -> dict[str, Tensor]:
    """Locked maps at the size (width, height) of the base."""
    wrap_x, wrap_y = parse_axes(seamless)
    made = {}
    for name, value in locks.items():
        small = resample(value[None], (size[1], size[0]), wrap_x=wrap_x, wrap_y=wrap_y)[0]
        made[name] = F.normalize(small, dim=0) if name == "normal" else small.clamp(0, 1)
    return made
