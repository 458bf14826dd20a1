"""Which tiles a canvas is predicted in at each step, and how their predictions are put together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .errors import SeamlessError, SizeError, ZelligeError
from .seamless import SeamlessAxes, parse_axes

Method = Literal["fstd", "none", "overlap25", "overlap50", "multidiffusion", "published"]
"""How the tiles lie.

- `fstd`: disjoint; the whole grid moves at each step (Any-Size-Diffusion's idea, without the faults of its code).
- `none`: disjoint, the same grid at each step.
- `overlap25`: neighbours share a quarter, blended linearly, as diffusers tiles its autoencoders.
- `overlap50`: neighbours share a half, blended by a Gaussian (Mixture of Diffusers, StableSR).
- `multidiffusion`: one tile each 8 cells, averaged (MultiDiffusion).
- `published`: FSTD as its repository runs it: offsets over half a period, zero at each fourth step, a Gaussian blend,
  and the previous step's prediction where no tile lies. For comparison; it can't wrap.
"""
Border = Literal["clamp", "reflect"]
"""What a moving tile sees beyond a border that doesn't wrap: it is moved inside, or it sees the canvas mirrored."""

STEP = (0.7548776662466927, 0.5698402909980532)
"""1/g and 1/g², g³ = g + 1: multiples of these fill the square evenly, however many there are (Roberts 2018)."""
GAUSSIAN_VARIANCE = 0.01
"""Of the blend, in tiles (Mixture of Diffusers, Jiménez 2023)."""
MULTIDIFFUSION_STRIDE = 8
PUBLISHED_RESET = 4


class TileError(ZelligeError):
    """A tile plan that can't be, or a model that doesn't answer in tiles."""


class Strip(NamedTuple):
    """One axis of a tile: the canvas cells it reads, the part of them it answers for, and with what weight."""

    cells: Tensor
    start: int
    stop: int
    weight: Tensor


@dataclass(frozen=True, eq=False)
class Place:
    """Where a tile lies: the image of the batch, and the canvas rows and columns that it shows, in its own order."""

    sample: int
    rows: Tensor
    columns: Tensor

    @property
    def y(self) -> int:
        """Canvas row of the tile's first."""
        return int(self.rows[0])

    @property
    def x(self) -> int:
        """Canvas column of the tile's first."""
        return int(self.columns[0])

    def crop(self, canvas: Tensor, scale: int = 1) -> Tensor:
        """What the tile shows of another canvas (N, C, H * scale, W * scale): a control image, a smaller image, a mask.

        Of a canvas with N = 1 it is cut for every image of the batch. Returns (C, h * scale, w * scale).
        """
        fine = torch.arange(scale)
        rows, columns = ((cells[:, None] * scale + fine).flatten() for cells in (self.rows, self.columns))
        image = canvas[self.sample if len(canvas) > 1 else 0]
        return image[:, rows.to(canvas.device)][:, :, columns.to(canvas.device)]


@dataclass(frozen=True)
class Layout:
    """The tiles of one step: every row strip with every column strip."""

    size: tuple[int, int]
    rows: tuple[Strip, ...]
    columns: tuple[Strip, ...]

    @property
    def calls(self) -> int:
        """Tiles, and so network evaluations, for one image."""
        return len(self.rows) * len(self.columns)

    @property
    def stale_share(self) -> float:
        """Share of the canvas that no tile answers for, and that a prediction of an earlier step has to fill."""
        return 1 - float(self.covered().float().mean())

    def covered(self) -> Tensor:
        """(H, W) bool: cells that some tile answers for."""
        rows, columns = (
            _reached(strips, size) for strips, size in zip((self.rows, self.columns), self.size, strict=True)
        )
        return rows[:, None] & columns[None]

    def tiles(self) -> list[tuple[Strip, Strip]]:
        return [(row, column) for row in self.rows for column in self.columns]


class TilePlan:
    """The tiles of every step of a run, fixed by its arguments and what it draws from the generator here.

    Sizes are in the network's cells (latents, as a rule). A canvas no larger than a tile is one tile. On an axis that
    wraps, tiles lie across the border like anywhere else. With `fstd` each cell is answered for by exactly one tile at
    every step; on a border that doesn't wrap the moving grid needs one more row or column of tiles.

    Args:
        size: (height, width) of the canvas.
        tile: side of a tile.
        method: how the tiles lie.
        seamless: axes on which the canvas is a torus.
        generator: where the start of the offsets comes from (two draws); the default is torch's own.
        border: for `fstd`; clamped tiles see nothing but the canvas, which mirrored noise is not.

    Raises:
        SizeError: a side or the tile is below 1.
        TileError: an unknown method or border.
        SeamlessError: unknown axes, or the published rule on an axis that wraps.
    """

    def __init__(
        self,
        size: tuple[int, int],
        tile: int = 64,
        method: Method = "fstd",
        seamless: SeamlessAxes = "none",
        *,
        generator: torch.Generator | None = None,
        border: Border = "clamp",
    ) -> None:
        if len(size) != 2 or min(size) < 1 or tile < 1:
            raise SizeError(f"Expected a canvas and a tile of at least 1 cell a side, but got {size} and {tile}.")
        if method not in get_args(Method):
            raise TileError(f"Expected method to be one of {', '.join(get_args(Method))}, but got {method!r}.")
        if border not in get_args(Border):
            raise TileError(f"Expected border to be one of {', '.join(get_args(Border))}, but got {border!r}.")
        wrap_x, wrap_y = parse_axes(seamless)
        if method == "published" and (wrap_x or wrap_y):
            raise SeamlessError(f"Expected seamless none with the published rule, but got {seamless!r}.")
        self.size = (size[0], size[1])
        self.tile = tile
        self.method: Method = method
        self.border: Border = border
        self._wrap = (wrap_y, wrap_x)
        self._start: list[float] = torch.rand(2, generator=generator, dtype=torch.float64).tolist()

    @property
    def tile_seamless(self) -> SeamlessAxes:
        """The axes along which a tile is all of the torus: the network belongs in `Seamless` along these alone.

        Along others a tile's two sides are no neighbours, and a circular network would bring in what isn't there.
        """
        names = "".join(
            name
            for name, size, wrap in zip("xy", self.size[::-1], self._wrap[::-1], strict=True)
            if wrap and size <= self.tile
        )
        axes: dict[str, SeamlessAxes] = {"": "none", "x": "x", "y": "y", "xy": "xy"}
        return axes[names]

    def layout(self, step: int) -> Layout:
        """The tiles of step 0, 1, ...; any order, the same for the same step."""
        offsets = self._offsets(step)
        rows, columns = (
            tuple(self._strips(size, wrap, offset, axis))
            for axis, (size, wrap, offset) in enumerate(zip(self.size, self._wrap, offsets, strict=True))
        )
        return Layout(self.size, rows, columns)

    def _offsets(self, step: int) -> tuple[float, float]:
        """(y, x) in [0, 1) of a tile."""
        if self.method == "published":
            if step % PUBLISHED_RESET == 0:
                return 0.0, 0.0
            seed = int(self._start[0] * 2**52) + step
            y, x = torch.randint(
                0, max(self.tile // 2, 1), (2,), generator=torch.Generator().manual_seed(seed)
            ).tolist()
            return y / self.tile, x / self.tile
        if self.method != "fstd":
            return 0.0, 0.0
        y, x = ((start + step * stride) % 1 for start, stride in zip(self._start, STEP, strict=True))
        return y, x

    def _strips(self, size: int, wrap: bool, offset: float, axis: int) -> list[Strip]:
        tile = min(self.tile, size)
        match self.method:
            case "fstd" | "none":
                return self._disjoint(size, tile, wrap, offset)
            case "published":
                origins = [min(k * tile + int(offset * tile + 0.5), size - tile) for k in range(-(-size // tile))]
                # Mixture of Diffusers centres its Gaussian on (tile - 1) / 2 in x, but on tile / 2 in y
                return _blended(origins, size, _gaussian(tile, tile / 2 if axis == 0 else (tile - 1) / 2))
            case "overlap25":
                return _blended(_spaced(size, tile, tile - tile // 4, wrap), size, _ramp(tile, max(tile // 4, 1)))
            case "overlap50":
                return _blended(_spaced(size, tile, tile // 2, wrap), size, _gaussian(tile, (tile - 1) / 2))
            case "multidiffusion":
                return _blended(_spaced(size, tile, MULTIDIFFUSION_STRIDE, wrap), size, torch.ones(tile))

    def _disjoint(self, size: int, tile: int, wrap: bool, offset: float) -> list[Strip]:
        if wrap:
            count = -(-size // tile)
            first = int(offset * size / count)
            bounds = [first + k * size // count for k in range(count + 1)]
        elif size == tile:
            bounds = [0, size]
        else:
            first = int(offset * tile)
            bounds = sorted({0, *range(first, size, tile), size})
        strips = []
        for start, stop in pairwise(bounds):
            # a part narrower than a tile lies in the middle of one, but at a border where the grid says
            origin = start - (tile - stop + start) // 2
            if not wrap:
                origin = stop - tile if start == 0 else start
                origin = origin if self.border == "reflect" else min(max(origin, 0), size - tile)
            cells = torch.arange(origin, origin + tile)
            if wrap:
                cells = cells % size
            else:
                cells = cells.abs()
                cells = (size - 1) - ((size - 1) - cells).abs()
            weight = torch.zeros(tile)
            weight[start - origin : stop - origin] = 1
            strips.append(Strip(cells, start - origin, stop - origin, weight))
        return strips


def _spaced(size: int, tile: int, stride: int, wrap: bool) -> list[int]:
    """Origins at most `stride` apart: from border to border, or evenly around."""
    if size == tile:
        return [0]
    stride = max(min(stride, tile), 1)
    if wrap:
        count = -(-size // stride)
        return [k * size // count for k in range(count)]
    return [*range(0, size - tile, stride), size - tile]


def _blended(origins: list[int], size: int, window: Tensor) -> list[Strip]:
    """Whole tiles whose weights add up to one; as the grid is a product, that can be done axis by axis."""
    tile = len(window)
    indices = [torch.arange(origin, origin + tile) % size for origin in origins]
    total = torch.zeros(size, dtype=torch.float64)
    for cells in indices:
        total[cells] += window.double()
    return [Strip(cells, 0, tile, (window.double() / total[cells]).float()) for cells in indices]


def _gaussian(tile: int, middle: float) -> Tensor:
    distance = (torch.arange(tile, dtype=torch.float64) - middle) / tile
    return (-distance.square() / (2 * GAUSSIAN_VARIANCE)).exp() / math.sqrt(2 * math.pi * GAUSSIAN_VARIANCE)


def _ramp(tile: int, overlap: int) -> Tensor:
    rising = ((torch.arange(tile, dtype=torch.float64) + 0.5) / overlap).clamp(max=1)
    return torch.minimum(rising, rising.flip(0))


def _reached(strips: tuple[Strip, ...], size: int) -> Tensor:
    made = torch.zeros(size, dtype=torch.bool)
    for strip in strips:
        made[strip.cells[strip.start : strip.stop]] = True
    return made
