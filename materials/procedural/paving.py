"""Ground and walls of stones: cobblestone, flagstone, pavers in herringbone, basket weave and hexagons."""

from __future__ import annotations

import torch

from materials.procedural import palette
from materials.procedural.brick import aged, aged_states, masonry
from materials.procedural.captions import compose
from materials.procedural.core import Context, Layers, family, over
from materials.procedural.fields import mix, smoothstep, worley_edges
from materials.procedural.layout import Elements, bond, herringbone, hexagons, squares
from materials.procedural.weather import Surface


@family("cobblestone")
def cobblestone(ctx: Context) -> Layers:
    """Rounded cobbles in earth, sand or mortar, on the ground or in a wall."""
    count = ctx.randint(1, 4, 11)
    u, v = ctx.warp(0.008, 7, 2)
    nx, ny = ctx.freq((count, (count * ctx.rand(3, 0.75, 1.35)).round().long().clamp_min(3)))
    jitter = ctx.rand(4, 0.45, 0.9)
    edge, ident, dx, dy = worley_edges(u, v, (nx, ny), ctx.seed, jitter, 5)
    gap = ctx.rand(6, 0.05, 0.13)
    chip = ctx.fbm(12, 7, 4, 0.6)
    own = ctx.cell(ident, 8)
    # the corners of the Voronoi cells are cut by a circle around the point, with a smooth minimum
    away = 0.62 - (dx * dx + dy * dy).clamp_min(1e-9).sqrt()
    blend = (0.5 + 0.5 * (away - edge) / 0.22).clamp(0, 1)
    edge = away + (edge - away) * blend - 0.22 * blend * (1 - blend)
    inner = edge - gap * (0.25 + 0.4 * own + 0.3 * chip) + 0.03
    t = (inner / ctx.rand(9, 0.2, 0.42)).clamp(0, 1)
    dome = (t * (2 - t)).clamp_min(1e-6).sqrt()
    mask = smoothstep(0.0, 0.05, inner)
    colour, names = ctx.colour(10, palette.STONE, 0.22)
    soil, _ = ctx.colour(20, palette.SOIL + palette.GROUT[:2], 0.0)
    tone, warm = ctx.cell(ident, 11, -1, 1), ctx.cell(ident, 12, -1, 1)
    local = (ctx.u + ctx.cell(ident, 13), ctx.v + ctx.cell(ident, 14))
    vein = ctx.fbm(5, 15, 5, 0.65, at=local)
    vary = ctx.rand(16, 0.08, 0.3)
    body = colour * (1 + vary * tone + 0.2 * vein)[:, None]
    body = body * (1 + (vary * warm)[:, None] * torch.tensor([0.3, 0.05, -0.3], device=body.device).reshape(1, 3, 1, 1))
    body = body * (0.62 + 0.38 * dome)[:, None]
    sand = ctx.fbm(34, 17, 3, 0.8)
    bed = soil * (0.85 + 0.24 * sand + 0.15 * chip)[:, None]
    slope = dx * ctx.cell(ident, 18, -1, 1) + dy * ctx.cell(ident, 19, -1, 1)
    top = 0.25 + dome * (0.75 + 0.22 * own + 0.3 * slope) + 0.07 * vein
    polished = ctx.rand(30)
    s = Surface(
        colour=over(bed, body, mask),
        height=mix(0.2 + 0.07 * sand, top, mask),
        rough=mix(0.93 + 0.0 * sand, 0.82 - 0.35 * polished * dome + 0.12 * vein, mask),
        metal=torch.zeros_like(mask),
        cavity=1 - mask * dome,
    )
    flags = aged(ctx, s, 40)
    captions = []
    smooth = ctx.listed(polished)
    nouns = ("cobblestone wall", "cobblestone", "cobblestone street", "cobblestone pavement", "cobblestones")
    for i, states in enumerate(aged_states(ctx, flags)):
        states.append("worn" if smooth[i] > 0.7 else "")
        captions.append(compose(ctx.listed(ctx.seed)[i], nouns, names[i], states, ["rounded stones", ""]))
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=count * ctx.rand(31, 0.1, 0.16),
        depth_m=ctx.rand(32, 0.014, 0.03),
    )


