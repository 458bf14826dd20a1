"""The items of the tileability benchmark: checked tiles, and ten kinds of change made from them, each with its truth.

Written with numpy and scipy alone, so that nothing is shared with the trainer's own augmentations
(`training/breaks.py`). A crop counts as broken only where the break shows: what the plane goes on with is known, and
where it differs from what the wrap puts there by less than `VISIBLE` natural steps, the item is left out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.images import open_image, resize, to_rgb

Floats = NDArray[np.floating[Any]]

KINDS = (
    "tile", "random_crop", "one_axis", "swapped_halves", "rotation", "shear", "hue_seam", "feathered_seam", "lighting",
    "mirrored", "scale_mismatch",
)  # fmt: skip
"""`tile` is the source itself at another size; `mirrored` tiles too."""
SIZES = (64, 128, 192, 256, 384, 512, 1024, 2048)
VISIBLE = 1.6
POSITIVES = Path(__file__).with_name("tileability_positives.csv")


@dataclass(frozen=True)
class Item:
    """image (H, W, 3) uint8; tiles (x, y)."""

    source: str
    kind: str
    image: NDArray[np.uint8]
    tiles: tuple[bool, bool]


def read_positives(root: Path) -> list[tuple[str, Path]]:
    """(name, file) of the checked tiles below `root`; raises ValueError for files that are not there."""
    with POSITIVES.open(encoding="utf-8", newline="") as lines:
        found = [(row["path"], root / row["path"]) for row in csv.DictReader(lines)]
    missing = [str(path) for _, path in found if not path.is_file()]
    if missing:
        raise ValueError(
            f"Expected the unpacked packages in {root}, but {len(missing)} files are missing, the first: {missing[0]}"
        )
    return found


def items(
    sources: Sequence[tuple[str, Path]],
    seed: int = 0,
    sizes: Sequence[int] = SIZES,
    kinds: Sequence[str] = KINDS,
) -> Iterator[Item]:
    """Every kind of every source, one size each, in order; the same for the same seed, whatever else is made."""
    for index, (name, path) in enumerate(sources):
        tile = to_rgb(open_image(path)).astype(np.float32)
        for number, kind in enumerate(KINDS):
            if kind not in kinds:
                continue
            rng = np.random.default_rng((seed, index, number))
            for _ in range(4):
                size = int(rng.choice([s for s in sizes if s <= 2 * max(tile.shape[:2])]))
                made = _MAKERS[kind](tile, size, rng)
                if made is not None:
                    image, tiles = made
                    yield Item(name, kind, np.clip(np.rint(image), 0, 255).astype(np.uint8), tiles)
                    break


Made = tuple[Floats, tuple[bool, bool]] | None


def _scaled(tile: Floats, size: int) -> Floats:
    return resize(tile, (size, size), wrap_x=True, wrap_y=True)


def _plane(tile: Floats, rows: slice, columns: slice) -> Floats:
    """Texels of the plane that repeats `tile`."""
    height, width = tile.shape[:2]
    y = np.arange(rows.start, rows.stop) % height
    x = np.arange(columns.start, columns.stop) % width
    return tile[np.ix_(y, x)]


def _sampled(tile: Floats, y: NDArray[np.float64], x: NDArray[np.float64]) -> Floats:
    """Cubic interpolation of the plane that repeats `tile`."""
    from scipy import ndimage

    channels = [ndimage.map_coordinates(tile[..., c], [y, x], order=3, mode="grid-wrap") for c in range(3)]
    return np.stack(channels, -1).astype(np.float32)


def _shows(natural: Floats, wrapped: Floats, inside: Floats) -> bool:
    """Whether columns `wrapped` (H, k, 3) differ visibly from `natural`, the plane's own continuation, beside
    `inside`."""
    for k in (1, 4, 12):
        if natural.shape[1] < k or inside.shape[1] < 3 * k:
            continue
        size = max(1, natural.shape[0] // max(1, natural.shape[0] // k))

        def blocks(strip: Floats, size: int = size, k: int = k) -> Floats:
            rows = strip.shape[0] // size * size
            return strip[:rows, :k].reshape(-1, size, k, 3).mean((1, 2))

        mismatch = np.abs(blocks(natural) - blocks(wrapped)).mean()
        pairs = [
            np.abs(blocks(inside[:, c + k :]) - blocks(inside[:, c:])).mean()
            for c in range(0, inside.shape[1] - 2 * k + 1, max(1, inside.shape[1] // 64))
        ]
        if mismatch > VISIBLE * (np.median(pairs) + 2):
            return True
    return False


def _part(rng: np.random.Generator) -> float:
    """Periods covered by a crop: no whole number."""
    return float(rng.uniform(0.3, 0.93) + (rng.random() < 0.2))


def _cut(tile: Floats, size: int, parts: tuple[float | None, float | None], rng: np.random.Generator) -> Made:
    """A crop of `size` pixels a side that covers `parts` periods of x and y; None is one whole period."""
    periods = [size if part is None else round(size / part) for part in parts]
    plane = resize(tile, (periods[0], periods[1]), wrap_x=True, wrap_y=True)
    left, top = int(rng.integers(periods[0])), int(rng.integers(periods[1]))
    k = min(12, size // 4)
    wide = _plane(plane, slice(top, top + size + k), slice(left, left + size + k))
    image = wide[:size, :size]
    tiles = []
    for axis, part in enumerate(parts):
        if part is None:
            tiles.append(True)
            continue
        strip = wide[:size] if axis == 0 else wide[:, :size].transpose(1, 0, 2)
        if not _shows(strip[:, size:], strip[:, :k], strip[:, :size]):
            return None
        tiles.append(False)
    return image, (tiles[0], tiles[1])


def _tile(tile: Floats, size: int, rng: np.random.Generator) -> Made:
    return _scaled(tile, size), (True, True)


def _random_crop(tile: Floats, size: int, rng: np.random.Generator) -> Made:
    return _cut(tile, size, (_part(rng), _part(rng)), rng)


def _one_axis(tile: Floats, size: int, rng: np.random.Generator) -> Made:
    part = _part(rng)
    return _cut(tile, size, (part, None) if rng.random() < 0.5 else (None, part), rng)


def _swapped_halves(tile: Floats, size: int, rng: np.random.Generator) -> Made:
    made = _random_crop(tile, size, rng)
    return made and (np.roll(made[0], (size // 2, size // 2), (0, 1)), made[1])


def _rotation(tile: Floats, size: int, rng: np.random.Generator) -> Made:
    angle = np.deg2rad(rng.uniform(5, 40) * rng.choice([-1, 1]))
    plane = _scaled(tile, round(size * rng.uniform(1.0, 1.5)))
    k = min(12, size // 4)
    y, x = np.mgrid[0 : size + k, 0 : size + k].astype(np.float64)
    wide = _sampled(plane, y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle))
    rows = wide[:, :size].transpose(1, 0, 2)
    if not (
        _shows(wide[:size, size:], wide[:size, :k], wide[:size, :size]) and _shows(rows[:, size:], rows[:, :k], rows)
    ):
        return None
    return wide[:size, :size], (False, False)


def _shear(tile: Floats, size: int, rng: np.random.Generator) -> Made:
    amount = rng.uniform(0.08, 0.45) * rng.choice([-1, 1])
    plane = _scaled(tile, size)
    k = min(12, size // 4)
    y, x = np.mgrid[0 : size + k, 0:size].astype(np.float64)
    wide = _sampled(plane, y, x + amount * y)
    rows = wide.transpose(1, 0, 2)
    if not _shows(rows[:, size:], rows[:, :k], rows[:, :size]):
        return None
    flip = rng.random() < 0.5
    image = wide[:size].transpose(1, 0, 2) if flip else wide[:size]
    return image, (not flip, bool(flip))


def _ramp(size: int, axis: int) -> Floats:
    """-0.5 to 0.5 along an axis (0 is x): one step at the wrap, none inside."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    return np.broadcast_to(line[None, :] if axis == 0 else line[:, None], (size, size))


