"""Brick walls in running, stack, third and English bond; walls of stone blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from materials.procedural import palette, weather
from materials.procedural.captions import compose
from materials.procedural.core import Context, Layers, family, over
from materials.procedural.fields import mix, smoothstep
from materials.procedural.layout import Elements, bond, jittered_bond
from materials.procedural.weather import Surface, state


def masonry(
    ctx: Context,
    e: Elements,
    colour: Tensor,
    grout: Tensor,
    *,
    gap: Tensor,
    bevel: Tensor,
    vary: Tensor,
    ragged: Tensor,
    raised: Tensor,
) -> tuple[Surface, Tensor]:
    """Elements with ragged, bevelled edges in a bed of grout, with a tone of their own.

    Returns the surface and the mask of the elements. `gap` and `bevel` are in edges of a square tile, `ragged` in gaps;
    `raised` is the height above the bed."""
    chip = ctx.fbm(14, 900, 4, 0.6)
    edge = e.edge - gap * (0.5 + ragged * chip)
    mask = smoothstep(-0.15, 0.35, edge / gap)
    t = (edge / bevel).clamp(0, 1)
    dome = t * (2 - t)
    tone, warmth = ctx.cell(e.id, 901, -1, 1), ctx.cell(e.id, 902, -1, 1)
    odd = smoothstep(0.82, 0.9, ctx.cell(e.id, 903)) * ctx.rand(904, 0.0, 0.4)
    pattern = ctx.fbm(6, 905, 5, 0.65, at=(ctx.u + ctx.cell(e.id, 906), ctx.v + ctx.cell(e.id, 907)))
    body = colour * (1 + vary * (0.8 * tone - odd) + 0.16 * pattern)[:, None]
    body = body * (
        1
        + vary[:, None]
        * 0.45
        * warmth[:, None]
        * torch.tensor([0.6, 0.0, -0.7], device=body.device).reshape(1, 3, 1, 1)
    )
    rim = smoothstep(1.0, 0.0, (edge / bevel).clamp(0, 2) * 0.7)
    body = body * (1 - 0.16 * rim * (1 + chip))[:, None]
    sand = ctx.fbm(40, 908, 3, 0.8)
    bed = grout * (1 + 0.16 * sand + 0.14 * pattern)[:, None]
    shade = smoothstep(-0.6, 0.2, edge / gap) * 0.22
    bed = bed * (1 - shade)[:, None]
    tilt = ctx.cell(e.id, 909, -1, 1) * (e.x / e.width - 0.5) + ctx.cell(e.id, 910, -1, 1) * (e.y / e.height - 0.5)
    top = raised * dome * (1 + 0.12 * ctx.cell(e.id, 911, -1, 1) + 0.14 * tilt) + 0.08 * pattern * mask
    s = Surface(
        colour=over(bed.expand_as(body), body, mask),
        height=mix(0.06 * sand, top, mask),
        rough=mix(0.92 + 0.0 * sand, 0.78 + 0.12 * pattern + 0.08 * tone, mask),
        metal=torch.zeros_like(mask),
        cavity=1 - mask * (0.25 + 0.75 * dome),
    )
    return s, mask


def aged(ctx: Context, s: Surface, salt: int, relief: float = 0.12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Stains always; moss, dirt, cracks and water by chance. Returns their flags."""
    mossy, dirty, cracked = ctx.flag(salt, 0.2), ctx.flag(salt + 1, 0.22), ctx.flag(salt + 2, 0.15)
    wetness = ctx.flag(salt + 3, 0.13)
    weather.stains(ctx, s, salt + 4, ctx.rand(salt + 4, 0.08, 0.26))
    weather.cracks(ctx, s, salt + 5, cracked)
    weather.dirt(ctx, s, salt + 6, dirty)
    weather.moss(ctx, s, salt + 7, mossy, relief)
    weather.grain(ctx, s, salt + 9, ctx.rand(salt + 9, 0.05, 0.12), 48, 0.015)
    weather.wet(ctx, s, salt + 10, wetness)
    return mossy, dirty, cracked, wetness


def aged_states(ctx: Context, flags: tuple[Tensor, ...]) -> list[list[str]]:
    words = [state(w, ctx.listed(f)) for w, f in zip(("mossy", "dirty", "cracked", "wet"), flags, strict=False)]
    return [list(column) for column in zip(*words, strict=True)]


BONDS = ("running bond", "stack bond", "third bond", "English bond")


