"""Loose ground: gravel, pebbles, soil, cracked mud, sand, forest floor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from materials.procedural.organic_fields import RGB, Brush, lerp, paint, ramp, smooth, unit
from materials.procedural.organic_look import Look, describe, moss, on, organic, wet

SOIL: tuple[tuple[str, RGB], ...] = (
    ("brown", (0.37, 0.28, 0.19)),
    ("dark brown", (0.24, 0.17, 0.12)),
    ("reddish brown", (0.46, 0.27, 0.18)),
    ("light brown", (0.55, 0.44, 0.31)),
    ("grey brown", (0.41, 0.37, 0.31)),
)
SAND: tuple[tuple[str, RGB], ...] = (
    ("yellow", (0.80, 0.67, 0.42)),
    ("golden", (0.78, 0.58, 0.32)),
    ("beige", (0.76, 0.66, 0.52)),
    ("white", (0.80, 0.77, 0.70)),
    ("brown", (0.55, 0.43, 0.29)),
    ("red", (0.66, 0.36, 0.22)),
    ("grey", (0.56, 0.53, 0.48)),
    ("black", (0.17, 0.16, 0.16)),
)
PEBBLE: tuple[tuple[str, RGB, RGB, RGB], ...] = (
    ("grey", (0.50, 0.49, 0.47), (0.34, 0.34, 0.34), (0.66, 0.65, 0.62)),
    ("grey", (0.46, 0.46, 0.47), (0.40, 0.42, 0.45), (0.60, 0.60, 0.58)),
    ("brown", (0.48, 0.38, 0.28), (0.36, 0.28, 0.21), (0.62, 0.53, 0.42)),
    ("beige", (0.68, 0.60, 0.48), (0.55, 0.47, 0.37), (0.78, 0.72, 0.62)),
    ("dark", (0.24, 0.24, 0.25), (0.17, 0.17, 0.18), (0.36, 0.35, 0.34)),
    ("white", (0.80, 0.79, 0.76), (0.70, 0.69, 0.66), (0.87, 0.86, 0.84)),
    ("reddish", (0.56, 0.37, 0.29), (0.45, 0.29, 0.23), (0.66, 0.54, 0.46)),
    ("mixed", (0.55, 0.47, 0.38), (0.36, 0.38, 0.41), (0.74, 0.69, 0.61)),
)


def stone_shape(a: Tensor, b: Tensor, r: Tensor, w: Tensor) -> Tensor:
    """Rounded stone of random size and proportion, 0 to about 1."""
    size = 0.42 + 0.42 * r
    d = ((a / size).square() + (b / (size * (0.55 + 0.4 * w))).square()).clamp(max=4.0)
    return (1.0 - d.pow(1.6)).clamp(min=0.0).sqrt() * (0.45 + 0.4 * w) + torch.where(d < 1.0, 0.05 * r, -1.0)


def _stones(b: Brush, f: Tensor, shape_warp: float, density: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
    h, r, _, _ = b.splats(f, stone_shape, uv=b.warp(shape_warp / f, f * 2, 2), density=density)
    return h, r


def _pebble_color(b: Brush, cell: Tensor, picks: list[tuple[str, RGB, RGB, RGB]]) -> Tensor:
    a, c, d = (b.colors([p[1:][k] for p in picks], 0.02) for k in (0, 1, 2))
    t = cell * 97.13 % 1.0
    tone = 1.0 + 0.45 * ((cell * 31.7 % 1.0) - 0.5)
    return torch.where((t < 0.5)[:, None], a, torch.where((t < 0.78)[:, None], c, d)) * tone[:, None]


def _stone_ground(b: Brush, lo: float, hi: float, angular: float, nouns: tuple[str, ...], top: float) -> Look:
    picks = [PEBBLE[i] for i in b.indices(len(PEBBLE))]
    f = b.freq(lo, hi)
    edge, cell0 = b.edges((f * 2.2).clamp(max=60.0), uv=b.warp(angular * 0.1 / f, f * 4, 2))
    bed = smooth(edge, 0.0, 0.4).sqrt() * (0.15 + 0.15 * cell0)
    h1, r1 = _stones(b, f * 1.45, angular)
    h2, r2 = _stones(b, f, angular, density=top)
    h1, h2 = h1 * 0.55 + 0.12 * (h1 > 0), h2 * 0.75 + 0.25 * (h2 > 0)
    height = torch.maximum(bed, torch.maximum(h1, h2))
    cell = torch.where(h2 >= height, r2, torch.where(h1 >= height, r1, cell0))
    grain, mid = b.noise(50, 3, 0.7), b.noise(16, 4, 0.6)
    color = _pebble_color(b, cell, picks) * (1.0 + 0.14 * grain + 0.14 * mid)[:, None]
    shade = smooth(height, 0.02, 0.42)
    color = color * (0.35 + 0.65 * shade)[:, None] * b.cavity(height, 0.012, 1.1)
    dusty = b.colors([(0.45, 0.38, 0.29)] * b.n)
    color = paint(color, dusty, b.mask(3, b.rand(0.0, 0.5), 0.3, 4) * (1.0 - 0.6 * shade) * 0.7)
    look = Look(
        basecolor=color,
        height=height + 0.02 * grain,
        roughness=0.78 + 0.12 * grain - 0.12 * shade + 0.1 * cell,
        metallic=b.zero(),
        size_m=f * b.rand(0.03, 0.06),
        relief=0.32 / f,
    )
    damp, mossy = b.flag(0.2), b.flag(0.12)
    moss(b, look, mossy, 0.1, 0.35)
    wet(b, look, damp, 0.1)
    look.captions = [
        describe(w, nouns, color=p[0], states=[s for s, x in (("wet", d), ("mossy", m)) if x])
        for w, p, d, m in zip(b.words, picks, on(damp), on(mossy), strict=True)
    ]
    return look


@organic("gravel")
def gravel(b: Brush) -> Look:
    """Crushed stone in several sizes over smaller chips."""
    return _stone_ground(
        b, 12, 26, 0.16, ("gravel", "gravel ground", "crushed stone", "small stones", "gravel path"), 0.75
    )


@organic("pebbles")
def pebbles(b: Brush) -> Look:
    """Smooth river stones."""
    return _stone_ground(
        b, 5, 11, 0.04, ("pebbles", "river rocks", "river stones", "pebble beach", "round pebbles"), 0.8
    )


def soil_layers(b: Brush, base: Tensor, stones: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Crumbly soil: colour (N, 3, H, W), height and roughness (N, H, W); `stones` is the share of stone cells."""
    lumps, fine, big = b.noise(7, 5, 0.62), b.noise(36, 4, 0.7), b.noise(2, 4, 0.5)
    crumb, rc = _stones(b, b.freq(26, 40), 0.2, density=b.rand(0.2, 0.7))
    rock, rr = _stones(b, b.freq(10, 18), 0.07, density=stones)
    height = 0.4 + 0.16 * big + 0.16 * lumps + 0.09 * fine
    height = torch.maximum(height, (height * 0.6 + 0.16 + 0.12 * crumb) * (crumb > 0))
    isrock = smooth(rock, 0.0, 0.1)
    height = torch.maximum(height, (0.35 + 0.1 * big + 0.4 * rock) * (rock > 0))
    tone = 0.47 + 0.2 * lumps + 0.26 * fine + 0.2 * big + 0.2 * (rc - 0.5) * (crumb > 0)
    color = ramp(tone, [base * 0.5, base * 0.85, base * 1.12, base * 1.4 + 0.03])
    pale = lerp(base, b.colors([(0.52, 0.48, 0.42)] * b.n), b.rand(0.3, 0.9)[:, None])
    mottle = 1.0 + 0.2 * fine + 0.12 * lumps
    color = paint(color, pale * (0.6 + 0.6 * rr)[:, None] * mottle[:, None], isrock * 0.9)
    height = unit(height)
    color = color * b.cavity(height, 0.01, 1.1) * b.cavity(height, 0.04, 0.6)
    return color, height, 0.9 + 0.06 * fine - 0.12 * isrock


