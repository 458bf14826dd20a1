"""Bark and plain wood grain."""

from __future__ import annotations

import torch

from materials.procedural.organic_fields import RGB, Brush, lerp, paint, ramp, smooth, unit
from materials.procedural.organic_look import Look, describe, dirt, moss, on, organic, wet
from materials.procedural.palette import WOOD

BARK: tuple[tuple[str, RGB, RGB], ...] = (
    ("brown", (0.34, 0.25, 0.18), (0.52, 0.41, 0.31)),
    ("dark brown", (0.22, 0.16, 0.12), (0.36, 0.28, 0.21)),
    ("grey", (0.36, 0.34, 0.31), (0.58, 0.56, 0.52)),
    ("reddish brown", (0.40, 0.23, 0.15), (0.60, 0.40, 0.27)),
    ("light grey", (0.48, 0.46, 0.43), (0.70, 0.68, 0.64)),
)


@organic("bark")
def bark(b: Brush) -> Look:
    """Tree bark: long plates split by deep furrows, with fibres, lichen and moss."""
    picks = [BARK[i] for i in b.indices(len(BARK))]
    deep, face = b.colors([p[1] for p in picks], 0.02), b.colors([p[2] for p in picks], 0.02)
    f = b.freq(5, 10)
    uv = b.warp(b.rand(0.12, 0.3) / f, f * 0.7, 4)
    edge, cell = b.edges(f, uv=uv, stretch=(1.0, 0.3))
    sub, cell2 = b.edges(f * 2, uv=b.warp(0.1 / f, f * 2, 3), stretch=(1.0, 0.55))
    ridge = b.noise(f, 4, 0.55, ridged=True, uv=uv, stretch=(1.0, 0.25))
    fibre = b.noise(f * 4, 4, 0.65, stretch=(1.0, 0.2), uv=b.warp(0.01, 8, 2))
    fine, cloud = b.noise(50, 3, 0.7), b.noise(2, 4)
    plate = smooth(edge, 0.0, b.rand(0.2, 0.45))
    height = unit(
        0.55 * plate
        + 0.28 * ridge
        + 0.12 * smooth(sub, 0.0, 0.15) * plate
        + 0.1 * cell2 * plate
        + 0.1 * cell
        + 0.1 * fibre
        + 0.04 * fine
    )
    tone = height * 0.95 + 0.22 * fibre + 0.15 * fine + 0.2 * (cell - 0.5) + 0.1 * (cell2 - 0.5) - 0.12 + 0.12 * cloud
    color = ramp(tone, [deep * 0.3, deep * 0.8, deep * 0.5 + face * 0.5, face, face * 1.2 + 0.03])
    lichen = b.mask(8, b.rand(0.0, 0.2), 0.1, 5, 0.68) * plate
    color = paint(color, b.colors([(0.58, 0.61, 0.53)] * b.n) * (1.0 + 0.15 * fine)[:, None], lichen * 0.6)
    color = color * b.cavity(height, 0.012, 0.9)
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.88 + 0.07 * fine,
        metallic=b.zero(),
        size_m=b.rand(0.3, 0.9),
        relief=b.rand(0.04, 0.09),
    )
    mossy, damp = b.flag(0.25), b.flag(0.12)
    moss(b, look, mossy, 0.12, 0.4)
    wet(b, look, damp, 0.02)
    look.captions = [
        describe(
            w,
            ("bark", "tree bark", "tree trunk", "rough bark", "oak bark"),
            color=p[0],
            states=[s for s, x in (("mossy", m), ("wet", d)) if x],
        )
        for w, p, m, d in zip(b.words, picks, on(mossy), on(damp), strict=True)
    ]
    return look


