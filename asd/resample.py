"""Resampling to any pixel size that keeps a torus a torus."""

from __future__ import annotations

import torch
from torch import Tensor

SUPPORT = 2.0
"""Reach of the cubic kernel in source texels (at magnification; wider when shrinking)."""


def resample(x: Tensor, size: tuple[int, int], *, wrap_x: bool, wrap_y: bool) -> Tensor:
    """(N, C, H, W) to (N, C, height, width), `size` = (height, width), by an antialiased cubic (Keys 1981, a = -1/2).

    On an axis that wraps, texels beyond the border are those of the other side, whatever the ratio of the sizes: the
    result tiles as exactly as the source. On the others the border texel is repeated. A size kept is left untouched.
    """
    height, width = size
    if width != x.shape[-1]:
        x = x @ _weights(x.shape[-1], width, wrap_x).to(x.device, x.dtype).T
    if height != x.shape[-2]:
        x = _weights(x.shape[-2], height, wrap_y).to(x.device, x.dtype) @ x
    return x


def _weights(source: int, target: int, wrap: bool) -> Tensor:
    """(target, source) float32 rows that sum to 1; texel centres are at i + 1/2."""
    ratio = source / target
    stretch = max(1.0, ratio)
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * ratio - 0.5
    reach = int(SUPPORT * stretch) + 2
    taps = centre.floor()[:, None] + torch.arange(-reach, reach + 1, dtype=torch.float64)
    weight = _cubic((taps - centre[:, None]) / stretch)
    weight = weight / weight.sum(1, keepdim=True)
    index = taps.long()
    index = index % source if wrap else index.clamp(0, source - 1)
    return torch.zeros(target, source, dtype=torch.float64).scatter_add_(1, index, weight).float()


def _cubic(t: Tensor) -> Tensor:
    t = t.abs()
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))