def _hue_seam(tile: Floats, size: int, rng: np.random.Generator) -> Made:
    """The chroma plane of YCbCr (Rec. 601) turns along one axis; luma stays to the last bit."""
    image = _scaled(tile, size)
    axis = int(rng.integers(2))
    luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
    blue, red = (image[..., 2] - luma) / 1.772, (image[..., 0] - luma) / 1.402
    away = rng.uniform(0, 2 * np.pi)
    strength = rng.uniform(8, 24)
    blue, red = blue + strength * np.cos(away), red + strength * np.sin(away)
    turn = _ramp(size, axis) * np.deg2rad(rng.uniform(30, 80)) * rng.choice([-1, 1])
    blue, red = blue * np.cos(turn) - red * np.sin(turn), blue * np.sin(turn) + red * np.cos(turn)
    # into range by pulling luma away from the ends, which all pixels share
    luma = 40 + luma * (175 / 255)
    green = luma - (0.299 * 1.402 * red + 0.114 * 1.772 * blue) / 0.587
    return np.stack([luma + 1.402 * red, green, luma + 1.772 * blue], -1), (axis != 0, axis != 1)


def _feathered_seam(tile: Floats, size: int, rng: np.random.Generator) -> Made:
    """A crop that is cross-faded with what lies beyond its other end, over 2 to 4 % of its width."""
    part = _part(rng)
    axis = int(rng.integers(2))
    band = max(2, round(size * rng.uniform(0.02, 0.04)))
    made = _cut(tile, size + band, (part, None), rng)
    if made is None:
        return None
    # the other axis covered one whole period of size + band rows: bring it back to `size` rows without breaking it
    wide = np.stack([resize(made[0][..., c], (size + band, size), wrap_y=True) for c in range(3)], -1)
    image = wide[:, :size].copy()
    weight = ((np.arange(band, dtype=np.float32) + 1) / (band + 1))[None, :, None]
    image[:, :band] = weight * wide[:, :band] + (1 - weight) * wide[:, size:]
    return (image, (False, True)) if axis == 0 else (image.transpose(1, 0, 2), (True, False))