@organic("wood_grain")
def wood_grain(b: Brush) -> Look:
    """Sawn or polished wood: flat-sawn arches, pores, knots, wear."""
    names, base = b.choose([*WOOD])
    knots = b.flag(0.45)
    knot, rk, ka, kb = b.splats(
        b.freq(2, 3),
        lambda a, c, r, w: 1.0 - ((a * a * 7.0 + c * c * 2.5).sqrt()) / (0.3 + 0.25 * r),
        spin=0.1,
        density=knots * b.rand(0.2, 0.6),
    )
    pull = smooth(knot, 0.0, 1.0)
    bend = 0.35 * b.noise(2, 3, 0.4, stretch=(1.2, 0.5)) + 0.05 * b.noise(5, 3, 0.5, stretch=(1.0, 0.3))
    rings = b.freq(5, 14)
    count = b.cells(rings)[0]
    t = b.u * count + bend * rings * b.rand(0.3, 1.0) + pull * 3.0
    saw = t % 1.0
    late = smooth(saw, 0.25, 0.95) * (1.0 - smooth(saw, 0.95, 1.0))
    fibre = b.noise(40, 3, 0.7, stretch=(1.0, 0.04))
    streak = b.noise(12, 3, 0.6, stretch=(1.0, 0.08))
    pores = smooth(b.noise(90, 1, stretch=(1.0, 0.1)), 0.35, 0.7) * b.rand(0.0, 1.0)
    fine, cloud = b.noise(70, 2, 0.7), b.noise(2, 4)
    tone = 0.62 - 0.3 * late * b.rand(0.5, 1.1) + 0.18 * fibre + 0.16 * streak - 0.2 * pores + 0.05 * fine + 0.1 * cloud
    color = ramp(tone, [base * 0.5, base * 0.78, base * 1.0, base * 1.2 + 0.02])
    heart = smooth(knot, 0.35, 0.75)
    ringed = 0.75 + 0.25 * torch.sin((ka.square() * 7.0 + kb.square() * 2.5).sqrt() * 60.0 / (0.3 + 0.25 * rk) * 0.4)
    color = paint(
        color,
        base * torch.tensor([0.45, 0.38, 0.32], device=b.device)[None, :, None, None] * ringed[:, None],
        heart * 0.85,
    )
    color = paint(color, base * 0.6, smooth(knot, 0.0, 0.4) * (1.0 - heart) * 0.5)
    polished, weathered, cracked = b.flag(0.4), b.flag(0.25), b.flag(0.25)
    old = weathered * (1.0 - polished)
    check = smooth(b.noise(9, 3, 0.5, ridged=True, stretch=(1.0, 0.07), uv=b.warp(0.01, 6, 2)), 0.9, 0.985)
    check = check * smooth(b.noise(3, 3, stretch=(1.0, 0.5)), -0.1, 0.3) * cracked
    grey = color.mean(dim=1, keepdim=True) * torch.tensor([1.03, 1.0, 0.95], device=b.device)[None, :, None, None]
    color = paint(color, grey * 0.92 + 0.04, b.mask(2, 0.75, 0.4, 4) * old * 0.8)
    color = color * (1.0 - 0.65 * check)[:, None]
    height = (
        0.6
        + 0.12 * late * (0.4 + old)
        + (0.05 + 0.06 * old) * fibre
        - 0.12 * pores
        + 0.08 * heart
        - 0.5 * check
        + 0.03 * cloud
    )
    rough = lerp(0.68 + 0.1 * fibre, 0.24 + 0.05 * fibre + 0.1 * pores, polished) + 0.12 * old - 0.06 * late
    dirty = b.flag(0.12)
    look = Look(
        basecolor=color,
        height=height,
        roughness=rough,
        metallic=b.zero(),
        size_m=b.rand(0.2, 0.6),
        relief=b.rand(0.004, 0.009),
    )
    dirt(b, look, dirty)
    look.captions = [
        describe(
            w,
            ("wood", "wood grain", "wood board", "wooden surface", "wood panel"),
            color=c,
            states=[s for s, x in (("polished", p), ("weathered", o), ("cracked", k), ("dirty", d)) if x],
            tails=["with knots"] if kn else [],
        )
        for w, c, p, o, k, d, kn in zip(
            b.words,
            names,
            on(polished),
            on(old),
            on(cracked),
            on(dirty),
            [x > 0.0 for x in heart.amax(dim=(1, 2)).tolist()],
            strict=True,
        )
    ]
    return look
