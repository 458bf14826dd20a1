"""Views of images at the sizes that a model is trained on."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from .buckets import Family, buckets, nearest_bucket
from .errors import SizeError, ZelligeError
from .resample import resample
from .seamless import SeamlessAxes, parse_axes
from .sizes import Size

Crop = Literal["center", "random"]
STRETCH = 1.15
"""Most that a tile's ratio is changed so that it stays one; beyond, one of its axes is cropped."""


class View(NamedTuple):
    """The image, of `original` pixels, scaled to `resized` and cut to `size` at (`left`, `top`); `axes` still wrap."""

    size: Size
    axes: SeamlessAxes
    original: Size
    resized: Size
    left: int
    top: int


def parse_ratios(text: str) -> tuple[float, float]:
    """The least and the largest width over height of "1:4..4:1"; one ratio alone is both.

    >>> parse_ratios("1:4..2:1")
    (0.25, 2.0)

    Raises:
        SizeError: another form, or the larger one first.
    """
    ends = text.split("..")
    found = [re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]+)?):([0-9]{1,4}(?:\.[0-9]+)?)", end.strip()) for end in ends]
    numbers = [(float(match[1]), float(match[2])) for match in found if match is not None]
    if len(numbers) != len(ends) or len(ends) > 2 or any(min(pair) <= 0 for pair in numbers):
        raise SizeError(f"Expected ratios such as 1:4..4:1, but got {text[:60]!r}.")
    low, high = (width / height for width, height in (numbers[0], numbers[-1]))
    if low > high:
        raise SizeError(f"Expected the narrowest ratio first, such as 1:4..4:1, but got {text[:60]!r}.")
    return low, high


def sizes_between(family: Family, low: float, high: float) -> tuple[Size, ...]:
    """The family's buckets whose width over height is from `low` to `high`.

    Raises:
        SizeError: there are none.
    """
    slack = 1e-6
    chosen = [size for size in buckets(family) if low * (1 - slack) <= size.width / size.height <= high * (1 + slack)]
    if not chosen:
        sides = f"{family.side} pixels a side, multiples of {family.multiple}"
        raise SizeError(f"Expected sizes of {sides}, between the ratios {low:.4g} and {high:.4g}, but there are none.")
    return tuple(chosen)


def plan_views(
    original: Size,
    sizes: Sequence[Size],
    *,
    count: int,
    rng: random.Random,
    seamless: SeamlessAxes = "none",
    crop: Crop = "random",
) -> list[View]:
    """`count` views of an image: one in the bucket nearest to its own ratio, the others in buckets drawn evenly.

    A view covers its bucket: the image is scaled as little as that allows, and what is too much on one axis is cut
    off. So along one axis a view is whole, and wraps where the image does; a tile whose ratio is near that of its
    bucket is stretched instead and stays whole.

    Raises:
        ZelligeError: no such crop.
    """
    if crop not in get_args(Crop):
        raise ZelligeError(f"Expected crop to be {' or '.join(get_args(Crop))}, but got {crop!r}.")
    made = []
    ends = [math.log(size.width / size.height) for size in sizes]
    for i in range(count):
        wanted = (original.width, original.height)
        if i > 0:
            ratio = math.exp(rng.uniform(min(ends), max(ends)))
            wanted = (round(1e6 * ratio), 10**6)
        made.append(_view(original, nearest_bucket(wanted, sizes), rng, seamless, crop))
    return made


def _view(original: Size, size: Size, rng: random.Random, seamless: SeamlessAxes, crop: Crop) -> View:
    wrap_x, wrap_y = parse_axes(seamless)
    factors = (size.width / original.width, size.height / original.height)
    if seamless != "none" and max(factors) <= STRETCH * min(factors):
        return View(size, seamless, original, size, 0, 0)
    factor = max(factors)
    resized = Size(*(max(side, round(whole * factor)) for side, whole in zip(size, original, strict=True)))
    left, top = (
        _offset(whole, side, rng, wraps=wraps, crop=crop)
        for whole, side, wraps in zip(resized, size, (wrap_x, wrap_y), strict=True)
    )
    kept = [axis for axis, whole, side in zip("xy", resized, size, strict=True) if axis in seamless and whole == side]
    axes: SeamlessAxes = "xy" if len(kept) == 2 else "x" if kept == ["x"] else "y" if kept == ["y"] else "none"
    return View(size, axes, original, resized, left, top)


def _offset(whole: int, side: int, rng: random.Random, *, wraps: bool, crop: Crop) -> int:
    """Where a view begins; of an axis that wraps, anywhere."""
    if whole == side:
        return 0
    drawn = rng.randrange(whole if wraps else whole - side + 1)
    return (whole - side) // 2 if crop == "center" else drawn


def cut(image: Tensor, view: View, seamless: SeamlessAxes = "none") -> Tensor:
    """(3, height, width) of a view of an image (3, H, W) in [0, 1], which tiles on the axes of `seamless`."""
    wrap_x, wrap_y = parse_axes(seamless)
    made = resample(image[None], (view.resized.height, view.resized.width), wrap_x=wrap_x, wrap_y=wrap_y)[0]
    # rolled, since a view of a torus may lie across its border
    made = made.roll((-view.top, -view.left), (-2, -1))
    return made[:, : view.size.height, : view.size.width].clamp(0, 1)
