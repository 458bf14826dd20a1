"""Where to cut a torus open: through calm texels, so that the border shows least where a tile is used as a picture."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def calm_cut(maps: Iterable[Tensor], *, wrap_x: bool, wrap_y: bool) -> tuple[int, int]:
    """(rows, columns) to roll maps (C, H, W) by, so that they begin at the calmest line; 0 where none wraps.

    Every line of a torus may be its border. Calm is the line whose step to its neighbour is smallest in the map where
    it is largest, each step divided by that map's median step: what `textile_metric.seam_ratio` is for one line.
    """
    maps = list(maps)
    return _calmest(maps, -2) if wrap_y else 0, _calmest(maps, -1) if wrap_x else 0


def _calmest(maps: list[Tensor], dim: int) -> int:
    worst: Tensor | None = None
    for x in maps:
        step = (x - x.roll(1, dim)).abs().mean((0, -3 - dim))
        ratio = step / step.median().clamp_min(1e-5)
        worst = ratio if worst is None else torch.maximum(worst, ratio)
    return 0 if worst is None else -int(worst.argmin())
