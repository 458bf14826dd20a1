"""Pictures in and out: what diffusers' pipelines take and return, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from textile_metric.images import ImageError, opened

from .errors import ZelligeError

if TYPE_CHECKING:
    from PIL.Image import Image

OutputType = Literal["pil", "np", "pt", "latent"]


def to_tensor(images: Any, channels: int = 3) -> Tensor:
    """(N, channels, H, W) in [0, 1] of a picture or a list of them.

    A picture is a PIL image, a file, an array (H, W, C) or (N, H, W, C) of bytes or of floats in [0, 1], or a tensor
    (C, H, W) or (N, C, H, W) in [0, 1].

    Raises:
        ZelligeError: something else, several sizes in a list, or values out of range.
    """
    if isinstance(images, Sequence) and not isinstance(images, str):
        if not images:
            raise ZelligeError("Expected at least one image, but got an empty list.")
        made = [to_tensor(image, channels) for image in images]
        if len({image.shape[-2:] for image in made}) > 1:
            raise ZelligeError("Expected images of one size in a list, but got several.")
        return torch.cat(made)
    if isinstance(images, str | Path):
        images = read_picture(images)
    if isinstance(images, np.ndarray):
        values = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)
        values = values[..., None] if values.ndim == 2 else values
        made = torch.from_numpy(values if values.ndim == 4 else values[None]).movedim(-1, 1)
    elif isinstance(images, Tensor):
        made = images if images.ndim == 4 else images[None]
        made = made.float() / 255 if made.dtype == torch.uint8 else made.float()
    elif hasattr(images, "convert"):
        pixels = np.asarray(images.convert("L" if channels == 1 else "RGB"), np.float32) / 255
        made = torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)[None]
    else:
        raise ZelligeError(f"Expected a PIL image, a file, an array or a tensor, but got {type(images).__name__}.")
    if made.ndim == 4 and channels == 1 and made.shape[1] == 3:
        made = made.mean(1, keepdim=True)
    if made.ndim == 4 and channels == 3 and made.shape[1] == 1:
        made = made.expand(-1, 3, -1, -1)
    if made.ndim != 4 or made.shape[1] != channels or made.numel() == 0:
        raise ZelligeError(f"Expected images of {channels} channels, but got the shape {tuple(made.shape)}.")
    low, high = (float(v) for v in torch.aminmax(made))
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also false for NaN
        raise ZelligeError(f"Expected image values in [0, 1], but got {low:.4g} to {high:.4g}.")
    return made


def read_picture(path: str | Path) -> Image:
    """An image file as RGB, turned as its EXIF says.

    Raises:
        ZelligeError: no such file, no image, or more pixels than Pillow takes (some 2^27).
    """
    from PIL import ImageOps

    try:
        with opened(path, "image") as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except ImageError as error:
        raise ZelligeError(str(error)) from error


def from_tensor(images: Tensor, output_type: str) -> Any:
    """Images (N, 3, H, W), about [-1, 1], as diffusers' pipelines return them; "latent" is not this function's."""
    if output_type == "pt":
        return (images * 0.5 + 0.5).clamp(0, 1)
    pixels = (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return pixels
    from PIL import Image

    return [Image.fromarray((image * 255).round().astype(np.uint8)) for image in pixels]


def check_output_type(name: str) -> None:
    if name not in get_args(OutputType):
        raise ZelligeError(f"Expected output_type to be one of {', '.join(get_args(OutputType))}, but got {name!r}.")