@family("brick")
def brick(ctx: Context) -> Layers:
    """Brick walls; painted ones carry one coat over bricks and joints."""
    rows = ctx.randint(1, 3, 9) * 2
    kind = ctx.choice(2, (0, 0, 0, 1, 2, 3)).long()
    ratio = ctx.rand(3, 2.2, 3.6)
    nx, ny = ctx.freq(((rows / ratio).round().clamp_min(1), rows.float()), even_y=True)
    offset = torch.tensor([0.5, 0.0, 1 / 3, 0.25], device=ctx.device)[kind]
    cell = ctx.stretch[1] / torch.as_tensor(ny)
    gap, wear = cell * ctx.rand(4, 0.09, 0.18), ctx.rand(5)
    e = bond(ctx, nx, ny, offset, cell * (0.03 + 0.16 * wear), (kind == 3).float())
    colour, names = ctx.colour(10, palette.BRICK, 0.45)
    grout, grout_names = ctx.colour(20, palette.GROUT, 0.08)
    vary = ctx.rand(6, 0.06, 0.3)
    bevel = cell * (0.08 + 0.16 * wear)
    s, mask = masonry(
        ctx, e, colour, grout, gap=gap, bevel=bevel, vary=vary, ragged=0.25 + 0.5 * wear, raised=ctx.rand(7, 0.6, 1.0)
    )
    pits = (
        smoothstep(0.33, 0.12, ctx.worley(24, 30)[0])
        * smoothstep(0.0, 0.4, ctx.fbm(5, 31, 3))
        * mask
        * (0.3 + 0.7 * wear)
    )
    s.height = s.height - 0.14 * pits
    s.colour = s.colour * (1 - 0.3 * pits)[:, None]
    painted = ctx.flag(8, 0.2)
    coat = smoothstep(0.5, 0.2, ctx.fbm(5, 32, 5, 0.65) + 0.7 * wear - 0.25) * painted
    s.colour = over(s.colour, colour * (1 + 0.05 * ctx.fbm(9, 33, 3))[:, None], coat)
    s.rough = mix(s.rough, 0.52, coat)
    flags = aged(ctx, s, 40)
    worn = ctx.listed(wear)
    captions = []
    for i, states in enumerate(aged_states(ctx, flags)):
        paint = ctx.listed(painted)[i] > 0.5
        states.append("painted" if paint else "")
        states.append("weathered" if worn[i] > 0.75 else ("clean" if worn[i] < 0.2 and not any(states) else ""))
        details = [BONDS[ctx.listed(kind)[i]], "" if paint else f"with {grout_names[i]} mortar"]
        captions.append(
            compose(
                ctx.listed(ctx.seed)[i], ("brick wall", "brick wall", "bricks", "brickwork"), names[i], states, details
            )
        )
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=ctx.stretch[1] ** -1 * torch.as_tensor(ny) * 0.075 * ctx.rand(9, 0.9, 1.1),
        depth_m=ctx.rand(11, 0.006, 0.016),
    )


@family("stone_blocks")
def stone_blocks(ctx: Context) -> Layers:
    """Walls of cut or rough stone blocks of varied size."""
    rows = ctx.randint(1, 3, 8)
    ratio = ctx.rand(2, 1.2, 2.4)
    nx, ny = ctx.freq(((rows / ratio).round().clamp_min(1), rows.float()))
    cell = ctx.stretch[1] / torch.as_tensor(ny)
    rough = ctx.rand(3)
    u, v = ctx.warp(0.012 * rough, 5, 4)
    moved = Context(n=ctx.n, size=ctx.size, device=ctx.device, seed=ctx.seed, u=u, v=v)
    e = jittered_bond(moved, nx, ny, ctx.rand(5, 0.3, 0.8), ctx.rand(6, 0.0, 0.6), cell * (0.04 + 0.2 * rough), 7)
    colour, names = ctx.colour(10, palette.STONE, 0.25)
    grout, _ = ctx.colour(20, palette.GROUT, 0.0)
    gap = cell * ctx.rand(12, 0.05, 0.13)
    s, mask = masonry(
        ctx,
        e,
        colour,
        grout,
        gap=gap,
        bevel=cell * (0.06 + 0.3 * rough),
        vary=ctx.rand(13, 0.08, 0.28),
        ragged=0.3 + 0.6 * rough,
        raised=ctx.rand(14, 0.7, 1.0),
    )
    at = (ctx.u + ctx.cell(e.id, 15), ctx.v + ctx.cell(e.id, 16))
    hewn = ctx.fbm(5, 17, 5, 0.6, ridged=True, at=at)
    s.height = s.height + mask * (hewn - 0.7) * (0.2 + 0.9 * rough) * 0.6
    s.colour = s.colour * (1 + 0.5 * (hewn - 0.72) * mask)[:, None]
    s.rough = s.rough + 0.15 * (hewn - 0.7) * mask
    flags = aged(ctx, s, 40)
    shaped = ctx.listed(rough)
    captions = []
    for i, states in enumerate(aged_states(ctx, flags)):
        states.append("rough" if shaped[i] > 0.65 else "")
        nouns = (
            ("stone block wall", "stone wall", "masonry wall", "castle wall")
            if shaped[i] > 0.3
            else ("cut stone block wall", "ashlar wall")
        )
        captions.append(
            compose(ctx.listed(ctx.seed)[i], nouns, names[i], states, ["with mortar joints", "irregular blocks"])
        )
    return Layers(
        basecolor=s.colour,
        height=s.height,
        roughness=s.rough,
        metallic=s.metal,
        captions=captions,
        size_m=torch.as_tensor(ny) / ctx.stretch[1] * ctx.rand(8, 0.22, 0.34),
        depth_m=0.012 + 0.05 * rough,
    )
