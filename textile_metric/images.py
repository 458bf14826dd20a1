"""What can be scored: tensors, arrays, PIL images and files, all to (N, 3, H, W) in [0, 1]."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

ImageLike: TypeAlias = Union[Tensor, "NDArray[np.generic]", "Image", str, PathLike[str]]

MAX_PIXELS = 2**28
"""Of an image file: 16384 x 16384. A compressed bomb states more and is refused before it is unpacked."""
RANGE_SLACK = 1e-4
"""How far outside [0, 1] a float image may be, for resampling and half precision."""
MATTE = 0.5
"""Grey that transparent pixels show: their colour is whatever the painter's tool left there."""


class ImageError(ValueError):
    """What is wrong with an image, in one sentence."""


def as_images(img: ImageLike) -> Tensor:
    """(N, 3, H, W) floats in [0, 1]; a single image is N = 1. Gradients of a float tensor are kept.

    Args:
        img: (3, H, W) or (N, 3, H, W), or one grey channel in place of three: a torch tensor or numpy array of uint8,
            or of floats in [0, 1] (half, bfloat16, single or double; computed in single). A PIL image or the path of
            an image file of any mode: grey, palette and CMYK become RGB, 16 bits become floats, and what is
            transparent lies on mid-grey.

    Raises:
        ValueError: another shape, dtype or range, values that are not finite, a file that is no whole still image.
    """
    if isinstance(img, str | PathLike):
        with opened(img) as image:
            return from_pil(image)
    if isinstance(img, Tensor):
        return _from_tensor(img)
    if isinstance(img, np.ndarray):
        if img.dtype not in (np.uint8, np.float16, np.float32, np.float64):
            raise ImageError(f"Expected float values in [0, 1] or uint8, but got {img.dtype}.")
        return _from_tensor(torch.from_numpy(np.ascontiguousarray(img)))
    if hasattr(img, "getbands"):
        return from_pil(img)
    raise ImageError(f"Expected a tensor, an array, a PIL image or a path, but got {type(img).__name__}.")


def _from_tensor(img: Tensor) -> Tensor:
    shape = tuple(img.shape)
    if img.dim() == 3:
        img = img[None]
    if img.dim() != 4 or img.shape[1] not in (1, 3) or 0 in img.shape:
        hint = "; its channels come last" if len(shape) >= 3 and shape[-1] in (1, 3, 4) else ""
        raise ImageError(f"Expected an image of shape (3, H, W) or (N, 3, H, W), but got {shape}{hint}.")
    if img.dtype == torch.uint8:
        img = img.float() / 255
    elif img.is_floating_point():
        img = img.float()
        low, high = (float(v) for v in img.detach().aminmax())
        if not (low >= -RANGE_SLACK and high <= 1 + RANGE_SLACK):  # NaN fails too
            raise ImageError(f"Expected finite values in [0, 1], but got {low:.4g} to {high:.4g}.")
    else:
        raise ImageError(f"Expected float values in [0, 1] or uint8, but got {img.dtype}.")
    return img.expand(-1, 3, -1, -1) if img.shape[1] == 1 else img


@contextmanager
def opened(path: str | PathLike[str], what: str = "image file") -> Iterator[Image]:
    """An image file open in Pillow, which warns of nothing.

    Raises:
        ImageError: one sentence that names the file, for whatever goes wrong while it is open.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes far below `MAX_PIXELS`, and damaged EXIF data is no reason to refuse a picture
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                yield image
    except ImageError as error:
        raise ImageError(f"{str(error).rstrip('.')} ({path}).") from error
    except FileNotFoundError as error:
        raise ImageError(f"Expected a readable {what}, but there is no file {path}.") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise ImageError(f"Expected a readable {what}, but got {path} ({reason}).") from error


def still(image: Image, *, phone: bool = False) -> Image:
    """The image itself. Raises ImageError for several frames or more than `MAX_PIXELS`.

    Args:
        image: of any mode; its pixels are not read.
        phone: take the multi-picture JPEGs of phones, whose first frame is the picture.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and not (phone and image.format == "MPO"):
        raise ImageError(f"Expected a still image, but got {frames} frames.")
    width, height = image.size
    if width * height > MAX_PIXELS or width * height == 0:
        raise ImageError(f"Expected an image of 1 to {MAX_PIXELS} pixels, but got {width}x{height}.")
    return image


def from_pil(image: Image) -> Tensor:
    """(1, 3, H, W) in [0, 1] of a still PIL image. Raises ValueError for several frames or more than `MAX_PIXELS`."""
    still(image)
    if image.mode == "F":
        return _from_tensor(torch.from_numpy(np.asarray(image).copy())[None])
    if image.mode.startswith("I"):  # 16 bits, also where the decoder hands them out as 32
        deep = np.asarray(image).astype(np.float32)
        if not (deep.min() >= 0 and deep.max() <= 65535):
            raise ImageError(f"Expected 16-bit values, but got {deep.min():.0f} to {deep.max():.0f}.")
        return _from_tensor(torch.from_numpy(deep / 65535)[None])
    if image.has_transparency_data:
        rgba = torch.from_numpy(np.asarray(image.convert("RGBA")).copy()).permute(2, 0, 1).float() / 255
        alpha = rgba[3:]
        return (rgba[:3] * alpha + MATTE * (1 - alpha))[None]
    rgb = np.asarray(image.convert("RGB")).copy()
    return (torch.from_numpy(rgb).permute(2, 0, 1).float() / 255)[None]