@organic("dirt")
def dirt_ground(b: Brush) -> Look:
    """Bare soil with lumps, crumbs and stones."""
    names, base = b.choose(SOIL)
    stony, damp, mossy = b.flag(0.4), b.flag(0.25), b.flag(0.12)
    color, height, rough = soil_layers(b, base, 0.02 + stony * b.rand(0.2, 0.6))
    look = Look(
        basecolor=color,
        height=height,
        roughness=rough,
        metallic=b.zero(),
        size_m=b.rand(1.0, 3.0),
        relief=b.rand(0.02, 0.05),
    )
    moss(b, look, mossy)
    wet(b, look, damp, 0.22)
    look.captions = [
        describe(
            w,
            ("mud", "muddy ground", "muddy soil") if d else ("dirt", "soil", "dirt ground", "earth", "ground"),
            color=c,
            states=[s for s, x in (("wet", d), ("mossy", m)) if x],
            tails=[w.choice(("with stones", "with small rocks"))] if st else [],
        )
        for w, c, d, m, st in zip(b.words, names, on(damp), on(mossy), on(stony), strict=True)
    ]
    return look


@organic("mud_cracked")
def mud_cracked(b: Brush) -> Look:
    """Dried mud: polygons with curled rims, split again by finer cracks."""
    names, base = b.choose((*SOIL, ("grey", (0.50, 0.48, 0.44)), ("beige", (0.68, 0.59, 0.46))))
    f = b.freq(4, 9)
    uv = b.warp(0.09 / f, f * 2, 4)
    edge, cell = b.edges(f, 0.85, uv=uv)
    sub, cell2 = b.edges(f * 2.3, 0.9, uv=b.warp(0.06 / f, f * 3, 3))
    split = (cell * 13.7 % 1.0 < b.rand(0.2, 0.8)).float()
    width = b.rand(0.025, 0.07) * (1.0 + 0.5 * b.noise(4, 2))
    gap = 1.0 - smooth(edge, width * 0.4, width * 1.2)
    gap = torch.maximum(gap, (1.0 - smooth(sub, 0.0, 0.09)) * split * 0.8)
    curl = torch.exp(-edge * 9.0) * b.rand(0.1, 0.45)
    fine, mid = b.noise(40, 4, 0.68), b.noise(4, 4, 0.55)
    height = unit(
        0.5 + curl + 0.12 * (cell - 0.5) + 0.08 * mid + 0.05 * fine + 0.05 * (cell2 - 0.5) * split - 0.62 * gap
    )
    tone = 0.5 + 0.25 * (cell - 0.5) + 0.2 * mid + 0.2 * fine + 0.35 * curl
    color = ramp(tone, [base * 0.62, base * 0.95, base * 1.15, base * 1.35 + 0.03])
    color = color * b.cavity(height, 0.02, 0.7) * (1.0 - 0.68 * gap)[:, None]
    damp = b.flag(0.2)
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.88 + 0.08 * fine,
        metallic=b.zero(),
        size_m=b.rand(0.7, 2.5),
        relief=0.16 / f,
    )
    wet(b, look, damp, 0.08)
    look.captions = [
        describe(
            w,
            ("mud", "clay ground", "dirt", "lakebed", "earth", "soil"),
            color=c,
            states=["cracked", "wet" if d else "dry"],
        )
        for w, c, d in zip(b.words, names, on(damp), strict=True)
    ]
    return look


