from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from asd.errors import SizeError
from materials.min_cut import cheapest_paths, closed_path
from materials.tile_photo import LEAST_SIDE, _membrane, tile_photo, tile_score, tiling_axes
from textile_metric.seam import seam_ratio


def clouds(height: int, width: int, seed: int = 0, reach: int = 8) -> Tensor:
    """A torus of blurred noise with fine grain, (3, height, width) in [0, 1]."""
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    wide = sum(noise.roll((i, j), (1, 2)) for i in range(reach) for j in range(reach)) / reach**2
    return (0.5 + (wide - 0.5) * 3 + (noise - 0.5) * 0.02).clamp(0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_paths_are_the_cheapest_of_all(seed: int) -> None:
    cost = torch.rand(1, 5, 4, generator=torch.Generator().manual_seed(seed))
    path, total = cheapest_paths(cost)
    every = [p for p in itertools.product(range(4), repeat=5) if all(abs(a - b) <= 1 for a, b in itertools.pairwise(p))]
    sums = {p: float(sum(cost[0, row, column] for row, column in enumerate(p))) for p in every}
    best = min(sums, key=lambda p: sums[p])
    assert tuple(path[0].tolist()) == best
    assert float(total[0]) == pytest.approx(sums[best], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_closed_paths_meet_themselves(seed: int) -> None:
    cost = torch.rand(60, 20, generator=torch.Generator().manual_seed(seed))
    path = closed_path(cost)
    assert int((path - path.roll(1)).abs().max()) <= 1


@pytest.mark.parametrize("wrap", [True, False])
def test_the_membrane_solves_its_equation(wrap: bool) -> None:
    force = torch.randn(3, 20, 15, generator=torch.Generator().manual_seed(0))
    u = _membrane(force, wrap=wrap).double()
    across = torch.nn.functional.pad(u, (1, 1))
    up, down = u.roll(1, 1), u.roll(-1, 1)
    if not wrap:
        up[:, 0], down[:, -1] = u[:, 0], u[:, -1]
    found = across[..., 2:] + across[..., :-2] + up + down - 4 * u
    torch.testing.assert_close(found, force.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("axes", ["x", "y", "xy"])
def test_crops_tile_afterwards_and_most_pixels_stay(axes: str) -> None:
    crop = clouds(200, 240)[:, 7:157, 11:191].contiguous()
    before, tiled = seam_ratio(crop)[0], tile_photo(crop, axes)  # pyright: ignore[reportArgumentType]
    height, width = tiled.image.shape[1:]
    assert height <= 150 and width <= 180
    for k, axis in enumerate("xy"):
        ratio = seam_ratio(tiled.image)[0][k]
        assert (ratio < before[k] / 2) if axis in axes else (ratio > before[k] / 2)
        assert (tiled.image.shape[2 - k] == crop.shape[2 - k]) == (axis not in axes)
    assert before.min() > 2
    assert tiled.untouched >= 0.5
    kept = ~tiled.touched
    assert torch.equal(tiled.image[:, kept], crop[:, :height, :width][:, kept])
    assert float(tiled.image.min()) >= 0 and float(tiled.image.max()) <= 1


def test_the_cut_shows_no_step() -> None:
    crop = clouds(200, 240)[:, 7:157, 11:191].contiguous()
    # one side brighter than the other, as a photo in slanting light
    crop = (crop * torch.linspace(0.8, 1.1, 180)).clamp(0, 1)
    tiled = tile_photo(crop, "x")
    assert tiled.cut_x is not None and tiled.cut_y is None
    steps = (tiled.image - tiled.image.roll(1, 2)).abs().mean(0)
    assert float(steps.gather(1, tiled.cut_x[:, None]).mean()) < 1.2 * float(steps.mean())


@pytest.mark.parametrize(("height", "period"), [(120, 25), (200, 53), (700, 97)])
def test_a_period_of_the_pattern_is_found_at_every_size(height: int, period: int) -> None:
    width = 8 * period
    stripes = (torch.arange(width) % period < period // 5).float().expand(3, height, width) * 0.8 + 0.1
    crop = (stripes + 0.02 * clouds(height, width)).clamp(0, 1)[:, :, : width - period // 3].contiguous()
    assert tile_photo(crop, "x").image.shape[2] % period == 0


def test_an_axis_that_tiles_stays_as_it_is() -> None:
    tube = clouds(128, 240)[:, :, 11:191].contiguous()
    tiled = tile_photo(tube, "xy", tiles="y")
    assert tiled.image.shape[1] == 128
    # closed around the other axis: no step there either
    assert seam_ratio(tiled.image)[0].max() < 1.2


def test_tiles_are_recognised() -> None:
    torus = clouds(128, 160)
    assert tiling_axes(torus) == "xy"
    assert tiling_axes(torus[:, :100]) == "x"
    assert tiling_axes(torus[:, :, :110]) == "y"
    assert tiling_axes(torus[:, :100, :110]) == "none"
    assert tiling_axes(torch.full((3, 1, 1), 0.5)) == "xy"
    assert tile_score(torus, "none") == 1


def test_too_small_a_photo_is_refused() -> None:
    small = clouds(LEAST_SIDE - 1, 64)
    with pytest.raises(SizeError, match=r"at least 32 pixels along an axis that is to tile, but got 64x31"):
        tile_photo(small, "y")
    assert tile_photo(small, "x").image.shape[1] == LEAST_SIDE - 1
    assert torch.equal(tile_photo(small, "none").image, small)
