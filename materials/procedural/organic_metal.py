"""Metal: rusted, scratched and brushed, painted and peeling, galvanised, corrugated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from materials.procedural.organic_fields import RGB, Brush, lerp, paint, ramp, smooth
from materials.procedural.organic_look import Look, describe, dirt, on, organic
from materials.procedural.organic_plaster import streaks
from materials.procedural.palette import METAL, NAMED

RUST = ((0.15, 0.08, 0.05), (0.31, 0.15, 0.08), (0.48, 0.24, 0.11), (0.62, 0.36, 0.17), (0.40, 0.22, 0.14))
STEEL: tuple[tuple[str, RGB], ...] = (
    ("steel", (0.53, 0.54, 0.55)),
    ("grey", (0.46, 0.46, 0.47)),
    ("dark", (0.32, 0.33, 0.34)),
    ("iron", (0.40, 0.39, 0.38)),
)


def scratches(b: Brush, f: Tensor, density: Tensor | float, width: float = 0.012) -> Tensor:
    """Thin straight and slightly bent scratches in all directions, (N, H, W) in [0, 1]."""
    out = b.zero()
    for k in range(3):
        h, r, _, _ = b.splats(
            f * (1.0 + 0.5 * k),
            lambda a, c, r, w: (
                1.0
                - (
                    (c + 0.12 * (w - 0.5) * a * a).abs() / (width * (0.5 + r))
                    + smooth(a.abs(), 0.35, 0.45 + 0.5 * r) * 2.0
                )
            ),
            density=density,
        )
        out = torch.maximum(out, h.clamp(0.0, 1.0) * (0.3 + 0.7 * (r * 17.3 % 1.0)))
    return out


def rust_coat(b: Brush) -> tuple[Tensor, Tensor]:
    """Rust colour (N, 3, H, W) and its bumps, about [-1, 1]."""
    bumps, spots = b.noise(9, 5, 0.65), b.noise(40, 3, 0.75)
    tone = 0.46 + 0.3 * bumps + 0.24 * spots + 0.25 * b.noise(2, 4, 0.55) + b.rand(-0.12, 0.1)
    return ramp(tone, [b.colors([c] * b.n, 0.02) for c in RUST[:4]]), 0.6 * bumps + 0.5 * spots


def _bare(b: Brush, base: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bare metal with smudges: colour, roughness and fine relief."""
    smudge, fine = b.noise(3, 5, 0.6), b.noise(70, 2, 0.7)
    color = b.image(base) * (1.0 + 0.1 * smudge + 0.05 * fine)[:, None]
    return color, b.rand(0.25, 0.5) + 0.1 * smudge + 0.04 * fine, 0.02 * smudge + 0.01 * fine


@organic("metal_rusted")
def metal_rusted(b: Brush) -> Look:
    """Iron sheet eaten by rust, from spots to a full coat."""
    _, base = b.choose(STEEL)
    scratched, full = b.flag(0.4), b.flag(0.35)
    color, rough, relief = _bare(b, base)
    scratch = scratches(b, b.freq(3, 6), 0.8 * scratched)
    rust, bumps = rust_coat(b)
    cover = lerp(b.rand(0.25, 0.7), b.rand(0.85, 1.1), full)
    share = b.mask(b.freq(2, 4), cover, 0.06, 5, 0.68)
    halo = b.mask(3, cover, 0.3, 5, 0.6)
    color = paint(color * (1.0 - 0.2 * halo)[:, None], rust * 1.15, halo * 0.4)
    color = paint(color, rust, share)
    run = streaks(b, b.rand(0.0, 0.8)) * (1.0 - share)
    color = paint(color, rust * 1.05, run * 0.6)
    deep = b.mask(4, 0.25, 0.15, 5, 0.65) * share
    color = color * (1.0 - 0.45 * deep)[:, None]
    mark = scratch * (1.0 - 0.7 * share)
    color = paint(color, base * 1.3, mark * 0.6)
    height = 0.5 + relief + share * (0.1 + 0.14 * bumps) - 0.22 * deep - 0.08 * scratch
    color = color * b.cavity(height, 0.012, 0.5)
    rough = lerp(rough + 0.1 * halo + 0.1 * mark, 0.86 + 0.08 * bumps, share)
    look = Look(
        basecolor=color,
        height=height,
        roughness=rough,
        metallic=1.0 - smooth(share + 0.4 * run, 0.25, 0.6),
        size_m=b.rand(0.6, 2.0),
        relief=b.rand(0.004, 0.009),
    )
    look.captions = [
        describe(
            w,
            ("rust", "rust metal", "rusty iron", "rusted metal")
            if f
            else ("rusty metal", "rust metal", "rusted steel", "rusty metal sheet", "metal with rust"),
            states=["scratched"] if s else [],
        )
        for w, s, f in zip(b.words, on(scratched), on(full), strict=True)
    ]
    return look


