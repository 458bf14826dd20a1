"""Strands and cushions: grass, straw, moss."""

from __future__ import annotations

import torch
from torch import Tensor

from materials.procedural.organic_fields import RGB, Brush, lerp, paint, ramp, smooth, unit
from materials.procedural.organic_ground import SOIL, soil_layers
from materials.procedural.organic_look import Look, describe, on, organic

# integer matrices of determinant 1 map the torus onto itself, so that a strand lattice may lie in many directions
TURNS = (
    (1, 0, 0, 1),
    (1, 1, 0, 1),
    (1, -1, 0, 1),
    (0, 1, -1, 0),
    (1, 0, 1, 1),
    (1, 0, -1, 1),
    (2, 1, 1, 1),
    (2, -1, -1, 1),
)

GREEN: tuple[tuple[str, RGB, RGB, RGB], ...] = (
    ("green", (0.14, 0.20, 0.07), (0.30, 0.40, 0.14), (0.52, 0.58, 0.27)),
    ("green", (0.15, 0.19, 0.08), (0.33, 0.38, 0.17), (0.56, 0.58, 0.32)),
    ("lush green", (0.11, 0.20, 0.06), (0.23, 0.41, 0.12), (0.45, 0.60, 0.25)),
    ("dark green", (0.08, 0.13, 0.05), (0.17, 0.26, 0.10), (0.32, 0.40, 0.18)),
    ("yellowish", (0.22, 0.20, 0.08), (0.46, 0.44, 0.19), (0.68, 0.63, 0.34)),
    ("dry", (0.26, 0.20, 0.11), (0.54, 0.45, 0.27), (0.76, 0.68, 0.46)),
    ("brown", (0.20, 0.15, 0.09), (0.42, 0.33, 0.19), (0.62, 0.51, 0.32)),
)
STRAW: tuple[tuple[str, RGB, RGB, RGB], ...] = (
    ("golden", (0.36, 0.24, 0.09), (0.70, 0.54, 0.26), (0.88, 0.76, 0.48)),
    ("yellow", (0.38, 0.29, 0.10), (0.74, 0.62, 0.30), (0.90, 0.82, 0.54)),
    ("pale", (0.40, 0.33, 0.22), (0.70, 0.62, 0.46), (0.86, 0.80, 0.66)),
    ("old brown", (0.22, 0.15, 0.09), (0.46, 0.35, 0.22), (0.66, 0.54, 0.37)),
)


def _blade(curl: float, wide: float, taper: float):
    """Splat shape of a bent blade along b; the lattice cell is narrow in a and long in b."""

    def shape(a: Tensor, b: Tensor, r: Tensor, w: Tensor) -> Tensor:
        half = 0.55 + 0.4 * r
        t = (b / half).clamp(-2.0, 2.0)
        lean, bow = (w - 0.5) * 1.1 * curl, ((w * 7.77 % 1.0) - 0.5) * 1.0 * curl
        across = (a - lean * t - bow * (t * t - 0.3)).abs()
        width = (
            wide
            * (0.6 + 0.6 * (r * 5.31 % 1.0))
            * (1.0 - t * t).clamp(min=0.0) ** 0.5
            * (1.0 - taper * 0.5 * (t + 1.0))
        )
        inside = 1.0 - across / width.clamp(min=1e-4)
        return torch.where((inside > 0) & (t.abs() < 1.0), 0.3 + 0.25 * t + 0.3 * w + 0.18 * inside, -1.0)

    return shape


