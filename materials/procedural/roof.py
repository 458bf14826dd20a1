"""Roofs: overlapping shingles and slates, barrel tiles of clay."""

from __future__ import annotations

import torch

from materials.procedural import fields, palette
from materials.procedural.brick import aged, aged_states
from materials.procedural.captions import compose
from materials.procedural.core import Context, Layers, family
from materials.procedural.fields import mix, smoothstep
from materials.procedural.weather import Surface

FORMS = ("slate roof", "wooden shingles", "scalloped roof tiles", "asphalt shingles")


@family("shingles")
def shingles(ctx: Context) -> Layers:
    """Rows of flat shingles, each lying on the row below: slate, wood, scalloped, asphalt."""
    kind = ctx.randint(1, 0, 3)
    rows = ctx.randint(2, 2, 6) * 2
    nx, ny = ctx.freq(((rows * ctx.rand(3, 0.5, 1.0)).round().clamp_min(2), rows), even_y=True)
    ragged = 0.08 + 0.3 * ctx.rand(4)
    round_end = (kind == 2).float()
    y = torch.remainder(ctx.v, 1.0) * ny
    best = torch.full_like(ctx.u, -9.0)
    ident = torch.zeros_like(ctx.u, dtype=torch.int64)
    side, along, across = torch.zeros_like(best), torch.zeros_like(best), torch.zeros_like(best)
    wobble = 0.05 * ctx.fbm(20, 5, 3)
    # a texel shows the highest of the three rows that reach down to it
    for back in (2, 1, 0):
        row = torch.remainder(y.floor().long() - back, ny)
        below = y - y.floor() + back
        shift = (row % 2) * 0.5
        x = torch.remainder(ctx.u * nx + shift, nx)
        ix = torch.minimum(x.long(), torch.as_tensor(nx, device=x.device) - 1)
        fx = x - ix
        own = row * 4096 + ix
        length = 1.25 + ragged * (ctx.cell(own, 6) - 0.5) + wobble - round_end * 1.1 * (fx - 0.5).square() * 2
        gap = 0.025 + 0.03 * ctx.cell(own, 7)
        inside = (below < length) & (torch.minimum(fx, 1 - fx) > gap * (1 + wobble))
        lift = (
            0.6 * below
            - 0.62 * back * 0.0
            - 0.55
            + 0.14 * ctx.cell(own, 8)
            + 0.1 * (fx - 0.5) * ctx.cell(own, 9, -1, 1)
        )
        lift = torch.where(inside, lift, torch.full_like(lift, -9.0))
        higher = lift > best
        best = torch.where(higher, lift, best)
        ident = torch.where(higher, own, ident)
        side = torch.where(higher, torch.minimum(torch.minimum(fx, 1 - fx) - gap, length - below), side)
        along, across = torch.where(higher, below, along), torch.where(higher, fx, across)
    mask = (best > -5).float()
    best = best.clamp_min(-0.6)
    woody = (kind == 1).float()
    slate, slate_names = ctx.colour(10, palette.SLATE, 0.4)
    wood, wood_names = ctx.colour(15, palette.WOOD, 0.35)
    colour = torch.where(woody[:, None] > 0, wood, slate)
    tone, warm = ctx.cell(ident, 11, -1, 1), ctx.cell(ident, 12, -1, 1)
    at = (ctx.u + ctx.cell(ident, 13), ctx.v + ctx.cell(ident, 14))
    cloud = ctx.fbm(5, 20, 5, 0.62, at=at)
    fibre = fields.fbm(at[0], at[1], ctx.freq((64, 4)), ctx.seed, 3, 0.7, 21)
    speck = ctx.fbm(64, 22, 2, 0.9)
    detail = mix(cloud, fibre, woody * 0.8)
    vary = ctx.rand(23, 0.06, 0.24)
    shade = smoothstep(0.15, 0.75, along) * 0.25 + 0.75
    hue = torch.tensor([0.35, 0.05, -0.3], device=shade.device).reshape(1, 3, 1, 1)
    lines = smoothstep(0.0, 0.05, side)
    body = (
        colour * ((1 + vary * tone + 0.2 * detail + 0.1 * (kind == 3) * speck) * shade * (0.7 + 0.3 * lines))[:, None]
    )
    body = body * (1 + hue * (vary * warm)[:, None]) * mix(0.3, 1.0, mask)[:, None]
    s = Surface(
        colour=body,
        height=best + (0.03 + 0.03 * woody) * detail * mask + 0.02 * speck,
        rough=mix(0.9, 0.72 + 0.14 * detail + 0.08 * tone + 0.14 * (kind == 3), mask),
        metal=torch.zeros_like(mask),
        cavity=(1 - mask).maximum(smoothstep(0.06, 0.0, side) * 0.6).maximum(smoothstep(0.5, 0.2, along) * 0.6),
    )
    flags = aged(ctx, s, 40, 0.1)
    seeds, kinds = ctx.listed(ctx.seed), ctx.listed(kind)
    captions = []
    for i, states in enumerate(aged_states(ctx, flags)):
        name = wood_names[i] if kinds[i] == 1 else slate_names[i]
        nouns = (
            FORMS[kinds[i]],
            FORMS[kinds[i]],
            ("slate shingles", "wood shingle roof", "fish scale shingles", "roof shingles")[kinds[i]],
        )
        captions.append(compose(seeds[i], nouns, name, states, ["overlapping rows", ""]))
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=rows * ctx.rand(30, 0.13, 0.2),
        depth_m=ctx.rand(31, 0.012, 0.024),
    )


