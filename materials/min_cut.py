"""The cheapest line through an overlap of two pictures, open or closed around a torus, by dynamic programming."""

from __future__ import annotations

import torch
from torch import Tensor

_FAR = 1e9


def cheapest_paths(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Paths from the first to the last row that move by at most one column a row (Efros & Freeman 2001, section 2.1).

    Args:
        cost: (K, H, W), K overlaps at once, above 0; infinite where a path must not go.

    Returns:
        (K, H) int64 columns and (K,) the sums of the costs along them.
    """
    count, rows, _ = cost.shape
    best = cost.clone()
    for row in range(1, rows):
        best[:, row] += _nearest_best(best[:, row - 1])
    path = cost.new_zeros((count, rows), dtype=torch.int64)
    total, path[:, -1] = best[:, -1].min(1)
    for row in range(rows - 2, -1, -1):
        allowed = (torch.arange(cost.shape[2], device=cost.device) - path[:, row + 1, None]).abs() <= 1
        path[:, row] = torch.where(allowed, best[:, row], torch.inf).argmin(1)
    return path, total


def closed_path(cost: Tensor) -> Tensor:
    """(H,) columns of a cheap path of `cost` (H, W) whose last row is beside its first: a loop around the torus.

    It starts where the cheapest path through three turns passes the beginning of the second; Kwatra et al. (2003) show
    that such a line is all that a seam needs.
    """
    rows = cost.shape[0]
    through = cheapest_paths(cost.repeat(3, 1)[None])[0][0]
    start = int(through[rows])
    bound = cost.clone()
    place = torch.arange(cost.shape[1], device=cost.device)
    bound[0, place != start] = _FAR
    bound[-1, (place - start).abs() > 1] = _FAR
    return cheapest_paths(bound[None])[0][0]


def _nearest_best(row: Tensor) -> Tensor:
    """(K, W): the least of each column and its neighbours."""
    left = torch.cat([row[:, :1], row[:, :-1]], 1)
    right = torch.cat([row[:, 1:], row[:, -1:]], 1)
    return torch.minimum(row, torch.minimum(left, right))
