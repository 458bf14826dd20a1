"""The seam figure: how large the step across the wrap edge is, beside the steps inside the image."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

ImageLike: TypeAlias = Union["NDArray[np.generic]", "Tensor", "Image", str, PathLike[str]]

STEP_FLOOR = 1e-3
"""Smallest median interior step, on values 0..255, that the ratio divides by."""


def seam_ratio(img: ImageLike) -> NDArray[np.float32]:
    """Mean step across the wrap edge over the median interior step, per axis.

    For the x axis, the mean of |img[..., 0] - img[..., -1]| is divided by the median, over the W - 1 pairs of
    neighbouring columns, of their mean absolute difference (at least 1e-3 on values 0..255); likewise for y with rows.
    An image that tiles scores about 1. On an axis of one pixel every repeat is equal and there is no step: the ratio
    is 0.

    Args:
        img: (C, H, W) or (N, C, H, W), float in [0, 1] or uint8, as a torch tensor or numpy array; a PIL image; or
            the path of an image file. A 16-bit image file is scaled to [0, 1] first.

    Returns:
        (N, 2) float32, columns x and y; N is 1 for a single image.

    Raises:
        ValueError: for another shape, dtype, an empty image, or values that are not finite or outside [0, 1].
    """
    images = _as_batch(img)
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


def _as_batch(img: ImageLike) -> NDArray[np.float32]:
    """(N, C, H, W) float32 on 0..255."""
    if isinstance(img, (str, PathLike)):
        array = _from_file(Path(img))
    elif hasattr(img, "getbands"):
        array = _from_pil(img)  # pyright: ignore[reportArgumentType]
    else:
        array = _from_array(img)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.size == 0:
        raise ValueError(f"Expected a (C, H, W) or (N, C, H, W) image, but got shape {tuple(array.shape)}.")
    return array


def _from_file(path: Path) -> NDArray[np.float32]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return _from_pil(image)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"Expected a readable image file, but got {path} ({error}).") from error


def _from_pil(image: Image) -> NDArray[np.float32]:
    if image.mode.startswith("I;16") or image.mode == "I":
        return (np.asarray(image, dtype=np.float32) * (255 / 65535))[None]
    if image.mode == "F":
        raise ValueError("Expected an 8-bit or 16-bit image, but got one in floating point (mode F).")
    grey = image.mode in ("1", "L", "LA")
    pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.float32)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _from_array(img: ImageLike) -> NDArray[np.float32]:
    if hasattr(img, "detach"):
        tensor = img.detach().cpu()  # pyright: ignore[reportAttributeAccessIssue]
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    elif isinstance(img, np.ndarray):
        array = img
    else:
        raise ValueError(f"Expected a tensor, an array, a PIL image or a path, but got {type(img).__name__}.")
    if array.dtype == np.uint8:
        return array.astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"Expected float values in [0, 1] or uint8, but got {array.dtype}.")
    array = array.astype(np.float32)
    if array.size and not (np.isfinite(array).all() and array.min() >= -1e-4 and array.max() <= 1 + 1e-4):
        raise ValueError(f"Expected finite values in [0, 1], but got {array.min():.4g} to {array.max():.4g}.")
    return array * 255
