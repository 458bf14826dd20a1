"""Tile plans: who answers for which cell, how often, and from where."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from asd.errors import SizeError
from asd.seamless import SeamlessAxes, SeamlessError
from asd.tiles import Border, Layout, Method, TileError, TilePlan

METHODS: tuple[Method, ...] = get_args(Method)
AXES: tuple[SeamlessAxes, ...] = ("none", "x", "y", "xy")
STEPS = 40


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plan(size: tuple[int, int], tile: int = 64, method: Method = "fstd", seamless: SeamlessAxes = "none") -> TilePlan:
    return TilePlan(size, tile, method, seamless, generator=seeded())


def weights(layout: Layout) -> Tensor:
    """(H, W): the sum of all tiles' weights, and their number where disjoint."""
    made = torch.zeros(layout.size)
    for row, column in layout.tiles():
        inside = (slice(row.start, row.stop), slice(column.start, column.stop))
        made[row.cells[inside[0], None], column.cells[None, inside[1]]] += (
            row.weight[inside[0], None] * column.weight[None, inside[1]]
        )
    return made


@pytest.mark.parametrize("seamless", AXES)
@pytest.mark.parametrize("method", [m for m in METHODS if m != "published"])
@pytest.mark.parametrize("size", [(128, 192), (100, 65), (64, 64), (40, 130), (63, 7)])
def test_weights_add_up_to_one_everywhere_at_every_step(
    size: tuple[int, int], method: Method, seamless: SeamlessAxes
) -> None:
    made = plan(size, method=method, seamless=seamless)
    for step in range(STEPS):
        layout = made.layout(step)
        torch.testing.assert_close(weights(layout), torch.ones(size), rtol=0, atol=1e-6)
        assert layout.stale_share == 0
        for strip in (*layout.rows, *layout.columns):
            assert 0 <= strip.start < strip.stop <= len(strip.cells) <= 64
            assert len(strip.cells) == len(strip.weight)


@pytest.mark.parametrize("border", get_args(Border))
@pytest.mark.parametrize("seamless", AXES)
def test_fstd_tiles_are_disjoint_and_of_one_size(seamless: SeamlessAxes, border: Border) -> None:
    size = (100, 130)
    made = TilePlan(size, 32, "fstd", seamless, generator=seeded(), border=border)
    for step in range(STEPS):
        layout = made.layout(step)
        count = torch.zeros(size, dtype=torch.int64)
        for row, column in layout.tiles():
            assert len(row.cells) == len(column.cells) == 32
            assert (row.weight[row.start : row.stop] == 1).all() and row.weight.sum() == row.stop - row.start
            count[row.cells[row.start : row.stop, None], column.cells[None, column.start : column.stop]] += 1
        assert (count == 1).all()


def test_clamped_tiles_see_the_canvas_and_reflected_ones_its_mirror() -> None:
    clamped = TilePlan((100, 100), 32, generator=seeded())
    mirrored = TilePlan((100, 100), 32, generator=seeded(), border="reflect")
    for step in range(STEPS):
        for one, other in zip(clamped.layout(step).rows, mirrored.layout(step).rows, strict=True):
            assert torch.equal(one.cells, torch.arange(32) + one.cells[0])
            assert (other.cells.diff().abs() == 1).all() or other.cells.diff().abs().sort().values[0] == 1
            # they answer for the same cells
            assert torch.equal(one.cells[one.start : one.stop], other.cells[other.start : other.stop])
    row = mirrored.layout(1).rows[0]
    border = int((row.cells == 0).nonzero()[0])
    assert border > 0 and row.cells[border - 1] == row.cells[border + 1] == 1