def strands(
    b: Brush,
    f: Tensor,
    layers: int,
    *,
    narrow: float = 5.0,
    curl: float = 1.0,
    wide: float = 0.55,
    taper: float = 0.9,
    density: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Several layers of strands in different directions, later ones on top.

    Returns height in about [0, 1] (0 where bare), strand hash, position along the strand and the layer share, each
    (N, H, W).
    """
    height, cell, along, level = b.zero(), b.zero(), b.zero(), b.zero()
    start = b.pick(len(TURNS))
    turns = torch.tensor(TURNS, device=b.device, dtype=torch.float32)
    u, v = b.warp(0.12 / f, f * 0.5, 3)
    for k in range(layers):
        m = turns[(start + k * 3) % len(TURNS)]
        p = (m[..., 0] * u + m[..., 1] * v) % 1.0
        q = (m[..., 2] * u + m[..., 3] * v) % 1.0
        # a sheared lattice is finer across its strands
        fit = (m[..., 0].square() + m[..., 1].square()).rsqrt()
        h, r, _, t = b.splats(
            f * fit, _blade(curl, wide, taper), stretch=(narrow, 1.0), spin=0.0, density=density, uv=(p, q)
        )
        h = (h * 0.75 + 0.22 * k / max(1, layers - 1)) * (h > 0)
        over = h > height
        height, cell = torch.where(over, h, height), torch.where(over, r, cell)
        along, level = torch.where(over, t, along), torch.where(over, torch.full_like(h, (k + 1) / layers), level)
    return height, cell, along, level


def _strand_color(
    b: Brush, picks: list[tuple[str, RGB, RGB, RGB]], height: Tensor, cell: Tensor, along: Tensor, variety: float = 1.0
) -> Tensor:
    stops = [b.colors([p[1:][k] for p in picks], 0.02) for k in (0, 1, 2)]
    clump = b.noise(3, 4, 0.55)
    tone = 0.28 + 0.55 * height + variety * 0.32 * (cell * 23.3 % 1.0 - 0.5) + 0.08 * along + 0.14 * clump
    color = ramp(tone, [stops[0] * 0.5, stops[0], stops[1] * 0.85, stops[1] * 1.15, stops[2]])
    dead = b.colors([(0.52, 0.44, 0.24)] * b.n)
    few = ((cell * 71.9 % 1.0) < b.rand(0.0, 0.2)).float() * 0.6
    return paint(color, dead * (0.4 + 0.7 * height)[:, None], few)


@organic("grass")
def grass(b: Brush) -> Look:
    """Lawn or meadow seen from above: many bent blades, in patches over soil if worn."""
    picks = [GREEN[i] for i in b.indices(len(GREEN))]
    names, base = b.choose(SOIL)
    f = b.freq(9, 17)
    height, cell, along, _ = strands(b, f, 6)
    patchy, flowers = b.flag(0.35), b.flag(0.1)
    bare = b.mask(b.freq(2, 3), patchy * b.rand(0.25, 0.6), 0.08, 5, 0.62) * patchy
    earth, ground, soil_rough = soil_layers(b, base, patchy * 0.15)
    shown = smooth(height - 1.15 * bare, 0.0, 0.12)
    color = paint(earth * 0.8, _strand_color(b, picks, height, cell, along), shown)
    bloom, rb, _, _ = b.splats(
        b.freq(12, 20), lambda a, c, r, w: 0.16 + 0.1 * r - (a * a + c * c).sqrt(), density=flowers * b.rand(0.1, 0.35)
    )
    petal = torch.where(
        (b.rand() < 0.5)[:, None], b.colors([(0.88, 0.86, 0.80)] * b.n), b.colors([(0.85, 0.70, 0.12)] * b.n)
    )
    dot = smooth(bloom, 0.0, 0.06) * (1.0 - bare)
    color = paint(color, petal * (0.8 + 0.3 * rb)[:, None], dot)
    height = torch.maximum(lerp(0.22 * ground, height, shown), dot * (0.75 + bloom))
    color = color * b.cavity(height, 0.03, 0.6)
    look = Look(
        basecolor=color,
        height=height,
        roughness=lerp(soil_rough, 0.72 + 0.2 * (1.0 - height), shown),
        metallic=b.zero(),
        size_m=10.0 / f * b.rand(0.6, 1.2),
        relief=0.35 / f,
    )
    look.captions = [
        describe(
            w,
            ("grass", "grass field", "lawn", "meadow grass", "grass ground", "temperate grass"),
            color=p[0],
            tails=[
                *([f"with {w.choice(('dirt', 'patches of dirt', n + ' dirt'))}"] if d else []),
                *(["with flowers"] if fl else []),
            ],
        )
        for w, p, n, d, fl in zip(b.words, picks, names, on(patchy), on(flowers), strict=True)
    ]
    return look


@organic("straw")
def straw(b: Brush) -> Look:
    """Straw, hay or thatch: long stiff stalks."""
    picks = [STRAW[i] for i in b.indices(len(STRAW))]
    f = b.freq(4, 8)
    height, cell, along, _ = strands(b, f, 6, narrow=9.0, curl=0.8, wide=0.42, taper=0.0)
    color = _strand_color(b, picks, height, cell, along, 1.2) * b.cavity(height, 0.02, 0.9)
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.62 + 0.25 * (1.0 - height),
        metallic=b.zero(),
        size_m=3.0 / f * b.rand(0.7, 1.3),
        relief=0.16 / f,
    )
    look.captions = [
        describe(
            w,
            ("straw", "hay", "straw roof", "thatch", "straw floor"),
            color=p[0].removeprefix("old "),
            states=["old"] if p[0].startswith("old") else [],
        )
        for w, p in zip(b.words, picks, strict=True)
    ]
    return look


MOSSES: tuple[tuple[str, RGB, RGB, RGB], ...] = (
    ("green", (0.08, 0.12, 0.03), (0.22, 0.29, 0.08), (0.44, 0.50, 0.18)),
    ("dark green", (0.10, 0.14, 0.06), (0.20, 0.27, 0.11), (0.34, 0.40, 0.19)),
    ("yellowish green", (0.16, 0.17, 0.04), (0.36, 0.37, 0.11), (0.58, 0.57, 0.24)),
    ("brown", (0.14, 0.11, 0.05), (0.30, 0.25, 0.12), (0.46, 0.40, 0.22)),
)


@organic("moss")
def moss_ground(b: Brush) -> Look:
    """Cushions of moss over soil or stone."""
    picks = [MOSSES[i] for i in b.indices(len(MOSSES))]
    _, base = b.choose((*SOIL, ("grey", (0.42, 0.41, 0.40))))
    f = b.freq(4, 9)
    edge, cell = b.edges(f, uv=b.warp(0.15 / f, f, 4))
    tuft, tr, _, _ = b.splats(b.freq(34, 52), lambda a, c, r, w: 0.25 + 0.55 * w - 0.8 * (a * a * 0.6 + c * c * 3.0))
    fuzz, lumps = b.noise(70, 3, 0.75), b.noise(7, 4, 0.55)
    height = unit(0.4 * smooth(edge, 0.0, 0.5).sqrt() + 0.2 * cell + 0.2 * lumps + 0.28 * tuft + 0.05 * fuzz)
    stops = [b.colors([p[1:][k] for p in picks], 0.02) for k in (0, 1, 2)]
    tone = 0.36 + 0.4 * height + 0.2 * (tuft - 0.3) + 0.14 * (tr - 0.5) + 0.14 * fuzz + 0.12 * b.noise(2, 4)
    color = ramp(tone, [stops[0] * 0.6, stops[0], stops[1], stops[2]])
    patchy = b.flag(0.3)
    bare = b.mask(3, patchy * b.rand(0.2, 0.45), 0.1, 5, 0.6, bias=0.4 * (0.5 - height)) * patchy
    earth, ground, rough = soil_layers(b, base, 0.1)
    color = paint(color, earth, bare) * b.cavity(height, 0.02, 0.9)
    look = Look(
        basecolor=color,
        height=lerp(0.3 + height, 0.35 * ground, bare),
        roughness=lerp(0.93 + 0.04 * fuzz, rough, bare),
        metallic=b.zero(),
        size_m=b.rand(0.3, 1.0),
        relief=b.rand(0.03, 0.06),
    )
    look.captions = [
        describe(
            w,
            ("moss", "moss carpet", "forest moss", "moss ground", "thick moss"),
            color=p[0],
            tails=[w.choice(("with dirt", "over bare ground"))] if d else [],
        )
        for w, p, d in zip(b.words, picks, on(patchy), strict=True)
    ]
    return look
