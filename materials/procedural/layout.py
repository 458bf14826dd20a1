"""Layouts of elements on the torus: rectangles in bonds, jittered bonds, herringbone, hexagons."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from materials.procedural import fields
from materials.procedural.core import Context


@dataclass(frozen=True, kw_only=True)
class Elements:
    """Elements such as bricks at every texel, all (N, H, W): id (int64), position x (along) and y (across) from the
    element's first corner and its width and height (all in edges of a square tile), and distance to its border."""

    id: Tensor
    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    edge: Tensor
    turned: Tensor
    """1 where the element lies along v instead of u."""


def box_edge(x: Tensor, y: Tensor, width: Tensor, height: Tensor, radius: Tensor | float) -> Tensor:
    """Signed distance (positive inside) to a rectangle with rounded corners."""
    qx = radius - torch.minimum(x, width - x)
    qy = radius - torch.minimum(y, height - y)
    outside = (qx.clamp_min(0).square() + qy.clamp_min(0).square()).clamp_min(1e-12).sqrt()
    return radius - outside - torch.maximum(qx, qy).clamp_max(0.0)


def _elements(
    ident: Tensor, x: Tensor, y: Tensor, w: Tensor, h: Tensor, radius: Tensor | float, turned: Tensor
) -> Elements:
    w, h = w.expand_as(x), h.expand_as(x)
    return Elements(id=ident, x=x, y=y, width=w, height=h, edge=box_edge(x, y, w, h, radius), turned=turned)


def bond(
    ctx: Context,
    nx: Tensor | int,
    ny: Tensor | int,
    offset: Tensor | float,
    radius: Tensor | float = 0.0,
    headers: Tensor | float = 0.0,
) -> Elements:
    """Rows of equal rectangles, odd rows shifted by `offset`; where `headers` is 1, odd rows hold halves (English).

    nx and ny are the final counts (see `Context.freq`), ny even."""
    sx, sy = ctx.stretch
    ny_t = torch.as_tensor(ny, device=ctx.u.device)
    odd = torch.remainder(torch.floor(ctx.v * ny_t), 2)
    split = 1 + odd * headers
    count = (nx * split).long()
    ix, iy, fx, fy = fields.bricks(ctx.u, ctx.v, count, ny_t, offset)
    width = sx / (nx * split)
    height = torch.as_tensor(sy / ny, device=ctx.u.device)
    return _elements(iy * 4096 + ix, fx * width, fy * height, width, height, radius, torch.zeros_like(fx))


