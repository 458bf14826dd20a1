"""Ceramic tiles: squares, subway tiles, hexagons and checkerboards; and concrete panels."""

from __future__ import annotations

import torch

from materials.procedural import palette, weather
from materials.procedural.captions import compose
from materials.procedural.core import Context, Layers, family, over
from materials.procedural.fields import mix, smoothstep
from materials.procedural.layout import Elements, bond, hexagons
from materials.procedural.weather import Surface, state

SHAPES = ("square", "subway", "hexagonal", "checkered", "mosaic")


@family("ceramic_tile")
def ceramic_tile(ctx: Context) -> Layers:
    """Glazed tiles in grout, glossy or matt."""
    kind = ctx.randint(1, 0, 4)
    rows = ctx.randint(2, 1, 4) * torch.where(kind == 4, 6, 2)
    tall = ctx.freq(((rows / 2).long().clamp_min(1), rows), even_y=True)
    side = ctx.freq(rows, even_x=True, even_y=True)
    unit = 1.0 / rows
    radius = unit * ctx.rand(3, 0.02, 0.1)
    options = [bond(ctx, side[0], side[1], 0.0, radius), bond(ctx, tall[0], tall[1], 0.5, radius), hexagons(ctx, rows)]
    e = Elements(
        **{
            k: torch.where(
                kind == 1,
                getattr(options[1], k),
                torch.where(kind == 2, getattr(options[2], k), getattr(options[0], k)),
            )
            for k in ("id", "x", "y", "width", "height", "edge", "turned")
        }
    )
    colour, names = ctx.colour(10, palette.CLAY + palette.CONCRETE, 0.75)
    second, second_names = ctx.colour(15, palette.STONE[:3], 0.4, names=("white", "black", "cream", "grey", "navy"))
    grout, grout_names = ctx.colour(20, palette.GROUT, 0.1)
    worn = ctx.rand(4)
    gap = unit * ctx.rand(5, 0.02, 0.055)
    edge = e.edge - gap * (0.6 + 0.25 * worn * ctx.fbm(18, 6, 4, 0.7))
    mask = smoothstep(-0.25, 0.25, edge / gap)
    t = (edge / (unit * ctx.rand(7, 0.04, 0.12))).clamp(0, 1)
    dome = t * (2 - t)
    tone = ctx.cell(e.id, 8, -1, 1)
    checker = ((e.id % 4096 + e.id // 4096) % 2).float() * (kind == 3)
    body = over(colour.expand(-1, -1, *ctx.size), second, checker)
    body = mix(body, second, ((kind == 4) * smoothstep(0.72, 0.73, ctx.cell(e.id, 9)))[:, None])
    glaze = ctx.fbm(5, 11, 4, 0.6, at=(ctx.u + ctx.cell(e.id, 12), ctx.v + ctx.cell(e.id, 13)))
    vary = ctx.rand(14, 0.02, 0.16)
    body = body * (1 + vary * tone + 0.07 * glaze)[:, None] * (0.9 + 0.1 * dome)[:, None]
    sand = ctx.fbm(38, 16, 3, 0.8)
    gloss = torch.where(ctx.flag(17, 0.65) > 0, ctx.rand(18, 0.06, 0.2), ctx.rand(18, 0.38, 0.6)) + 0.22 * worn
    tilt = ctx.cell(e.id, 19, -1, 1) * (e.x / e.width - 0.5) + ctx.cell(e.id, 24, -1, 1) * (e.y / e.height - 0.5)
    s = Surface(
        colour=over(grout * (1 + 0.12 * sand + 0.1 * glaze)[:, None], body, mask),
        height=mix(0.25 + 0.08 * sand, 0.3 + dome * (0.6 + 0.12 * tilt) + 0.03 * glaze, mask),
        rough=mix(0.9 + 0.04 * sand, gloss + 0.07 * glaze + 0.04 * tone, mask),
        metal=torch.zeros_like(mask),
        cavity=1 - mask * dome,
    )
    chip = smoothstep(0.62, 0.7, ctx.fbm(6, 25, 5, 0.7) + 0.45 * (1 - dome)) * mask * (worn > 0.65)
    s.colour = over(
        s.colour,
        torch.tensor([0.66, 0.56, 0.46], device=mask.device).reshape(1, 3, 1, 1) * (1 + 0.2 * sand)[:, None],
        chip,
    )
    s.rough, s.height = mix(s.rough, 0.9, chip), s.height - 0.14 * chip
    cracked, dirty, damp = ctx.flag(40, 0.2), ctx.flag(41, 0.25), ctx.flag(42, 0.1)
    broken = smoothstep(0.5, 0.52, ctx.cell(e.id, 47)) * cracked
    weather.cracks(ctx, s, 43, broken, 3, 0.014)
    weather.stains(ctx, s, 44, 0.03 + 0.1 * worn)
    weather.dirt(ctx, s, 45, dirty)
    weather.wet(ctx, s, 46, damp)
    captions = []
    seeds, kinds, age = ctx.listed(ctx.seed), ctx.listed(kind), ctx.listed(worn)
    flags = [state(w, ctx.listed(f)) for w, f in (("cracked", cracked), ("dirty", dirty), ("wet", damp))]
    for i, row in enumerate(zip(*flags, strict=True)):
        states = list(row)
        states.append("worn" if age[i] > 0.65 else ("clean" if age[i] < 0.25 and not any(states) else ""))
        two = f"{names[i]} and {second_names[i]}" if kinds[i] == 3 and names[i] != second_names[i] else names[i]
        shape = SHAPES[kinds[i]]
        nouns = (
            f"{shape} ceramic tiles",
            f"{shape} tiles",
            f"{shape} tile floor",
            "ceramic tiles" if kinds[i] == 0 else f"{shape} tile wall",
        )
        captions.append(compose(seeds[i], nouns, two, states, [f"with {grout_names[i]} grout"]))
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=rows * torch.where(kind == 4, 0.04, 0.12) * ctx.rand(30, 0.8, 1.3),
        depth_m=ctx.rand(31, 0.0018, 0.004),
    )


@family("concrete_panels")
def concrete_panels(ctx: Context) -> Layers:
    """Cast concrete panels with joints, tie holes and streaks."""
    rows = ctx.randint(1, 1, 4)
    wide = ctx.randint(2, 1, 4)
    nx, ny = ctx.freq((wide, rows))
    e = bond(ctx, nx, ny, 0.0, 0.004)
    unit = 1.0 / torch.maximum(rows, wide)
    gap = unit * ctx.rand(3, 0.012, 0.03)
    worn = ctx.rand(4)
    edge = e.edge - gap * (0.5 + 0.35 * worn * ctx.fbm(14, 5, 4, 0.7))
    mask = smoothstep(-0.3, 0.3, edge / gap)
    t = (edge / (gap * 1.5)).clamp(0, 1)
    dome = t * (2 - t)
    colour, names = ctx.colour(10, palette.CONCRETE, 0.2)
    broad, fine = ctx.fbm(3, 6, 5, 0.6), ctx.fbm(30, 7, 3, 0.75)
    streak = ctx.fbm((24, 2), 8, 4, 0.6)
    tone = ctx.cell(e.id, 9, -1, 1)
    pores = smoothstep(0.2, 0.1, ctx.worley(18, 11)[0]) * smoothstep(-0.1, 0.3, broad)
    px = torch.minimum(e.x, e.width - e.x) - unit * 0.16
    py = torch.minimum(e.y, e.height - e.y) - unit * 0.16
    reach = (px.square() + py.square()).sqrt() / unit
    hole = smoothstep(0.028, 0.02, reach) * ctx.flag(12, 0.6)
    streaks = smoothstep(0.0, 0.6, streak + 0.3 * broad) * ctx.rand(13, 0.0, 0.32)
    body = (
        colour
        * ((1 + 0.06 * tone + 0.13 * broad + 0.06 * fine) * (1 - streaks) * (1 - 0.35 * pores) * (1 - 0.6 * hole))[
            :, None
        ]
    )
    s = Surface(
        colour=body * mix(0.42, 1.0, mask)[:, None],
        height=mask * (0.4 + 0.5 * dome + 0.05 * tone) + 0.05 * broad + 0.03 * fine - 0.2 * pores - 0.5 * hole,
        rough=0.74 + 0.12 * broad + 0.06 * fine + 0.1 * (1 - mask) + 0.15 * pores,
        metal=torch.zeros_like(mask),
        cavity=(1 - mask * dome).maximum(hole),
    )
    flags = [ctx.flag(40, 0.3), ctx.flag(41, 0.25), ctx.flag(42, 0.12), ctx.flag(43, 0.15)]
    weather.cracks(ctx, s, 44, flags[0], 3, 0.018)
    weather.dirt(ctx, s, 45, flags[1])
    weather.moss(ctx, s, 46, flags[2])
    weather.wet(ctx, s, 47, flags[3])
    words = [state(w, ctx.listed(f)) for w, f in zip(("cracked", "dirty", "mossy", "wet"), flags, strict=True)]
    seeds, age = ctx.listed(ctx.seed), ctx.listed(worn)
    nouns = ("concrete panels", "concrete panel wall", "concrete slabs", "cast concrete wall")
    captions = [
        compose(seeds[i], nouns, names[i], [*row, "weathered" if age[i] > 0.75 else ""], ["with stains", ""])
        for i, row in enumerate(zip(*words, strict=True))
    ]
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=ctx.rand(30, 0.7, 1.1) / unit,
        depth_m=ctx.rand(31, 0.008, 0.016),
    )
