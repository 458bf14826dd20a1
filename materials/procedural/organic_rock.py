"""Rock: cliffs, bedded and cracked rock, marble."""

from __future__ import annotations

import torch

from materials.procedural.organic_fields import RGB, Brush, paint, ramp, smooth, unit
from materials.procedural.organic_look import Look, describe, moss, on, organic, wet

STONE: tuple[tuple[str, RGB], ...] = (
    ("grey", (0.46, 0.45, 0.43)),
    ("dark grey", (0.27, 0.27, 0.28)),
    ("light grey", (0.64, 0.63, 0.60)),
    ("brown", (0.42, 0.33, 0.24)),
    ("tan", (0.66, 0.55, 0.40)),
    ("reddish", (0.55, 0.34, 0.25)),
    ("yellowish", (0.68, 0.58, 0.37)),
    ("bluish grey", (0.38, 0.43, 0.48)),
)


def _facets(b: Brush, f: torch.Tensor, stretch: tuple[float, float]) -> torch.Tensor:
    """Broken faces: a tilted plane per warped cell, (N, H, W)."""
    _, _, cell, dx, dy = b.worley(f, uv=b.warp(0.16 / f, f * 2, 3), stretch=stretch)
    turn = (cell * 57.31 % 1.0) * 6.2832
    return cell * 0.7 + (turn.cos() * dx + turn.sin() * dy) * 0.8


def _stain(b: Brush, color: torch.Tensor, strength: float) -> torch.Tensor:
    """Iron and lichen stains over a rock colour."""
    rust = b.colors([(0.50, 0.33, 0.20)] * b.n, 0.04)
    pale = b.colors([(0.68, 0.67, 0.60)] * b.n, 0.04)
    color = paint(color, rust, b.mask(2, b.rand(0.0, 0.35), 0.3, 5, 0.6) * strength * b.rand(0.2, 0.8))
    spots = b.mask(14, b.rand(0.02, 0.2), 0.1, 4, 0.65) * b.mask(2, 0.5, 0.3, 3)
    return paint(color, pale, spots * strength * b.rand(0.1, 0.9))


@organic("rock_cliff")
def rock_cliff(b: Brush) -> Look:
    """Broken cliff face with ledges, fissures, stains and moss."""
    names, base = b.choose(STONE)
    f = b.freq(2, 4)
    big, small = _facets(b, f, (1.0, 1.0)), _facets(b, f * 3, (1.0, 1.4))
    tiny = _facets(b, f * 8, (1.0, 1.2))
    ridges = b.noise(f, 5, 0.55, ridged=True, uv=b.warp(0.06, 3, 3))
    fine = b.noise(32, 4, 0.65)
    height = unit(0.55 * big + 0.3 * small + 0.1 * tiny + 0.6 * ridges * b.rand(0.4, 1.0) + 0.09 * fine)
    cracked = b.flag(0.35)
    gap = b.cracks(f, 0.035, wander=0.05, keep=0.6) * cracked
    height = height - 0.25 * gap
    tone = 0.5 + 0.35 * (height - 0.5) + 0.16 * (small - 0.3) + 0.12 * (tiny - 0.3) + 0.16 * fine + 0.22 * b.noise(3, 4)
    color = ramp(tone, [base * 0.45, base * 0.9, base * 1.1, (base * 1.35 + 0.05)])
    color = _stain(b, color, 0.8) * b.cavity(height, 0.012, 1.0) * b.cavity(height, 0.05, 0.8)
    color = color * (1.0 - 0.6 * gap)[:, None]
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.82 + 0.12 * fine - 0.1 * height,
        metallic=b.zero(),
        size_m=b.rand(1.5, 5.0),
        relief=b.rand(0.06, 0.13),
    )
    mossy, damp = b.flag(0.3), b.flag(0.15)
    moss(b, look, mossy)
    wet(b, look, damp, 0.02)
    look.captions = [
        describe(
            w,
            ("rock", "rock cliff", "cliff", "rock wall", "rough rock", "stone cliff"),
            color=c,
            states=[s for s, x in (("mossy", m), ("wet", d), ("cracked", k)) if x],
        )
        for w, c, m, d, k in zip(b.words, names, on(mossy), on(damp), on(cracked), strict=True)
    ]
    return look


