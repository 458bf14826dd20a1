"""What is seen along each column of a torus: steps and energies at native resolution, one row of figures per column.

A seam is a column where the left and the right don't belong together. Every figure here is a mean over a whole column
of the torus, so a roll along the column changes nothing and a roll across it moves the profile by as much: the network
that reads profiles is as exact on a torus as a convolution, whatever the size of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALES = (1, 2, 4, 8, 16)
"""Widths in pixels of the boxes whose means are compared across a column."""
FIGURES = 3 * (2 * len(SCALES) + 3)
"""Figures per column."""
FLOOR = 1.5 / 255
"""Added before the logarithm: below it is the rounding of eight-bit files."""


def opponent(images: Tensor) -> Tensor:
    """(N, 3, H, W) sRGB values to luma and two colour differences (Rec. 601), colour counted as much as luma."""
    red, green, blue = images.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([luma, red - luma, blue - luma], 1)


def profiles(images: Tensor, octave: int = 0) -> Tensor:
    """(N, 3, H, W) in [0, 1] to (N, FIGURES, W) logarithms: column c stands for the border between c - 1 and c.

    `octave` o sees the image at 1 / 2**o of its resolution, at every phase, so that a roll by one pixel stays exact.
    For the rows' profile hand in the transposed image. Differentiable.
    """
    unit = 2**octave
    x = opponent(images)
    x = _box(_box(x, unit, 1, 3), unit, 1, 2)
    found = []
    for k in SCALES:
        boxes = _box(_box(x, k, unit, 3), k, unit, 2)
        steps = boxes - boxes.roll(k * unit, 3)
        found += [steps.abs().mean(2), steps.mean(2).abs()]
    found.append((x - x.roll(unit, 2)).abs().mean(2))
    found.append((x - x.roll(4 * unit, 2)).abs().mean(2))
    found.append((x - (x.roll(unit, 3) + x.roll(-unit, 3)) / 2).abs().mean(2))
    return (torch.cat(found, 1) + FLOOR).log()


def _box(x: Tensor, k: int, unit: int, dim: int) -> Tensor:
    """Means over k samples `unit` apart from each pixel on, around the torus; k is a power of two."""
    width = 1
    while width < k:
        x = (x + x.roll(-width * unit, dim)) / 2
        width *= 2
    return x
