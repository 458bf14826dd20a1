"""Sizes: which canvas a network can put on a torus, for the pixels that were asked for."""

from __future__ import annotations

import math
from typing import NamedTuple

from .errors import SizeError

MAX_RATIO = 8.0
"""Widest canvas generated, long over short side; thinner images are squeezed from it."""


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


def torus_size(size: tuple[int, int], *, multiple: int, least_area: int, least_side: int) -> Size:
    """The canvas to generate for an image of `size` = (width, height).

    Both sides are multiples of `multiple` (a torus needs the network's total stride to divide them), as close as
    possible to the image, but no smaller than the network was trained on: an image of less than `least_area` pixels is
    generated at that area and its own ratio, and no side is below `least_side`; the result is then resampled.

    >>> torus_size((1024, 768), multiple=32, least_area=65536, least_side=128)
    Size(width=1024, height=768)
    >>> torus_size((1, 64), multiple=32, least_area=65536, least_side=128)
    Size(width=128, height=736)

    Raises:
        SizeError: a side of `size` is below 1.
    """
    width, height = size
    if width < 1 or height < 1:
        raise SizeError(f"Expected a size of at least 1x1 pixels, but got {width}x{height}.")
    ratio = min(MAX_RATIO, max(1 / MAX_RATIO, width / height))
    long = max(width, height)
    squeezed = (long, long / ratio) if ratio >= 1 else (long * ratio, long)
    factor = max(1.0, math.sqrt(least_area / (squeezed[0] * squeezed[1])))
    sides = (max(least_side, multiple * round(side * factor / multiple)) for side in squeezed)
    return Size(*sides)
