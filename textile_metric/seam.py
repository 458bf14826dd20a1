"""The seam figure: how large the step across the wrap edge is, beside the steps inside the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from textile_metric.images import ImageLike, as_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP_FLOOR = 1e-3
"""Smallest median interior step, on values 0..255, that the ratio divides by."""


def seam_ratio(img: ImageLike) -> NDArray[np.float32]:
    """Mean step across the wrap edge over the median interior step, per axis.

    For the x axis, the mean of |img[..., 0] - img[..., -1]| is divided by the median, over the W - 1 pairs of
    neighbouring columns, of their mean absolute difference (at least 1e-3 on values 0..255); likewise for y with rows.
    An image that tiles scores about 1. On an axis of one pixel every repeat is equal and there is no step: the ratio
    is 0.

    Args:
        img: as `textile_metric.images.as_images` takes it: (3, H, W) or (N, 3, H, W), floats in [0, 1] or uint8; a PIL
            image; the path of an image file.

    Returns:
        (N, 2) float32, columns x and y; N is 1 for a single image.

    Raises:
        ValueError: another shape, dtype or range, values that are not finite, a file that is no whole still image.
    """
    images = as_images(img).detach().cpu().numpy() * np.float32(255)
    ratios = [[_axis_ratio(image, axis) for axis in (2, 1)] for image in images]
    return np.asarray(ratios, dtype=np.float32).reshape(-1, 2)


def _axis_ratio(image: NDArray[np.float32], axis: int) -> float:
    """`image` is (C, H, W) on 0..255; `axis` is 2 for x and 1 for y."""
    if image.shape[axis] == 1:
        return 0.0
    others = (0, 3 - axis)
    inner = float(np.median(np.abs(np.diff(image, axis=axis)).mean(others)))
    wrap = float(np.abs(np.take(image, 0, axis) - np.take(image, -1, axis)).mean())
    return wrap / max(inner, STEP_FLOOR)
