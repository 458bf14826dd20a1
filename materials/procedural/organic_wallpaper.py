"""Printed wallpaper with repeating motifs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from materials.procedural.organic_fields import Brush, lerp, paint, smooth
from materials.procedural.organic_look import Look, describe, dirt, on, organic
from materials.procedural.organic_plaster import mottled

GROUND = (
    "red",
    "yellow",
    "green",
    "olive",
    "teal",
    "blue",
    "light blue",
    "navy",
    "purple",
    "pink",
    "brown",
    "beige",
    "cream",
    "white",
    "grey",
    "light grey",
)
MOTIFS = ("striped", "damask", "floral", "trellis", "dotted", "chevron")


def _damask(b: Brush, x: Tensor, y: Tensor) -> Tensor:
    """Mirror-symmetric ornament of random lobes and rings, positive inside."""
    mx = x.abs()
    shape = torch.full_like(x, -1.0)
    for k in range(6):
        cx, cy = b.rand(0.0, 0.30), b.rand(-0.42, 0.42)
        r, turn = b.rand(0.05, 0.16), b.rand(-1.2, 1.2)
        dx, dy = mx - cx, y - cy
        a, c = turn.cos() * dx + turn.sin() * dy, turn.cos() * dy - turn.sin() * dx
        d = ((a / (1.0 + 0.8 * b.rand())).square() + (c + 2.2 * a * a).square()).sqrt()
        lobe = r - d if k % 2 == 0 else 0.016 - (d - r).abs()
        shape = torch.maximum(shape, lobe)
    stem = 0.012 - (mx - 0.05 - 0.05 * torch.sin(y * 2.0 * math.pi * 2.0)).abs()
    return torch.maximum(shape, stem)


def _floral(b: Brush, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A flower with leaves and a smaller one beside it: petals and leaves, positive inside."""
    petals = torch.full_like(x, -1.0)
    leaves = torch.full_like(x, -1.0)
    for cx, cy, scale in ((0.0, 0.0, 1.0), (0.34, 0.34, 0.55)):
        dx, dy = x - cx, y - cy
        r, turn = (dx * dx + dy * dy).sqrt(), torch.atan2(dy, dx)
        count = (4 + b.pick(4)).float()
        size = b.rand(0.17, 0.25) * scale
        rim = size * (0.62 + 0.38 * torch.cos(turn * count + b.rand(0.0, 6.28)).abs())
        ring = torch.minimum(rim - r, (r - 0.28 * size))
        vein = (torch.cos(turn * count * 4.0) * 0.006) * (r > 0.5 * size)
        petals = torch.maximum(petals, torch.maximum(ring + vein, 0.17 * size - r))
        spread = (3 + b.pick(2)).float()
        leaf = size * 1.9 * torch.cos(turn * spread * 0.5 + b.rand(0.0, 6.28)).abs().pow(6.0) - r
        leaves = torch.maximum(leaves, torch.minimum(leaf, r - size * 1.02))
    return petals, leaves


