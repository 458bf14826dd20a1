"""Crops of real and procedural textures at full resolution, and small pictures of them."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from asd.resample import resample
from asd.texture_upscaler import SCALE
from materials.procedural import FAMILIES, sample
from training.pack import Pack

SHRUNK = 0.4
"""Share of crops of textures that are made smaller first, which also takes the traces of their WebP files away."""
WHOLE = 0.3
"""Share of crops that are whole tiles."""
_LUMA = (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29)
_LUMA += (51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121)
_LUMA += (120, 101, 72, 92, 95, 98, 112, 100, 103, 99)
"""Steps of JPEG's example table for brightness (ITU-T T.81, table K.1), row by row."""


@dataclass(frozen=True)
class Crops:
    """N crops: true (N, 3, S, S) in [0, 1], and whether each wraps in x and in y, (N, 1, 1, 1) bool."""

    true: Tensor
    wrap_x: Tensor
    wrap_y: Tensor


@dataclass(frozen=True)
class Texture:
    """A basecolor (3, H, W) uint8 on the device, and what tiles."""

    pixels: Tensor
    tiles_x: bool
    tiles_y: bool


class Textures:
    """A split's colour images on the device, drawn by near-duplicate cluster as `views.RealTextures` does."""

    def __init__(self, packs: Path, split: str, device: torch.device, limit: int | None = None) -> None:
        pack = Pack(packs)
        chosen = pack.split(split)[:limit]
        with ThreadPoolExecutor(16) as pool:
            loaded = list(pool.map(lambda i: pack.load(i, maps=False)["basecolor"], chosen))
        rows = [pack.row(i) for i in chosen]
        self.items = [
            Texture(torch.from_numpy(x.copy()).permute(2, 0, 1).contiguous().to(device), r["tiles_x"], r["tiles_y"])
            for x, r in zip(loaded, rows, strict=True)
        ]
        clusters = [row["dup_cluster"] for row in rows]
        self.weights = list(accumulate(clusters.count(cluster) ** -0.5 for cluster in clusters))

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, rng: random.Random, size: int) -> tuple[Tensor, bool, bool]:
        """A crop (3, size, size) uint8, never from pixels that were made larger, and whether it wraps in x and in y.

        On an axis that tiles a crop may go over the border, and a texture smaller than the crop repeats.
        """
        while True:
            item = rng.choices(self.items, cum_weights=self.weights)[0]
            height, width = item.pixels.shape[1:]
            if (height >= size or item.tiles_y) and (width >= size or item.tiles_x):
                break
        pixels, short = item.pixels, min(height, width)
        if rng.random() < WHOLE and height == width >= size and item.tiles_x and item.tiles_y:
            pixels = _resized(item, (size, size))
        elif rng.random() < SHRUNK and short > size:
            factor = (size / short) ** rng.random()
            pixels = _resized(item, (max(size, round(height * factor)), max(size, round(width * factor))))
        wraps = []
        for axis, tiles in ((2, item.tiles_x), (1, item.tiles_y)):
            side = pixels.shape[axis]
            wraps.append(tiles and size % side == 0)
            start = rng.randrange(side) if tiles else rng.randint(0, side - size)
            pixels = pixels.index_select(axis, (torch.arange(start, start + size) % side).to(pixels.device))
        return pixels, wraps[0], wraps[1]


def _resized(item: Texture, size: tuple[int, int]) -> Tensor:
    if item.pixels.shape[1:] == size:
        return item.pixels
    made = resample(item.pixels[None].float(), size, wrap_x=item.tiles_x, wrap_y=item.tiles_y)
    return made[0].round().clamp(0, 255).to(torch.uint8)


class Pool:
    """Crops kept on the device as bytes; the oldest are replaced one by one as training goes on."""

    def __init__(self, capacity: int, size: int, device: torch.device) -> None:
        self.pixels = torch.empty(capacity, 3, size, size, dtype=torch.uint8, device=device)
        self.wraps = torch.zeros(capacity, 2, dtype=torch.bool, device=device)
        self.count = self.next = 0

    def add(self, pixels: Tensor, wrap_x: bool, wrap_y: bool) -> None:
        self.pixels[self.next] = pixels
        self.wraps[self.next] = torch.tensor([wrap_x, wrap_y])
        self.next = (self.next + 1) % len(self.pixels)
        self.count = min(self.count + 1, len(self.pixels))

    def draw(self, count: int) -> Crops:
        """Random ones, each turned and flipped at random."""
        device = self.pixels.device
        index = torch.randint(self.count, (count,), device=device)
        true, wraps = self.pixels[index].float() / 255, self.wraps[index]
        for axis in (2, 3):
            flip = torch.rand(count, 1, 1, 1, device=device) < 0.5
            true = torch.where(flip, true.flip(axis), true)
        turn = torch.rand(count, 1, 1, 1, device=device) < 0.5
        true = torch.where(turn, true.transpose(2, 3), true)
        wraps = torch.where(turn[:, :, 0, 0], wraps.flip(1), wraps)[:, :, None, None]
        return Crops(true, wraps[:, :1], wraps[:, 1:])


