"""Metal: riveted plates, tread plate, technical panels, painted, worn and rusty."""

from __future__ import annotations

import torch
from torch import Tensor

from materials.procedural import palette, weather
from materials.procedural.captions import compose
from materials.procedural.core import Context, Layers, family
from materials.procedural.fields import hash01, mix, smoothstep
from materials.procedural.layout import bond, jittered_bond
from materials.procedural.weather import Surface, state


def _metal(ctx: Context, height: Tensor, cavity: Tensor, colour: Tensor, tone: Tensor, salt: int) -> Surface:
    """Bare metal: brushed and scratched, with smudges in its roughness."""
    brush = ctx.fbm((4, 72), salt, 3, 0.75)
    smudge = ctx.fbm(4, salt + 1, 5, 0.62)
    line = ctx.fbm(5, salt + 2, 3, 0.5, at=ctx.warp(0.03, 3, salt + 3)).abs()
    scratch = smoothstep(0.012, 0.003, line) * smoothstep(0.0, 0.3, smudge)
    rough = ctx.rand(salt, 0.2, 0.48) + 0.12 * smudge + 0.06 * brush + 0.1 * tone + 0.12 * scratch + 0.2 * cavity
    light = (1 + 0.05 * tone + 0.06 * brush + 0.08 * smudge + 0.12 * scratch) * (1 - 0.35 * cavity)
    fine = height + 0.012 * brush - 0.015 * scratch
    return Surface(
        colour=colour * light[:, None], height=fine, rough=rough, metal=torch.ones_like(height), cavity=cavity
    )


def _captions(
    ctx: Context, nouns: tuple[str, ...], colours: list[str], flags: dict[str, Tensor], details: list[str]
) -> list[str]:
    words = [state(word, ctx.listed(flag)) for word, flag in flags.items()]
    seeds = ctx.listed(ctx.seed)
    return [compose(seeds[i], nouns, colours[i], row, details) for i, row in enumerate(zip(*words, strict=True))]


def finished(
    ctx: Context, height: Tensor, cavity: Tensor, edges: Tensor, tone: Tensor
) -> tuple[Surface, list[str], dict[str, Tensor]]:
    """Bare or painted metal with wear, rust, dirt and water: the surface, colour names and state flags."""
    bare, bare_names = ctx.colour(10, palette.METAL, 0.0, 0.04)
    paint, paint_names = ctx.colour(20, palette.CONCRETE[:1], 1.0)
    painted, worn = ctx.flag(50, 0.55), ctx.rand(51)
    steel = torch.tensor([0.50, 0.51, 0.52], device=height.device).reshape(1, 3, 1, 1)
    s = _metal(ctx, height, cavity, torch.where(painted[:, None] > 0, steel, bare), tone, 70)
    under = Surface(colour=s.colour, height=s.height, rough=s.rough, metal=s.metal, cavity=s.cavity)
    weather.peel(
        ctx,
        s,
        60,
        torch.ones_like(worn),
        paint * (1 + 0.06 * tone - 0.3 * cavity)[:, None],
        0.45 * edges * worn + 0.75 * worn - 0.6,
        ctx.rand(61, 0.22, 0.55),
    )
    on = painted[:, None]
    s.colour, s.height = mix(under.colour, s.colour, on), mix(under.height, s.height, painted)
    s.rough, s.metal = mix(under.rough, s.rough, painted), mix(under.metal, s.metal, painted)
    rusty, dirty, damp = ctx.flag(52, 0.3), ctx.flag(53, 0.2), ctx.flag(54, 0.08)
    weather.rust(ctx, s, 55, rusty, 0.45 * cavity + 0.2 * edges - 0.12)
    weather.dirt(ctx, s, 57, dirty)
    weather.wet(ctx, s, 58, damp)
    names = [p if f > 0.5 else b for p, b, f in zip(paint_names, bare_names, ctx.listed(painted), strict=True)]
    clean = (1 - rusty) * (1 - dirty) * (1 - damp) * (worn < 0.25)
    flags = {
        "painted": painted,
        "rusty": rusty,
        "dirty": dirty,
        "wet": damp,
        "worn": (worn > 0.68).float(),
        "clean": clean,
    }
    return s, names, flags


