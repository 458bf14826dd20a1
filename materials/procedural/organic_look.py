"""What an organic family returns, the coats many families share (moss, water, dirt) and the wording of captions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from materials.procedural.core import Context, Layers, Make, family
from materials.procedural.organic_fields import Brush, lerp, paint, ramp, smooth

MOSS = ((0.12, 0.14, 0.06), (0.22, 0.25, 0.10), (0.36, 0.37, 0.17))


@dataclass(kw_only=True)
class Look:
    """Layers of one batch; coats change them in place.

    basecolor (N, 3, H, W) sRGB in [0, 1]; height, roughness, metallic (N, H, W), height in any unit; size_m (N, 1, 1)
    the edge of a square tile in metres; relief (N, 1, 1) or a number, depth in shares of that edge.
    """

    basecolor: Tensor
    height: Tensor
    roughness: Tensor
    metallic: Tensor
    size_m: Tensor
    relief: Tensor | float
    captions: list[str] = field(default_factory=list)


def organic(name: str) -> Callable[[Callable[[Brush], Look]], Make]:
    """Decorator that registers `make(brush) -> Look` as the family `name`."""

    def register(make: Callable[[Brush], Look]) -> Make:
        def run(ctx: Context) -> Layers:
            look = make(Brush(ctx))
            depth = look.relief * look.size_m
            return Layers(
                basecolor=look.basecolor,
                height=look.height,
                roughness=look.roughness,
                metallic=look.metallic,
                size_m=look.size_m,
                depth_m=depth,
                captions=look.captions,
            )

        return family(name)(run)

    return register


def on(flag: Tensor) -> list[bool]:
    """An (N, 1, 1) flag as Python booleans."""
    return [x > 0.5 for x in flag.flatten().tolist()]


def moss(b: Brush, look: Look, flag: Tensor, lo: float = 0.12, hi: float = 0.5) -> None:
    """Grow moss cushions where `flag` is set, in dents first; expects height near [0, 1]."""
    cover = b.rand(lo, hi) * flag
    low = b.blur(look.height, 0.03)
    low = (low - low.mean(dim=(1, 2), keepdim=True)) * 0.5
    fuzz = b.noise(48, 3, 0.7)
    grown = b.mask(b.freq(2, 4), cover, 0.11, 5, 0.68, bias=0.06 * fuzz - low) * flag
    tint = b.noise(5, 3)
    color = ramp(0.45 + 0.38 * fuzz + 0.3 * tint, [b.colors([c] * b.n, 0.025) for c in MOSS])
    look.basecolor = paint(look.basecolor, color, grown)
    look.height = look.height + grown * (0.08 + 0.05 * fuzz)
    look.roughness = lerp(look.roughness, 0.93, grown)
    look.metallic = look.metallic * (1.0 - smooth(grown, 0.2, 0.5))


def dirt(b: Brush, look: Look, flag: Tensor, color: tuple[float, float, float] = (0.24, 0.18, 0.12)) -> None:
    """Brown grime in patches and in the dents where `flag` is set."""
    d = b.blur(look.height, 0.015) - look.height
    std = d.flatten(1).std(dim=1).clamp(min=1e-3)[:, None, None]
    cover = b.mask(3, b.rand(0.35, 0.65), 0.5, 5, 0.7, bias=(d / std).clamp(-2.0, 2.0) * 0.12)
    speckle = b.noise(30, 4, 0.75)
    amount = (cover * flag * b.rand(0.4, 0.7) * (1.0 + 0.5 * speckle)).clamp(0.0, 0.9)
    soil = b.colors([color] * b.n) * (1.0 + 0.25 * speckle)[:, None]
    look.basecolor = paint(look.basecolor, soil, amount)
    look.roughness = lerp(look.roughness, 0.9, amount)
    look.metallic = look.metallic * (1.0 - smooth(amount, 0.35, 0.6))


def wet(b: Brush, look: Look, flag: Tensor, puddles: float = 0.3) -> None:
    """Darken and gloss where `flag` is set; the lowest `puddles` share stands under flat water."""
    low = look.height + 0.25 * b.noise(3, 3)
    mean, std = low.mean(dim=(1, 2), keepdim=True), low.flatten(1).std(dim=1)[:, None, None]
    edge = mean + std * float(torch.special.ndtri(torch.tensor(puddles)))
    pool = (1.0 - smooth(low, edge - 0.1 * std, edge + 0.2 * std)) * flag
    damp = flag * (0.75 + 0.25 * pool)
    look.basecolor = look.basecolor * (1.0 - 0.42 * damp)[:, None]
    look.roughness = lerp(lerp(look.roughness, look.roughness * 0.45 + 0.05, damp), 0.06, pool)


def describe(
    words: random.Random,
    nouns: Sequence[str],
    *,
    color: str = "",
    states: Sequence[str] = (),
    tails: Sequence[str] = (),
) -> str:
    """A prompt such as a user would type, at most 12 words.

    States ("mossy") and tails ("with moss") always appear; the colour does in most captions; with neither, some are
    the bare noun.
    """
    noun = words.choice(list(nouns))
    states = list(states)
    words.shuffle(states)
    if not states and not tails and words.random() < 0.3:
        return noun
    said = color if words.random() < 0.85 else ""
    form = words.random()
    if form < 0.5:
        parts = [*states, said, noun]
    elif form < 0.65:
        parts = [said, *states, noun]
    elif form < 0.85 and states:
        parts = [said, noun + ",", " and ".join(states) if len(states) == 2 else " ".join(states)]
    elif form < 0.93 and said:
        parts = [noun + ",", *states, said]
    else:
        parts = [*states, said, noun, words.choice([w for w in ("texture", "surface", "material") if w not in noun])]
    return " ".join(" ".join([*parts, *tails]).split()[:12]).strip(" ,")