@pytest.mark.parametrize("seamless", AXES)
def test_wrapping_tiles_lie_across_the_border(seamless: SeamlessAxes) -> None:
    made = plan((128, 128), 32, seamless=seamless)
    across = {"y": 0, "x": 0}
    for step in range(STEPS):
        layout = made.layout(step)
        for axis, strips in (("y", layout.rows), ("x", layout.columns)):
            steps = torch.cat([strip.cells.diff() for strip in strips])
            assert set(steps.unique().tolist()) <= {1, -127}
            across[axis] += int((steps == -127).sum())
    assert {axis: count > STEPS // 2 for axis, count in across.items()} == {a: a in seamless for a in "xy"}


@pytest.mark.parametrize("seamless", ["none", "xy"])
def test_borders_visit_the_whole_period_evenly(seamless: SeamlessAxes) -> None:
    # in any 64 steps in a row, each eighth of the period about eight times, for both axes; at random it would be ±8
    made = plan((256, 256), 64, seamless=seamless)
    for first in (0, 7, 100):
        for axis in ("rows", "columns"):
            strips = [getattr(made.layout(first + step), axis)[1] for step in range(64)]
            phases = torch.tensor([int(strip.cells[strip.start]) % 64 for strip in strips])
            counts = torch.histc(phases.double(), 8, 0, 64)
            assert counts.min() >= 6 and counts.max() <= 10
            assert len(phases.unique()) > 40
    # and the two axes are not the same walk
    pairs = {
        tuple(int(s.cells[s.start]) // 16 for s in (lo.rows[1], lo.columns[1])) for lo in map(made.layout, range(64))
    }
    assert len(pairs) >= 14


def test_steps_depend_on_the_seed_and_on_nothing_else() -> None:
    def origins(made: TilePlan, steps: range) -> list[tuple[int, int]]:
        return [(int(lo.rows[0].cells[0]), int(lo.columns[0].cells[0])) for lo in map(made.layout, steps)]

    first, again, other = (TilePlan((96, 96), 32, seamless="xy", generator=seeded(s)) for s in (1, 1, 2))
    walk = origins(first, range(20))
    assert origins(again, range(20)) == walk != origins(other, range(20))
    assert origins(again, range(10, 20)) == walk[10:]
    generator = seeded(3)
    TilePlan((96, 96), 32, generator=generator)
    reference = seeded(3)
    torch.rand(2, generator=reference, dtype=torch.float64)
    assert torch.equal(generator.get_state(), reference.get_state())


def test_calls_at_4096_pixels() -> None:
    """The bars of the comparison: against the rivals' own grids, which do not wrap, and against theirs that do."""
    size = (512, 512)
    calls = {
        (method, seamless): max(plan(size, 64, method, seamless).layout(step).calls for step in range(STEPS))
        for method in METHODS
        for seamless in ("none", "xy")
        if (method, seamless) != ("published", "xy")
    }
    assert calls["overlap50", "none"] == 225 and calls["multidiffusion", "none"] == 57**2
    assert calls["fstd", "xy"] == calls["none", "none"] == calls["published", "none"] == 64
    assert calls["fstd", "none"] == 81
    assert calls["overlap50", "none"] / calls["fstd", "xy"] >= 3.5
    assert calls["multidiffusion", "none"] / calls["fstd", "xy"] >= 50
    assert calls["overlap50", "none"] / calls["fstd", "none"] >= 2.7
    assert calls["multidiffusion", "none"] / calls["fstd", "none"] >= 40
    assert calls["overlap50", "xy"] == 256 and calls["multidiffusion", "xy"] == 64**2


@pytest.mark.parametrize(("pixels", "published", "overlap32", "multi"), [(1024, 4, 9, 81), (2048, 16, 49, 625)])
def test_baselines_make_the_calls_they_are_known_for(pixels: int, published: int, overlap32: int, multi: int) -> None:
    size = (pixels // 8, pixels // 8)
    assert plan(size, 64, "published").layout(1).calls == published
    assert plan(size, 64, "overlap50").layout(0).calls == overlap32
    assert plan(size, 64, "multidiffusion").layout(0).calls == multi


def test_published_rule_has_the_faults_of_the_published_code() -> None:
    made = plan((128, 128), 64, "published")
    shares = []
    for step in range(400):
        layout = made.layout(step)
        y, x = (int(strips[0].cells[0]) for strips in (layout.rows, layout.columns))
        assert 0 <= y < 32 and 0 <= x < 32
        assert (y, x) == (0, 0) or step % 4
        # a strip at the top and one at the left, never at the bottom or right
        expected = torch.zeros(128, 128, dtype=torch.bool)
        expected[y:, x:] = True
        assert torch.equal(layout.covered(), expected)
        assert layout.stale_share == pytest.approx(1 - (1 - y / 128) * (1 - x / 128), abs=1e-6)
        shares.append(layout.stale_share)
        torch.testing.assert_close(weights(layout)[expected], torch.ones(int(expected.sum())), rtol=0, atol=1e-6)
    assert 0.13 < sum(shares) / len(shares) < 0.20 and max(shares) > 0.35


def test_gaussian_is_that_of_mixture_of_diffusers() -> None:
    # two tiles that share a half: weights at a cell are in the ratio of the two Gaussians there
    layout = plan((96, 64), 64, "overlap50").layout(0)
    first, second = layout.rows
    cell = 40
    densities = [torch.tensor((place - 31.5) / 64).square().mul(-50).exp() for place in (cell, cell - 32)]
    assert first.weight[cell] / second.weight[cell - 32] == pytest.approx(float(densities[0] / densities[1]), rel=1e-5)


def test_canvas_within_one_tile_is_one_tile() -> None:
    for method in METHODS:
        layout = plan((40, 64), 64, method).layout(3)
        assert layout.calls == 1
        assert torch.equal(layout.rows[0].cells, torch.arange(40)) and (layout.rows[0].weight == 1).all()
    # on a torus the one tile is cut elsewhere at each step
    made = plan((40, 64), 64, seamless="xy")
    assert len({int(made.layout(step).columns[0].cells[0]) for step in range(STEPS)}) > 20


def test_network_is_seamless_where_a_tile_is_the_torus() -> None:
    for seamless in AXES:
        assert plan((64, 64), 64, seamless=seamless).tile_seamless == seamless
        assert plan((65, 65), 64, seamless=seamless).tile_seamless == "none"
    assert plan((128, 40), 64, seamless="xy").tile_seamless == "x"
    assert plan((40, 128), 64, seamless="xy").tile_seamless == "y"
    assert plan((40, 128), 64, seamless="x").tile_seamless == "none"


def test_plans_that_cannot_be_are_errors() -> None:
    build: Any = TilePlan
    cases: list[tuple[type[ValueError], str, tuple[Any, ...]]] = [
        (SizeError, "at least 1 cell", ((0, 4), 8)),
        (SizeError, "at least 1 cell", ((4, 4), 0)),
        (TileError, "one of fstd, none", ((4, 4), 4, "best")),
        (SeamlessError, "one of none, x, y, xy", ((4, 4), 4, "fstd", "z")),
        (SeamlessError, "published rule", ((4, 4), 4, "published", "x")),
    ]
    for kind, message, arguments in cases:
        with pytest.raises(kind, match=message):
            build(*arguments)
    with pytest.raises(TileError, match="one of clamp, reflect"):
        build((4, 4), 4, border="zero")