@organic("rock_layers")
def rock_layers(b: Brush) -> Look:
    """Sedimentary rock: bent beds of different hardness and colour."""
    names, base = b.choose(STONE)
    bend = b.noise(2, 5, 0.5) * b.rand(0.02, 0.1) + 0.012 * b.noise(16, 3, 0.6, stretch=(0.5, 1.0))
    height = b.zero()
    tint = b.zero()
    for k, (weight, lo, hi) in enumerate(((0.5, 4, 8), (0.35, 10, 20), (0.2, 24, 50))):
        beds = b.cells(b.freq(lo, hi))[1]
        y = ((b.v + bend * (1.0 - 0.2 * k)) % 1.0) * beds
        row = torch.minimum(y.long(), beds - 1)
        t = y - row
        here = b.hash(row)
        lip = smooth(t, 0.0, 0.2) * (1.0 - smooth(t, 0.75, 1.0))
        height = height + weight * (here * 0.8 + 0.55 * lip * (0.3 + here))
        tint = tint + weight * (b.hash(row) - 0.5)
    broken = _facets(b, b.freq(4, 8), (1.0, 0.6))
    blocks = _facets(b, b.freq(9, 16), (1.0, 0.7))
    fine = b.noise(28, 4, 0.65, stretch=(0.6, 1.4))
    height = unit(height + 0.22 * broken + 0.14 * blocks + 0.09 * fine)
    tone = 0.48 + 0.75 * tint + 0.18 * (blocks - 0.3) + 0.14 * fine + 0.15 * b.noise(3, 4)
    warm = base * torch.tensor([1.12, 0.98, 0.84], device=b.device)[None, :, None, None]
    color = ramp(tone, [base * 0.55, warm * 0.85, base, warm * 1.2, base * 1.3 + 0.04])
    color = _stain(b, color, 0.6) * b.cavity(height, 0.012, 1.2) * b.cavity(height, 0.04, 0.8)
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.85 + 0.1 * fine - 0.1 * height,
        metallic=b.zero(),
        size_m=b.rand(1.5, 4.0),
        relief=b.rand(0.04, 0.1),
    )
    mossy, damp = b.flag(0.2), b.flag(0.12)
    moss(b, look, mossy)
    wet(b, look, damp, 0.02)
    look.captions = [
        describe(
            w,
            ("layered rock", "sedimentary rock", "sedimentary cliff", "stratified rock", "layered rock cliff"),
            color=c,
            states=[s for s, x in (("mossy", m), ("wet", d)) if x],
        )
        for w, c, m, d in zip(b.words, names, on(mossy), on(damp), strict=True)
    ]
    return look


@organic("rock_cracked")
def rock_cracked(b: Brush) -> Look:
    """Weathered flat rock, smooth humps split by branching cracks."""
    names, base = b.choose(STONE)
    f = b.freq(2, 5)
    uv = b.warp(0.22 / f, f, 4)
    edge, cell = b.edges(f, uv=uv)
    sub, cell2 = b.edges(f * 2, uv=b.warp(0.15 / f, f * 2, 4))
    split = b.mask(2, 0.5, 0.15, 3)
    gap = torch.maximum(1.0 - smooth(edge, 0.01, b.rand(0.05, 0.12)), (1.0 - smooth(sub, 0.0, 0.07)) * split)
    dome = smooth(edge, 0.0, 0.45)
    fine, mid = b.noise(40, 4, 0.65), b.noise(5, 5, 0.55)
    height = unit(0.45 * dome + 0.3 * cell + 0.2 * mid + 0.07 * fine + 0.12 * cell2 * split - 0.55 * gap)
    tone = 0.5 + 0.35 * (cell - 0.5) + 0.25 * mid + 0.22 * fine + 0.15 * (cell2 - 0.5) * split
    color = ramp(tone, [base * 0.55, base * 0.9, base * 1.12, base * 1.35 + 0.03])
    color = _stain(b, color, 0.7) * b.cavity(height, 0.02, 0.8) * (1.0 - 0.62 * gap)[:, None]
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.8 + 0.12 * fine + 0.1 * gap,
        metallic=b.zero(),
        size_m=b.rand(1.0, 3.0),
        relief=b.rand(0.02, 0.06),
    )
    mossy, damp = b.flag(0.25), b.flag(0.15)
    moss(b, look, mossy, 0.1, 0.35)
    wet(b, look, damp, 0.12)
    look.captions = [
        describe(
            w,
            ("rock", "stone", "rock surface", "stone ground", "rock slab"),
            color=c,
            states=["cracked", *(s for s, x in (("mossy", m), ("wet", d)) if x)],
        )
        for w, c, m, d in zip(b.words, names, on(mossy), on(damp), strict=True)
    ]
    return look


