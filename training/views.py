"""Views of real textures and procedural materials as the networks' 8-channel tensors, drawn on the training device."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from materials.material import MISSING
from materials.procedural import FAMILIES, sample
from training.captions import caption_variants
from training.pack import Pack

GROUPS = (slice(3, 5), slice(5, 6), slice(6, 7), slice(7, 8))


@dataclass(frozen=True)
class View:
    """One sample: maps (8, H, W) in [-1, 1], known (8,) 1 where there is a truth, what wraps, texel scale, caption."""

    maps: Tensor
    known: Tensor
    wrap_x: float
    wrap_y: float
    scale: float
    caption: str


@dataclass(frozen=True)
class TrainingBatch:
    """N views stacked; `given` is what the encoder sees: maps with MISSING where hidden or unknown."""

    maps: Tensor
    given: Tensor
    known: Tensor
    wrap_x: Tensor
    wrap_y: Tensor


@dataclass(frozen=True)
class Item:
    """A real texture on the device: basecolor (3, H, W) uint8; normal (3, h, w) and height (1, h, w), half or None."""

    basecolor: Tensor
    normal: Tensor | None
    height: Tensor | None
    tiles_x: bool
    tiles_y: bool
    row: dict[str, Any]


class RealTextures:
    """A split of one pack or several, decoded once and kept on the device, drawn by near-duplicate cluster.

    A texture's weight is the inverse square root of its cluster's size, so that recolours of a picture don't dominate.
    """

    def __init__(self, packs: Path, split: str, device: torch.device, limit: int | None = None) -> None:
        pack = Pack(packs)
        chosen = pack.split(split)[:limit]

        with ThreadPoolExecutor(16) as pool:
            loaded = list(pool.map(pack.load, chosen))
        self.items = []
        for i, maps in zip(chosen, loaded, strict=True):
            row = pack.row(i)

            def place(name: str, maps: dict[str, Any] = maps) -> Tensor | None:
                if name not in maps:
                    return None
                x = torch.from_numpy(maps[name].copy())
                x = x[..., None] if x.ndim == 2 else x
                return (x.half() if x.dtype == torch.float32 else x).permute(2, 0, 1).contiguous().to(device)

            base = place("basecolor")
            assert base is not None
            self.items.append(Item(base, place("normal"), place("height"), row["tiles_x"], row["tiles_y"], row))
        sizes: dict[Any, int] = {}
        for item in self.items:
            cluster = item.row["dup_cluster"]
            sizes[cluster] = sizes.get(cluster, 0) + 1
        self.weights = list(accumulate(sizes[item.row["dup_cluster"]] ** -0.5 for item in self.items))
        self.device = device

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, rng: random.Random, height: int, width: int, whole: float) -> View:
        """A view of `height` x `width` px: with probability `whole` the whole tile if its shape allows, else a crop."""
        while True:
            item = rng.choices(self.items, cum_weights=self.weights)[0]
            short = min(item.basecolor.shape[-2:])
            if short >= max(height, width) or (short >= 256 and height == width == 256) or rng.random() < 0.002:
                return self.view(item, rng, height, width, whole)

    def view(self, item: Item, rng: random.Random, height: int, width: int, whole: float) -> View:
        full_h, full_w = item.basecolor.shape[-2:]
        short = min(full_h, full_w)
        need = max(height / full_h, width / full_w)
        if height == width and rng.random() < whole:
            factor = need
        else:
            low, high = max(need, 256 / short), max(need, 1.0)
            factor = low * (max(high, low) / low) ** rng.random()
        size = (max(height, round(full_h * factor)), max(width, round(full_w * factor)))
        maps, known = self.assemble(item, size)
        fits_x, fits_y = item.tiles_x and size[1] == width, item.tiles_y and size[0] == height
        shift = (rng.randrange(size[0]) if item.tiles_y else 0, rng.randrange(size[1]) if item.tiles_x else 0)
        maps = maps.roll(shift, (-2, -1))
        top, left = rng.randint(0, size[0] - height), rng.randint(0, size[1] - width)
        maps = maps[:, top : top + height, left : left + width]
        if rng.random() < 0.5:
            maps = maps.flip(-1)
            if item.normal is not None:
                maps[3] = -maps[3]
        scale = math.log2(max(1e-3, short * factor / 256))
        caption = caption_variants(item.row, item.row["colours"], rng)
        return View(maps, known, float(fits_x), float(fits_y), min(1.0, max(0.0, scale)), caption)

    def assemble(self, item: Item, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """All of a texture's maps at one size, MISSING where it has none."""

        def resized(x: Tensor) -> Tensor:
            x = x.float()[None]
            if x.shape[-2:] == size:
                return x[0]
            shrinks = size[0] < x.shape[-2]
            return F.interpolate(x, size, mode="bicubic" if shrinks else "bilinear", antialias=shrinks)[0]

        known = torch.zeros(8, device=self.device)
        maps = torch.full((8, *size), MISSING, device=self.device)
        maps[:3] = (resized(item.basecolor) / 127.5 - 1).clamp(-1, 1)
        known[:3] = 1
        if item.normal is not None:
            n = resized(item.normal)
            maps[3:5] = (n / n.norm(dim=0, keepdim=True).clamp_min(1e-4))[:2]
            known[3:5] = 1
        if item.height is not None:
            maps[5:6] = (resized(item.height) * 2 - 1).clamp(-1, 1)
            known[5:6] = 1
        return maps, known


