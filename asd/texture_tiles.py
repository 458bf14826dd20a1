"""`TextureUpscaler` tile by tile: what all tiles tell first, then each painted; the pixels are the whole picture's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .texture_upscaler import NOISE, SCALE, TextureUpscaler, indices
from .vae_layers import Span

TILE = 256
"""Cells of the small picture along a tile's side. Smaller ones repeat more around them, larger ones take memory."""
GATHER, PAINT = 1, 4
"""Units of work of a tile in the first and in the second pass, for those who tell how far it is."""


def spans(side: int, tile: int) -> list[Span]:
    """A side cut into as few parts of at most `tile` as there can be, of about one length.

    >>> [(span.start, span.stop) for span in spans(10, 4)]
    [(0, 4), (4, 7), (7, 10)]
    """
    count = -(-side // tile)
    edges = [-(-side * k // count) for k in range(count + 1)]
    return [Span(*pair) for pair in pairwise(edges)]


def units(size: tuple[int, int], tile: int) -> int:
    """Units of work of enlarging a picture of (width, height) once."""
    return len(spans(size[0], tile)) * len(spans(size[1], tile)) * (GATHER + PAINT)


class TileRun:
    """One fourfold enlargement.

    Args:
        model: float32, in evaluation mode, on any device.
        pixels: the small picture (3, H, W): bytes, mapped or not, or floats in [0, 1].
        wrap: whether it wraps, (y, x).
        seed: of the noise, with the place: a row's is the same whatever tile reads it.
        stage: the how manieth enlargement of a picture this is; each has noise of its own.
        tile: cells along a tile's side.
    """

    def __init__(
        self,
        model: TextureUpscaler,
        pixels: NDArray[np.uint8] | NDArray[np.float32],
        *,
        wrap: tuple[bool, bool],
        seed: int,
        stage: int = 0,
        tile: int = TILE,
    ) -> None:
        self.model, self.pixels, self.wrap = model, pixels, wrap
        self.seed, self.stage = seed, stage
        self.rows, self.columns = (spans(side, tile) for side in pixels.shape[1:])
        self.device = next(model.parameters()).device
        self._kept: tuple[bytes, NDArray[np.float32]] | None = None

    def _noise(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(rows, width) of these rows of the picture; kept, because every tile of a row of tiles asks for the same."""
        key = rows.tobytes()
        if self._kept is None or self._kept[0] != key:
            made = np.empty((len(rows), self.pixels.shape[2]), np.float32)
            for k, row in enumerate(rows.tolist()):
                # a generator that is a function of key and counter (Salmon et al. 2011)
                bits = np.random.Philox(key=[self.seed % 2**64, self.stage], counter=[0, row, 0, 0])
                np.random.Generator(bits).standard_normal(dtype=np.float32, out=made[k])
            self._kept = (key, made)
        return self._kept[1]

    def cells(self, rows: Span, columns: Span, margin: int) -> Tensor:
        """(1, 4, h + 2 margin, w + 2 margin) pixels and noise of a rectangle and what is around it, on the device."""
        height, width = self.pixels.shape[1:]
        down = indices(rows.start - margin, rows.stop + margin, height, self.wrap[0]).numpy()
        across = indices(columns.start - margin, columns.stop + margin, width, self.wrap[1]).numpy()
        part = self.pixels[:, down][:, :, across].astype(np.float32)
        if self.pixels.dtype == np.uint8:
            part /= 255
        noise = self._noise(down)[:, across][None].repeat(NOISE, 0)
        made = torch.from_numpy(np.concatenate([part, noise]))[None]
        return made.to(self.device).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def gather(self, row: int, tick: Callable[[int], None] = lambda _: None) -> Tensor:
        """The first pass: what the tiles of row number `row` tell the attention, float64 on the CPU; all rows add up.

        `tick` gets units of work done.
        """
        rows, parts = self.rows[row], []
        for columns in self.columns:
            parts.append(self.model.sums(self.cells(rows, columns, self.model.early_reach)).cpu().double())
            tick(GATHER)
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def paint(
        self, sums: Tensor, row: int, tick: Callable[[int], None] = lambda _: None
    ) -> Iterator[tuple[Span, Span, Tensor]]:
        """The tiles of row number `row`: where each is in the large picture, and its pixels (3, h, w), not clipped."""
        shared = sums.to(self.device, torch.float32)
        rows = self.rows[row]
        for columns in self.columns:
            made = self.model.paint(self.cells(rows, columns, self.model.reach), shared)
            down, across = (Span(span.start * SCALE, span.stop * SCALE) for span in (rows, columns))
            yield down, across, made[0].float().cpu()
            tick(PAINT)