@organic("sand")
def sand(b: Brush) -> Look:
    """Sand: wind ripples that fork and fade, or smooth drifts, with grains."""
    names, base = b.choose(SAND)
    rippled, damp = b.flag(0.65), b.flag(0.2)
    f = b.freq(6, 18)
    turn = b.pick(3)
    kx = torch.where(turn == 0, torch.zeros_like(f), torch.where(turn == 1, (f * 0.35).round(), f)) * (
        1 - 2 * b.flag(0.5)
    )
    ky = torch.where(turn == 2, torch.zeros_like(f), f)
    bend = b.noise(2, 4, 0.5) * b.rand(0.8, 2.2) + 0.5 * b.noise(f * 0.7, 2, 0.5)
    phase = 2.0 * math.pi * (b.u * kx + b.v * ky) + bend * 2.2
    wave = torch.sin(phase + 0.55 * torch.sin(phase))
    strength = rippled * (0.35 + 0.65 * smooth(b.noise(2, 3), -0.5, 0.3))
    dunes, fine, grain = b.noise(2, 3, 0.45), b.noise(20, 4, 0.6), b.noise(90, 2, 0.8)
    height = 0.5 + 0.14 * dunes + strength * wave * 0.16 + 0.03 * fine + 0.022 * grain
    height = height + (1.0 - rippled) * 0.05 * b.noise(8, 4)
    debris, rd = _stones(b, b.freq(14, 24), 0.2, density=0.003 + 0.1 * b.flag(0.2) * b.rand())
    height = torch.maximum(height, (height + 0.1 * debris) * (debris > 0))
    tone = 0.5 + 0.16 * dunes + 0.17 * strength * wave + 0.13 * fine + 0.17 * grain
    color = ramp(tone, [base * 0.68, base * 0.93, base * 1.08, base * 1.22 + 0.03])
    speck = smooth(b.noise(100, 1), 0.45, 0.8)
    color = color * (1.0 - 0.3 * speck * b.rand(0.2, 1.0))[:, None]
    color = paint(color, b.colors([(0.42, 0.37, 0.31)] * b.n) * (0.6 + 0.7 * rd)[:, None], smooth(debris, 0.0, 0.15))
    color = color * b.cavity(height, 0.02, 0.5)
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.9 + 0.05 * grain,
        metallic=b.zero(),
        size_m=b.rand(1.0, 3.0),
        relief=0.02 + 0.2 * rippled / f,
    )
    wet(b, look, damp, 0.12)
    look.captions = [
        describe(
            w,
            ("sand", "sand", "desert sand", "beach sand", "sand dunes" if r else "sandy ground"),
            color=c,
            states=[*(["rippled"] if r else []), *(["wet"] if d else [])],
        )
        for w, c, r, d in zip(b.words, names, on(rippled), on(damp), strict=True)
    ]
    return look


