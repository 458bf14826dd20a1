"""Periodic fields on the unit torus: hashes, lattice noise, cell noise, brick grids.

Every field is a function of (seed, u, v) alone, so that a pattern does not depend on the number of texels it is sampled
at. Coordinates u (right) and v (down) have shape (N, H, W), seeds (N, 1, 1) int64. A frequency is an int, a pair
(fx, fy) of ints, or one or two integer tensors (N, 1, 1); patterns wrap modulo the frequency.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Freq = int | Tensor | tuple[int | Tensor, int | Tensor]

NOISE_CAP = 256
"""Largest lattice frequency of value and gradient noise; higher ones are clamped."""
CELL_CAP = 64
"""Largest frequency of cell noise; higher ones are clamped."""


def grid(n: int, size: tuple[int, int], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Coordinates (u, v) of the texel centres, each (n, H, W) in (0, 1), for `size` = (H, W)."""
    height, width = size
    u = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
    v = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
    return u.expand(n, height, width), v[:, None].expand(n, height, width)


def _fold(seed: Tensor, salt: int) -> Tensor:
    """Seed and salt as one int32 tensor."""
    mixed = (seed.long() * 2654435761 + salt * 40503 * 65599 + (seed.long() >> 32) * 97531) & 0xFFFFFFFF
    return (mixed - ((mixed >> 31) << 32)).int()


def hash01(ix: Tensor, iy: Tensor, seed: Tensor, salt: int = 0) -> Tensor:
    """Hash of integer lattice points to [0, 1), broadcasting; the same bits on every device.

    The finaliser is the "lowbias32" of C. Wellons, Prospecting for Hash Functions (2018).
    """
    x = ix.int() * 668265261 + iy.int() * 374761393 + _fold(seed, salt)
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * 2146121005
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * -2073254261
    x = x ^ ((x >> 16) & 0xFFFF)
    return (x & 0xFFFFFF).float() * (1.0 / 16777216.0)


def rand(seed: Tensor, salt: int, lo: float = 0.0, hi: float = 1.0) -> Tensor:
    """One uniform number in [lo, hi) per sample, (N, 1, 1)."""
    zero = torch.zeros_like(seed)
    return lo + (hi - lo) * hash01(zero, zero, seed, salt * 7919 + 101)


def randint(seed: Tensor, salt: int, lo: int, hi: int) -> Tensor:
    """One uniform integer in lo..hi (inclusive) per sample, (N, 1, 1) int64."""
    return lo + (rand(seed, salt) * (hi - lo + 1)).long()


def mix(a: Tensor | float, b: Tensor | float, t: Tensor | float) -> Tensor:
    """Linear blend a + (b - a) t."""
    return torch.as_tensor(a + (b - a) * t)


def smoothstep(edge0: Tensor | float, edge1: Tensor | float, x: Tensor) -> Tensor:
    """Smooth 0 to 1 ramp of x between the edges; falling when edge1 < edge0."""
    t = ((x - edge0) / (edge1 - edge0)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def remap(x: Tensor, lo: Tensor | float, hi: Tensor | float, to_lo: float = 0.0, to_hi: float = 1.0) -> Tensor:
    """Map x linearly from [lo, hi] to [to_lo, to_hi] and clamp."""
    return to_lo + ((x - lo) / (hi - lo)).clamp(0.0, 1.0) * (to_hi - to_lo)


def _pair(freq: Freq) -> tuple[int | Tensor, int | Tensor]:
    return freq if isinstance(freq, tuple) else (freq, freq)


def _clamped(freq: Freq, factor: int, cap: int) -> tuple[int | Tensor, int | Tensor]:
    fx, fy = _pair(freq)
    scaled = [
        (f * factor).clamp(1, cap) if isinstance(f, Tensor) else max(1, min(cap, int(f) * factor)) for f in (fx, fy)
    ]
    return scaled[0], scaled[1]


def _table_axis(freq: int | Tensor, cap: int, device: torch.device, margin: int) -> tuple[Tensor, int]:
    """Wrapped lattice indices -margin .. count + margin of one axis, (1 or N, count + 2 margin + 1)."""
    count = cap if isinstance(freq, Tensor) else freq
    index = torch.arange(-margin, count + margin + 1, device=device)[None]
    return torch.remainder(index, freq.reshape(-1, 1) if isinstance(freq, Tensor) else freq), count


def _lattice(u: Tensor, v: Tensor, freq: Freq) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int]:
    """Wrapped lattice indices ix (., 1, X) and iy (., Y, 1), lattice coordinates x, y (N, H, W) and the cell counts."""
    fx, fy = _clamped(freq, 1, NOISE_CAP)
    ix, nx = _table_axis(fx, NOISE_CAP, u.device, 0)
    iy, ny = _table_axis(fy, NOISE_CAP, u.device, 0)
    return ix[:, None, :], iy[:, :, None], torch.remainder(u, 1.0) * fx, torch.remainder(v, 1.0) * fy, nx, ny


