"""What is seen along each column of a torus: steps, energies and levels at native resolution, one row of figures each.

A seam is a column where the left and the right don't belong together. Every figure here is a mean over a whole column
of the torus, so a roll along the column changes nothing and a roll across it moves the profile by as much: the network
that reads profiles is as exact on a torus as a convolution, whatever the size of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALES = (1, 2, 4, 8, 16, 32)
"""Widths in pixels of the boxes whose means are compared across a column, and of the bands of energy."""
LEVELS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Widths in pixels of what is compared of the columns' means."""
CREASES = (4, 8, 16, 32, 64, 128)
"""Widths of what is compared with twice its width around it, of the columns' means."""
GRAINS = (8, 16, 32, 64, 128)
"""Widths of what is compared of the columns' energies."""
FIGURES = 3 * (3 * len(SCALES) + len(LEVELS) + len(CREASES)) + len(SCALES) * len(GRAINS)
"""Figures per column."""
FLOOR = 1.5 / 255
"""Added before the logarithm of what is a mean of sizes: below it is the rounding of eight-bit files."""
LEVEL_FLOOR = 0.3 / 255
"""The same for means of columns, in which rounding is averaged out."""
GRAIN_FLOOR = 0.02
"""The same for steps of energies, which are logarithms themselves."""


def opponent(images: Tensor) -> Tensor:
    """(N, 3, H, W) sRGB values to luma and two colour differences (Rec. 601), colour counted as much as luma."""
    red, green, blue = images.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([luma, red - luma, blue - luma], 1)


def profiles(images: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) in [0, 1] to logarithms (N, FIGURES, W) of the columns and (N, FIGURES, H) of the rows.

    Entry c of the columns stands for the border between c - 1 and c. Differentiable.
    """
    x = opponent(images)
    across: tuple[list[Tensor], list[Tensor]] = ([], [])
    along: tuple[list[Tensor], list[Tensor]] = ([], [])
    energies: tuple[list[Tensor], list[Tensor]] = ([], [])
    boxes = x
    for k in SCALES:
        for dim in (3, 2):
            step = (boxes - boxes.roll(k, dim)).abs()
            across[3 - dim].append(step.mean(5 - dim))
            along[dim - 2].append(step.mean(dim))
        wider = _box(_box(boxes, 2, k, 3), 2, k, 2)
        band = (boxes.roll((-(k // 2), -(k // 2)), (2, 3)) - wider).abs()
        for axis, dim in enumerate((2, 3)):
            energies[axis].append(band.mean(dim).roll(k, 2))
        boxes = wider
    return _figures(x.mean(2), across[0], along[0], energies[0]), _figures(x.mean(3), across[1], along[1], energies[1])


def _figures(means: Tensor, across: list[Tensor], along: list[Tensor], energies: list[Tensor]) -> Tensor:
    """(N, FIGURES, W) of columns' means (N, 3, W) and, by scale, steps across and along columns and energies."""
    sized = (torch.cat([*across, *along, *energies], 1) + FLOOR).log()
    grain = torch.stack([(energy[:, 0] + FLOOR).log() for energy in energies], 1)
    levels, grains = _steps(means, LEVELS, CREASES), _steps(grain, GRAINS)
    return torch.cat([sized, (levels + LEVEL_FLOOR).log(), (grains + GRAIN_FLOOR).log()], 1)


def _steps(lines: Tensor, widths: tuple[int, ...], creases: tuple[int, ...] = ()) -> Tensor:
    """(N, C, W) to the sizes of differences (N, C (widths + creases), W): what is right of a border and left of it, and
    what is around the border and farther around it.
    """
    found = []
    near, k = lines, 1
    while k <= max(widths):
        if k in widths:
            found.append((near - near.roll(k, 2)).abs())
        wider = _box(near, 2, k, 2)
        if k in creases:
            found.append((near.roll(k - k // 2, 2) - wider.roll(k, 2)).abs())
        near, k = wider, 2 * k
    return torch.cat(found, 1)


def _box(x: Tensor, k: int, unit: int, dim: int) -> Tensor:
    """Means over k samples `unit` apart from each one on, around the torus; k is a power of two."""
    width = 1
    while width < k:
        x = (x + x.roll(-width * unit, dim)) / 2
        width *= 2
    return x
