"""Resampling to any pixel size that keeps a torus a torus."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
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


def resample_window(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
    *,
    wrap: tuple[bool, bool],
) -> Tensor:
    """Rows and columns (start, stop) of what `resample` makes of (C, H, W) bytes at `size`, float32 in [0, 255].

    Only the source's part that the window depends on is read. `wrap` is (y, x). Beyond the border there is the other
    side, or the border again.
    """
    parts = []
    for axis, (start, stop) in enumerate((rows, columns)):
        index = torch.arange(start, stop)
        index = index % size[axis] if wrap[axis] else index.clamp(0, size[axis] - 1)
        if size[axis] == pixels.shape[1 + axis]:
            weight = torch.zeros(len(index), size[axis])
            weight[torch.arange(len(index)), index] = 1
        else:
            weight = _weights(pixels.shape[1 + axis], size[axis], wrap[axis], index)
        used = weight.any(0).nonzero()[:, 0]
        parts.append((weight[:, used], used.numpy()))
    (down, top), (across, left) = parts
    source = torch.from_numpy(np.ascontiguousarray(pixels[:, top][:, :, left])).float()
    return down @ (source @ across.T)


def _weights(source: int, target: int, wrap: bool, index: Tensor | None = None) -> Tensor:
    """(target, source) float32 rows that sum to 1; texel centres are at i + 1/2. With `index` only those rows."""
    ratio = source / target
    stretch = max(1.0, ratio)
    index = torch.arange(target) if index is None else index
    target = len(index)
    centre = (index.double() + 0.5) * ratio - 0.5
    reach = int(SUPPORT * stretch) + 2
    taps = centre.floor()[:, None] + torch.arange(-reach, reach + 1, dtype=torch.float64)
    weight = _cubic((taps - centre[:, None]) / stretch)
    weight = weight / weight.sum(1, keepdim=True)
    near = taps.long()
    near = near % source if wrap else near.clamp(0, source - 1)
    return torch.zeros(target, source, dtype=torch.float64).scatter_add_(1, near, weight).float()


def _cubic(t: Tensor) -> Tensor:
    t = t.abs()
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))
