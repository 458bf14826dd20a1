"""Maps as a renderer reads them: in linear light, with mipmaps, on a torus."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from materials.maps import ambient_occlusion
from materials.material import Material
from materials.shading import Surface, norm, srgb_to_linear, unit

_LARGEST_TEXTURE = 1024
_MAX_RELIEF = 0.09
"""Deepest relief as a share of the ball's radius: parallax mapping cannot show more without stretching."""


def stack(material: Material, size: tuple[int, int], occlusion: Tensor | None = None) -> Tensor:
    """(10, h, w): linear base 3, normal 3 (averaged, so not longer than 1), height, roughness, metallic, occlusion.

    `occlusion` (1, H, W) of the material's own size saves what it takes to find it.
    """
    maps = torch.cat([srgb_to_linear(material.basecolor), material.normal, material.height])
    maps = torch.cat([maps, material.roughness, material.metallic, *([] if occlusion is None else [occlusion])])[None]
    if maps.shape[-2:] != size:
        maps = F.interpolate(maps, size=size, mode="area")
    if occlusion is not None:
        return maps[0]
    relief = {"depth_m": material.depth_m, "size_m": material.size_m, "seamless": material.seamless}
    return torch.cat([maps, ambient_occlusion(maps[:, 6:7], directions=12, **relief)], dim=1)[0]


def surface(maps: Tensor, view: Tensor, frame: Tensor | None) -> Surface:
    """From sampled maps (10, P); `frame` (3, 3, P) holds tangent, bitangent and normal, None the axes themselves."""
    normal, length = maps[3:6], norm(maps[3:6]).clamp(0.1, 1)
    if frame is not None:
        normal = normal[0] * frame[0] + normal[1] * frame[1] + normal[2] * frame[2]
    alpha2 = maps[7].clamp(0.03, 1).pow(4)
    # Toksvig: the spread of normals inside one pixel acts as roughness
    alpha2 = (alpha2 + 0.5 * (1 - length) / length).clamp(max=1)
    return Surface(maps[:3].clamp(0, 1), unit(normal), view, alpha2.pow(0.25), maps[8].clamp(0, 1), maps[9].clamp(0, 1))


@dataclass(frozen=True)
class Texture:
    """Mipmaps of the maps, (1, 10, h + 2, w + 2) each with a wrapped border, and the tile's size in the scene."""

    levels: tuple[Tensor, ...]
    tile: tuple[float, float]
    relief: float

    @staticmethod
    def of(material: Material, tile: float, occlusion: Tensor | None = None) -> Texture:
        width, height = material.size
        scale = min(1.0, _LARGEST_TEXTURE / max(width, height))
        maps = stack(material, (max(1, round(height * scale)), max(1, round(width * scale))), occlusion)[None]
        levels = [maps]
        while max(maps.shape[-2:]) > 4:
            maps = F.interpolate(maps, size=[max(1, (n + 1) // 2) for n in maps.shape[-2:]], mode="area")
            levels.append(maps)
        aspect = material.size_m[1] / material.size_m[0]
        # the longer side of a strip keeps the tile size, so that its short side stays visible
        size = (tile, tile * aspect) if aspect <= 1 else (tile / aspect, tile)
        relief = min(material.depth_m / material.size_m[0] * size[0], _MAX_RELIEF)
        return Texture(tuple(F.pad(m, (1, 1, 1, 1), mode="circular") for m in levels), size, relief)

    def level(self, footprint: Tensor) -> Tensor:
        """Mip level (P,) whose texels are as large as `footprint` (P,) in the scene."""
        rows, columns = (n - 2 for n in self.levels[0].shape[-2:])
        texel = max(self.tile[0] / columns, self.tile[1] / rows)
        return torch.log2(footprint / texel).clamp(0, len(self.levels) - 1)

    def read(self, uv: Tensor, level: int, channels: slice = slice(None)) -> Tensor:
        """Bilinear values (C, P) at `uv` (2, P) in tiles, v downwards."""
        source = self.levels[level][:, channels]
        rows, columns = source.shape[-2] - 2, source.shape[-1] - 2
        wrapped = uv - uv.floor()
        x = (wrapped[0] * columns + 1) * (2 / (columns + 2)) - 1
        y = (wrapped[1] * rows + 1) * (2 / (rows + 2)) - 1
        grid = torch.stack([x, y], dim=-1)[None, None]
        return F.grid_sample(source, grid, mode="bilinear", align_corners=False)[0, :, 0]

    def read_smooth(self, uv: Tensor, level: Tensor) -> Tensor:
        """Trilinear values (10, P)."""
        out = torch.zeros(10, uv.shape[1])
        for index in range(int(level.min()), min(int(level.max()) + 2, len(self.levels))):
            weight = 1 - (level - index).abs()
            chosen = weight > 0
            out[:, chosen] += weight[chosen] * self.read(uv[:, chosen], index)
        return out
