"""Lava and water."""

from __future__ import annotations

import math

import torch

from materials.procedural.organic_fields import RGB, Brush, lerp, paint, ramp, smooth, unit
from materials.procedural.organic_look import Look, describe, on, organic

GLOW = ((0.30, 0.03, 0.01), (0.78, 0.14, 0.02), (0.97, 0.42, 0.04), (0.97, 0.78, 0.22), (0.97, 0.93, 0.62))


@organic("lava")
def lava(b: Brush) -> Look:
    """Lava: dark crust over glowing cracks, or a glowing flow with crust rafts."""
    f = b.freq(2, 6)
    edge, cell = b.edges(f, uv=b.warp(0.28 / f, f, 5))
    sub, _ = b.edges(f * 2.5, uv=b.warp(0.12 / f, f * 2, 4))
    molten = b.flag(0.35)
    heat_map = b.flat(2, 4, 0.55)
    width = lerp(b.rand(0.04, 0.16), b.rand(0.2, 0.4), molten) * (0.35 + 1.2 * heat_map)
    hot = 1.0 - smooth(edge, 0.0, width)
    thin = (1.0 - smooth(sub, 0.0, 0.08)) * smooth(heat_map, 0.35, 0.9)
    hot = torch.maximum(hot, thin * 0.6)
    bumps, fine = b.noise(9, 5, 0.62), b.noise(36, 4, 0.7)
    ropes = b.noise(f * 1.5, 4, 0.5, ridged=True, uv=b.warp(0.12, 3, 4), stretch=(1.0, 2.2))
    flow = b.noise(4, 5, 0.6, uv=b.warp(0.1, 3, 4))
    heat = (hot * (0.75 + 0.28 * flow + 0.12 * fine)).clamp(0.0, 1.0)
    ash = b.colors([(0.15, 0.13, 0.125)] * b.n, 0.02)
    crust = ramp(
        0.45 + 0.3 * bumps + 0.25 * fine + 0.3 * (ropes - 0.7) + 0.3 * (cell - 0.5),
        [ash * 0.4, ash * 0.9, ash * 1.5, ash * 2.2],
    )
    glow = ramp(heat, [b.colors([c] * b.n, 0.01) for c in GLOW])
    spread = b.blur(hot, 0.03)
    color = paint(crust, crust + b.colors([(0.40, 0.09, 0.02)] * b.n, 0.01), spread * 0.8 * (1.0 - hot))
    color = paint(color, glow, smooth(heat, 0.04, 0.28))
    solid = unit(0.5 * smooth(edge, 0.0, 0.4) + 0.18 * bumps + 0.1 * fine + 0.2 * ropes + 0.2 * cell)
    height = lerp(solid * 0.8 + 0.2, 0.1 + 0.06 * flow, smooth(heat, 0.05, 0.4))
    look = Look(
        basecolor=color,
        height=height,
        roughness=lerp(0.88 + 0.08 * fine, 0.5, smooth(heat, 0.1, 0.5)),
        metallic=b.zero(),
        size_m=b.rand(1.5, 5.0),
        relief=b.rand(0.025, 0.06),
    )
    look.captions = [
        describe(
            w,
            ("molten lava", "lava", "lava flow", "liquid magma")
            if m
            else ("lava", "lava rock", "volcanic rock with glowing cracks", "magma", "lava crust"),
            color=w.choice(("glowing", "orange", "hot", "")),
        )
        for w, m in zip(b.words, on(molten), strict=True)
    ]
    return look


WATER: tuple[tuple[str, RGB, RGB], ...] = (
    ("blue", (0.08, 0.22, 0.42), (0.36, 0.58, 0.76)),
    ("dark blue", (0.03, 0.09, 0.20), (0.16, 0.31, 0.48)),
    ("turquoise", (0.06, 0.37, 0.43), (0.45, 0.76, 0.76)),
    ("green", (0.09, 0.22, 0.14), (0.36, 0.50, 0.32)),
    ("brown", (0.22, 0.16, 0.09), (0.48, 0.39, 0.26)),
    ("grey", (0.22, 0.27, 0.31), (0.54, 0.60, 0.64)),
)


@organic("water")
def water(b: Brush) -> Look:
    """Water: wind waves or calm water with a net of light, murky to clear, sometimes foam."""
    picks = [WATER[i] for i in b.indices(len(WATER))]
    deep, light = b.colors([p[1] for p in picks], 0.02), b.colors([p[2] for p in picks], 0.02)
    calm, foamy = b.flag(0.45), b.flag(0.2)
    waves = b.zero()
    uv = b.warp(0.05, 3, 3)
    for k in range(6):
        turn, f = b.rand(-0.9, 0.9), b.freq(2.0 + 1.2 * k, 5.0 + 2.5 * k)
        kx, ky = (f * torch.sin(turn)).round(), (f * torch.cos(turn)).round()
        phase = 2.0 * math.pi * (uv[0] * kx + uv[1] * ky + b.rand())
        sway = phase + 2.5 * b.noise(2, 2)
        waves = waves + (1.0 - (torch.sin(sway) * 0.5 + 0.5).pow(0.7)) * (0.85**k)
    chop = b.noise(8, 4, 0.55, ridged=True, uv=b.warp(0.06, 4, 3), stretch=(0.6, 1.4))
    swell = unit(waves / 3.0 + 0.9 * chop)
    f = b.freq(4, 9)
    net = b.zero()
    for k in range(2):
        edge, _ = b.edges(f * (1.0 + 0.6 * k), uv=b.warp(0.22 / f, f, 3))
        net = net + torch.exp(-edge * 9.0) * (0.75 - 0.3 * k)
    cloud, fine = b.noise(2, 4), b.noise(40, 3, 0.6)
    tone = lerp(0.05 + 0.85 * swell.square(), 0.22 + 0.6 * net, calm) + 0.14 * cloud + 0.04 * fine
    color = ramp(tone, [deep * 0.75, deep, deep * 0.5 + light * 0.5, light, light * 0.6 + 0.4])
    crest = smooth(swell, 0.62, 0.95) * smooth(b.noise(10, 5, 0.7, uv=uv), -0.1, 0.5)
    lace = crest * foamy * (1.0 - calm) + 0.7 * foamy * calm * smooth(net + 0.5 * cloud, 0.6, 1.0)
    color = paint(color, b.colors([(0.88, 0.91, 0.92)] * b.n, 0.01), lace.clamp(0.0, 0.9))
    height = lerp(swell, 0.5 + 0.12 * swell - 0.12 * net, calm) + 0.04 * lace
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.05 + 0.03 * fine.abs() + 0.5 * lace,
        metallic=b.zero(),
        size_m=b.rand(2.0, 6.0),
        relief=lerp(b.rand(0.02, 0.05), 0.006, calm),
    )
    look.captions = [
        describe(
            w,
            ("water", "clear water", "calm water", "pool water")
            if c
            else ("water", "ocean water", "sea waves", "water surface"),
            color=p[0],
            tails=["with foam"] if fo else [],
        )
        for w, p, c, fo in zip(b.words, picks, on(calm), on(foamy), strict=True)
    ]
    return look