@organic("wallpaper")
def wallpaper(b: Brush) -> Look:
    """Wallpaper: stripes, damask, flowers, trellis, dots or chevrons; new, or worn, torn and stained."""
    names, base = b.named(GROUND, 0.5)
    lighter, tone = b.flag(0.5)[:, None], b.rand(0.22, 0.5)[:, None]
    tonal = torch.where(
        lighter > 0.5, lerp(base, b.colors([(0.90, 0.86, 0.76)] * b.n), tone * 1.2), base * (1.0 - tone)
    )
    _, other = b.named(("cream", "white", "brown", "olive", "red", "navy", "grey"), 0.4)
    ink = torch.where(b.flag(0.6)[:, None] > 0.5, tonal, other)
    leaf_ink = lerp(base, b.colors([(0.25, 0.36, 0.20)] * b.n), b.rand(0.3, 0.9)[:, None])
    style = b.pick(len(MOTIFS))
    nx, ny = b.cells(b.freq(2, 5), 2)
    gx = b.u * nx
    column = torch.minimum(gx.long(), nx - 1)
    drop = b.flag(0.7)
    gy = (b.v * ny + 0.5 * drop * (column % 2)) % ny
    x, y = gx - column - 0.5, gy - torch.floor(gy) - 0.5
    stripe = 0.25 * b.rand(0.5, 1.5) - x.abs()
    stripe = torch.maximum(stripe, 0.012 - (x.abs() - 0.43).abs())
    damask = _damask(b, x, y)
    petals, leaves = _floral(b, x, y)
    diamond = (x.abs() + y.abs() - 0.5).abs()
    trellis = torch.maximum(0.035 - diamond, 0.09 - (x.square() + y.square()).sqrt())
    dots = b.rand(0.1, 0.24) - (x.square() + y.square()).sqrt()
    zig = (b.v * ny * 2.0 + (x.abs() * 2.0)) % 1.0
    chevron = 0.25 - (zig - 0.5).abs()
    figure = torch.stack([stripe, damask, petals, trellis, dots, chevron]).gather(
        0, style[None].expand(1, b.n, *b.size)
    )[0]
    soft = 0.6 * nx / min(b.size) * 0.5 + 0.004
    print_mask = smooth(figure, -soft, soft)
    leaf_mask = smooth(leaves, -soft, soft) * (style == 2)
    fibre, cloud, fine = b.noise(30, 4, 0.7), b.noise(2, 4, 0.55), b.noise(100, 2, 0.8)
    worn, dirty, torn = b.flag(0.3), b.flag(0.2), b.flag(0.15)
    faded = (b.mask(3, 0.4, 0.45, 5, 0.66) * worn * 0.6 + 0.15 * smooth(fibre, 0.2, 0.8)) * b.rand(0.5, 1.0)
    color = paint(b.image(base), leaf_ink, leaf_mask)
    color = paint(color, ink, print_mask * (1.0 - faded))
    color = color * (1.0 + 0.05 * fibre + 0.09 * cloud + 0.04 * fine)[:, None]
    yellow = b.colors([(0.55, 0.45, 0.28)] * b.n)
    color = paint(color, yellow, b.mask(2, 0.4, 0.4, 4) * worn * 0.3)
    weave = torch.sin(b.u * 2.0 * math.pi * 64.0) * b.flag(0.3)
    height = 0.6 + 0.1 * print_mask + 0.06 * leaf_mask + 0.03 * fibre + 0.03 * weave + 0.02 * fine
    rip = b.mask(2, torn * b.rand(0.12, 0.35), 0.012, 5, 0.6, stretch=(1.4, 0.8)) * torn
    edge = smooth(b.blur(rip, 0.008), 0.01, 0.35) * (1.0 - rip)
    wall = mottled(b, b.colors([(0.62, 0.57, 0.49)] * b.n), 1.5) * (1.0 + 0.15 * fibre)[:, None]
    color = paint(color, b.colors([(0.84, 0.81, 0.73)] * b.n), edge * 0.8)
    color = paint(color, wall * (1.0 - 0.35 * smooth(b.blur(1.0 - rip, 0.012), 0.1, 0.9))[:, None], rip)
    height = lerp(height, 0.15 + 0.08 * cloud + 0.05 * fibre, rip) + 0.1 * edge
    gloss = b.rand(0.0, 0.25)
    rough = lerp(0.78 - gloss * print_mask + 0.05 * fibre, 0.9, rip)
    look = Look(
        basecolor=color, height=height, roughness=rough, metallic=b.zero(), size_m=nx * b.rand(0.15, 0.35), relief=0.002
    )
    dirt(b, look, dirty)
    look.captions = [
        describe(
            w,
            ("wallpaper", "wallpaper wall", "patterned wallpaper", "printed wallpaper"),
            color=c,
            states=[MOTIFS[k], *(s for s, t in (("worn", o), ("dirty", d), ("torn", r)) if t)],
        )
        for w, c, k, o, d, r in zip(
            b.words, names, style.flatten().tolist(), on(worn), on(dirty), on(torn), strict=True
        )
    ]
    return look