def _joints(
    x: Tensor, count: Tensor | int, row: Tensor, seed: Tensor, jitter: Tensor | float, salt: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Cells of a line with jittered joints: (index, position in the cell, cell length), lengths in mean cells."""
    count = torch.as_tensor(count, device=x.device)
    i = torch.minimum(x.long(), count - 1)
    f = x - i

    def joint(index: Tensor) -> Tensor:
        return jitter * (fields.hash01(torch.remainder(index, count), row, seed, salt) - 0.5)

    here, after = joint(i), joint(i + 1) + 1.0
    before_first, past_last = f < here, f >= after
    start = torch.where(before_first, joint(i - 1) - 1.0, torch.where(past_last, after, here))
    end = torch.where(before_first, here, torch.where(past_last, joint(i + 2) + 2.0, after))
    index = torch.remainder(i - before_first.long() + past_last.long(), count)
    return index, f - start, end - start


def jittered_bond(
    ctx: Context,
    nx: Tensor | int,
    ny: Tensor | int,
    jitter_x: Tensor | float,
    jitter_y: Tensor | float,
    radius: Tensor | float,
    salt: int,
) -> Elements:
    """Rows of varied height, each with its own shift and joints at random places (ashlar, floor boards)."""
    sx, sy = ctx.stretch
    iy, y, height = _joints(torch.remainder(ctx.v, 1.0) * ny, ny, torch.zeros_like(ctx.v), ctx.seed, jitter_y, salt)
    shift = fields.hash01(iy, torch.zeros_like(iy), ctx.seed, salt + 1)
    nx_t = torch.as_tensor(nx, device=ctx.u.device)
    ix, x, width = _joints(torch.remainder(ctx.u * nx_t + shift * nx_t, nx_t), nx, iy, ctx.seed, jitter_x, salt + 2)
    kx, ky = sx / nx, sy / ny
    return _elements(iy * 4096 + ix, x * kx, y * ky, width * kx, height * ky, radius, torch.zeros_like(x))


def herringbone(ctx: Context, count: Tensor, length: int, radius: Tensor | float, diagonal: Tensor) -> Elements:
    """Blocks `length` times as long as wide, laid in a herringbone of `count` (N, 1, 1) periods per square tile edge.

    Where `diagonal` is 1 the pattern is turned by 45 degrees (square tiles only)."""
    sx = ctx.stretch[0]
    turn = diagonal * float(abs(sx - 1.0) < 1e-6)
    u = torch.where(turn > 0, ctx.u + ctx.v, ctx.u)
    v = torch.where(turn > 0, ctx.u - ctx.v, ctx.v)
    px, py = ctx.freq(count)
    cx, cy = torch.as_tensor(px) * 2 * length, torch.as_tensor(py) * 2 * length
    x, y = torch.remainder(u, 1.0) * cx, torch.remainder(v, 1.0) * cy
    i, j = torch.minimum(x.long(), cx - 1), torch.minimum(y.long(), cy - 1)
    fx, fy = x - i, y - j
    k = torch.remainder(i - j, 2 * length)
    flat = k < length
    back = 2 * length - 1 - k
    along = torch.where(flat, k + fx, back + fy)
    across = torch.where(flat, fy, fx)
    left = torch.where(flat, torch.remainder(i - k, cx), i)
    top = torch.where(flat, j, torch.remainder(j - back, cy))
    unit = sx / cx / torch.where(turn > 0, 2.0**0.5, 1.0)
    ident = (top * 4096 + left) * 2 + flat.long()
    return _elements(ident, along * unit, across * unit, unit * length, unit, radius, (~flat).float())


def squares(ctx: Context, count: Tensor, strips: int, radius: Tensor | float) -> Elements:
    """Basket weave: squares of `strips` strips, turned by a right angle from square to square."""
    sx = ctx.stretch[0]
    nx, ny = ctx.freq(count, even_x=True, even_y=True)
    ix, iy, fx, fy = fields.bricks(ctx.u, ctx.v, nx, ny, 0.0)
    turned = (ix + iy) % 2 > 0
    along, across = torch.where(turned, fy, fx), torch.where(turned, fx, fy)
    strip = (across * strips).long().clamp(max=strips - 1)
    side = torch.as_tensor(sx / nx)
    ident = (iy * 4096 + ix) * 16 + strip
    return _elements(
        ident, along * side, (across * strips - strip) * side / strips, side, side / strips, radius, turned.float()
    )


def hexagons(ctx: Context, count: Tensor) -> Elements:
    """Regular hexagons (slightly stretched, so that the tile closes), `count` along a square tile edge."""
    sx = ctx.stretch[0]
    nx = ctx.freq(count)[0]
    ny = ctx.freq(count * 0.57735)[1]
    root = 3.0**0.5
    x, y = ctx.u * nx, ctx.v * ny * root
    ax, ay = torch.remainder(x, 1.0) - 0.5, torch.remainder(y, root) - root / 2
    bx, by = torch.remainder(x + 0.5, 1.0) - 0.5, torch.remainder(y + root / 2, root) - root / 2
    near = ax.square() + ay.square() < bx.square() + by.square()
    dx, dy = torch.where(near, ax, bx), torch.where(near, ay, by)
    ix = torch.remainder(torch.round(torch.where(near, x - ax - 0.5, x - bx)), nx).long()
    iy = torch.remainder(torch.round(torch.where(near, y / root - ay / root - 0.5, y / root - by / root)), ny).long()
    unit = torch.as_tensor(sx / nx)
    edge = (0.5 - torch.maximum(dx.abs(), dx.abs() * 0.5 + dy.abs() * (root / 2))) * unit
    ident = (iy * 4096 + ix) * 2 + near.long()
    size = unit.expand_as(edge)
    return Elements(
        id=ident,
        x=(dx + 0.5) * unit,
        y=(dy + 0.5) * unit,
        width=size,
        height=size,
        edge=edge,
        turned=torch.zeros_like(edge),
    )
