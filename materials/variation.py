"""Variations of a material: from an image, in a region alone, or towards the noise of another seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asd.resample import resample
from asd.seamless import SeamlessAxes, parse_axes
from materials.errors import SizeError, ZelligeError
from materials.maps import normal_from_height
from materials.material import Material, basecolor_alone

if TYPE_CHECKING:
    from materials.pipeline import MaterialPipeline

STRENGTH, MASKED_STRENGTH = 0.6, 1.0
"""Noise level that an image is taken to, and one of which a region is made anew."""
FINEST = 64
"""Noise levels per step asked for, at most: below a strength of a hundredth or so there are fewer steps."""
FEATHER = 8
"""Pixels inside the border of a mask over which old and new are mixed."""


@dataclass(frozen=True)
class Variation:
    """What a sample starts from, beside its seed; checked by `variation_of`."""

    image: Material | Tensor | None = None
    """The material, or the basecolor (3, H, W), of which a variation is made, at the size of the result."""
    strength: float = 1.0
    """Noise level (0: the image, 1: nothing of it) at which denoising starts."""
    mask: Tensor | None = None
    """(1, H, W) bool: what is made anew; None is everything."""
    neighbour: int | None = None
    amount: float = 0.0
    """How far the noise is from the seed's (0) towards that of the seed `neighbour` (1)."""

    @property
    def placed(self) -> bool:
        """Whether pixels have their places, so that the tile must not be rolled."""
        return self.image is not None


def variation_of(
    image: Material | Tensor | None,
    strength: float | None,
    mask: Tensor | None,
    neighbour: int | None,
    amount: float | None,
    size: tuple[int, int],
    axes: SeamlessAxes,
) -> Variation:
    """Check the arguments of `MaterialPipeline.__call__`; without a mask, an image of another size is resampled.

    Raises:
        ZelligeError, SizeError: a value out of range, a mask or strength without an image, an amount without a
            neighbour, a mask of another size than the result, or with nothing in it.
    """
    if image is None and (strength is not None or mask is not None):
        raise ZelligeError("Expected strength and mask beside an image, but got no image.")
    if neighbour is None and amount is not None:
        raise ZelligeError(f"Expected an amount beside the seed of a neighbour, but got {amount:g} alone.")
    for name, value in (("strength", strength), ("amount", amount)):
        if value is not None and not 0 <= value <= 1:
            raise ZelligeError(f"Expected {name} from 0 to 1, but got {value:g}.")
    shape = (size[1], size[0])
    if isinstance(image, Tensor):
        _check_image(image)
    if image is not None:
        image = _at_size(image, shape, axes, exact=mask is not None)
    if mask is not None:
        if tuple(mask.shape) != (1, *shape):
            raise SizeError(f"Expected a mask of shape {(1, *shape)}, but got {tuple(mask.shape)}.")
        mask = mask > 0.5
        if not bool(mask.any()):
            raise ZelligeError("Expected a mask with white where to make the material anew, but got none.")
    if strength is None:
        strength = 1.0 if image is None else STRENGTH if mask is None else MASKED_STRENGTH
    return Variation(image, strength, mask, neighbour, 0.0 if amount is None else amount)


def _at_size(image: Material | Tensor, shape: tuple[int, int], axes: SeamlessAxes, *, exact: bool) -> Material | Tensor:
    rows, columns = image.size[::-1] if isinstance(image, Material) else image.shape[1:]
    found = (rows, columns)
    if found == shape:
        return image
    if exact:
        wanted, got = (f"{columns}x{rows}" for rows, columns in (shape, found))
        raise SizeError(f"Expected an image of the result's {wanted} pixels beside a mask, but got {got}.")
    wrap_x, wrap_y = parse_axes(axes)
    if isinstance(image, Material):
        maps = resample(image.to_network()[None], shape, wrap_x=wrap_x, wrap_y=wrap_y)[0]
        return Material.from_network(maps, depth_m=image.depth_m, size_m=image.size_m, seamless=image.seamless)
    return resample(image[None], shape, wrap_x=wrap_x, wrap_y=wrap_y)[0].clamp(0, 1)


def _check_image(image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise ZelligeError(f"Expected an image of shape (3, H, W), but got {tuple(image.shape)}.")
    low, high = (float(v) for v in torch.aminmax(image))
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise ZelligeError(f"Expected an image in [0, 1], but got {low:.4g} to {high:.4g}.")


def start_noise(shape: Sequence[int], seed: int, variation: Variation) -> Tensor:
    """The noise of `seed`, or what lies `amount` of the way to the neighbour's."""
    noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
    if variation.neighbour is None or variation.amount == 0:
        return noise
    other = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(variation.neighbour))
    return between(noise, other, variation.amount)


def between(first: Tensor, second: Tensor, share: float) -> Tensor:
    """What lies `share` of the way from `first` to `second` on the arc between them (Shoemake 1985)."""
    cosine = float((first * second).sum() / (first.norm() * second.norm()))
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-6:  # the same direction
        return first
    return (math.sin((1 - share) * angle) * first + math.sin(share * angle) * second) / math.sin(angle)