@family("roof_tiles")
def roof_tiles(ctx: Context) -> Layers:
    """Barrel (Spanish) roof tiles of clay: rows of half pipes with channels between them."""
    rows = ctx.randint(1, 2, 7)
    nx, ny = ctx.freq(((rows * ctx.rand(2, 1.1, 1.7)).round(), rows))
    wobble = 0.05 * ctx.fbm(14, 3, 4)
    u = torch.remainder(ctx.u, 1.0) * nx
    ix = torch.minimum(u.long(), torch.as_tensor(nx, device=u.device) - 1)
    column = torch.remainder(u, 1.0)
    drop = 0.14 * (fields.hash01(ix, torch.zeros_like(ix), ctx.seed, 4) - 0.5)
    v = torch.remainder(ctx.v * ny + drop + wobble - 0.25 * (2 * column - 1).square(), ny)
    iy = torch.minimum(v.long(), torch.as_tensor(ny, device=v.device) - 1)
    fy = v - v.floor()
    ident = iy * 4096 + ix
    bend = (column - 0.5 - 0.03 * ctx.cell(ident, 5, -1, 1)) / 0.36
    arch = (1 - bend.square()).clamp_min(0.0).sqrt()
    channel = 0.25 * ((column - 0.5).abs() * 2 - 0.72).clamp_min(0) / 0.28
    ridge = smoothstep(0.0, 0.3, arch)
    top = mix(channel + 0.12 * fy, arch * 0.8 + 0.25 * fy, ridge)
    lip = smoothstep(0.0, 0.06, 1 - fy)
    colour, names = ctx.colour(10, palette.CLAY, 0.35)
    tone, warm = ctx.cell(ident, 6, -1, 1), ctx.cell(ident, 7, -1, 1)
    cloud = ctx.fbm(6, 8, 5, 0.65, at=(ctx.u + ctx.cell(ident, 9), ctx.v + ctx.cell(ident, 11)))
    vary = ctx.rand(12, 0.08, 0.26)
    hue = torch.tensor([0.25, 0.05, -0.3], device=u.device).reshape(1, 3, 1, 1)
    shade = (0.52 + 0.48 * ridge) * (0.62 + 0.38 * smoothstep(0.0, 0.22, fy)) * (0.85 + 0.15 * lip)
    s = Surface(
        colour=colour * ((1 + vary * tone + 0.2 * cloud) * shade)[:, None] * (1 + hue * (vary * warm)[:, None]),
        height=top * (0.93 + 0.07 * lip) + 0.02 * cloud,
        rough=0.76 + 0.12 * cloud + 0.06 * tone + 0.1 * (1 - ridge),
        metal=torch.zeros_like(top),
        cavity=(1 - ridge).maximum(smoothstep(0.2, 0.0, fy) * 0.7),
    )
    flags = aged(ctx, s, 40, 0.06)
    nouns = ("clay roof tiles", "roof tiles", "spanish roof tiles", "barrel roof tiles", "tiled roof")
    seeds = ctx.listed(ctx.seed)
    captions = [compose(seeds[i], nouns, names[i], states) for i, states in enumerate(aged_states(ctx, flags))]
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=rows * ctx.rand(30, 0.28, 0.36),
        depth_m=ctx.rand(31, 0.05, 0.075),
    )