def _interpolate(table: Tensor, x: Tensor, y: Tensor, nx: int, ny: int) -> Tensor:
    """Table (N, C, ny + 1, nx + 1) at the lattice coordinates x, y with quintic fades, (N, C, H, W)."""
    x0, y0 = x.floor(), y.floor()
    tx, ty = x - x0, y - y0
    sx = x0 + tx * tx * tx * (tx * (tx * 6.0 - 15.0) + 10.0)
    sy = y0 + ty * ty * ty * (ty * (ty * 6.0 - 15.0) + 10.0)
    where = torch.stack([sx * (2.0 / nx) - 1.0, sy * (2.0 / ny) - 1.0], dim=-1)
    return F.grid_sample(table, where, mode="bilinear", padding_mode="border", align_corners=True)


def value_noise(u: Tensor, v: Tensor, freq: Freq, seed: Tensor, salt: int = 0) -> Tensor:
    """Smooth lattice noise, (N, H, W) in [0, 1)."""
    ix, iy, x, y, nx, ny = _lattice(u, v, freq)
    table = hash01(ix, iy, seed, salt)
    return _interpolate(table[:, None], x, y, nx, ny)[:, 0]


def perlin(u: Tensor, v: Tensor, freq: Freq, seed: Tensor, salt: int = 0) -> Tensor:
    """Gradient noise (K. Perlin, Improving Noise, 2002), (N, H, W), about [-1, 1]."""
    ix, iy, x, y, nx, ny = _lattice(u, v, freq)
    angle = hash01(ix, iy, seed, salt) * math.tau
    gx, gy = angle.cos(), angle.sin()
    at_x = torch.arange(nx + 1, device=u.device, dtype=torch.float32)
    at_y = torch.arange(ny + 1, device=u.device, dtype=torch.float32)[:, None]
    # the sum of w (g . (p - corner)) over the corners is p . (sum of w g) - sum of w (g . corner): one lookup
    table = torch.stack([gx, gy, gx * at_x + gy * at_y], dim=1)
    mean = _interpolate(table, x, y, nx, ny)
    return (x * mean[:, 0] + y * mean[:, 1] - mean[:, 2]) * 1.5


def fbm(
    u: Tensor,
    v: Tensor,
    freq: Freq,
    seed: Tensor,
    octaves: int = 5,
    gain: float = 0.5,
    salt: int = 0,
    ridged: bool = False,
) -> Tensor:
    """Fractal sum of gradient noise, (N, H, W), about [-1, 1]; ridged: crests of 1 - |noise|, in [0, 1]."""
    total, weight = torch.zeros_like(u), 0.0
    for octave in range(octaves):
        amplitude = gain**octave
        noise = perlin(u, v, _clamped(freq, 2**octave, NOISE_CAP), seed, salt * 31 + octave)
        total = total + amplitude * ((1.0 - noise.abs()).clamp_min(0.0) if ridged else noise)
        weight += amplitude
    return total / (weight if ridged else weight**0.5)


def warp(
    u: Tensor, v: Tensor, amount: float | Tensor, freq: Freq, seed: Tensor, salt: int = 0
) -> tuple[Tensor, Tensor]:
    """Coordinates moved by two periodic noises of at most about `amount` (in tiles)."""
    return (
        u + amount * fbm(u, v, freq, seed, 3, 0.5, salt * 2 + 7001),
        v + amount * fbm(u, v, freq, seed, 3, 0.5, salt * 2 + 7002),
    )


