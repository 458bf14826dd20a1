"""A photo as it is meant to be seen: upright, sRGB, RGB, in [0, 1]."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, cast

from torch import Tensor

from materials.errors import ZelligeError
from textile_metric.images import ImageError, ImageLike, as_images, from_pil, opened, still

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
        ZelligeError: no readable still image, more than 2^28 pixels, several images, another shape or range.
    """
    with _own_errors():
        if isinstance(photo, str | PathLike):
            with opened(photo, "photo") as image:
                return _from_pil(image)
        if hasattr(photo, "getbands"):
            return _from_pil(cast("Image", photo))
        found = as_images(photo)
    if len(found) != 1:
        raise ZelligeError(f"Expected one photo, but got {len(found)}.")
    return found[0].detach().cpu().contiguous()


def photo_size(path: str | PathLike[str]) -> tuple[int, int]:
    """(width, height) of what `read_photo` returns, from the file's header alone. Raises ZelligeError as it does."""
    with _own_errors(), opened(path, "photo") as image:
        width, height = still(image, phone=True).size
        return (height, width) if image.getexif().get(_ORIENTATION) in _SIDEWAYS else (width, height)


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise ZelligeError(str(error)) from error


def _from_pil(image: Image) -> Tensor:
    from PIL import ImageOps

    profile = image.info.get("icc_profile")
    upright = ImageOps.exif_transpose(still(image, phone=True))
    # a copy is a plain image: the other pictures of a multi-picture file are left behind
    plain = _to_srgb(upright.copy(), profile) if profile else upright.copy()
    return from_pil(plain)[0]


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
