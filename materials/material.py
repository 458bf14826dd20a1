"""`Material`: the five maps of one surface, with their physical size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from materials.errors import ZelligeError

Seamlessness = Literal["none", "x", "y", "xy"]

MAPS = ("basecolor", "normal", "height", "roughness", "metallic")
"""The five maps, in the order of the network's channels."""

CHANNELS = {"basecolor": 3, "normal": 3, "height": 1, "roughness": 1, "metallic": 1}

NETWORK_CHANNELS = 8
"""Basecolor 3, normal X and Y, height, roughness, metallic."""

MISSING = -2.0
"""Value of an input channel that the encoder is not given, outside of [-1, 1]; it then infers that map."""

MIN_NORMAL_Z = 1 / 64
"""Smallest Z that a decoded normal gets: glTF asks for blue above 0.5, and 8 bits must still show it."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """Maps of one material: float32 torch tensors on the CPU, all of one height and width.

    Attributes:
        basecolor: (3, H, W) in [0, 1], sRGB-encoded.
        normal: (3, H, W) unit vectors in [-1, 1], tangent space, OpenGL: +X right, +Y up the image, Z above 0.
        height: (1, H, W) in [0, 1], linear; 1 is highest.
        roughness: (1, H, W) in [0, 1], linear, perceptual (glTF: alpha is its square).
        metallic: (1, H, W) in [0, 1], linear.
        depth_m: metres between height 0 and height 1; 0 is a flat surface.
        size_m: physical (width, height) of the image in metres.
        seamless: the axes on which the image repeats without a seam.

    Raises:
        ZelligeError: where a map has another shape, dtype, device or range, or a length is not usable.
    """

    basecolor: Tensor
    normal: Tensor
    height: Tensor
    roughness: Tensor
    metallic: Tensor
    depth_m: float
    size_m: tuple[float, float]
    seamless: Seamlessness = "xy"

    def __post_init__(self) -> None:
        rows, columns = self.basecolor.shape[-2:] if self.basecolor.ndim == 3 else (0, 0)
        for name in MAPS:
            value: Tensor = getattr(self, name).detach()
            expected = (CHANNELS[name], rows, columns)
            if rows < 1 or columns < 1 or tuple(value.shape) != expected:
                wanted = f"({CHANNELS[name]}, {rows or 'H'}, {columns or 'W'})"
                raise ZelligeError(f"Expected {name} of shape {wanted}, but got {tuple(value.shape)}.")
            if value.dtype != torch.float32 or value.device.type != "cpu":
                raise ZelligeError(f"Expected {name} as float32 on the CPU, but got {value.dtype} on {value.device}.")
            low, high = (float(v) for v in torch.aminmax(value))
            floor = -1.0 if name == "normal" else 0.0
            if not (low >= floor - 1e-4 and high <= 1 + 1e-4):  # also false for NaN
                raise ZelligeError(f"Expected {name} in [{floor:g}, 1], but got {low:.4g} to {high:.4g}.")
        normal = self.normal.detach()
        length = float((torch.linalg.vector_norm(normal, dim=0) - 1).abs().max())
        if length > 1e-3:
            raise ZelligeError(f"Expected unit normals, but got lengths up to {length:.4g} away from 1.")
        if float(normal[2].min()) <= 0:
            raise ZelligeError("Expected normals that point out of the surface (Z above 0), but got Z at or below 0.")
        if not (math.isfinite(self.depth_m) and self.depth_m >= 0):
            raise ZelligeError(f"Expected depth_m of 0 or more metres, but got {self.depth_m}.")
        if len(self.size_m) != 2 or not all(math.isfinite(v) and v > 0 for v in self.size_m):
            raise ZelligeError(f"Expected size_m as two lengths above 0 metres, but got {self.size_m}.")
        if self.seamless not in get_args(Seamlessness):
            raise ZelligeError(f"Expected seamless as one of none, x, y, xy, but got {self.seamless!r}.")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.basecolor.shape[2], self.basecolor.shape[1]

    def to_network(self) -> Tensor:
        """(8, H, W) in [-1, 1]: basecolor, normal X and Y, height, roughness, metallic."""
        unit = torch.cat([self.height, self.roughness, self.metallic]) * 2 - 1
        return torch.cat([self.basecolor * 2 - 1, self.normal[:2], unit])

    @classmethod
    def from_network(
        cls,
        x: Tensor,
        *,
        depth_m: float,
        size_m: tuple[float, float],
        seamless: Seamlessness = "xy",
    ) -> Material:
        """The inverse of `to_network`; values outside [-1, 1] are clamped and Z is rebuilt from X and Y.

        Args:
            x: (8, H, W), any float dtype and device.
            depth_m: metres between height 0 and height 1.
            size_m: physical (width, height) in metres.
            seamless: the axes on which `x` repeats.
        """
        if x.ndim != 3 or x.shape[0] != NETWORK_CHANNELS:
            raise ZelligeError(f"Expected network maps of shape (8, H, W), but got {tuple(x.shape)}.")
        if not bool(torch.isfinite(x).all()):
            raise ZelligeError("Expected finite network maps, but got NaN or infinite values.")
        x = x.detach().to("cpu", torch.float32).clamp(-1, 1)
        unit = x * 0.5 + 0.5
        return cls(
            basecolor=unit[:3].clone(),
            normal=normal_from_xy(x[None, 3:5])[0],
            height=unit[5:6].clone(),
            roughness=unit[6:7].clone(),
            metallic=unit[7:8].clone(),
            depth_m=depth_m,
            size_m=size_m,
            seamless=seamless,
        )


def basecolor_alone(basecolor: Tensor) -> Tensor:
    """(N, 8, H, W) for the encoder of a basecolor (N, 3, H, W) in [-1, 1], all other maps MISSING."""
    missing = basecolor.new_full((len(basecolor), NETWORK_CHANNELS - 3, *basecolor.shape[-2:]), MISSING)
    return torch.cat([basecolor, missing], 1)


def normal_from_xy(xy: Tensor) -> Tensor:
    """(N, 3, H, W) unit normals from their X and Y (N, 2, H, W).

    Z is sqrt(1 - X^2 - Y^2); where that would fall below 1/64, X and Y are shortened so that Z is 1/64.
    """
    limit = math.sqrt(1 - MIN_NORMAL_Z**2)
    length = torch.linalg.vector_norm(xy, dim=1, keepdim=True)
    xy = xy * (limit / length.clamp(min=limit))
    z = (1 - (xy * xy).sum(1, keepdim=True)).clamp(min=MIN_NORMAL_Z**2).sqrt()
    return torch.cat([xy, z], dim=1)
