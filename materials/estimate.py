"""A photo to the five maps of a material: what the autoencoder infers for the maps that it is not given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from asd.exact_vae import ExactTiledVAE
from asd.resample import resample
from asd.seamless import SeamlessAxes, parse_axes
from materials.errors import CheckpointError, SizeError
from materials.maps import fit_depth, reconcile
from materials.material import NETWORK_CHANNELS, Material, basecolor_alone, normal_from_xy
from materials.photo import read_photo
from materials.relief import relief
from materials.tile_photo import tile_photo, tile_score, tiling_axes

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

    from materials.pipeline import MaterialPipeline
    from textile_metric.images import ImageLike

Axes = Literal["auto", "none", "x", "y", "xy"]

SCALES = (512,)
"""Short sides in pixels at which the network reads the photo, never above its own; what it says is averaged."""
SHORT_M = 2.0
"""Physical length assumed of a photo's short side: what the network's depth was learnt with."""
LARGEST_DEPTH = 0.25
"""Deepest relief, as a share of the short side."""
STRIDE = 8
"""Pixels along a latent cell."""
MARGIN = 32
"""Mirrored pixels around an axis that does not wrap, so that the network's zeros beyond the border don't show."""
LEAST_SIDE = 64
"""Shortest side of a canvas that the network gets."""
TILE = 96
"""Latent cells along a tile: what is in memory at a time."""


@dataclass(frozen=True)
class Prepared:
    """A photo that tiles on `axes`."""

    image: Tensor
    """(3, H, W) in [0, 1], sRGB-encoded."""
    axes: SeamlessAxes
    remade: dict[str, float] | None
    """Of a photo that was made to tile: `score_before` and `score_after` (`tile_score` on the axes), and `untouched`,
    the share of the tile's pixels that are the photo's, in their place."""


def prepare_photo(photo: ImageLike, seamless: Axes = "auto") -> Prepared:
    """Read a photo, and make it tile on the axes of `seamless` on which it does not (`materials.tile_photo`)."""
    image = read_photo(photo)
    tiles = tiling_axes(image)
    axes = tiles if seamless == "auto" else seamless
    if axes == "none" or all(axis in tiles for axis in axes):
        return Prepared(image, axes, None)
    tiled = tile_photo(image, axes, tiles=tiles)
    before, after = (round(tile_score(each, axes), 4) for each in (image, tiled.image))
    told = {"score_before": before, "score_after": after, "untouched": round(tiled.untouched, 4)}
    return Prepared(tiled.image, axes, told)


def estimate_maps(
    photo: ImageLike | Prepared,
    *,
    size: tuple[int, int] | None = None,
    seamless: Axes = "auto",
    model: MaterialPipeline | str | Path | None = None,
    device: str = "auto",
    callback: Callable[[int, int], None] | None = None,
) -> Material:
    """Infer normal, height, roughness and metalness of a photographed surface; basecolor is the photo itself.

    The photo is a view from straight above, evenly lit. On axes that tile nothing tells the network where the border
    is: rolling the photo rolls the maps. What the network takes in memory is bounded by a tile.

    Args:
        photo: as `materials.photo.read_photo` takes it, or what `prepare_photo` made of it.
        size: (width, height) of the maps; by default the photo's own, less what `materials.tile_photo` takes away.
        seamless: the axes on which the maps tile; "auto": those on which the photo does. An axis on which it does not
            is made to tile first. Of no effect on a prepared photo.
        model: a loaded pipeline, a diffusers folder or a hub id; None for the weights inside the package.
        device: "auto" or a torch device, for a model that is not loaded yet.
        callback: called as (step, steps) after every pass of the network.

    Raises:
        ZelligeError: SizeError for a size below 1 or a photo too small to be made to tile, CheckpointError for a model
            that does not load, or a photo that cannot be read.
    """
    if size is not None and min(size) < 1:
        raise SizeError(f"Expected a size of at least 1x1 pixels, but got {size[0]}x{size[1]}.")
    ready = photo if isinstance(photo, Prepared) else prepare_photo(photo, seamless)
    image, axes = ready.image[None], ready.axes
    wrap_x, wrap_y = parse_axes(axes)
    if size is not None:
        image = resample(image, (size[1], size[0]), wrap_x=wrap_x, wrap_y=wrap_y).clamp(0, 1)
    return _material(image, infer(image, _autoencoder(model, device), axes, callback), axes)


def infer(
    image: Tensor, vae: AutoencoderTiny, axes: SeamlessAxes, callback: Callable[[int, int], None] | None = None
) -> Tensor:
    """Network maps (1, 8, H, W), float32 on the CPU, about [-1, 1], of an image (1, 3, H, W) in [0, 1]."""
    rows, columns = image.shape[-2:]
    short = min(rows, columns)
    scales = sorted({min(scale, short) for scale in SCALES})
    wraps = parse_axes(axes)
    made = torch.zeros(1, NETWORK_CHANNELS, rows, columns)
    for number, scale in enumerate(scales, 1):
        made += _pass(image, vae, scale / short, wraps) / len(scales)
        if callback is not None:
            callback(number, len(scales))
    return made


def _pass(image: Tensor, vae: AutoencoderTiny, factor: float, wraps: tuple[bool, bool]) -> Tensor:
    """Maps at the image's size, inferred from the image scaled by `factor`."""
    (wrap_x, wrap_y), size = wraps, image.shape[-2:]
    rows, columns = (max(LEAST_SIDE, STRIDE * round(side * factor / STRIDE)) for side in size)
    x = resample(image, (rows, columns), wrap_x=wrap_x, wrap_y=wrap_y) * 2 - 1
    for dim, wrap in ((-2, wrap_y), (-1, wrap_x)):
        x = x if wrap else _mirrored(x, dim)
    given = basecolor_alone(x).to(vae.device, vae.dtype)
    axes: Any = ("x" if wrap_x else "") + ("y" if wrap_y else "") or "none"
    tiled = ExactTiledVAE(vae, TILE, axes)
    made = tiled.decode(tiled.encode(given).latents).sample.float().cpu()
    top, left = 0 if wrap_y else MARGIN, 0 if wrap_x else MARGIN
    made = made[..., top : top + rows, left : left + columns]
    return resample(made, (size[0], size[1]), wrap_x=wrap_x, wrap_y=wrap_y)


