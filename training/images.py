"""Decoding, colour-true conversion and tile-aware resizing of texture images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tga", ".dds", ".tif", ".tiff", ".bmp", ".rgb"})
_LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


def _scaled(values: NDArray[Any]) -> FloatArray:
    return values.astype(np.float32) / np.float32(255)


def open_image(source: Path | bytes) -> Image.Image:
    """Fully decoded image from a file or from its bytes.

    Raises ValueError when the data is missing, damaged or in a format that Pillow does not know.
    """
    name = str(source) if isinstance(source, Path) else "the stored image"
    try:
        image = Image.open(source if isinstance(source, Path) else io.BytesIO(source))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"Expected a readable image, but got {name}: {error}") from error
    return image


def to_rgb(image: Image.Image) -> ByteArray:
    """(H, W, 3) uint8; transparency is dropped, palettes are resolved, 16-bit grey is scaled."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.rint(to_grey(image) * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    # Pillow warns of lost palette transparency unless it goes through RGBA.
    via = image.convert("RGBA") if "transparency" in image.info else image
    return np.asarray(via.convert("RGB"))


def to_grey(image: Image.Image) -> FloatArray:
    """(H, W) float32 in [0, 1]: one linear channel. RGB images give the mean of their channels."""
    if image.mode.startswith("I"):
        return np.clip(np.asarray(image).astype(np.float32) / np.float32(65535), 0, 1)
    if image.mode == "F":
        return np.clip(np.asarray(image, dtype=np.float32), 0, 1)
    if image.mode in ("L", "1"):
        return _scaled(np.asarray(image.convert("L")))
    return _scaled(to_rgb(image)).mean(axis=2)


def alpha(image: Image.Image) -> FloatArray | None:
    """(H, W) float32 in [0, 1]: the alpha channel, None where there is none. Palette transparency counts."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return None
    return _scaled(np.asarray(image.convert("RGBA").getchannel("A")))


def to_normal(image: Image.Image, direction: str = "GL") -> FloatArray:
    """(H, W, 3) float32 unit vectors, OpenGL (+Y up the image).

    direction: "GL" or "DX", where the file's green channel points. Raises ValueError for another value.
    """
    if direction not in ("GL", "DX"):
        raise ValueError(f"Expected a normal direction of GL or DX, but got {direction!r}")
    vectors = to_rgb(image).astype(np.float32) / 127.5 - 1
    if direction == "DX":
        vectors[..., 1] *= -1
    # A tangent-space normal faces the viewer; flat or inverted blue comes from block compression only.
    vectors[..., 2] = np.maximum(vectors[..., 2], 1e-2)
    return unit(vectors)


def unit(vectors: FloatArray) -> FloatArray:
    """Vectors of length 1 along the last axis."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def level(vectors: FloatArray) -> FloatArray:
    """Normals (H, W, 3) without their mean tilt: a surface that tiles rises as much as it falls."""
    mean = vectors.mean(axis=(0, 1))
    levelled = vectors.copy()
    levelled[..., :2] -= vectors[..., 2:] * (mean[:2] / max(float(mean[2]), 1e-2))
    return unit(levelled)


def fitted(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) scaled down so that the short side is at most short_side and the long side at most twice that."""
    scale = min(1.0, short_side / min(width, height), 2 * short_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize(array: NDArray[Any], size: tuple[int, int], *, wrap_x: bool = False, wrap_y: bool = False) -> FloatArray:
    """Lanczos resize of (H, W) or (H, W, C) to size = (width, height), float32, the range kept.

    On a wrapping axis the filter reads across the border, so that a texture that tiles still tiles.
    """
    array = np.asarray(array, dtype=np.float32)
    height, width = array.shape[:2]
    if (width, height) == size:
        return array
    pad_x = min(width, 4 * max(1, round(width / size[0]))) if wrap_x else 0
    pad_y = min(height, 4 * max(1, round(height / size[1]))) if wrap_y else 0
    planes = array[..., None] if array.ndim == 2 else array
    padded = np.pad(planes, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), mode="wrap")
    box = (pad_x, pad_y, pad_x + width, pad_y + height)
    out = [
        np.asarray(Image.fromarray(np.ascontiguousarray(padded[..., c])).resize(size, Image.Resampling.LANCZOS, box))
        for c in range(padded.shape[2])
    ]
    stacked = np.stack(out, axis=2)
    bounded = np.clip(stacked, array.min(), array.max())
    return bounded[..., 0] if array.ndim == 2 else bounded


def luminance(rgb: ByteArray) -> FloatArray:
    """(H, W) float32 in [0, 1]: Rec. 709 luma of sRGB-encoded bytes."""
    return _scaled(rgb) @ _LUMA


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Pearson correlation of two arrays of one shape; 0 where either is constant."""
    x, y = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale > 1e-9 else 0.0


def slope_agreement(normal: FloatArray, height: FloatArray) -> tuple[float, float]:
    """Correlations (x, y) of a normal map (H, W, 3) with the slopes of a height map (H, W).

    OpenGL normals follow (-dz/dx, +dz/drow, 1), so both are clearly positive where the maps belong together.
    """
    dx = np.roll(height, -1, 1) - np.roll(height, 1, 1)
    dy = np.roll(height, -1, 0) - np.roll(height, 1, 0)
    return correlation(-dx, normal[..., 0]), correlation(dy, normal[..., 1])