@organic("metal_brushed")
def metal_brushed(b: Brush) -> Look:
    """Bare brushed or ground metal with scratches and smudges."""
    names, base = b.choose(METAL)
    scratched, dirty, across = b.flag(0.5), b.flag(0.2), b.flag(0.3)
    flow = lerp(b.noise(6, 4, 0.8, stretch=(0.3, 14.0)), b.noise(6, 4, 0.8, stretch=(14.0, 0.3)), across)
    amount = b.rand(0.15, 1.0)
    scratch = scratches(b, b.freq(2, 5), 0.9 * scratched)
    color, rough, relief = _bare(b, base)
    color = color * (1.0 + 0.16 * amount * flow)[:, None]
    color = paint(color, base * 1.35 + 0.03, scratch * 0.6)
    patina = b.mask(2, b.rand(0.0, 0.5), 0.5, 5, 0.66)
    color = paint(color, base * 0.6, patina * 0.45)
    height = 0.5 + relief + 0.05 * amount * flow - 0.16 * scratch
    rough = rough + 0.1 * amount * flow + 0.2 * patina + 0.12 * scratch
    look = Look(
        basecolor=color, height=height, roughness=rough, metallic=b.zero() + 1.0, size_m=b.rand(0.3, 1.0), relief=0.0025
    )
    dirt(b, look, dirty)
    look.captions = [
        describe(
            w,
            ("brushed metal", "metal", "metal sheet", "metal surface")
            if c not in ("brass", "gold", "copper", "bronze")
            else ("metal", "brushed metal", "sheet"),
            color=c,
            states=[s for s, x in (("scratched", k), ("dirty", d)) if x],
        )
        for w, c, k, d in zip(b.words, names, on(scratched), on(dirty), strict=True)
    ]
    return look


