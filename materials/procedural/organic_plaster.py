"""Mineral coats: plaster, stucco, concrete, asphalt."""

from __future__ import annotations

import torch
from torch import Tensor

from materials.procedural.organic_fields import Brush, lerp, paint, ramp, smooth, unit
from materials.procedural.organic_ground import stone_shape
from materials.procedural.organic_look import Look, describe, dirt, moss, on, organic, wet
from materials.procedural.palette import CONCRETE

PAINT = (
    "white",
    "white",
    "cream",
    "beige",
    "yellow",
    "orange",
    "red",
    "pink",
    "green",
    "light blue",
    "blue",
    "turquoise",
    "brown",
    "grey",
    "light grey",
    "olive",
)


def streaks(b: Brush, strength: Tensor) -> Tensor:
    """Runs of dirty water down a wall, (N, H, W) in [0, 1]."""
    lanes = b.noise(14, 3, 0.6, stretch=(1.6, 0.08), uv=b.warp(0.01, 4, 2))
    patches = smooth(b.noise(2, 4, stretch=(2.0, 1.0)), -0.1, 0.7)
    return (smooth(lanes, 0.0, 0.8) * patches * strength).clamp(0.0, 1.0)


def mottled(b: Brush, base: Tensor, amount: float | Tensor = 1.0) -> Tensor:
    """A coat of one colour, faded and stained at several scales, (N, 3, H, W)."""
    tone = 0.5 + amount * (0.17 * b.noise(2, 5, 0.6) + 0.1 * b.noise(12, 4, 0.6) + 0.07 * b.noise(60, 2, 0.7))
    faded = base * 0.7 + 0.3 * base.mean(dim=1, keepdim=True)
    return ramp(tone, [base * 0.68, base * 0.94, faded * 0.3 + base * 0.76, faded * 1.12 + 0.05])


@organic("plaster")
def plaster(b: Brush) -> Look:
    """Painted plaster wall with trowel marks, stains, cracks and places where it has come off."""
    names, base = b.named(PAINT, 0.45)
    cracked, worn, dirty, mossy = b.flag(0.35), b.flag(0.35), b.flag(0.3), b.flag(0.08)
    trowel = b.noise(b.freq(3, 7), 4, 0.5, uv=b.warp(0.08, 3, 3), stretch=(1.0, 1.6))
    fine, mid = b.noise(56, 3, 0.7), b.noise(14, 4, 0.6)
    height = 0.6 + b.rand(0.03, 0.1) * trowel + 0.03 * mid + 0.02 * fine
    color = mottled(b, base) * (1.0 + 0.08 * trowel)[:, None]
    rough = 0.78 + 0.08 * trowel + 0.05 * fine
    off = b.mask(b.freq(2, 3), worn * b.rand(0.12, 0.4), 0.025, 5, 0.6) * worn
    rim = smooth(b.blur(off, 0.008), 0.02, 0.5) * (1.0 - off)
    under = mottled(b, b.colors([(0.56, 0.51, 0.44)] * b.n), 1.8) * (1.0 + 0.25 * fine + 0.2 * mid)[:, None]
    color = paint(color * (1.0 + 0.12 * rim)[:, None], under, off)
    height = height - 0.22 * off + 0.1 * off * mid + 0.05 * off * fine
    color = color * (1.0 - 0.3 * smooth(b.blur(1.0 - off, 0.01), 0.1, 0.9) * off)[:, None]
    gap = b.cracks(b.freq(2, 4), 0.012, wander=0.06, keep=0.6) * cracked
    color, height = color * (1.0 - 0.55 * gap)[:, None], height - 0.16 * gap
    run = streaks(b, dirty * 0.6 + 0.15)
    color = color * (1.0 - 0.35 * run)[:, None]
    color = color * b.cavity(height, 0.015, 0.35)
    look = Look(
        basecolor=color,
        height=height,
        roughness=lerp(rough, 0.92, off),
        metallic=b.zero(),
        size_m=b.rand(1.5, 3.0),
        relief=b.rand(0.006, 0.014),
    )
    dirt(b, look, dirty)
    moss(b, look, mossy, 0.06, 0.2)
    look.captions = [
        describe(
            w,
            ("plaster wall", "plaster", "painted wall", "painted plaster wall", "wall"),
            color=c,
            states=[s for s, x in (("cracked", k), ("worn", o), ("dirty", d), ("mossy", m)) if x],
        )
        for w, c, k, o, d, m in zip(b.words, names, on(cracked), on(worn), on(dirty), on(mossy), strict=True)
    ]
    return look