def _cells(u: Tensor, v: Tensor, freq: Freq, seed: Tensor, jitter: float | Tensor, salt: int) -> tuple[Tensor, ...]:
    """Per neighbour k of the 3x3 block: offsets to its point dx, dy (9, N, H, W); and the base cell and cell counts."""
    fx, fy = _clamped(freq, 1, CELL_CAP)
    ix, nx = _table_axis(fx, CELL_CAP, u.device, 1)
    iy, ny = _table_axis(fy, CELL_CAP, u.device, 1)
    ix, iy = ix[:, None, :], iy[:, :, None]
    point_x = 0.5 + jitter * (hash01(ix, iy, seed, salt * 2 + 11) - 0.5)
    point_y = 0.5 + jitter * (hash01(ix, iy, seed, salt * 2 + 12) - 0.5)
    n, (rows, columns) = u.shape[0], point_x.shape[-2:]
    points = torch.stack([point_x, point_y], dim=-1).expand(n, rows, columns, 2).reshape(-1, 2)
    x, y = torch.remainder(u, 1.0) * fx, torch.remainder(v, 1.0) * fy
    cx, cy = x.long().clamp(max=nx - 1), y.long().clamp(max=ny - 1)
    base = torch.arange(n, device=u.device)[:, None, None] * (rows * columns) + (cy + 1) * columns + cx + 1
    tx, ty = x - cx, y - cy
    dx, dy = [], []
    for j in (-1, 0, 1):
        for i in (-1, 0, 1):
            near = points[base + (j * columns + i)]
            dx.append(near[..., 0] + i - tx)
            dy.append(near[..., 1] + j - ty)
    wrap_x = fx if isinstance(fx, Tensor) else torch.tensor(fx, device=u.device)
    wrap_y = fy if isinstance(fy, Tensor) else torch.tensor(fy, device=u.device)
    return torch.stack(dx), torch.stack(dy), cx, cy, wrap_x, wrap_y


def _nearest(cells: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Two nearest distances, wrapped id of the nearest cell, the vector to its point, and its index in the block."""
    dx, dy, cx, cy, wrap_x, wrap_y = cells
    # a running minimum: torch.topk over nine values per texel is far slower on a GPU
    f1, f2 = torch.full_like(dx[0], 64.0), torch.full_like(dx[0], 64.0)
    near_x, near_y, k = torch.zeros_like(f1), torch.zeros_like(f1), torch.zeros_like(cx)
    for index in range(9):
        squared = dx[index] * dx[index] + dy[index] * dy[index]
        closer = squared < f1
        f2 = torch.where(closer, f1, torch.minimum(f2, squared))
        f1 = torch.where(closer, squared, f1)
        near_x = torch.where(closer, dx[index], near_x)
        near_y = torch.where(closer, dy[index], near_y)
        k = k.masked_fill(closer, index)
    ix = torch.remainder(cx + k % 3 - 1, wrap_x)
    iy = torch.remainder(cy + k // 3 - 1, wrap_y)
    return f1.sqrt(), f2.sqrt(), iy * 4096 + ix, near_x, near_y, k


def worley(
    u: Tensor, v: Tensor, freq: Freq, seed: Tensor, jitter: float | Tensor = 1.0, salt: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Cell noise (S. Worley, A Cellular Texture Basis Function, 1996) over the 3x3 neighbouring cells.

    Returns (f1, f2, cell_id, dx, dy), each (N, H, W): the distances to the two nearest points in cell units, an int64
    id of the nearest cell (to be hashed with `hash01(cell_id, zero, seed)`), and the vector to its point.
    """
    return _nearest(_cells(u, v, freq, seed, jitter, salt))[:5]


def worley_edges(
    u: Tensor, v: Tensor, freq: Freq, seed: Tensor, jitter: float | Tensor = 1.0, salt: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distance to the nearest border of the Voronoi cell (I. Quilez, Voronoi borders), over the 3x3 block.

    Returns (edge_distance, cell_id, dx, dy), each (N, H, W), in cell units.
    """
    cells = _cells(u, v, freq, seed, jitter, salt)
    _, _, cell_id, near_x, near_y, k = _nearest(cells)
    dx, dy = cells[0], cells[1]
    rx, ry = dx - near_x, dy - near_y
    length = (rx * rx + ry * ry).sqrt().clamp_min(1e-6)
    border = 0.5 * ((dx + near_x) * rx + (dy + near_y) * ry) / length
    own = torch.arange(9, device=u.device).reshape(9, 1, 1, 1) == k
    return border.masked_fill(own, 8.0).amin(0), cell_id, near_x, near_y


def bricks(
    u: Tensor, v: Tensor, nx: int | Tensor, ny: int | Tensor, offset: float | Tensor = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cells of a running bond: (ix, iy, fx, fy), the wrapped int64 cell and the position inside it in [0, 1).

    `offset` is the shift of odd rows in bricks (broadcastable; use an even ny so that the tile closes), or a tensor
    (N, R) of one shift per row with R >= ny.
    """
    y = torch.remainder(v, 1.0) * ny
    iy = y.long()
    iy = torch.minimum(iy, torch.as_tensor(ny, device=u.device) - 1)
    if isinstance(offset, Tensor) and offset.ndim == 2:
        n = u.shape[0]
        shift = offset.gather(1, iy.reshape(n, -1)).reshape(iy.shape)
    else:
        shift = (iy % 2) * offset
    x = torch.remainder(u * nx + shift, nx)
    ix = torch.minimum(x.long(), torch.as_tensor(nx, device=u.device) - 1)
    return ix, iy, x - ix, y - iy
