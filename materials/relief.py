"""Relief from shading and albedo: how far the light and dark of a photo tell of its slopes, octave by octave."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asd.seamless import SeamlessAxes, parse_axes
from materials.material import MIN_NORMAL_Z

LUMA = (0.2126, 0.7152, 0.0722)
GAINS = (1.5, 1.0, 0.5, 0.4, 0.2, 0.2)
"""Slope per unit of an octave's own gradient, finest first, at REFERENCE."""
NETWORK = 0.4
"""Slope per unit of the network's slope."""
REFERENCE = 512
"""Short side in pixels that GAINS are for; a larger photo has more octaves above them, with the gain of the first."""


def shaded_slopes(image: Tensor, axes: SeamlessAxes) -> tuple[Tensor, Tensor]:
    """dz/dx and dz/drow, (N, 1, H, W) each, of images (N, 3, H, W) in [0, 1]: bright is high, dark is deep.

    The luma is taken apart into octaves by the undecimated B3 spline wavelet (Starck, Fadili & Murtagh
    2007), which a roll commutes with. The gradient of octave k, in units of its own wavelength, is its slope but for a
    gain: relief looks alike at all sizes. The gains were fitted to normal maps (docs/maps.md).
    """
    wraps = parse_axes(axes)[::-1]
    weights = image.new_tensor(LUMA)[None, :, None, None]
    smooth = (image * weights).sum(1, keepdim=True)
    finer = max(0, round(math.log2(max(1, min(image.shape[-2:])) / REFERENCE)))
    total = torch.zeros_like(smooth)
    for octave in range(len(GAINS) + finer):
        coarse = smooth
        for dim, wrap in zip((2, 3), wraps, strict=True):
            coarse = _spline(coarse, 2**octave, dim, wrap)
        total += (GAINS[max(0, octave - finer)] * 2**octave) * (smooth - coarse)
        smooth = coarse
    return _slope(total, 3, wraps[1]), _slope(total, 2, wraps[0])


def _taps(x: Tensor, step: int, dim: int, wrap: bool) -> Tensor:
    """`x` read `step` further along `dim`, around the torus or mirrored at the border."""
    if wrap:
        return x.roll(-step, dim)
    side = x.shape[dim]
    place = (torch.arange(side, device=x.device) + step).remainder(2 * side)
    return x.index_select(dim, torch.minimum(place, 2 * side - 1 - place))


def _spline(x: Tensor, step: int, dim: int, wrap: bool) -> Tensor:
    near = _taps(x, step, dim, wrap) + _taps(x, -step, dim, wrap)
    far = _taps(x, 2 * step, dim, wrap) + _taps(x, -2 * step, dim, wrap)
    return (6 * x + 4 * near + far) / 16


def _slope(x: Tensor, dim: int, wrap: bool) -> Tensor:
    return (_taps(x, 1, dim, wrap) - _taps(x, -1, dim, wrap)) / 2


def relief(image: Tensor, normal: Tensor, axes: SeamlessAxes) -> Tensor:
    """Unit normals (N, 3, H, W): the network's (N, 3, H, W) with the slopes of the shading added."""
    shade_x, shade_row = shaded_slopes(image, axes)
    z = normal[:, 2:].clamp_min(MIN_NORMAL_Z)
    across = NETWORK * normal[:, :1] / z - shade_x
    up = NETWORK * normal[:, 1:2] / z + shade_row
    merged = torch.cat([across, up, torch.ones_like(z)], 1)
    return merged / torch.linalg.vector_norm(merged, dim=1, keepdim=True)
