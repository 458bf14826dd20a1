"""Steering a model that knows no torus towards images that tile: `TileGuide`, a hook on the clean latents.

At every step a diffusion model predicts the clean latents that it is heading for. The guide decodes them, moves them
a little way down `textile_metric.TileabilityLoss` and a plain border term, and hands them back; the scheduler goes on
from there, so that the model's next prediction is made in sight of the change (as in Universal Guidance: Bansal et al.
2023). What keeps such gradients from fooling the loss instead of mending the image: they pass through the decoder and
are smoothed, each counts by its direction alone, the loss sees fresh noise every time, the border term doesn't know the
network, and no cell gets further than `reach` from what the model predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from asd.errors import ZelligeError
from asd.seamless import SeamlessAxes, parse_axes
from textile_metric import TileabilityLoss

BOXES = (1, 2, 4, 8)
"""Pixels along a side of the boxes whose means are compared across the border."""
BENT = 2
"""Up to this box size the border may not be a kink either."""
FLOOR = 0.02
"""Of values in [-1, 1]: what is added to the usual step, so that flat maps don't rule."""
NOISE = 3 / 255
"""Deviation of the noise that the loss sees, on values in [0, 1]."""
MOMENTUM = 0.6
SPREAD = (3, 7)
"""Cells over which moves are also spread, so that a correction fades towards the interior."""
FULL = 1.0
"""Loss at which a term pulls with half of its weight; below it with less."""


