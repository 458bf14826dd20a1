"""The maps a request locks, read into the tensors that the pipeline keeps."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from asd.errors import ZelligeError
from ui.request import LockedMap, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
"""The decoders Pillow may use: it knows over forty, and an untrusted file picks its own."""
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L")


def load_locks(request: Request) -> dict[str, float | Tensor]:
    """What `MaterialPipeline` takes as `lock`: numbers as they are, colours and images as (C, H, W) float32 tensors.

    Basecolor is sRGB in [0, 1], normal unit vectors in [-1, 1] (OpenGL, +Y up), the rest (1, H, W) in [0, 1]; H and W
    are the request's. Raises ZelligeError for a file that is missing, no image, or of another size: resampling a map
    that somebody asked to keep would change it.
    """
    return {name: _colour(value, request) if _is_colour(value) else _map(name, value, request)
            for name, value in request.lock}  # fmt: skip


def _is_colour(value: float | str) -> bool:
    return isinstance(value, str) and value.startswith("#")


def _colour(value: float | str, request: Request) -> Tensor:
    import torch

    code = int(str(value)[1:], 16)
    colour = torch.tensor([code >> 16, code >> 8 & 255, code & 255]) / 255
    width, height = request.size
    return colour.reshape(3, 1, 1).expand(3, height, width).contiguous()


def _map(name: LockedMap, value: float | str, request: Request) -> float | Tensor:
    if not isinstance(value, str):
        return float(value)
    import torch

    pixels = torch.from_numpy(_read(name, value, request.size))
    if name != "normal":
        return pixels
    return torch.nn.functional.normalize(pixels * 2 - 1, dim=0)


def _read(name: str, path: str, size: tuple[int, int]) -> NDArray[np.float32]:
    """(C, H, W) float32 in [0, 1]; C is 3 for basecolor and normal, else 1."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    from materials.png import read_png

    asked = f"Expected the locked {name} to be an image ({', '.join(IMAGE_FORMATS)})"
    colour = name in ("basecolor", "normal")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                if image.size != size:
                    found, wanted = "x".join(map(str, image.size)), "x".join(map(str, size))
                    raise ZelligeError(f"Expected the locked {name} to be {wanted} pixels as size says, "
                                       f"but {path} has {found}")  # fmt: skip
                if image.mode in _SIXTEEN_BITS and not colour:
                    return read_png(path).pixels[:1].astype(np.float32) / np.float32(65535)
                pixels = np.asarray(image.convert("RGB" if colour else "L"), dtype=np.float32) / np.float32(255)
    except UnidentifiedImageError as error:
        raise ZelligeError(f"{asked}, but {path} is none") from error
    except OSError as error:
        raise ZelligeError(f"{asked}, but {path} cannot be read: {error.strerror or error}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ZelligeError(f"{asked} of a size Pillow takes for safe, but got {path}: {error}") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if colour else pixels[None]
