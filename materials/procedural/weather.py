"""Age and weather on a surface: grain, stains, dirt, moss, water, cracks, rust."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from materials.procedural.core import Context, over, rgb
from materials.procedural.fields import mix, smoothstep


@dataclass
class Surface:
    """A material in the making: colour (N, 3, H, W) sRGB; height, rough, metal and cavity (N, H, W), where height is
    about 0 to 1 and cavity is 1 in joints and recesses."""

    colour: Tensor
    height: Tensor
    rough: Tensor
    metal: Tensor
    cavity: Tensor


def grain(ctx: Context, s: Surface, salt: int, amount: float | Tensor, freq: int = 32, relief: float = 0.02) -> None:
    """Fine multi-octave variation of colour, height and roughness."""
    fine = ctx.fbm(freq, salt, 3, 0.7)
    s.colour = s.colour * (1.0 + amount * fine)[:, None]
    s.height = s.height + relief * fine
    s.rough = s.rough + 0.06 * fine


def stains(ctx: Context, s: Surface, salt: int, amount: float | Tensor) -> None:
    """Broad blotches: lighter and darker, slightly warmer and cooler, with roughness to match."""
    broad = ctx.fbm(3, salt, 5, 0.6)
    tint = rgb(1.0, 0.96, 0.9, s.height)
    s.colour = (
        s.colour * (1.0 + amount * broad)[:, None] * mix(torch.ones_like(tint), tint, (broad * amount * 2)[:, None])
    )
    s.rough = s.rough + 0.1 * broad * amount * 4


def dirt(ctx: Context, s: Surface, salt: int, flag: Tensor) -> None:
    """Brown dirt in recesses and blotches, rough and matte, where `flag` (N, 1, 1) is 1 (a trace where it is 0)."""
    spread = ctx.fbm(4, salt, 5, 0.65)
    low = 0.62 - 0.4 * s.cavity
    mask = smoothstep(low, low + 0.65, 0.35 + 0.6 * spread) * mix(0.12, 0.85, flag)
    tone = rgb(0.24, 0.19, 0.13, s.height) * (1.0 + ctx.rand(salt, -0.2, 0.35)[:, None])
    s.colour = over(s.colour, tone * (1 + 0.25 * spread[:, None]), mask)
    s.rough = mix(s.rough, 0.92, mask)
    s.metal = s.metal * (1.0 - smoothstep(0.4, 0.7, mask))


def moss(ctx: Context, s: Surface, salt: int, flag: Tensor, relief: float = 0.12) -> None:
    """Cushions of moss out of the recesses over a part of the surface, where `flag` is 1."""
    spread = ctx.fbm(3, salt, 4, 0.6)
    fine = ctx.fbm(26, salt + 1, 3, 0.8)
    reach = spread * 0.8 + s.cavity * 0.75 + fine * 0.25 + ctx.rand(salt, -0.3, 0.05)
    mask = smoothstep(0.28, 0.55, reach) * flag
    dark, light = rgb(0.17, 0.24, 0.06, s.height), rgb(0.44, 0.50, 0.16, s.height)
    tone = mix(dark, light, (0.42 + 0.75 * fine + 0.3 * spread + ctx.rand(salt + 2, -0.15, 0.15)).clamp(0, 1)[:, None])
    s.colour = over(s.colour, tone, mask * 0.95)
    s.height = s.height + mask * relief * (1.1 + 1.1 * fine)
    s.rough = mix(s.rough, 0.95, mask)
    s.metal = s.metal * (1.0 - mask)


def wet(ctx: Context, s: Surface, salt: int, flag: Tensor) -> None:
    """Dampness with puddles in the lowest parts: darker, more saturated, smooth, level, where `flag` is 1."""
    pools = ctx.fbm(2, salt, 3) * 0.35 + s.cavity * 0.55
    water = smoothstep(0.25, 0.42, pools) * flag
    damp = flag * (0.55 + 0.45 * smoothstep(-0.3, 0.3, pools))
    grey = s.colour.mean(dim=1, keepdim=True)
    deep = (grey + (s.colour - grey) * 1.25).clamp(0, 1) * 0.66
    s.colour = over(s.colour, deep, damp)
    s.rough = mix(mix(s.rough, s.rough * 0.5, damp), 0.07, water)


def cracks(ctx: Context, s: Surface, salt: int, flag: Tensor, freq: int = 4, width: float = 0.022) -> None:
    """Branching cracks: borders of warped cells that fade in and out, where `flag` is 1."""
    at = ctx.warp(0.035, 6, salt)
    edge = ctx.worley_edges(freq, salt, 1.0, at)[0]
    where = smoothstep(-0.12, 0.3, ctx.fbm(2, salt + 1, 3))
    line = smoothstep(width, width * 0.25, edge) * where * flag
    s.colour = s.colour * (1.0 - 0.7 * line)[:, None]
    s.height = s.height - 0.22 * line
    s.rough = mix(s.rough, 0.95, line)


def rust(ctx: Context, s: Surface, salt: int, flag: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Rust (metallic 0, rough 0.9) where `flag` is 1, more of it where `bias` (N, H, W) is large. Returns its mask."""
    spread = ctx.fbm(4, salt, 5, 0.62) * 1.15
    fine = ctx.fbm(24, salt + 1, 3, 0.75)
    amount = ctx.rand(salt, -0.3, 0.15)
    mask = smoothstep(0.02, 0.2, spread + 0.25 * fine + bias + amount) * flag
    dark, light = rgb(0.20, 0.09, 0.05, s.height), rgb(0.54, 0.30, 0.15, s.height)
    tone = mix(dark, light, (0.42 + 0.5 * fine + 0.35 * spread).clamp(0, 1)[:, None])
    halo = smoothstep(-0.25, 0.1, spread + 0.25 * fine + bias + amount) * flag * 0.35
    s.colour = over(over(s.colour, rgb(0.42, 0.25, 0.14, s.height), halo), tone, mask)
    s.rough = mix(s.rough, 0.88 + 0.1 * fine, mask)
    s.metal = s.metal * (1.0 - mask)
    s.height = s.height + mask * 0.03 * (fine - 0.5)
    return mask


def peel(
    ctx: Context, s: Surface, salt: int, flag: Tensor, paint: Tensor, bias: Tensor | float, gloss: Tensor | float
) -> Tensor:
    """Cover with paint (N, 3, 1, 1) or (N, 3, H, W), flaked off where `flag` is 1 and `bias` is large.

    Returns where paint is."""
    spread = ctx.fbm(4, salt, 5, 0.68)
    chip = smoothstep(0.42, 0.46, spread * 0.9 + bias + ctx.rand(salt, -0.12, 0.12))
    cover = 1.0 - chip * flag
    s.colour = over(s.colour, paint * (1.0 + 0.07 * spread)[:, None], cover)
    s.rough = mix(s.rough, gloss + 0.08 * spread, cover)
    s.metal = s.metal * (1.0 - cover)
    s.height = s.height + 0.05 * cover
    return cover


def state(word: str, flags: list[float]) -> list[str]:
    """`word` for each sample whose flag is set, else an empty string."""
    return [word if f > 0.5 else "" for f in flags]