def painted(b: Brush, base: Tensor, wear: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Paint that chips off to primer, rust and bare metal: colour, height, roughness, metallic."""
    steel = b.colors([(0.50, 0.50, 0.51)] * b.n)
    bare, bare_rough, relief = _bare(b, steel)
    rust, bumps = rust_coat(b)
    fade, fine, orange_peel = b.noise(2, 5, 0.6), b.noise(60, 2, 0.7), b.noise(24, 2, 0.6)
    coat = b.image(base) * (1.0 + 0.13 * fade + 0.05 * b.noise(14, 4, 0.6) + 0.04 * fine)[:, None]
    field = b.flat(b.freq(2, 4), 5, 0.68) + 0.25 * scratch
    edge = 1.0 - wear * b.rand(0.12, 0.45)
    chip = smooth(field, edge - 0.015, edge + 0.015) * wear.clamp(0.0, 1.0)
    near = smooth(field, edge - 0.14, edge) * wear * (1.0 - chip)
    rusty = smooth(b.noise(5, 4, 0.65) + b.rand(-0.2, 0.6), -0.2, 0.3) * chip
    coat = paint(coat, rust, near * 0.45 * smooth(bumps, -0.4, 0.6))
    coat = paint(coat, rust, streaks(b, wear * 0.7) * 0.55)
    coat = paint(coat, base * 0.4 + 0.33, scratch * 0.7 * (1.0 - chip))
    color = paint(coat, paint(bare, rust, rusty), chip)
    rim = smooth(b.blur(chip, 0.006), 0.03, 0.4) * (1.0 - chip)
    height = (
        0.5 + 0.012 * orange_peel + 0.1 * rim * wear + relief - chip * (0.14 - 0.07 * rusty * bumps) - 0.05 * scratch
    )
    color = color * (1.0 + 0.08 * rim)[:, None]
    color = color * (1.0 - 0.25 * chip * smooth(b.blur(1.0 - chip, 0.008), 0.1, 0.9))[:, None]
    rough = lerp(
        b.rand(0.3, 0.55) + 0.08 * fade + 0.04 * fine + 0.15 * scratch, lerp(bare_rough + 0.1, 0.88, rusty), chip
    )
    return color, height, rough, smooth(chip, 0.3, 0.7) * (1.0 - smooth(rusty, 0.3, 0.6))


COATS = tuple(c for c in NAMED if c not in ("pink", "cream", "purple"))


@organic("metal_painted")
def metal_painted(b: Brush) -> Look:
    """Painted steel, whole, scratched or peeling."""
    names, base = b.named(COATS)
    worn, scratched, dirty = b.flag(0.55), b.flag(0.35), b.flag(0.2)
    scratch = scratches(b, b.freq(3, 6), 0.7 * scratched)
    color, height, rough, metallic = painted(b, base, worn, scratch)
    look = Look(
        basecolor=color, height=height, roughness=rough, metallic=metallic, size_m=b.rand(0.5, 2.0), relief=0.005
    )
    dirt(b, look, dirty)
    look.captions = [
        describe(
            w,
            ("painted metal", "painted metal plate", "painted steel", "metal wall"),
            color=c,
            states=[s for s, x in (("scratched", k), ("dirty", d)) if x],
            tails=[w.choice(("with peeling paint", "with chipped paint", "with rust"))] if p else [],
        )
        for w, c, k, d, p in zip(b.words, names, on(scratched), on(dirty), on(worn), strict=True)
    ]
    return look


@organic("metal_galvanized")
def metal_galvanized(b: Brush) -> Look:
    """Zinc-coated sheet with its crystal spangle and white bloom."""
    f = b.freq(8, 22)
    uv = b.warp(0.12 / f, f * 2, 3)
    _, _, cell, dx, dy = b.worley(f, uv=uv)
    _, _, cell2, _, _ = b.worley(f * 1.8, uv=uv)
    turn = cell * 6.2832
    fan = torch.sin((turn.cos() * dx + turn.sin() * dy) * 26.0 + cell * 50.0) * 0.5
    fine, cloud = b.noise(70, 2, 0.7), b.noise(2, 4, 0.6)
    base = b.colors([(0.58, 0.60, 0.62)] * b.n, 0.02)
    sparkle = (cell - 0.5) * 0.7 + (cell2 - 0.5) * 0.35
    color = b.image(base) * (1.0 + b.rand(0.25, 0.6) * (sparkle + 0.12 * fan) + 0.06 * cloud + 0.03 * fine)[:, None]
    bloom = b.mask(2, b.rand(0.0, 0.3), 0.2, 5, 0.65)
    color = paint(color, b.colors([(0.74, 0.75, 0.75)] * b.n, 0.02) * (1.0 + 0.08 * fine)[:, None], bloom * 0.7)
    scratched = b.flag(0.3)
    scratch = scratches(b, b.freq(3, 6), 0.7 * scratched)
    color = paint(color, base * 1.25, scratch * 0.5)
    height = 0.5 + 0.06 * (cell - 0.5) + 0.02 * fan + 0.03 * cloud + 0.03 * bloom + 0.01 * fine - 0.06 * scratch
    rough = 0.36 + 0.2 * (cell2 - 0.5) + 0.12 * (cell - 0.5) + 0.35 * bloom + 0.08 * scratch
    look = Look(
        basecolor=color,
        height=height,
        roughness=rough,
        metallic=1.0 - smooth(bloom, 0.55, 0.85),
        size_m=b.rand(0.4, 1.2),
        relief=0.002,
    )
    look.captions = [
        describe(
            w,
            ("galvanized steel", "galvanised metal", "zinc sheet", "galvanized metal sheet"),
            states=["scratched"] if s else [],
        )
        for w, s in zip(b.words, on(scratched), strict=True)
    ]
    return look


@organic("metal_corrugated")
def metal_corrugated(b: Brush) -> Look:
    """Corrugated sheet: bare zinc, painted or rusty, with screwed laps."""
    names, base = b.named(("red", "green", "blue", "white", "grey", "brown", "turquoise", "yellow"))
    kind = b.pick(3)
    coated, rusted = (kind == 1).float(), (kind == 2).float()
    across = b.flag(0.25)
    waves = torch.where(across > 0.5, b.cells(b.freq(5, 14))[1], b.cells(b.freq(5, 14))[0])
    along = torch.where(across > 0.5, b.u, b.v)
    t = (torch.where(across > 0.5, b.v, b.u) + 0.002 * b.noise(3, 2)) * waves
    box = b.flag(0.35)
    wave = torch.sin(2.0 * math.pi * t)
    wave = lerp(wave, torch.tanh(wave * 3.0), box)
    laps = 1 + b.pick(2)
    y = along * laps % 1.0
    lap = 1.0 - smooth(y, 0.0, 0.012)
    near = torch.exp(-y * 9.0)
    row = (y - 0.06) / laps
    screw = ((((t + 0.25 + 0.5) % 2.0) - 1.0) / waves).square() + row.square()
    head = (1.0 - smooth(screw.sqrt(), 0.006, 0.011)) * b.flag(0.7)
    steel = b.colors([(0.56, 0.58, 0.60)] * b.n)
    wear = (coated * b.flag(0.6)).expand(b.n, 1, 1)
    tone = torch.where((coated > 0.5)[:, None], base, steel)
    color, detail, rough, metallic = painted(b, tone, wear, b.zero())
    bare, bare_rough, _ = _bare(b, steel)
    color = torch.where((coated > 0.5)[:, None], color, bare)
    rough, metallic = lerp(bare_rough, rough, coated), lerp(1.0, metallic, coated)
    rust, bumps = rust_coat(b)
    share = b.mask(2, rusted * b.rand(0.3, 0.9), 0.1, 5, 0.68, bias=0.25 * near - 0.05 * wave) * rusted
    color = paint(color, rust, share)
    rough, metallic = lerp(rough, 0.88, share), metallic * (1.0 - smooth(share, 0.3, 0.6))
    grime = (
        (0.5 - 0.5 * wave).square() * b.rand(0.3, 0.75)
        + 0.25 * near * (1.0 - lap)
        + 0.5 * smooth(head, 0.1, 0.5) * (1 - head)
    )
    color = color * (1.0 - 0.55 * grime)[:, None] * (1.0 - 0.3 * lap)[:, None]
    color = paint(color, steel * 0.85, head * 0.8)
    height = 0.5 + 0.4 * wave + 0.25 * (detail - 0.5) + 0.03 * share * bumps + 0.06 * (1.0 - y) * (y < 1.0) + 0.1 * head
    look = Look(
        basecolor=color,
        height=height,
        roughness=rough + 0.15 * grime,
        metallic=metallic,
        size_m=waves * b.rand(0.07, 0.11),
        relief=0.26 / waves,
    )
    look.captions = [
        describe(
            w,
            ("corrugated metal", "corrugated iron sheet", "corrugated metal roof", "corrugated steel"),
            color=c if k == 1 else "",
            states=[s for s, x in (("rusty", k == 2), ("painted", k == 1)) if x],
            tails=["with peeling paint"] if p else [],
        )
        for w, c, k, p in zip(b.words, names, kind.flatten().tolist(), on(wear), strict=True)
    ]
    return look
