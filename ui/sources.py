"""The image and the mask that a material is a variation of, read into what the pipeline takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from asd.errors import ZelligeError
from ui.request import Request

if TYPE_CHECKING:
    from torch import Tensor

    from materials.material import Material


def load_variation(request: Request) -> dict[str, Any]:
    """The arguments of `MaterialPipeline.__call__` that make a variation; none where the request asks for none.

    An image is a file, or the folder of a material. Raises ZelligeError for one that cannot be read.
    """
    asked: dict[str, Any] = {"strength": request.strength, "neighbour": request.vary, "amount": request.amount}
    if request.image is not None:
        asked["image"] = _image(request.image)
    if request.mask is not None:
        asked["mask"] = _mask(request.mask)
    return {name: value for name, value in asked.items() if value is not None}


def image_files(path: str) -> list[Path]:
    """The files that decide what an image is: itself, or the maps and the description in a material's folder."""
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    return sorted(file for file in folder.iterdir() if file.suffix in (".png", ".exr", ".json"))


def _image(path: str) -> Material | Tensor:
    if Path(path).is_dir():
        from materials.files import load_material

        return load_material(path)
    from materials.photo import read_photo

    return read_photo(path)


def _mask(path: str) -> Tensor:
    """(1, H, W) in [0, 1]: white is made anew."""
    from materials.photo import read_photo

    try:
        return read_photo(path).mean(0, keepdim=True)
    except ZelligeError as error:
        raise ZelligeError(f"Expected a mask, but: {error}") from error