def procedural_views(
    rng: random.Random,
    count: int,
    height: int,
    width: int,
    device: torch.device,
    crop: float = 0.0,
    favour: Mapping[str, float] | None = None,
) -> list[View]:
    """`count` views of one random family: whole tiles, or with probability `crop` parts of larger ones (scale > 0).

    A family is drawn as often as any other, or `favour` times as often.
    """
    families = sorted(FAMILIES)
    family = rng.choices(families, [(favour or {}).get(name, 1.0) for name in families])[0]
    seeds = [rng.randrange(2**40) for _ in range(count)]
    whole = rng.random() >= crop
    size = (height, width) if whole else (max(height, 512), max(width, 512))
    if not whole and rng.random() < 0.5:
        size = (max(height, 384), max(width, 384))
    batch = sample(family, seeds, size, device)
    maps = batch.network()
    if not whole:
        top, left = rng.randint(0, size[0] - height), rng.randint(0, size[1] - width)
        maps = maps[..., top : top + height, left : left + width]
    scale = min(1.0, max(0.0, math.log2(min(size) / 256)))
    known = torch.ones(8, device=device)
    wraps = (float(size[1] == width), float(size[0] == height))
    return [View(m, known, *wraps, scale, c) for m, c in zip(maps, batch.captions, strict=True)]


class Mixture:
    """Batches for the autoencoder: half real, half procedural, from two pools that are refreshed as training goes."""

    def __init__(
        self,
        real: RealTextures,
        device: torch.device,
        *,
        batch: int,
        size: int,
        seed: int,
        pool: int = 768,
        favour: Mapping[str, float] | None = None,
    ) -> None:
        self.real, self.device, self.batch, self.size, self.capacity = real, device, batch, size, pool
        self.favour = favour
        self.rng = random.Random(seed)
        self.textures: list[View] = []
        self.materials: list[View] = []
        self.count = 0

    def _add(self, pool: list[View], fresh: list[View]) -> list[View]:
        return (pool + [replace(v, maps=v.maps.half()) for v in fresh])[-self.capacity :]

    def _draw_real(self, count: int) -> None:
        fresh = [self.real.draw(self.rng, self.size, self.size, whole=0.6) for _ in range(count)]
        self.textures = self._add(self.textures, fresh)

    def _draw_procedural(self, count: int) -> None:
        fresh = procedural_views(self.rng, count, self.size, self.size, self.device, crop=0.3, favour=self.favour)
        self.materials = self._add(self.materials, fresh)

    def fill(self) -> None:
        """Draw the first views: half the capacity of each kind."""
        self._draw_real(max(self.capacity // 2, self.batch))
        for _ in range(self.capacity // 128 + 1):
            self._draw_procedural(min(64, self.capacity))

    def draw(self) -> TrainingBatch:
        half = self.batch // 2
        self._draw_real(max(1, self.batch // 12))
        if self.count % 16 == 15:
            self._draw_procedural(min(64, self.capacity))
        self.count += 1
        views = self.rng.sample(self.textures, self.batch - half) + self.rng.sample(self.materials, half)
        return collate(views, self.rng)


def collate(views: list[View], rng: random.Random) -> TrainingBatch:
    """Stack views; hide maps from the encoder at random: all of them in a third of the samples, else each with 15 %."""
    device = views[0].maps.device
    maps = torch.stack([v.maps.float() for v in views])
    known = torch.stack([v.known for v in views])
    shown = torch.ones(len(views), 8)
    for row in shown:
        bare = rng.random() < 1 / 3
        for group in GROUPS:
            if bare or rng.random() < 0.15:
                row[group] = 0
    shown = shown.to(device) * known
    shown[:, :3] = 1
    given = torch.where(shown[:, :, None, None] > 0, maps, MISSING)
    wrap_x, wrap_y = (torch.tensor([getattr(v, f) for v in views], device=device) for f in ("wrap_x", "wrap_y"))
    return TrainingBatch(maps, given, known, wrap_x, wrap_y)
