"""`MapSet`: the maps of one material as they were found, before anything about them is known to be right."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from materials.errors import ZelligeError
from materials.exr import read_exr
from materials.material import MAPS, Material, Seamlessness
from materials.png import read_png

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP",
            ".tga": "TGA", ".bmp": "BMP"}  # fmt: skip
"""The decoders Pillow may use: it knows over forty, and an untrusted file picks its own."""

SUFFIXES = (*_FORMATS, ".exr")
"""Endings of the files that can be read."""

_MOST_TEXELS = 1 << 28
"""16384 x 16384: a file of a few bytes can claim any size."""
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L")


@dataclass(frozen=True, kw_only=True)
class FoundMap:
    """One map: (C, H, W) float32 values as stored, with NaN and values out of range kept; where it came from.

    Integer files are scaled to [0, 1]. `normal` is in [-1, 1], OpenGL (+Y up), all others as in `Material`. `bits` is
    the precision of the source, 32 for floats.
    """

    values: NDArray[np.float32]
    bits: int = 32
    file: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.values.shape[2], self.values.shape[1]


@dataclass(frozen=True, kw_only=True)
class MapSet:
    """What is known of a material whose maps may be missing, broken or of different sizes.

    Attributes:
        source: where it was found, for people.
        maps: name (`materials.material.MAPS` and ao) to `FoundMap`.
        depth_m: metres between height 0 and 1, None where nobody said.
        size_m: physical (width, height) in metres, None where nobody said.
        seamless: the axes that are said to repeat, None where nobody said.
        locked: maps that were asked to be one value everywhere.
        complete: whether a metallic map is expected: other tools leave it out of what is no metal.
        notes: sentences on how files were taken.
    """

    source: str
    maps: Mapping[str, FoundMap]
    depth_m: float | None = None
    size_m: tuple[float, float] | None = None
    seamless: Seamlessness | None = None
    locked: frozenset[str] = frozenset()
    complete: bool = True
    notes: tuple[str, ...] = field(default=())

    @staticmethod
    def of(material: Material) -> MapSet:
        """The maps of a `Material`, as floats."""
        return MapSet(
            source="material",
            maps={name: FoundMap(values=getattr(material, name).detach().numpy()) for name in MAPS},
            depth_m=material.depth_m,
            size_m=material.size_m,
            seamless=material.seamless,
        )

    def to_material(self) -> Material:
        """The material that these maps are; a metallic map that need not be there is 0.

        Raises ZelligeError where another map, the depth or the size is missing, or `Material` refuses a map.
        """
        maps = {name: torch.from_numpy(found.values) for name, found in self.maps.items() if name in MAPS}
        if "metallic" not in maps and "basecolor" in maps and not self.complete:
            maps["metallic"] = torch.zeros_like(maps["basecolor"][:1])
        if missing := [name for name in MAPS if name not in maps]:
            raise ZelligeError(f"Expected a material, but {self.source} has no map for {', '.join(missing)}.")
        if self.depth_m is None or self.size_m is None:
            raise ZelligeError(f"Expected the depth of the height and the size of the image in metres, but "
                               f"{self.source} does not say both.")  # fmt: skip
        normal = maps["normal"].clone()
        normal[2].clamp_(min=1e-5)  # NaN passes through, and is refused below
        maps["normal"] = normal / torch.linalg.vector_norm(normal, dim=0, keepdim=True)
        seamless: Seamlessness = "xy" if self.seamless is None else self.seamless
        return Material(**maps, depth_m=self.depth_m, size_m=self.size_m, seamless=seamless)


def read_image(path: Path) -> tuple[NDArray[np.float32], int]:
    """(C, H, W) float32 with C 1 or 3, integers scaled to [0, 1], and the bits per channel of the file; alpha is left.

    Raises ZelligeError, one sentence, for a file that is missing, damaged, or of a kind that is not in `SUFFIXES`.
    """
    suffix = path.suffix.lower()
    if suffix == ".exr":
        return read_exr(path)[None], 32
    if suffix not in _FORMATS:
        raise ZelligeError(f"Expected an image ({', '.join(SUFFIXES)}), but got {path}.")
    if suffix == ".png" and (found := _own_png(path)) is not None:
        return found
    return _by_pillow(path, _FORMATS[suffix])


def _own_png(path: Path) -> tuple[NDArray[np.float32], int] | None:
    """16-bit files keep their bits in this package's reader alone; None for the kinds that it leaves to Pillow."""
    try:
        with path.open("rb") as handle:
            head = handle.read(29)
    except OSError as error:
        raise ZelligeError(f"Expected a readable image, but got {path} ({error.strerror}).") from error
    if len(head) < 29 or head[24] not in (8, 16) or head[25] == 3 or head[28]:
        return None
    width, height = struct.unpack_from(">II", head, 16)
    if width * height > _MOST_TEXELS:
        raise ZelligeError(f"Expected an image of at most {_MOST_TEXELS} pixels, but {path} has {width}x{height}.")
    pixels = read_png(path).pixels
    top = 255 if pixels.dtype == np.uint8 else 65535
    return (pixels / top).astype(np.float32), pixels.itemsize * 8


def _by_pillow(path: Path, kind: str) -> tuple[NDArray[np.float32], int]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=(kind,)) as image:
            if image.mode in _SIXTEEN_BITS:
                return (np.asarray(image, np.float32) / np.float32(65535))[None], 16
            if image.mode == "F":
                return np.array(image, np.float32)[None], 32
            grey = image.mode in ("1", "L", "LA")
            pixels = np.asarray(image.convert("L" if grey else "RGB"), np.float32) / np.float32(255)
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ZelligeError(f"Expected a {kind} image, but {path} is none.") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ZelligeError(f"Expected a readable image, but got {path} ({error}).") from error
    return (pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))), 8
