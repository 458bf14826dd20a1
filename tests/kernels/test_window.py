"""Neighbourhoods on a torus, a cylinder or a plane: against FlexAttention and against a masked reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention as flex

from kernels import attention, explain
from kernels.neighbourhood import Window
from tests.kernels.reference import Largest, call, exact, near

GRIDS: list[Any] = [
    ((9, 11), (2, 3)),
    ((8, 8), (1, 1)),
    ((16, 5), (3, 2)),
    ((7, 30), (0, 4)),
    ((12, 12), (5, 6)),
    ((1, 40), (3, 3)),
]
WRAPS = [None, "none", "x", "y", "xy"]


def inputs(grid: tuple[int, int], dtype: torch.dtype = torch.float32, size: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(grid[0])
    return [torch.randn(2, 2, grid[0] * grid[1], size, generator=generator).to(dtype) for _ in range(3)]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("window", GRIDS)
def test_equals_flex_attention(window: Window, wrap: str | None) -> None:
    (height, width), (radius_y, radius_x) = window

    def seen(_b: torch.Tensor, _h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        dy, dx = (q // width - k // width).abs(), (q % width - k % width).abs()
        if "y" in (wrap or ""):
            dy = torch.minimum(dy, height - dy)
        if "x" in (wrap or ""):
            dx = torch.minimum(dx, width - dx)
        return (dy <= radius_y) & (dx <= radius_x)

    q, k, v = inputs(window[0])
    tokens = height * width
    mask = flex.create_block_mask(seen, None, None, tokens, tokens, device="cpu")
    theirs = flex.flex_attention(q, k, v, block_mask=mask)
    made = attention(q, k, v, window=window, wrap=wrap)
    assert isinstance(theirs, torch.Tensor)
    torch.testing.assert_close(made, theirs, rtol=0, atol=2e-6)  # float32, outputs of order 1
    right = exact(q, k, v, window=window, wrap=wrap)
    torch.testing.assert_close(made.double(), right, rtol=0, atol=2e-6)


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("window", GRIDS)
def test_small_budgets_and_masks_change_nothing(window: Window, wrap: str | None) -> None:
    q, k, v = inputs(window[0], torch.float64)
    tokens = q.shape[2]
    least = call(q, k, v, window=window, wrap=wrap, budget_bytes=0)
    for mask in (None, torch.rand(tokens, tokens) < 0.8, torch.randn(2, 1, 1, tokens)):
        for is_causal in (False,) if mask is not None else (False, True):
            kwargs = {"mask": mask, "is_causal": is_causal, "window": window, "wrap": wrap}
            right = exact(q, k, v, **kwargs)
            torch.testing.assert_close(attention(q, k, v, **kwargs), right, rtol=0, atol=1e-12)
            torch.testing.assert_close(attention(q, k, v, **kwargs, budget_bytes=60_000), right, rtol=0, atol=1e-12)
    assert least.neighbourhood is None or least.neighbourhood.pairs() == int(near(*window, wrap).sum())


def test_a_torus_commutes_with_rolls() -> None:
    q, k, v = inputs((8, 12), torch.float64)

    def rolled(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (8, 12)).roll((3, 5), (2, 3)).flatten(2, 3)

    made = attention(q, k, v, window=((8, 12), (2, 2)), wrap="xy")
    again = attention(rolled(q), rolled(k), rolled(v), window=((8, 12), (2, 2)), wrap="xy")
    torch.testing.assert_close(again, rolled(made), rtol=0, atol=1e-12)


def test_cost_follows_the_window() -> None:
    q = torch.randn(1, 8, 64 * 64, 8)
    small, full = explain(q, q, q, window=((64, 64), (3, 3)), wrap="xy"), explain(q, q, q)
    assert small.path == "window" and small.flops < 8 * 8 * 4 * 8 * 4096 * 49 and small.flops < full.flops / 10
    large = torch.randn(1, 8, 128 * 128, 8)
    grown = explain(large, large, large, window=((128, 128), (3, 3)), wrap="xy")
    assert grown.flops == 4 * small.flops and grown.workspace_bytes == small.workspace_bytes
    with Largest() as largest:
        attention(q, q, q, window=((64, 64), (3, 3)), wrap="xy")
    assert largest.elements < 4096 * 100


def test_a_window_that_reaches_everything_is_none() -> None:
    q = torch.randn(1, 1, 30, 8)
    assert explain(q, q, q, window=((5, 6), (4, 5))).path == "sdpa"
    assert explain(q, q, q, window=((5, 6), (2, 3)), wrap="xy").path == "sdpa"
    assert explain(q, q, q, window=((5, 6), (2, 3)), wrap="x").path == "window"
    torch.testing.assert_close(attention(q, q, q, window=((5, 6), (9, 9))), attention(q, q, q))