@family("flagstone")
def flagstone(ctx: Context) -> Layers:
    """Large flat stones of irregular outline."""
    count = ctx.randint(1, 2, 6)
    at = ctx.warp(0.018, 5, 2)
    edge, ident, dx, dy = ctx.worley_edges(count, 3, ctx.rand(4, 0.6, 0.95), at)
    chip = ctx.fbm(10, 5, 5, 0.62)
    gap = count * ctx.rand(6, 0.006, 0.016)
    inner = edge - gap * (0.8 + 0.45 * chip)
    mask = smoothstep(0.0, 0.02, inner)
    t = (inner / ctx.rand(7, 0.05, 0.12)).clamp(0, 1)
    dome = t * (2 - t)
    colour, names = ctx.colour(10, palette.STONE + palette.SLATE[:3], 0.2)
    soil, _ = ctx.colour(20, palette.SOIL + palette.GROUT[:3], 0.0)
    local = (ctx.u + ctx.cell(ident, 8), ctx.v + ctx.cell(ident, 9))
    cleft = ctx.fbm(3, 11, 5, 0.6, at=local)
    layers = ctx.fbm((2, 5), 12, 5, 0.55, ridged=True, at=local)
    vary = ctx.rand(13, 0.06, 0.22)
    tone, warm = ctx.cell(ident, 14, -1, 1), ctx.cell(ident, 15, -1, 1)
    body = colour * (1 + vary * tone + 0.2 * cleft + 0.35 * (layers - 0.72))[:, None]
    body = body * (
        1
        + (vary * warm + 0.08 * cleft)[:, None]
        * torch.tensor([0.4, 0.05, -0.4], device=body.device).reshape(1, 3, 1, 1)
    )
    body = body * (0.78 + 0.22 * dome)[:, None]
    sand = ctx.fbm(36, 16, 3, 0.8)
    slope = dx * ctx.cell(ident, 17, -1, 1) + dy * ctx.cell(ident, 18, -1, 1)
    steps = smoothstep(-0.08, 0.02, cleft) * 0.12 + smoothstep(0.2, 0.3, cleft) * 0.1
    s = Surface(
        colour=over(soil * (0.9 + 0.25 * sand + 0.12 * chip)[:, None], body, mask),
        height=mix(0.25 + 0.08 * sand, 0.3 + dome * (0.45 + 0.14 * slope) + steps + 0.25 * (layers - 0.7), mask),
        rough=mix(0.94 + 0.0 * sand, 0.7 + 0.14 * cleft + 0.25 * (layers - 0.7), mask),
        metal=torch.zeros_like(mask),
        cavity=1 - mask * dome,
    )
    flags = aged(ctx, s, 40)
    nouns = ("flagstone paving", "flagstone floor", "irregular stone paving", "flagstones", "stone slab path")
    captions = [
        compose(ctx.listed(ctx.seed)[i], nouns, names[i], states, ["irregular slabs", "crazy paving"])
        for i, states in enumerate(aged_states(ctx, flags))
    ]
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=count * ctx.rand(31, 0.3, 0.5),
        depth_m=ctx.rand(32, 0.012, 0.03),
    )


LAYOUTS = ("herringbone pattern", "basket weave pattern", "hexagonal pavers", "running bond", "square slabs")


def _select(kind: torch.Tensor, options: list[Elements]) -> Elements:
    """Per sample the elements of the layout with index `kind` (N, 1, 1)."""
    names = ("id", "x", "y", "width", "height", "edge", "turned")
    out = {name: getattr(options[0], name) for name in names}
    for index, option in enumerate(options[1:], start=1):
        for name in names:
            out[name] = torch.where(kind == index, getattr(option, name), out[name])
    return Elements(**out)


@family("pavers")
def pavers(ctx: Context) -> Layers:
    """Concrete or clay pavers in herringbone, basket weave, hexagons, running bond or squares."""
    kind = ctx.randint(1, 0, 4)
    periods = ctx.randint(2, 1, 3)
    rows = ctx.randint(3, 2, 5) * 2
    side = ctx.freq(rows, even_x=True, even_y=True)
    unit = torch.where(kind == 0, 0.25 / periods, torch.where(kind == 2, 1.0 / rows, 0.5 / (rows / 2)))
    unit = torch.where(kind == 1, 0.5 / rows, unit)
    radius = unit * ctx.rand(4, 0.03, 0.12)
    half = ctx.freq(((rows / 2).long(), rows), even_y=True)
    e = _select(
        kind,
        [
            herringbone(ctx, periods, 2, radius, ctx.flag(5, 0.5)),
            squares(ctx, rows, 2, radius),
            hexagons(ctx, rows),
            bond(ctx, half[0], half[1], 0.5, radius),
            bond(ctx, side[0], side[1], 0.0, radius),
        ],
    )
    colour, names = ctx.colour(10, palette.CONCRETE + palette.BRICK[:5], 0.25)
    joint, _ = ctx.colour(20, palette.SOIL + palette.GROUT, 0.0)
    worn = ctx.rand(6)
    s, mask = masonry(
        ctx,
        e,
        colour,
        joint,
        gap=unit * ctx.rand(7, 0.05, 0.12),
        bevel=unit * (0.06 + 0.12 * worn),
        vary=ctx.rand(8, 0.04, 0.24),
        ragged=0.1 + 0.4 * worn,
        raised=ctx.rand(9, 0.7, 1.0),
    )
    speck = smoothstep(0.45, 0.3, ctx.worley(44, 12)[0]) * mask
    s.colour = s.colour * (1 + speck * ctx.cell(ctx.worley(44, 12)[2], 13, -0.25, 0.25))[:, None]
    flags = aged(ctx, s, 40)
    age, kinds = ctx.listed(worn), ctx.listed(kind)
    captions = []
    for i, states in enumerate(aged_states(ctx, flags)):
        states.append("worn" if age[i] > 0.75 else "")
        nouns = ("paving stones", "pavers", "paved floor", "pavement")
        captions.append(compose(ctx.listed(ctx.seed)[i], nouns, names[i], states, ["!" + LAYOUTS[kinds[i]]]))
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=0.14 / unit * ctx.rand(31, 0.8, 1.2),
        depth_m=ctx.rand(32, 0.006, 0.012),
    )
