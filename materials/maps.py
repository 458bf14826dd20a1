"""Relations between the maps of a material: height to normal and back, both made consistent, occlusion, curvature."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_STEPS = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64)
"""Distances in texels at which `ambient_occlusion` looks for the horizon."""


def height_to_range(height: Tensor) -> Tensor:
    """Scale every height field (N, 1, H, W) of a batch to [0, 1]; a flat field becomes 0."""
    low = height.amin(dim=(-2, -1), keepdim=True)
    high = height.amax(dim=(-2, -1), keepdim=True)
    return (height - low) / (high - low).clamp_min(1e-12)


def _check_axes(seamless: str) -> None:
    if seamless not in ("none", "x", "y", "xy"):
        raise ValueError(f"Expected seamless to be none, x, y or xy, but got {seamless!r}")


def _difference(height: Tensor, dim: int, wrap: bool) -> Tensor:
    """Central difference per texel along `dim`; one-sided at the borders of an axis that does not wrap."""
    if wrap:
        return (torch.roll(height, -1, dim) - torch.roll(height, 1, dim)) * 0.5
    count = height.shape[dim]
    if count == 1:
        return torch.zeros_like(height)
    index = torch.arange(count, device=height.device)
    after, before = (index + 1).clamp(max=count - 1), (index - 1).clamp(min=0)
    shape = [1] * height.ndim
    shape[dim] = count
    span = (after - before).to(height.dtype).reshape(shape)
    return (height.index_select(dim, after) - height.index_select(dim, before)) / span


def normal_from_height(
    height: Tensor,
    *,
    depth_m: float | Tensor,
    size_m: tuple[float, float] | Tensor,
    seamless: str = "xy",
) -> Tensor:
    """Tangent-space normals of a height field by central differences, OpenGL convention (+X right, +Y up).

    `height` is (N, 1, H, W) in [0, 1]; `depth_m` (a number or (N,)) is the distance between height 0 and 1, `size_m`
    ((width, height) or (N, 2)) the size of the tile, all in metres. The axes named in `seamless` ("none", "x", "y",
    "xy") wrap. Returns (N, 3, H, W) unit vectors. Raises ValueError for another shape or another `seamless`.
    """
    if height.ndim != 4 or height.shape[1] != 1:
        raise ValueError(f"Expected height of shape (N, 1, H, W), but got {tuple(height.shape)}")
    _check_axes(seamless)
    rows, columns = height.shape[-2:]
    depth = torch.as_tensor(depth_m, dtype=height.dtype, device=height.device).reshape(-1, 1, 1, 1)
    size = torch.as_tensor(size_m, dtype=height.dtype, device=height.device).reshape(-1, 2)
    width, length = size[:, 0].reshape(-1, 1, 1, 1), size[:, 1].reshape(-1, 1, 1, 1)
    slope_x = _difference(height, 3, "x" in seamless) * (depth * columns / width)
    slope_y = _difference(height, 2, "y" in seamless) * (depth * rows / length)
    normal = torch.cat([-slope_x, slope_y, torch.ones_like(height)], dim=1)
    return normal / normal.norm(dim=1, keepdim=True)


class Reconciled(NamedTuple):
    """What `reconcile` returns: maps of a batch of N, and how far they are from the given ones."""

    normal: Tensor
    """(N, 3, H, W) unit vectors: exactly `normal_from_height` of the height below."""
    height: Tensor
    """(N, 1, H, W) in [0, 1]."""
    depth_m: Tensor
    """(N,) metres between height 0 and 1: the given depth, or more where the merged field needs it."""
    normal_error_deg: Tensor
    """(N,) mean angle in degrees between the given and the returned normals."""
    height_error_m: Tensor
    """(N,) root mean square difference in metres between the given and the returned height."""


def height_from_normal(
    normal: Tensor, *, size_m: tuple[float, float] | Tensor, seamless: str = "xy"
) -> tuple[Tensor, Tensor]:
    """Integrate normals (N, 3, H, W) into the height field whose central differences fit their slopes best.

    Least squares in the Fourier domain (Frankot and Chellappa 1988, with the response of the central difference,
    sin(2 pi f), in place of 2 pi f, so that `normal_from_height` is inverted exactly); axes that do not wrap are
    mirrored. Frequencies that central differences cannot see (the mean, and every other texel up) are 0.

    Returns the height (N, 1, H, W) in [0, 1] and its depth (N,) in metres. Raises ValueError for another shape.
    """
    slopes, size = _slopes(normal, seamless), _pair(size_m, normal)
    field = _integrate(*slopes, size, seamless, anchor=None, weight=0.0).to(normal.dtype)
    depth = (field.amax(dim=(-2, -1)) - field.amin(dim=(-2, -1))).flatten()
    return height_to_range(field), depth


def fit_depth(normal: Tensor, height: Tensor, *, size_m: tuple[float, float] | Tensor, seamless: str = "xy") -> Tensor:
    """(N,) metres between height 0 and 1 with which `height` (N, 1, H, W) explains `normal` (N, 3, H, W) best.

    Least squares over the slopes; 0 where the height is flat or falls where the normals say that it rises.
    """
    (slope_x, slope_row), size = _slopes(normal, seamless), _pair(size_m, normal)
    rows, columns = height.shape[-2:]
    unit_x = _difference(height, 3, "x" in seamless) * (columns / size[:, 0].reshape(-1, 1, 1, 1))
    unit_row = _difference(height, 2, "y" in seamless) * (rows / size[:, 1].reshape(-1, 1, 1, 1))
    along = (unit_x * slope_x + unit_row * slope_row).sum(dim=(1, 2, 3))
    power = (unit_x.square() + unit_row.square()).sum(dim=(1, 2, 3))
    return (along / power.clamp_min(1e-12)).clamp_min(0).to(height.dtype)


def reconcile(
    normal: Tensor,
    height: Tensor,
    *,
    depth_m: float | Tensor,
    size_m: tuple[float, float] | Tensor,
    seamless: str = "xy",
    crossover_m: float | None = None,
    keep_depth: bool = False,
) -> Reconciled:
    """Merge normals (N, 3, H, W) and height (N, 1, H, W) in [0, 1] into one consistent pair.

    Minimises |grad z - slopes|^2 + (2 pi / crossover_m)^2 |z - height|^2 (a screened Poisson equation, solved in the
    Fourier domain): shapes wider than `crossover_m` follow the height, finer ones the normals. By default it is an
    eighth of the shorter side. With `keep_depth` what rises above the given depth or falls below its ground is cut off.
    Raises ValueError for shapes that do not fit or a crossover that is not above 0.
    """
    if height.ndim != 4 or height.shape[1] != 1 or height.shape[-2:] != normal.shape[-2:]:
        raise ValueError(f"Expected height as (N, 1, H, W) like the normals, but got {tuple(height.shape)}")
    slopes, size = _slopes(normal, seamless), _pair(size_m, normal)
    crossover = float(size.min()) / 8 if crossover_m is None else crossover_m
    if not (math.isfinite(crossover) and crossover > 0):
        raise ValueError(f"Expected crossover_m above 0, but got {crossover_m}")
    depth = torch.as_tensor(depth_m, dtype=height.dtype, device=height.device).reshape(-1, 1, 1, 1)
    given = height * depth
    field = _integrate(*slopes, size, seamless, anchor=given, weight=(2 * math.pi / crossover) ** 2).to(height.dtype)
    low, high = torch.zeros_like(depth), depth
    if not keep_depth:
        low = field.amin(dim=(-2, -1), keepdim=True).clamp(max=0)
        high = torch.maximum(field.amax(dim=(-2, -1), keepdim=True), depth)
    merged = ((field - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    new_depth = (high - low).expand(len(merged), 1, 1, 1).flatten()
    result = normal_from_height(merged, depth_m=new_depth, size_m=size.to(height.dtype), seamless=seamless)
    # the angle by atan2: acos loses half the digits near 0
    sine = torch.linalg.vector_norm(torch.linalg.cross(normal, result, dim=1), dim=1)
    angle = torch.rad2deg(torch.atan2(sine, (normal * result).sum(1)))
    rms = (field - given).square().mean(dim=(1, 2, 3)).sqrt()
    return Reconciled(result, merged, new_depth, angle.mean(dim=(1, 2)), rms)


def ambient_occlusion(
    height: Tensor,
    *,
    depth_m: float | Tensor,
    size_m: tuple[float, float] | Tensor,
    seamless: str = "xy",
    directions: int = 16,
) -> Tensor:
    """Share of a uniform sky's light that reaches each texel, from the horizon in `directions` azimuths.

    With horizon elevation h_k above the plane of the tile, the cosine-weighted visible share is the mean of
    cos^2 h_k. The horizon is searched up to 64 texels away. Axes that do not wrap repeat their border texel.

    Args:
        height: (N, 1, H, W) in [0, 1].
        depth_m: metres between height 0 and 1, a number or (N,).
        size_m: (width, height) in metres or (N, 2).
        seamless: the axes that wrap: none, x, y or xy.
        directions: azimuths, 4 or more.

    Returns:
        (N, 1, H, W) in [0, 1]; 1 is unoccluded.
    """
    if height.ndim != 4 or height.shape[1] != 1:
        raise ValueError(f"Expected height of shape (N, 1, H, W), but got {tuple(height.shape)}")
    _check_axes(seamless)
    if directions < 4:
        raise ValueError(f"Expected 4 directions or more, but got {directions}")
    rows, columns = height.shape[-2:]
    size = _pair(size_m, height)
    size = size.to(height.dtype)
    texel_x, texel_y = size[:, 0].reshape(-1, 1, 1, 1) / columns, size[:, 1].reshape(-1, 1, 1, 1) / rows
    field = height * torch.as_tensor(depth_m, dtype=height.dtype, device=height.device).reshape(-1, 1, 1, 1)
    reach = _STEPS[-1]
    padded = field.index_select(2, _reach_index(rows, reach, "y" in seamless, height.device))
    padded = padded.index_select(3, _reach_index(columns, reach, "x" in seamless, height.device))
    total, step = torch.zeros_like(field), torch.empty_like(field)
    for k in range(directions):
        azimuth = 2 * math.pi * (k + 0.5) / directions
        offsets = dict.fromkeys((round(d * math.sin(azimuth)), round(d * math.cos(azimuth))) for d in _STEPS)
        tangent = torch.zeros_like(field)
        for down, right in offsets:
            view = padded[:, :, reach + down : reach + down + rows, reach + right : reach + right + columns]
            distance = torch.sqrt((right * texel_x) ** 2 + (down * texel_y) ** 2)
            if field.requires_grad:  # what is written over cannot be differentiated
                tangent = torch.maximum(tangent, (view - field) / distance)
                continue
            torch.sub(view, field, out=step)
            torch.maximum(tangent, step.div_(distance), out=tangent)
        total = total + 1 / (1 + tangent.square())  # cos^2 of the horizon's elevation
    return (total / directions).clamp(0, 1)


def curvature(
    height: Tensor,
    *,
    depth_m: float | Tensor,
    size_m: tuple[float, float] | Tensor,
    seamless: str = "xy",
) -> Tensor:
    """Mean curvature of a height field in 1/m: above 0 on ridges and bumps, below 0 in grooves.

    Minus half the divergence of grad z / sqrt(1 + |grad z|^2) (do Carmo 1976, section 3-3), with slopes between
    neighbouring texels, so that the finest detail counts: 1 / R on a ball of radius R, 1 / (2 R) on a round bar. Axes
    that do not wrap go on straight beyond their border.

    Args:
        height: (N, 1, H, W) in [0, 1].
        depth_m: metres between height 0 and 1, a number or (N,).
        size_m: (width, height) in metres or (N, 2).
        seamless: the axes that wrap: none, x, y or xy.

    Returns:
        (N, 1, H, W), 1/m.
    """
    if height.ndim != 4 or height.shape[1] != 1:
        raise ValueError(f"Expected height of shape (N, 1, H, W), but got {tuple(height.shape)}")
    _check_axes(seamless)
    rows, columns = height.shape[-2:]
    size = _pair(size_m, height).to(height.dtype)
    texel = {3: size[:, 0].reshape(-1, 1, 1, 1) / columns, 2: size[:, 1].reshape(-1, 1, 1, 1) / rows}
    z = height * torch.as_tensor(depth_m, dtype=height.dtype, device=height.device).reshape(-1, 1, 1, 1)
    centre = {dim: _difference(z, dim, axis in seamless) / texel[dim] for dim, axis in ((3, "x"), (2, "y"))}
    total = torch.zeros_like(z)
    for dim, axis in ((3, "x"), (2, "y")):
        if z.shape[dim] == 1:
            continue
        # on the edges between a texel and the next: slope along, and mean slope across
        along = (torch.roll(z, -1, dim) - z) / texel[dim]
        across = (centre[5 - dim] + torch.roll(centre[5 - dim], -1, dim)) * 0.5
        flux = along / torch.sqrt(1 + along.square() + across.square())
        change = (flux - torch.roll(flux, 1, dim)) / texel[dim]
        if axis not in seamless:
            change.narrow(dim, 0, 1).zero_()
            change.narrow(dim, change.shape[dim] - 1, 1).zero_()
        total = total + change
    return -0.5 * total


def _reach_index(count: int, reach: int, wrap: bool, device: torch.device) -> Tensor:
    index = torch.arange(-reach, count + reach, device=device)
    return index.remainder(count) if wrap else index.clamp(0, count - 1)


def _pair(size_m: tuple[float, float] | Tensor, like: Tensor) -> Tensor:
    """(N or 1, 2) float64."""
    return torch.as_tensor(size_m, dtype=torch.float64, device=like.device).reshape(-1, 2)


def _slopes(normal: Tensor, seamless: str) -> tuple[Tensor, Tensor]:
    """dz/dx and dz/drow, (N, 1, H, W) each, metres per metre."""
    if normal.ndim != 4 or normal.shape[1] != 3:
        raise ValueError(f"Expected normals of shape (N, 3, H, W), but got {tuple(normal.shape)}")
    _check_axes(seamless)
    z = normal[:, 2:].clamp_min(1e-4)
    return -normal[:, :1] / z, normal[:, 1:2] / z


def _integrate(
    slope_x: Tensor, slope_row: Tensor, size: Tensor, seamless: str, *, anchor: Tensor | None, weight: float
) -> Tensor:
    """z (N, 1, H, W) in metres that minimises |Dz - slopes|^2 + weight |z - anchor|^2, with zero mean without one."""
    rows, columns = slope_x.shape[-2:]
    work = torch.float64 if slope_x.numel() <= 1 << 24 else torch.float32
    fields = [slope_x.to(work), slope_row.to(work)] + ([] if anchor is None else [anchor.to(work)])
    for dim, axis, own in ((3, "x", 0), (2, "y", 1)):
        if axis in seamless:
            continue
        # mirrored about the border, a central difference sees half of the one-sided slope that the border texel has
        halved = fields[own].clone()
        halved.narrow(dim, 0, 1).mul_(0.5)
        if halved.shape[dim] > 1:
            halved.narrow(dim, halved.shape[dim] - 1, 1).mul_(0.5)
        fields[own] = halved
        fields = [torch.cat([f, f.flip(dim) * (-1 if i == own else 1)], dim) for i, f in enumerate(fields)]
    tall, wide = fields[0].shape[-2:]
    at = {"dtype": work, "device": slope_x.device}
    texel_x, texel_y = (size[:, :1] / columns).to(work), (size[:, 1:] / rows).to(work)
    sin_x = torch.sin(2 * math.pi * torch.fft.rfftfreq(wide, **at))[None, None, None] / texel_x[:, :, None, None]
    sin_y = torch.sin(2 * math.pi * torch.fft.fftfreq(tall, **at))[None, None, :, None] / texel_y[:, :, None, None]
    power = sin_x**2 + sin_y**2
    spectrum = -1j * (sin_x * torch.fft.rfft2(fields[0]) + sin_y * torch.fft.rfft2(fields[1]))
    if anchor is not None:
        spectrum = spectrum + weight * torch.fft.rfft2(fields[2])
    power = power + weight
    seen = power > 1e-12 * power.amax(dim=(-2, -1), keepdim=True)
    spectrum = torch.where(seen, spectrum / torch.where(seen, power, 1.0), 0)
    return torch.fft.irfft2(spectrum, s=(tall, wide))[..., :rows, :columns]