def _lighting(tile: Floats, size: int, rng: np.random.Generator) -> Made:
    image = _scaled(tile, size)
    strength = rng.uniform(0.2, 0.6)
    if rng.random() < 0.5:
        axis = int(rng.integers(2))
        return image * (1 + strength * rng.choice([-1, 1]) * _ramp(size, axis))[..., None], (axis != 0, axis != 1)
    radius = 2 * (_ramp(size, 0) ** 2 + _ramp(size, 1) ** 2)
    return image * (1 - strength * radius)[..., None], (False, False)


def _mirrored(tile: Floats, size: int, rng: np.random.Generator) -> Made:
    made = _cut(tile, max(8, size // 2), (_part(rng), _part(rng)), rng)
    if made is None:
        return None
    half = np.concatenate([made[0], made[0][:, ::-1]], 1)
    return np.concatenate([half, half[::-1]], 0), (True, True)


def _scale_mismatch(tile: Floats, size: int, rng: np.random.Generator) -> Made:
    """Along one axis the texture grows from one end to the other: positions meet at the wrap, scales don't."""
    amount = rng.uniform(0.35, 0.6)
    t = (np.arange(size) + 0.5) / size
    warped = (t * (1 - amount) + amount * t**2) * size
    plane = _scaled(tile, size)
    y, x = np.meshgrid(np.arange(size, dtype=np.float64), warped, indexing="ij")
    image = _sampled(plane, y, x)
    energy = np.abs(np.diff(image, axis=1)).mean((0, 2))
    ends = max(4, size // 10)
    if float(energy.mean()) < 3 or float(energy[-ends:].mean()) < 1.25 * float(energy[:ends].mean()):
        return None  # too smooth to have a scale, or one that shows at the wrap
    return (image, (False, True)) if rng.random() < 0.5 else (image.transpose(1, 0, 2), (True, False))


_MAKERS = {
    "tile": _tile, "random_crop": _random_crop, "one_axis": _one_axis, "swapped_halves": _swapped_halves,
    "rotation": _rotation, "shear": _shear, "hue_seam": _hue_seam, "feathered_seam": _feathered_seam,
    "lighting": _lighting, "mirrored": _mirrored, "scale_mismatch": _scale_mismatch,
}  # fmt: skip