@organic("stucco")
def stucco(b: Brush) -> Look:
    """Rough-cast render: thrown grains, sometimes flattened."""
    names, base = b.named(PAINT, 0.45)
    dirty, cracked = b.flag(0.3), b.flag(0.25)
    f = b.freq(26, 44)
    blob, r, _, _ = b.splats(f, stone_shape, uv=b.warp(0.2 / f, f, 2))
    worm = b.noise(f * 0.6, 3, 0.5, ridged=True, uv=b.warp(0.04, 12, 2))
    grainy = b.rand()
    body = lerp(smooth(worm, 0.45, 0.95), blob * (0.6 + 0.4 * r), grainy)
    flat = b.rand(0.55, 1.0)
    body = torch.minimum(body, flat + 0.15 * (body - flat))
    fine, mid = b.noise(80, 2, 0.7), b.noise(4, 4)
    height = unit(body + 0.12 * mid + 0.08 * fine)
    color = mottled(b, base) * (0.86 + 0.18 * height + 0.05 * fine)[:, None]
    gap = b.cracks(b.freq(2, 3), 0.012, wander=0.06, keep=0.6) * cracked
    color, height = color * (1.0 - 0.55 * gap)[:, None], height - 0.4 * gap
    color = color * (1.0 - 0.4 * streaks(b, dirty * 0.6 + 0.1))[:, None] * b.cavity(height, 0.01, 0.4)
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.86 + 0.06 * fine,
        metallic=b.zero(),
        size_m=b.rand(0.6, 1.5),
        relief=0.24 / f,
    )
    dirt(b, look, dirty)
    look.captions = [
        describe(
            w,
            ("stucco", "stucco wall", "rough plaster wall", "roughcast wall", "stucco plaster"),
            color=c,
            states=[s for s, x in (("cracked", k), ("dirty", d)) if x],
        )
        for w, c, k, d in zip(b.words, names, on(cracked), on(dirty), strict=True)
    ]
    return look


@organic("concrete")
def concrete(b: Brush) -> Look:
    """Cast concrete: clouds, pores, stains, formwork joints, cracks."""
    pool = [
        *CONCRETE,
        *CONCRETE,
        ("brown", (0.46, 0.38, 0.31)),
        ("greenish grey", (0.43, 0.46, 0.41)),
        ("bluish grey", (0.43, 0.47, 0.52)),
    ]
    names, base = b.choose(pool)
    cracked, dirty, damp, mossy = b.flag(0.35), b.flag(0.3), b.flag(0.15), b.flag(0.08)
    cloud, mid, fine = b.noise(2, 5, 0.6), b.noise(9, 5, 0.65), b.noise(60, 3, 0.75)
    pore, rp, _, _ = b.splats(
        b.freq(20, 40), lambda a, c, r, w: 0.05 + 0.2 * r * r - (a * a + c * c * 1.3).sqrt(), density=b.rand(0.1, 0.6)
    )
    hole = smooth(pore, 0.0, 0.06)
    forms = b.flag(0.35)
    count = 1 + b.pick(3)
    y = (b.v * (count + 1)) % 1.0
    x = (b.u * count) % 1.0
    joint = torch.minimum(torch.minimum(y, 1.0 - y) / (count + 1), torch.minimum(x, 1.0 - x) / count)
    seam = (1.0 - smooth(joint, 0.002, 0.007)) * forms
    tie = ((x - 0.5).abs() / count).square() + ((y - 0.25).abs() / (count + 1)).square()
    tied = (1.0 - smooth(tie.sqrt(), 0.011, 0.016)) * forms * b.flag(0.6)
    gap = b.cracks(b.freq(2, 4), 0.014, wander=0.05, keep=0.55) * cracked
    board = b.noise(4, 4, 0.6, stretch=(0.25, 14.0)) * b.flag(0.2)
    height = (
        0.7 + 0.05 * cloud + 0.05 * mid + 0.035 * fine + 0.1 * board - 0.3 * hole - 0.3 * seam - 0.5 * tied - 0.35 * gap
    )
    tone = 0.5 + 0.2 * cloud + 0.16 * mid + 0.13 * fine + 0.1 * board
    color = ramp(tone, [base * 0.68, base * 0.93, base * 1.05, base * 1.2 + 0.03])
    stain = b.mask(2, b.rand(0.1, 0.5), 0.45, 5, 0.62)
    color = paint(
        color, base * 0.62 * torch.tensor([1.04, 0.99, 0.92], device=b.device)[None, :, None, None], stain * 0.5
    )
    color = paint(color, base * 0.5 + 0.42, b.mask(3, b.rand(0.0, 0.2), 0.15, 5, 0.65) * 0.4)
    color = color * (1.0 - 0.45 * streaks(b, b.flag(0.4) * 0.7))[:, None]
    color = color * (1.0 - 0.45 * hole * (0.6 + 0.4 * rp) - 0.4 * seam * (1 - hole) - 0.5 * tied * (1 - hole))[
        :, None
    ].clamp(0.2)
    color = color * (1.0 - 0.6 * gap)[:, None]
    look = Look(
        basecolor=color,
        height=height,
        roughness=0.75 + 0.1 * cloud + 0.06 * fine - 0.12 * stain,
        metallic=b.zero(),
        size_m=b.rand(1.0, 3.0),
        relief=b.rand(0.005, 0.012),
    )
    dirt(b, look, dirty)
    moss(b, look, mossy, 0.05, 0.2)
    wet(b, look, damp, 0.25)
    look.captions = [
        describe(
            w,
            ("concrete", "concrete wall", "concrete floor", "cement wall", "concrete surface"),
            color=c,
            states=[s for s, x in (("cracked", k), ("dirty", d), ("wet", p), ("mossy", m)) if x],
        )
        for w, c, k, d, p, m in zip(b.words, names, on(cracked), on(dirty), on(damp), on(mossy), strict=True)
    ]
    return look