def _mirrored(x: Tensor, dim: int) -> Tensor:
    """`x` with MARGIN mirrored pixels at both ends of `dim`; any side, also shorter than the margin."""
    side = x.shape[dim]
    place = torch.arange(-MARGIN, side + MARGIN).remainder(2 * side)
    return x.index_select(dim, torch.minimum(place, 2 * side - 1 - place))


def _autoencoder(model: MaterialPipeline | str | Path | None, device: str) -> AutoencoderTiny:
    if model is None or isinstance(model, str | Path):
        from materials.pipeline import MaterialPipeline

        model = MaterialPipeline.from_pretrained(model, device=device)
    return inferring(model).vae


def inferring(model: MaterialPipeline) -> MaterialPipeline:
    """The model itself. Raises CheckpointError for one that does nothing but make materials."""
    if not model.infers_maps:
        raise CheckpointError(
            "Expected a material model in the layout of the package's own, but got one that makes materials alone, "
            "no maps of photos and no pictures."
        )
    return model


def _material(image: Tensor, x: Tensor, axes: SeamlessAxes) -> Material:
    """Maps that agree with each other: the normal is that of the height."""
    rows, columns = image.shape[-2:]
    short = min(rows, columns)
    size_m = (SHORT_M * columns / short, SHORT_M * rows / short)
    x = x.clamp(-1, 1)
    height = x[:, 5:6] * 0.5 + 0.5
    normal = relief(image, normal_from_xy(x[:, 3:5]), axes)
    depth = fit_depth(normal, height, size_m=size_m, seamless=axes).clamp(0, LARGEST_DEPTH * SHORT_M)
    merged = reconcile(normal, height, depth_m=depth, size_m=size_m, seamless=axes)
    scalars = x[0, 6:8] * 0.5 + 0.5
    return Material(
        basecolor=image[0],
        normal=merged.normal[0],
        height=merged.height[0],
        roughness=scalars[:1].clone(),
        metallic=scalars[1:].clone(),
        depth_m=float(merged.depth_m[0]),
        size_m=size_m,
        seamless=axes,
    )