@family("metal_plate")
def metal_plate(ctx: Context) -> Layers:
    """Plates of metal with seams and rows of rivets."""
    rows = ctx.randint(1, 1, 4)
    wide = ctx.randint(2, 1, 3)
    nx, ny = ctx.freq((wide, rows))
    unit = 1.0 / torch.maximum(rows, wide)
    ny_even = torch.as_tensor(ny) % 2 == 0
    e = bond(ctx, nx, ny, torch.where(ny_even, ctx.choice(3, (0.0, 0.5)), 0.0), unit * ctx.rand(4, 0.01, 0.08))
    gap = unit * ctx.rand(5, 0.012, 0.025)
    edge = e.edge - gap * 0.5
    mask = smoothstep(-0.3, 0.3, edge / gap)
    t = (edge / (gap * 1.4)).clamp(0, 1)
    dome = t * (2 - t)
    # rivets on a grid that follows the border of the plate
    inset, per = unit * ctx.rand(6, 0.07, 0.12), ctx.randint(7, 2, 6)
    step_x = (e.width - 2 * inset) / (per * (e.width / unit)).round().clamp_min(1)
    step_y = (e.height - 2 * inset) / (per * (e.height / unit)).round().clamp_min(1)
    ox, oy = e.x - inset, e.y - inset
    along_x = (ox / step_x).round()
    along_y = (oy / step_y).round()
    nearest_x = torch.minimum(along_x.clamp_min(0) * step_x, e.width - 2 * inset)
    nearest_y = torch.minimum(along_y.clamp_min(0) * step_y, e.height - 2 * inset)
    rim_x = torch.where(e.x < e.width * 0.5, torch.zeros_like(ox), e.width - 2 * inset)
    rim_y = torch.where(e.y < e.height * 0.5, torch.zeros_like(oy), e.height - 2 * inset)
    d1 = ((ox - nearest_x).square() + (oy - rim_y).square()).sqrt()
    d2 = ((ox - rim_x).square() + (oy - nearest_y).square()).sqrt()
    reach = torch.minimum(d1, d2) / (unit * ctx.rand(8, 0.028, 0.048))
    has = ctx.flag(9, 0.85)
    rivet = (1 - reach.square()).clamp_min(0).sqrt() * has
    ring = smoothstep(1.5, 1.0, reach) * smoothstep(0.85, 1.05, reach) * has
    dent = ctx.fbm(3, 11, 3, 0.5)
    height = mask * 0.35 + 0.2 * dome + 0.55 * rivet + 0.06 * dent
    cavity = (1 - mask * dome).maximum(ring * 0.7)
    edges = smoothstep(4.0, 0.5, edge / gap).maximum(smoothstep(0.5, 0.9, rivet))
    s, names, flags = finished(ctx, height, cavity, edges, ctx.cell(e.id, 12, -1, 1))
    nouns = ("metal plates", "metal plate", "metal panels", "metal wall")
    captions = _captions(ctx, nouns, names, flags, [])
    bolts = ctx.listed(has)
    captions = [
        f"{c} with rivets" if b > 0.5 and "," not in c else (f"{c}, rivets" if b > 0.5 else c)
        for c, b in zip(captions, bolts, strict=True)
    ]
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=ctx.rand(30, 0.35, 0.6) / unit,
        depth_m=ctx.rand(31, 0.006, 0.01),
    )


