"""What a network drew as a material whose maps agree, with locked maps as they were given."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from asd.seamless import SeamlessAxes, parse_axes
from materials.cut import calm_cut
from materials.errors import ZelligeError
from materials.maps import fit_depth, height_from_normal, normal_from_height, reconcile
from materials.material import CHANNELS, MAPS, Material, normal_from_xy

FULL_DEPTH_M = 0.5
"""Deepest relief that a material is given, in metres."""


def checked_locks(lock: Mapping[str, float | Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """Every lock as a (C, H, W) tensor."""
    out: dict[str, Tensor] = {}
    for name, value in lock.items():
        if name not in MAPS:
            raise ZelligeError(f"Expected a map to lock to be one of {', '.join(MAPS)}, but got {name!r}.")
        shape = (CHANNELS[name], size[1], size[0])
        tensor = value.float() if isinstance(value, Tensor) else torch.full(shape, float(value))
        if tuple(tensor.shape) != shape:
            raise ZelligeError(f"Expected a locked {name} of shape {shape}, but got {tuple(tensor.shape)}.")
        floor = -1.0 if name == "normal" else 0.0
        low, high = (float(v) for v in torch.aminmax(tensor))
        if not (floor <= low and high <= 1):  # also true for NaN
            raise ZelligeError(f"Expected a locked {name} in [{floor:g}, 1], but got {low:.4g} to {high:.4g}.")
        if name == "normal" and float((torch.linalg.vector_norm(tensor, dim=0) - 1).abs().max()) > 1e-3:
            raise ZelligeError("Expected a locked normal of unit vectors, but got other lengths.")
        out[name] = tensor
    return out


def consistent(
    x: Tensor,
    size_m: tuple[float, float],
    seamless: SeamlessAxes,
    locks: Mapping[str, Tensor],
    *,
    cut: SeamlessAxes = "none",
    depth_m: float | None = None,
    crossover_m: float | None = None,
) -> Material:
    """A material whose normal is the normal of its height, with locked maps as they were given.

    The network's height has no unit; the depth that explains its normals best gives it one. Then both are merged: wide
    shapes from the height, fine ones from the normals. On the axes of `cut` it begins where it is calmest. A height
    whose unit is known comes with it, `depth_m`, which is kept; `crossover_m` is that of `reconcile`.
    """
    normal, height = normal_from_xy(x[None, 3:5]), x[None, 5:6] * 0.5 + 0.5
    if "height" in locks:
        height = locks["height"][None]
    if "normal" in locks:
        normal = locks["normal"][None]
        height, depth = height_from_normal(normal, size_m=size_m, seamless=seamless)
    else:
        known = depth_m is not None
        depth = torch.tensor([depth_m]) if known else fit_depth(normal, height, size_m=size_m, seamless=seamless)
        depth = depth.clamp(1e-4 * min(size_m), math.inf if known else FULL_DEPTH_M)
        if "height" not in locks:
            merged = reconcile(
                normal, height, depth_m=depth, size_m=size_m, seamless=seamless, crossover_m=crossover_m,
                keep_depth=known,
            )  # fmt: skip
            height, depth = merged.height, merged.depth_m
        normal = normal_from_height(height, depth_m=depth, size_m=size_m, seamless=seamless)
    unit = x * 0.5 + 0.5
    maps = {
        "basecolor": unit[:3],
        "normal": normal[0],
        "height": height[0],
        "roughness": unit[6:7],
        "metallic": unit[7:8],
    }
    maps.update({k: v for k, v in locks.items() if k not in ("normal", "height")})
    cut_x, cut_y = parse_axes(cut)
    if (cut_x or cut_y) and all(bool((v == v[:, :1, :1]).all()) for v in locks.values()):
        # Where a torus is cut open is free, unless pixels have their places.
        calm = calm_cut(maps.values(), wrap_x=cut_x, wrap_y=cut_y)
        maps = {k: v.roll(calm, (-2, -1)) for k, v in maps.items()}
    return Material(
        **{k: v.contiguous() for k, v in maps.items()},
        depth_m=float(depth.reshape(-1)[0]),
        size_m=size_m,
        seamless=seamless,
    )
