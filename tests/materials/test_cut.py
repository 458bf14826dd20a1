from __future__ import annotations

import torch

from materials.cut import calm_cut


def test_cut_starts_at_the_calmest_line() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 12, 16, generator=generator)
    x[:, 5] = x[:, 4]  # no step into row 5
    x[..., 9] = x[..., 8]
    assert calm_cut([x], wrap_x=True, wrap_y=True) == (-5, -9)
    assert calm_cut([x], wrap_x=True, wrap_y=False) == (0, -9)
    assert calm_cut([x], wrap_x=False, wrap_y=False) == (0, 0)


def test_the_worst_map_decides() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.rand(1, 8, 8, generator=generator) for _ in range(2))
    x[:, 2], y[:, 6] = x[:, 1], y[:, 5]  # each is calm where the other is not
    rows, _ = calm_cut([x, y], wrap_x=False, wrap_y=True)
    ratios = [(v - v.roll(1, -2)).abs().mean((0, -1)) for v in (x, y)]
    worst = torch.maximum(*(r / r.median() for r in ratios))
    assert -rows == int(worst.argmin())


def test_cut_follows_a_roll() -> None:
    x = torch.rand(1, 10, 14, generator=torch.Generator().manual_seed(2))
    cut = x.roll(calm_cut([x], wrap_x=True, wrap_y=True), (-2, -1))
    again = x.roll((3, 5), (-2, -1))
    assert torch.equal(cut, again.roll(calm_cut([again], wrap_x=True, wrap_y=True), (-2, -1)))
