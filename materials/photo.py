"""A photo as it is meant to be seen: upright, sRGB, RGB, in [0, 1]."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import Tensor

from materials.errors import ZelligeError
from textile_metric.images import MAX_PIXELS, ImageLike, as_images, from_pil

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


def read_photo(photo: ImageLike) -> Tensor:
    """(3, H, W) float32 in [0, 1], sRGB-encoded, on the CPU.

    Args:
        photo: one image as `textile_metric.images.as_images` takes it: a path, a PIL image, a tensor or an array. Files
            and PIL images are turned upright as their EXIF data says, and converted from their colour profile to sRGB
            (a profile that cannot be read counts as sRGB, as in browsers); of a phone's multi-picture JPEG the first
            picture is taken; what is transparent lies on mid-grey.

    Raises:
        ZelligeError: no readable still image, more than `MAX_PIXELS` pixels, several images, another shape or range.
    """
    if isinstance(photo, str | PathLike):
        with _opened(Path(photo)) as image:
            return _from_pil(image)
    if hasattr(photo, "getbands"):
        return _from_pil(cast("Image", photo))
    try:
        found = as_images(photo)
    except ValueError as error:
        raise ZelligeError(str(error)) from error
    if len(found) != 1:
        raise ZelligeError(f"Expected one photo, but got {len(found)}.")
    return found[0].detach().cpu().contiguous()


def photo_size(path: str | PathLike[str]) -> tuple[int, int]:
    """(width, height) of what `read_photo` returns, from the file's header alone. Raises ZelligeError as it does."""
    with _opened(Path(path)) as image:
        width, height = _checked(image).size
        return (height, width) if image.getexif().get(_ORIENTATION) in _SIDEWAYS else (width, height)


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # the limit is MAX_PIXELS, and damaged EXIF data is no reason to refuse a picture
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                yield image
    except ZelligeError as error:
        raise ZelligeError(f"{str(error).rstrip('.')} ({path}).") from error
    except FileNotFoundError as error:
        raise ZelligeError(f"Expected a photo, but there is no file {path}.") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise ZelligeError(f"Expected a readable photo, but got {path} ({reason}).") from error


def _checked(image: Image) -> Image:
    """The image, unless it holds several frames or too many pixels."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ZelligeError(f"Expected a still image, but got {frames} frames.")
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise ZelligeError(f"Expected a photo of 1 to {MAX_PIXELS} pixels, but got {width}x{height}.")
    return image


def _from_pil(image: Image) -> Tensor:
    from PIL import ImageOps

    profile = image.info.get("icc_profile")
    upright = ImageOps.exif_transpose(_checked(image))
    # a copy is a plain image: the other pictures of a multi-picture file are left behind
    plain = _to_srgb(upright.copy(), profile) if profile else upright.copy()
    try:
        return from_pil(plain)[0]
    except ValueError as error:
        raise ZelligeError(str(error)) from error


def _to_srgb(image: Image, profile: bytes) -> Image:
    """RGB and CMYK images as their profile means them; others, and profiles that cannot be read, stay as they are."""
    from PIL import ImageCms

    if image.mode not in ("RGB", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return image if converted is None else converted