@torch.no_grad()
def known_latents(vae: Any, variation: Variation, canvas: tuple[int, int], axes: SeamlessAxes) -> Tensor | None:
    """(C, canvas height / f, canvas width / f) of the image; call it inside `Seamless`. None without an image."""
    image = variation.image
    if image is None:
        return None
    maps = image.to_network()[None] if isinstance(image, Material) else basecolor_alone(image[None] * 2 - 1)
    wrap_x, wrap_y = parse_axes(axes)
    maps = resample(maps, (canvas[1], canvas[0]), wrap_x=wrap_x, wrap_y=wrap_y)
    raw = vae.encoder(maps.to(vae.device, vae.dtype)).float()
    return (raw[0] - vae.config["shift_factor"]) * vae.config["scaling_factor"]


def free_cells(variation: Variation, like: Tensor) -> Tensor | None:
    """(1, h, w) bool on the device of `like` (C, h, w): latent cells that the mask touches."""
    if variation.mask is None:
        return None
    pooled = F.adaptive_max_pool2d(variation.mask[None].float(), like.shape[-2:])
    return (pooled[0] > 0).to(like.device)


def begin(scheduler: Any, steps: int, strength: float, device: torch.device) -> int:
    """Set a flow-matching scheduler up for `steps` steps from noise level `strength` down; the index of the first one.

    SDEdit (Meng et al. 2022) starts at one of the levels there are; here there are as many as it takes for `steps` of
    them to lie at or below `strength`.
    """
    first = 0
    for total in range(steps, FINEST * steps + 1):
        scheduler.set_timesteps(total, device=device)
        first = int((scheduler.sigmas[:-1] > strength + 1e-6).sum())
        if strength in (0, 1) or total - first >= steps:
            break
    if first:
        scheduler.set_begin_index(first)
    return first


def noised(latents: Tensor, noise: Tensor, level: float) -> Tensor:
    """Flow matching: the straight line from the latents (level 0) to the noise (level 1)."""
    return (1 - level) * latents + level * noise


def feather(mask: Tensor, axes: SeamlessAxes) -> Tensor:
    """(1, H, W) weights of what is new: 0 outside of `mask`, rising to 1 over FEATHER pixels inside of it."""
    wrap_x, wrap_y = parse_axes(axes)
    inside, total = mask[None].float(), torch.zeros_like(mask[None], dtype=torch.float32)
    for _ in range(FEATHER):
        total += inside
        for dim, wrap in ((3, wrap_x), (2, wrap_y)):
            side = inside.shape[dim]
            ahead, behind = (torch.arange(side) + step for step in (1, -1))
            ahead, behind = (p.remainder(side) if wrap else p.clamp(0, side - 1) for p in (ahead, behind))
            beside = torch.minimum(inside.index_select(dim, ahead), inside.index_select(dim, behind))
            inside = torch.minimum(inside, beside)
    return (total / FEATHER)[0]


def kept_material(variation: Variation, axes: SeamlessAxes, model: MaterialPipeline) -> Material:
    """The material that a mask keeps parts of; it tiles on those of `axes` on which it did before."""
    from materials.estimate import Prepared, estimate_maps
    from materials.tile_photo import tiling_axes

    image = variation.image
    if image is None:
        raise ZelligeError("Expected an image beside a mask, but got none.")
    had = image.seamless if isinstance(image, Material) else tiling_axes(image)
    both: Any = "".join(axis for axis in "xy" if axis in had and axis in axes) or "none"
    if isinstance(image, Material):
        return replace(image, seamless=both)
    return estimate_maps(Prepared(image, both, None), model=model)


def pasted(made: Material, base: Material, mask: Tensor) -> Material:
    """`base`, with what `made` has where the mask (1, H, W) is set, mixed over a feather inside of it.

    Outside of the mask every map keeps its values to the bit. The new height stands on the old one: in metres, level
    with it where both are mixed.
    """
    weight = feather(mask, base.seamless)
    depth = base.depth_m if base.depth_m > 0 else made.depth_m
    rim = (weight > 0) & (weight < 1)
    rim = rim if bool(rim.any()) else mask
    old, new = (each.height * (each.depth_m / depth if depth > 0 else 1.0) for each in (base, made))
    level = float((old - new)[rim].mean())
    height = torch.where(mask, torch.lerp(old, (new + level).clamp(0, 1), weight), old)
    relief = {"depth_m": depth, "size_m": base.size_m, "seamless": base.seamless}
    own = normal_from_height(height[None], **relief)[0]
    mixed = torch.lerp(base.normal, own, weight)
    normal = torch.where(mask, mixed / torch.linalg.vector_norm(mixed, dim=0, keepdim=True), base.normal)
    maps = {
        name: torch.where(mask, torch.lerp(getattr(base, name), getattr(made, name), weight), getattr(base, name))
        for name in ("basecolor", "roughness", "metallic")
    }
    return Material(
        **maps, normal=normal, height=height, depth_m=depth, size_m=base.size_m, seamless=base.seamless
    )