@dataclass(frozen=True, kw_only=True)
class TileGuide:
    """An `asd.clean.CleanHook` that makes what latents decode to tile along `axes`.

    Attributes:
        decode: latents (1, C, h, w) to maps (1, K, H, W), about [-1, 1], of which the first three are a picture in
            sRGB; differentiable. The border term looks at all K, the loss at the picture.
        axes: "x", "y" or "xy".
        seeds: one for each sample: neither the batch nor the order changes what a sample becomes.
        start: noise level from which on it acts; above, predictions are too vague. At the last step it acts anyway.
        moves, last_moves: at each step, and at the last one, which no prediction follows.
        rate: RMS of the first move of a step, in latents; the last one is 0.3 of it.
        reach: farthest that a cell gets from the prediction, RMS over its channels.
        loss_weight, border_weight: of the two terms; 0 leaves one out.

    Raises:
        ZelligeError: no axis, or one of a weight, a rate and a reach below 0.
    """

    decode: Callable[[Tensor], Tensor]
    axes: SeamlessAxes
    seeds: Sequence[int]
    start: float = 0.9
    moves: int = 2
    last_moves: int = 6
    rate: float = 0.06
    reach: float = 0.35
    loss_weight: float = 1.0
    border_weight: float = 1.0

    def __post_init__(self) -> None:
        if not any(parse_axes(self.axes)):
            raise ZelligeError("Expected axes to guide to be x, y or xy, but got none.")
        for name in ("rate", "reach", "loss_weight", "border_weight"):
            if not getattr(self, name) >= 0:
                raise ZelligeError(f"Expected {name} of at least 0, but got {getattr(self, name):g}.")

    def __call__(self, clean: Tensor, level: float, following: float) -> Tensor:
        if len(clean) != len(self.seeds):
            raise ZelligeError(f"Expected {len(self.seeds)} samples, one for each seed, but got {len(clean)}.")
        if level > self.start and following > 0:
            return clean
        moves = self.last_moves if following == 0 else self.moves
        # the level in the seed: each step has noise of its own
        seeds = [(seed + int(level * 1e6) * 7919) % 2**63 for seed in self.seeds]
        moved = [self._moved(one[None], moves, seed) for one, seed in zip(clean, seeds, strict=True)]
        return torch.cat(moved).to(clean.dtype)

    def _moved(self, clean: Tensor, moves: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        start = clean.detach().float()
        x, pace = start, torch.zeros_like(start)
        for k in range(moves):
            with torch.enable_grad():
                x = x.detach().requires_grad_(True)
                maps = self.decode(x)
                pull = self._pull(maps.detach(), generator)
                (gradient,) = torch.autograd.grad(maps, x, pull.to(maps.dtype))
            # little is left to do where the terms are small
            strength = min(1.0, float(pull.square().mean().sqrt()))
            pace = MOMENTUM * pace + strength * _spread(gradient, self.axes)
            x = x.detach() - self.rate * (1 - 0.7 * k / max(1, moves - 1)) * pace
            change = x - start
            far = change.square().mean(1, keepdim=True).sqrt()
            x = start + change * (self.reach / far.clamp_min(max(self.reach, 1e-12)))
        return x

    def _pull(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """What the maps should be moved against: the terms' directions, each weighed by how much is left of it."""
        total = torch.zeros_like(maps)
        terms = ((self.border_weight, self._border), (self.loss_weight, self._loss))
        for weight, term in terms:
            if weight > 0:
                with torch.enable_grad():
                    seen = maps.float().clone().requires_grad_(True)
                    value = term(seen, generator)
                    (gradient,) = torch.autograd.grad(value, seen)
                left = float(value.detach())
                total += weight * left / (left + FULL) * _unit(gradient)
        return total

    def _border(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        wraps = zip(parse_axes(self.axes), (maps, maps.transpose(2, 3)), strict=True)
        return torch.stack([border_loss(seen, generator) for wrap, seen in wraps if wrap]).sum()

    def _loss(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        picture = (maps[:, :3] * 0.5 + 0.5).clamp(0, 1)
        noise = torch.randn(picture.shape, generator=generator).to(picture.device)
        loss = TileabilityLoss("xy" if self.axes == "none" else self.axes, "sum")
        return loss((picture + NOISE * noise).clamp(0, 1))


def border_loss(maps: Tensor, generator: torch.Generator) -> Tensor:
    """By how much the border of (N, K, H, W) across its width stands out, a scalar; 0 where it doesn't.

    For boxes of several sizes, the mean step from the last column of boxes to the first, and for the small ones the
    mean bend there, are divided by the medians inside; what exceeds 1 counts. The rows of boxes start at a random row.
    """
    found = []
    for k in BOXES:
        if min(maps.shape[2:]) < 4 * k:
            continue
        offset = int(torch.randint(k, (1,), generator=generator))
        boxes = F.avg_pool2d(F.avg_pool2d(maps.roll(offset, 2), (k, 1)), (1, k), 1)
        inside = boxes.detach()
        usual = (inside[..., k:] - inside[..., :-k]).abs().mean(2).median(2).values
        found.append(_excess((boxes[..., 0] - boxes[..., -1]).abs().mean(2), usual))
        if k <= BENT:
            usual = (inside[..., 2 * k :] - 2 * inside[..., k:-k] + inside[..., : -2 * k]).abs().mean(2)
            after = (boxes[..., k] - 2 * boxes[..., 0] + boxes[..., -1]).abs().mean(2)
            before = (boxes[..., 0] - 2 * boxes[..., -1] + boxes[..., -1 - k]).abs().mean(2)
            found.append(_excess((after + before) / 2, usual.median(2).values))
    return torch.stack(found).sum() if found else maps.sum() * 0


def _excess(step: Tensor, usual: Tensor) -> Tensor:
    return (step / (usual + FLOOR) - 1).clamp_min(0).mean()


def _unit(gradient: Tensor) -> Tensor:
    """Of RMS 1: only the direction of a gradient is worth anything here."""
    return gradient / gradient.square().mean().sqrt().clamp_min(1e-12)


def _spread(gradient: Tensor, axes: SeamlessAxes) -> Tensor:
    """The gradient, and what it is when smoothed along the axes, of RMS 1 together."""
    total = _unit(gradient)
    for width in SPREAD:
        for dim, wrap in zip((3, 2), parse_axes(axes), strict=True):
            if wrap:
                total = total + _unit(_smooth(gradient, width, dim))
    return _unit(total)


def _smooth(x: Tensor, width: int, dim: int) -> Tensor:
    sides = (width // 2, width // 2)
    pad, kernel = ((*sides, 0, 0), (1, width)) if dim == 3 else ((0, 0, *sides), (width, 1))
    for _ in range(2):
        x = F.avg_pool2d(F.pad(x, pad), kernel, 1)
    return x