MARBLE: tuple[tuple[str, RGB, RGB], ...] = (
    ("white", (0.87, 0.86, 0.84), (0.45, 0.45, 0.47)),
    ("grey", (0.56, 0.56, 0.57), (0.84, 0.84, 0.83)),
    ("black", (0.11, 0.11, 0.12), (0.72, 0.70, 0.65)),
    ("green", (0.16, 0.30, 0.22), (0.58, 0.68, 0.58)),
    ("beige", (0.80, 0.70, 0.56), (0.55, 0.40, 0.26)),
    ("brown", (0.40, 0.26, 0.18), (0.75, 0.62, 0.48)),
    ("pink", (0.80, 0.60, 0.56), (0.55, 0.33, 0.30)),
    ("red", (0.50, 0.17, 0.14), (0.82, 0.70, 0.65)),
    ("blue", (0.25, 0.36, 0.50), (0.76, 0.80, 0.84)),
)


@organic("marble")
def marble(b: Brush) -> Look:
    """Polished marble: sharp and soft veins in clouded stone."""
    picks = [MARBLE[i] for i in b.indices(len(MARBLE))]
    base, vein = b.colors([p[1] for p in picks], 0.02), b.colors([p[2] for p in picks], 0.02)
    uv = b.warp(b.rand(0.05, 0.2), 2, 5)
    lines = b.zero()
    for f, width in ((b.freq(2, 3), 0.05), (b.freq(3, 6), 0.03), (b.freq(6, 12), 0.03)):
        n = b.noise(f, 3, 0.4, uv=uv).abs()
        strength = b.flat(3, 3) * b.rand(0.4, 1.0)
        core = 1.0 - smooth(n, 0.0, width * (0.4 + strength))
        lines = torch.maximum(lines, (core * 0.8 + 0.35 * torch.exp(-n * 9.0)) * smooth(strength, 0.15, 0.6))
    cloud = b.noise(3, 5, 0.55, uv=uv)
    grain = b.noise(60, 3, 0.7)
    color = b.image(base) * (1.0 + 0.16 * cloud + 0.04 * grain)[:, None]
    color = paint(color, (base + vein) * 0.5, b.mask(2, b.rand(0.1, 0.5), 0.35, 4) * 0.4)
    color = paint(color, vein, lines.clamp(0.0, 1.0) * b.rand(0.5, 0.95))
    worn = b.flag(0.25)
    scuff = b.mask(4, 0.4, 0.3, 5) * worn
    rough = b.rand(0.08, 0.22) + 0.05 * cloud.abs() + 0.35 * scuff + 0.05 * lines
    color = color * (1.0 - 0.12 * scuff)[:, None]
    look = Look(
        basecolor=color,
        height=0.5 + 0.2 * cloud - 0.15 * lines + 0.1 * grain * scuff,
        roughness=rough,
        metallic=b.zero(),
        size_m=b.rand(0.6, 2.0),
        relief=0.0015,
    )
    look.captions = [
        describe(
            w,
            ("marble", "marble floor", "veined marble", "marble slab"),
            color=p[0],
            states=["worn"] if x else w.choice((["polished"], [])),
        )
        for w, p, x in zip(b.words, picks, on(worn), strict=True)
    ]
    return look