class Source:
    """Batches of crops, `procedural` of them made of procedural materials."""

    def __init__(
        self, textures: Textures, device: torch.device, *, size: int, pool: int, procedural: float, seed: int
    ) -> None:
        self.textures, self.device, self.size, self.procedural = textures, device, size, procedural
        self.rng = random.Random(seed)
        self.real, self.made = Pool(pool, size, device), Pool(max(1, pool // 2), size, device)
        self.steps = 0

    def _draw_procedural(self, count: int) -> None:
        family = self.rng.choice(sorted(FAMILIES))
        side = self.size * self.rng.choice((1, 1, 2))
        seeds = [self.rng.randrange(2**40) for _ in range(count)]
        made = (sample(family, seeds, (side, side), self.device).basecolor * 255).round().clamp(0, 255).byte()
        top, left = (self.rng.randint(0, side - self.size) for _ in "yx")
        for each in made[:, :, top : top + self.size, left : left + self.size]:
            self.made.add(each, side == self.size, side == self.size)

    def fill(self) -> None:
        """Draw until both pools are full."""
        while self.real.count < len(self.real.pixels):
            self.real.add(*self.textures.draw(self.rng, self.size))
        while self.made.count < len(self.made.pixels):
            self._draw_procedural(min(32, len(self.made.pixels)))

    def draw(self, count: int) -> Crops:
        self.steps += 1
        self.real.add(*self.textures.draw(self.rng, self.size))
        if self.steps % 64 == 0:
            self._draw_procedural(min(32, len(self.made.pixels)))
        made = round(count * self.procedural)
        parts = [self.real.draw(count - made), self.made.draw(made)]
        return Crops(*(torch.cat([getattr(p, name) for p in parts]) for name in ("true", "wrap_x", "wrap_y")))


class Shrink:
    """Crops of S pixels a side at a quarter of it: mostly as the antialiased cubic of `asd.resample` does it cleanly.

    AREA of them by means over squares; a few soft, noisy or with the blocks of a JPEG file.
    """

    AREA, SOFT, NOISY, BLOCKS = 0.15, 0.06, 0.06, 0.04

    def __init__(self, size: int, device: torch.device) -> None:
        eye = torch.eye(size)[None, None]
        rows = [resample(eye, (size // SCALE, size), wrap_x=w, wrap_y=w)[0, 0].to(device) for w in (False, True)]
        self.edge, self.wrap = rows
        k = torch.arange(8, dtype=torch.float64)
        basis = torch.cos(torch.pi / 8 * (k[None] + 0.5) * k[:, None]) * 0.5
        basis[0] *= 0.5**0.5
        self.basis = basis.float().to(device)
        self.table = torch.tensor(_LUMA, dtype=torch.float32, device=device).view(8, 8) / 255

    def clean(self, x: Tensor, crops: Crops) -> Tensor:
        """(N, 3, S, S) to (N, 3, S / 4, S / 4) by the cubic, around the border where a crop wraps."""
        down, across = (torch.where(w, self.wrap, self.edge) for w in (crops.wrap_y, crops.wrap_x))
        return down @ x @ across.transpose(2, 3)

    def __call__(self, crops: Crops) -> Tensor:
        """The small pictures in [0, 1], in steps of 1/255."""
        true = crops.true
        low = self.clean(true, crops)

        def some(share: float) -> Tensor:
            return torch.rand(len(true), 1, 1, 1, device=true.device) < share

        def amount(largest: float) -> Tensor:
            return torch.rand(len(true), 1, 1, 1, device=true.device) * largest

        low = torch.where(some(self.AREA), F.avg_pool2d(true, SCALE), low)
        soft = F.avg_pool2d(F.pad(low, (1, 1, 1, 1), mode="replicate"), 3, 1)
        low = torch.where(some(self.SOFT), low.lerp(soft, amount(0.6)), low)
        low = torch.where(some(self.NOISY), low + torch.randn_like(low) * amount(4 / 255), low)
        if low.shape[-1] % 8 == 0:
            low = torch.where(some(self.BLOCKS), self._blocks(low, 0.1 + amount(0.7)), low)
        return (low * 255).round().clamp(0, 255) / 255

    def _blocks(self, x: Tensor, coarse: Tensor) -> Tensor:
        """Every 8x8 block's cosine transform rounded to steps of `coarse` times JPEG's example table."""
        parts = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
        steps = self.table * coarse[..., None, None]
        kept = ((self.basis @ parts @ self.basis.T) / steps).round() * steps
        return (self.basis.T @ kept @ self.basis).transpose(3, 4).flatten(4, 5).flatten(2, 3)
