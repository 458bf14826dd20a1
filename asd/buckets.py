"""Sizes a model was trained near: one area, many ratios, and which of them fits an image best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from .errors import SizeError
from .sizes import Size

MAX_RATIO = 4.0


@dataclass(frozen=True)
class Family:
    """Models trained around `side` x `side` pixels, on sides that are multiples of `multiple`.

    Buckets have `least_area` to 1 of that area: the smaller the side, the coarser the grid, and the more it takes to
    leave no wide gap between ratios.
    """

    name: str
    side: int
    least_area: float
    multiple: int = 64


# XL's bound gives diffusers' ASPECT_RATIO_1024_BIN, the mirror images that it lacks, and two sizes between its own
FAMILIES = {
    family.name: family for family in (Family("sd1.5", 512, 0.8), Family("sd2.1", 768, 0.85), Family("xl", 1024, 0.9))
}


@lru_cache
def buckets(family: str | Family) -> tuple[Size, ...]:
    """Every size of a family: sides on its grid, about its area, ratio 1:4 to 4:1; from narrow to wide.

    >>> buckets("sd1.5")[:3]
    (Size(width=256, height=1024), Size(width=256, height=960), Size(width=256, height=896))

    Raises:
        SizeError: an unknown family.
    """
    kind = family if isinstance(family, Family) else FAMILIES.get(family)
    if kind is None:
        raise SizeError(f"Expected a family out of {', '.join(FAMILIES)}, but got {family!r}.")
    area = kind.side**2
    longest = math.floor(kind.side * math.sqrt(MAX_RATIO) / kind.multiple)
    sides = [kind.multiple * k for k in range(1, longest + 1)]
    made = [
        Size(width, height)
        for width in sides
        for height in sides
        if kind.least_area * area <= width * height <= area and max(width, height) <= MAX_RATIO * min(width, height)
    ]
    return tuple(sorted(made, key=lambda size: (size.width / size.height, size.width)))


def nearest_bucket(size: tuple[int, int], family: str | Family | Sequence[Size]) -> Size:
    """The bucket whose ratio is nearest to that of `size` = (width, height), of several the largest, then the squarest.

    The buckets are a family's, or those of a list.

    Nearest by the logarithm, so that portrait and landscape are treated alike: by the ratio itself 1:2 is nearer to
    1:1 than 2:1 is. An image beyond 4:1 gets the widest bucket.

    >>> nearest_bucket((1920, 1080), "xl")
    Size(width=1344, height=768)

    Raises:
        SizeError: an unknown family, or a side below 1.
    """
    width, height = _checked(size)
    ratio = math.log(width / height)

    def distance(bucket: Size) -> tuple[float, int, int]:
        # rounded, so that what is a tie in portrait is one in landscape
        apart = round(abs(math.log(bucket.width / bucket.height) - ratio), 9)
        return apart, -bucket.width * bucket.height, max(bucket)

    return min(buckets(family) if isinstance(family, str | Family) else family, key=distance)


def first_size(size: tuple[int, int], family: Family) -> Size:
    """The size to generate first for an image of `size`: its bucket, or beyond 4:1 a strip of the same area.

    >>> first_size((4096, 512), FAMILIES["sd1.5"])
    Size(width=1472, height=192)
    """
    width, height = _checked(size)
    if max(width, height) <= MAX_RATIO * min(width, height):
        return nearest_bucket(size, family)
    factor = family.side / math.sqrt(width * height)
    return nearest_size((max(1, round(width * factor)), max(1, round(height * factor))), family.multiple)


def nearest_size(size: tuple[int, int], multiple: int = 8) -> Size:
    """The size nearest to `size` = (width, height), by factors, whose sides are multiples of `multiple`.

    >>> nearest_size((1000, 562), 64)
    Size(width=1024, height=576)

    Raises:
        SizeError: a side or the multiple is below 1.
    """
    if multiple < 1:
        raise SizeError(f"Expected a multiple of at least 1, but got {multiple}.")
    return Size(*(_rounded(side, multiple) for side in _checked(size)))


def _rounded(side: int, multiple: int) -> int:
    below = side // multiple * multiple
    if below == 0:
        return multiple
    # by factors the middle of two sizes is their geometric mean
    return below if side * side <= below * (below + multiple) else below + multiple


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise SizeError(f"Expected a size of at least 1x1 pixels, but got {'x'.join(map(str, size))}.")
    return size