LEAVES: tuple[tuple[str, RGB, RGB, RGB], ...] = (
    ("brown", (0.34, 0.22, 0.12), (0.48, 0.33, 0.18), (0.24, 0.16, 0.10)),
    ("autumn", (0.62, 0.34, 0.10), (0.70, 0.52, 0.16), (0.50, 0.18, 0.09)),
    ("green", (0.22, 0.30, 0.10), (0.34, 0.40, 0.16), (0.36, 0.28, 0.14)),
    ("dry", (0.55, 0.43, 0.28), (0.44, 0.33, 0.21), (0.64, 0.54, 0.38)),
)


def _leaf(a: Tensor, b: Tensor, r: Tensor, w: Tensor) -> Tensor:
    half = 0.32 + 0.34 * r
    x = (a / half).clamp(-3.0, 3.0)
    wide = half * (0.34 + 0.25 * w) * (1.0 - x * x) * (1.0 - 0.35 * x)
    inside = (wide - b.abs()) / half
    return torch.where(inside > 0, 0.25 + 0.55 * w + 0.25 * b.abs() / half + 0.12 * x * (r - 0.5), -1.0)


@organic("forest_floor")
def forest_floor(b: Brush) -> Look:
    """Fallen leaves in several layers over soil, with twigs."""
    picks = [LEAVES[i] for i in b.indices(len(LEAVES))]
    _, base = b.choose(SOIL[:2])
    color, ground, rough = soil_layers(b, base, 0.02)
    height = ground * 0.25
    tones = [b.colors([p[1:][k] for p in picks], 0.03) for k in (0, 1, 2)]
    fine = b.noise(40, 3, 0.65)
    where = b.noise(3, 4)
    f = b.freq(9, 15)
    for k, share in enumerate((1.0, 0.9, 0.75)):
        h, r, a, c = b.splats(f * (1.15 - 0.12 * k), _leaf, density=share, uv=b.warp(0.1 / f, f, 2))
        h = (h * 0.45 + 0.12 + 0.14 * k + 0.05 * where) * (h > 0)
        over = smooth(h - height, 0.0, 0.02)
        t = r * 37.7 % 1.0
        leaf = torch.where((t < 0.45)[:, None], tones[0], torch.where((t < 0.75)[:, None], tones[1], tones[2]))
        vein = torch.exp(-(c.abs() * 40.0).square()) * 0.25 + 0.1 * smooth(
            torch.sin((a.abs() * 1.3 + c.abs()) * 60.0), 0.5, 1
        )
        light = (0.62 + 0.14 * k + 0.5 * (r * 11.3 % 1.0 - 0.3)) * (1.0 + vein + 0.2 * fine)
        color = paint(color * (1.0 - 0.25 * over)[:, None], leaf * light[:, None], over)
        height = torch.maximum(height, h)
        rough = lerp(rough, 0.6 + 0.25 * r, over)
    twig, rt, _, _ = b.splats(
        b.freq(4, 6),
        lambda a, c, r, w: torch.where(
            (a.abs() < 0.35 + 0.4 * r) & ((c + 0.06 * torch.sin(a * 5.0 + r * 9.0)).abs() < 0.022 + 0.012 * w),
            0.2 + (0.035 - c.abs()) * 3.0,
            -1.0,
        ),
        density=b.rand(0.0, 0.8),
    )
    stick = smooth(twig, 0.0, 0.1)
    color = paint(color, b.colors([(0.28, 0.20, 0.14)] * b.n) * (0.6 + 0.8 * rt + 0.3 * fine)[:, None], stick)
    height = torch.maximum(height, twig + 0.5 * (twig > 0))
    color = color * b.cavity(height, 0.015, 1.2)
    damp, mossy = b.flag(0.2), b.flag(0.2)
    look = Look(
        basecolor=color,
        height=height,
        roughness=rough,
        metallic=b.zero(),
        size_m=b.rand(0.8, 1.8),
        relief=b.rand(0.02, 0.04),
    )
    moss(b, look, mossy)
    wet(b, look, damp, 0.03)
    look.captions = [
        describe(
            w,
            ("forest floor", "fallen leaves", "leaf litter", "forest ground", "ground covered with leaves"),
            color=p[0],
            states=[s for s, x in (("wet", d), ("mossy", m)) if x],
        )
        for w, p, d, m in zip(b.words, picks, on(damp), on(mossy), strict=True)
    ]
    return look