@organic("asphalt")
def asphalt(b: Brush) -> Look:
    """Road surface: stone chips in bitumen, patches, cracks, puddles."""
    names, base = b.choose(
        (
            ("dark", (0.17, 0.17, 0.175)),
            ("grey", (0.36, 0.36, 0.36)),
            ("black", (0.11, 0.11, 0.115)),
            ("dark grey", (0.25, 0.25, 0.26)),
            ("light grey", (0.50, 0.49, 0.47)),
        )
    )
    cracked, damp, patched = b.flag(0.35), b.flag(0.25), b.flag(0.2)
    chip, r, _, _ = b.splats(b.freq(44, 72), stone_shape)
    edge, cell = b.edges(60)
    fine, mid, cloud = b.noise(90, 2, 0.8), b.noise(8, 4, 0.6), b.noise(2, 4, 0.55)
    chip = chip * (0.5 + 0.5 * r) * (1.0 - 0.3 * smooth(cloud, -0.2, 0.6))
    height = 0.4 + 0.3 * chip + 0.1 * smooth(edge, 0.0, 0.4) + 0.06 * fine + 0.06 * mid + 0.08 * cloud
    tone = 1.0 + 0.15 * cloud + 0.14 * mid + 0.15 * fine
    stone = b.colors([(0.52, 0.50, 0.47)] * b.n) * (0.55 + 0.8 * (r * 37.1 % 1.0))[:, None]
    color = b.image(base) * tone[:, None] * (0.75 + 0.35 * cell)[:, None]
    color = paint(color, stone, smooth(chip, 0.2, 0.6) * b.rand(0.15, 0.55))
    new = b.mask(2, patched * b.rand(0.2, 0.45), 0.02, 2, 0.4) * patched
    color = paint(color, color * 0.45 + 0.02, new * 0.75)
    height = height + 0.1 * new
    gap = b.cracks(b.freq(2, 5), 0.02, wander=0.05, keep=0.65) * cracked
    tar = b.flag(0.3)
    color = paint(color, lerp(base * 0.3, b.colors([(0.07, 0.07, 0.075)] * b.n), tar[:, None]), gap * 0.85)
    height = height + gap * (0.12 * tar - 0.4 * (1.0 - tar))
    oil = b.mask(3, b.rand(0.0, 0.15), 0.15, 4) * 0.4
    color = color * (1.0 - oil)[:, None] * b.cavity(height, 0.008, 0.9)
    rough = 0.86 + 0.06 * fine - 0.3 * oil - 0.3 * gap * tar - 0.08 * new
    look = Look(
        basecolor=color,
        height=height,
        roughness=rough,
        metallic=b.zero(),
        size_m=b.rand(0.8, 2.0),
        relief=b.rand(0.006, 0.01),
    )
    wet(b, look, damp, 0.3)
    look.captions = [
        describe(
            w,
            ("asphalt", "asphalt", "asphalt road", "tarmac", "road surface", "street asphalt"),
            color=c,
            states=[s for s, x in (("cracked", k), ("wet", d), ("patched", p)) if x],
        )
        for w, c, k, d, p in zip(b.words, names, on(cracked), on(damp), on(patched), strict=True)
    ]
    return look
