"""Boards of wood: planks and parquet."""

from __future__ import annotations

import torch
from torch import Tensor

from materials.procedural import fields, palette, weather
from materials.procedural.captions import compose
from materials.procedural.core import Context, Layers, family, over
from materials.procedural.fields import mix, smoothstep
from materials.procedural.layout import Elements, herringbone, jittered_bond, squares
from materials.procedural.weather import Surface, state


def figure(ctx: Context, e: Elements, salt: int, board: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Figure of flat-sawn boards in the coordinates of each element: (rings, fibres, knots), each (N, H, W), about
    [0, 1], [-1, 1] and [0, 1]. `board` is the width of a board in edges of a square tile."""
    along = e.x / board * 0.12 + ctx.cell(e.id, salt) * 7.0
    across = e.y / board * 0.12 + ctx.cell(e.id, salt + 1) * 7.0
    knot_d, _, knot_id, kx, ky = fields.worley(along, across, (2, 6), ctx.seed, 0.9, salt + 2)
    has = smoothstep(0.78, 0.8, ctx.cell(knot_id, salt + 3))
    radius = (kx.square() + (ky * 0.8).square()).clamp_min(1e-9).sqrt()
    knot = smoothstep(0.17, 0.09, radius) * has
    pull = torch.exp(-radius.square() / 0.05) * has
    wave = fields.fbm(along, across, (2, 8), ctx.seed, 3, 0.45, salt + 4)
    phase = across * ctx.rand(salt + 5, 30.0, 60.0) + 2.2 * wave + 2.5 * pull + 0.3 * knot_d
    saw = torch.remainder(phase, 1.0)
    rings = saw * smoothstep(1.0, 0.82, saw)
    fibres = fields.fbm(along, across, (8, 160), ctx.seed, 2, 0.7, salt + 6)
    return rings, fibres, knot


def boards(
    ctx: Context, e: Elements, board: Tensor, colour: Tensor, gap: Tensor, worn: Tensor, painted: Tensor, stain: Tensor
) -> Surface:
    """Boards with figure, joints and varied tone; where `painted` is 1 a coat of `colour`, worn in places."""
    rings, fibres, knot = figure(ctx, e, 800, board)
    edge = e.edge - gap * (0.5 + 0.3 * worn * ctx.fbm(16, 810, 3))
    mask = smoothstep(-0.3, 0.4, edge / gap)
    t = (edge / (board * (0.025 + 0.05 * worn))).clamp(0, 1)
    dome = t * (2 - t)
    tone, warm = ctx.cell(e.id, 811, -1, 1), ctx.cell(e.id, 812, -1, 1)
    light = 1 + stain * tone - 0.34 * (rings - 0.4) + 0.16 * fibres
    wood = colour * light[:, None]
    hue = torch.tensor([0.1, 0.0, -0.14], device=wood.device).reshape(1, 3, 1, 1)
    wood = over(wood * (1 + warm[:, None] * hue), wood * 0.42, knot * 0.85)
    s = Surface(
        colour=wood,
        height=dome * (0.8 + 0.1 * tone)
        - (0.1 + 0.2 * worn) * rings
        - 0.09 * (0.4 + worn) * fibres.clamp_min(-0.6)
        - 0.15 * knot,
        rough=0.55 + 0.25 * worn + 0.14 * fibres + 0.12 * rings,
        metal=torch.zeros_like(mask),
        cavity=1 - mask * dome,
    )
    bare = torch.tensor([0.46, 0.37, 0.28], device=wood.device).reshape(1, 3, 1, 1)
    s.colour = mix(s.colour, bare * light[:, None], painted[:, None])
    chips = ctx.fbm(5, 813, 5, 0.7) + 0.5 * fibres + 0.35 * s.cavity
    coat = (1 - smoothstep(0.72, 0.8, chips + 0.62 * worn)) * painted
    s.colour = over(s.colour, colour * (1 + 0.35 * stain * tone + 0.05 * fibres - 0.05 * rings)[:, None], coat)
    s.rough = mix(s.rough, 0.42 + 0.2 * worn + 0.05 * fibres, coat)
    s.height = s.height + 0.05 * coat
    s.colour = s.colour * mix(0.16, 1.0, mask)[:, None] * (0.86 + 0.14 * dome)[:, None]
    s.rough = mix(0.95, s.rough, mask)
    return s


def _finish(ctx: Context, s: Surface, worn: Tensor) -> list[list[str]]:
    """Weather on wood; the states for the captions."""
    mossy, dirty, damp = ctx.flag(40, 0.1) * (worn > 0.4), ctx.flag(41, 0.2), ctx.flag(42, 0.1)
    weather.stains(ctx, s, 43, 0.06 + 0.16 * worn)
    weather.dirt(ctx, s, 44, dirty)
    weather.moss(ctx, s, 45, mossy)
    weather.wet(ctx, s, 46, damp)
    words = [state(w, ctx.listed(f)) for w, f in (("mossy", mossy), ("dirty", dirty), ("wet", damp))]
    return [list(row) for row in zip(*words, strict=True)]


@family("planks")
def planks(ctx: Context) -> Layers:
    """Wooden boards, bare or painted, along either axis."""
    rows = ctx.randint(1, 3, 10)
    length = ctx.rand(2, 3.5, 9.0)
    upright = ctx.flag(3, 0.5)
    turned = Context(n=ctx.n, size=(ctx.size[1], ctx.size[0]), device=ctx.device, seed=ctx.seed, u=ctx.v, v=ctx.u)
    counts = ((rows / length).round().clamp_min(1), rows)
    worn = ctx.rand(4)
    flat = jittered_bond(ctx, *ctx.freq(counts), 0.6, ctx.rand(5, 0.0, 0.3), 0.004, 6)
    tall = jittered_bond(turned, *turned.freq(counts), 0.6, ctx.rand(5, 0.0, 0.3), 0.004, 6)
    names = ("id", "x", "y", "width", "height", "edge", "turned")
    e = Elements(**{k: torch.where(upright > 0, getattr(tall, k), getattr(flat, k)) for k in names})
    board = 1.0 / rows
    painted = ctx.flag(7, 0.4)
    natural, wood_names = ctx.colour(10, palette.WOOD, 0.0)
    coat, coat_names = ctx.colour(20, palette.WOOD[:1], 1.0)
    colour = torch.where(painted[:, None] > 0, coat, natural)
    s = boards(ctx, e, board, colour, board * ctx.rand(8, 0.025, 0.06), worn, painted, ctx.rand(9, 0.05, 0.22))
    states = _finish(ctx, s, worn)
    captions = []
    seeds, age, coats, stands = ctx.listed(ctx.seed), ctx.listed(worn), ctx.listed(painted), ctx.listed(upright)
    for i, words in enumerate(states):
        words.append("painted" if coats[i] > 0.5 else "")
        words.append(("weathered", "old", "worn")[seeds[i] % 3] if age[i] > 0.7 else "")
        nouns = ("wood planks", "wooden planks", "wooden boards", "wood plank floor", "plank wall")
        name = coat_names[i] if coats[i] > 0.5 else wood_names[i]
        captions.append(compose(seeds[i], nouns, name, words, ["vertical" if stands[i] > 0.5 else "horizontal"]))
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=rows * ctx.rand(30, 0.1, 0.16),
        depth_m=0.003 + 0.004 * worn,
    )


@family("parquet")
def parquet(ctx: Context) -> Layers:
    """Parquet floors in herringbone, mosaic squares or strips."""
    kind = ctx.randint(1, 0, 2)
    periods = ctx.randint(2, 1, 2)
    count = ctx.randint(3, 1, 3) * 2
    diagonal = ctx.flag(4, 0.5)
    rows = ctx.randint(5, 6, 14)
    options = [
        herringbone(ctx, periods, 4, 0.002, diagonal),
        squares(ctx, count, 5, 0.002),
        jittered_bond(ctx, *ctx.freq(((rows / 6).round().clamp_min(1), rows)), 0.5, 0.0, 0.002, 6),
    ]
    names = ("id", "x", "y", "width", "height", "edge", "turned")
    e = Elements(
        **{
            k: torch.where(
                kind == 0,
                getattr(options[0], k),
                torch.where(kind == 1, getattr(options[1], k), getattr(options[2], k)),
            )
            for k in names
        }
    )
    board = torch.where(kind == 0, 0.125 / periods, torch.where(kind == 1, 0.2 / count, 1.0 / rows))
    worn = ctx.rand(7) * 0.8
    natural, wood_names = ctx.colour(
        10, palette.WOOD, 0.12, names=("white", "black", "grey", "blue", "green", "red", "teal")
    )
    none = torch.zeros_like(worn)
    s = boards(ctx, e, board, natural, board * ctx.rand(8, 0.02, 0.05), worn * 0.5, none, ctx.rand(9, 0.08, 0.3))
    polished = ctx.flag(12, 0.45) * (worn < 0.5)
    s.rough = mix(s.rough, 0.2 + 0.3 * (s.rough - 0.55), polished * (1 - s.cavity))
    states = _finish(ctx, s, worn)
    captions = []
    seeds, shine, age, kinds = ctx.listed(ctx.seed), ctx.listed(polished), ctx.listed(worn), ctx.listed(kind)
    for i, words in enumerate(states):
        words.append("polished" if shine[i] > 0.5 else ("worn" if age[i] > 0.6 else ""))
        pattern = ("!herringbone pattern", "!basket weave pattern", "!strip pattern")[kinds[i]]
        captions.append(
            compose(
                seeds[i],
                ("parquet floor", "wood parquet", "wooden parquet floor", "parquet"),
                wood_names[i],
                words,
                [pattern],
            )
        )
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=0.07 / board * ctx.rand(30, 0.9, 1.2),
        depth_m=0.0015 + 0.002 * worn,
    )