@family("tread_plate")
def tread_plate(ctx: Context) -> Layers:
    """Diamond tread plate: raised lozenges alternately turned left and right."""
    count = ctx.randint(1, 3, 9)
    nx, ny = ctx.freq(count, even_x=True, even_y=True)
    x, y = torch.remainder(ctx.u, 1.0) * nx, torch.remainder(ctx.v, 1.0) * ny
    ix, iy = x.long(), y.long()
    fx, fy = x - ix - 0.5, y - iy - 0.5
    sign = 1.0 - 2.0 * ((ix + iy) % 2)
    root = 0.5**0.5
    along, across = (fx + sign * fy) * root, (fx - sign * fy) * root
    long, thin = ctx.rand(2, 0.42, 0.52), ctx.rand(3, 0.11, 0.17)
    lens = 1 - (along / long).square() - (across / thin).abs()
    bump = smoothstep(0.0, 0.55, lens)
    dent = ctx.fbm(3, 11, 3, 0.5)
    rim = smoothstep(-0.35, 0.0, lens) * (1 - smoothstep(0.0, 0.3, lens))
    s, names, flags = finished(ctx, bump * 0.9 + 0.06 * dent, rim * 0.55, smoothstep(0.25, 0.8, bump), dent * 0.5)
    captions = _captions(
        ctx,
        ("diamond plate", "metal tread plate", "checker plate floor", "diamond plate metal"),
        names,
        flags,
        ["raised diamonds", ""],
    )
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=count * ctx.rand(30, 0.03, 0.045),
        depth_m=ctx.rand(31, 0.002, 0.004),
    )


@family("tech_panels")
def tech_panels(ctx: Context) -> Layers:
    """Science-fiction panels: plates of several sizes with insets, vents and screws."""
    count = ctx.randint(1, 2, 4)
    nx, ny = ctx.freq(count)
    unit = 1.0 / count
    e = jittered_bond(ctx, nx, ny, 0.6, 0.5, unit * ctx.rand(2, 0.02, 0.1), 3)
    gap = unit * ctx.rand(4, 0.02, 0.04)
    edge = e.edge - gap * 0.5
    mask = smoothstep(-0.25, 0.25, edge / gap)
    step = smoothstep(0.0, 1.0, edge / (gap * 1.2))
    level, sort = ctx.cell(e.id, 5), ctx.cell(e.id, 6)
    inner = edge - unit * 0.11
    inset = smoothstep(0.0, 1.0, inner / (gap * 0.8))
    sunk = inset * (sort < 0.55)
    vent_phase = torch.remainder(e.y / unit * 9.0, 1.0)
    vent = smoothstep(0.25, 0.35, vent_phase) * smoothstep(0.8, 0.7, vent_phase) * inset * (sort < 0.25)
    line = smoothstep(0.35, 0.15, ((inner - unit * 0.05).abs() / gap)) * ((sort > 0.55) & (sort < 0.8))
    cx = torch.minimum(e.x, e.width - e.x) - unit * 0.075
    cy = torch.minimum(e.y, e.height - e.y) - unit * 0.075
    screw = smoothstep(0.03, 0.022, (cx.square() + cy.square()).sqrt() / unit)
    height = mask * 0.35 + 0.3 * step + 0.2 * level * mask - 0.22 * sunk - 0.25 * vent - 0.12 * line + 0.08 * screw
    cavity = (1 - mask * step).maximum(vent).maximum(line * 0.7).maximum(0.4 * sunk * smoothstep(2.0, 0.5, inner / gap))
    edges = smoothstep(3.0, 0.4, edge / gap).maximum(screw)
    tone = ctx.cell(e.id, 7, -1, 1)
    s, names, flags = finished(ctx, height, cavity, edges, tone * 1.5)
    glow = hash01(torch.zeros_like(e.id), e.id, ctx.seed, 8)
    dark = ((glow > 0.8) * mask * 0.55)[:, None]
    s.colour = mix(s.colour, s.colour * 0.45, dark)
    captions = _captions(
        ctx,
        ("sci-fi metal panels", "spaceship wall panels", "tech panels", "sci-fi wall"),
        names,
        flags,
        ["with vents", ""],
    )
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=ctx.rand(30, 0.35, 0.55) / unit,
        depth_m=ctx.rand(31, 0.012, 0.022),
    )
