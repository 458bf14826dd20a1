"""Gradients of every path against float64 autograd through the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import attention
from kernels.paths import paths
from tests.kernels.reference import call, exact

PATHS = {path.name: path for path in paths()}
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 8e-3, torch.bfloat16: 6e-2}
"""Absolute, for gradients of order 1: a few roundings."""
WINDOW = {"window": ((9, 11), (2, 3)), "wrap": "x"}


def leaves(dtype: torch.dtype, tokens: tuple[int, int] = (99, 99), sizes: tuple[int, int] = (8, 8)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((tokens[0], sizes[0]), (tokens[1], sizes[0]), (tokens[1], sizes[1]))
    return [torch.randn(2, 3, *s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def compare(inputs: list[Tensor], made: Tensor, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    """Gradients of `inputs` (q, k, v and, if learned, the mask) for a random gradient of the output."""
    grad = torch.randn(made.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = torch.autograd.grad(made, inputs, grad)
    twins = [t.detach().double().requires_grad_() for t in inputs]
    right = exact(*twins[:3], **(kwargs | ({"mask": twins[3]} if len(twins) > 3 else {})))
    torch.testing.assert_close(made.double(), right, rtol=0, atol=TOLERANCE[dtype])
    for mine, theirs, leaf in zip(found, torch.autograd.grad(right, twins, grad.double()), inputs, strict=True):
        assert mine.dtype == leaf.dtype and mine.shape == leaf.shape
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("kind", ["plain", "causal", "bool mask", "scale"])
@pytest.mark.parametrize("path", ["sdpa", "tiled"])
def test_gradients(path: str, kind: str, dtype: torch.dtype) -> None:
    inputs = leaves(dtype)
    kwargs: dict[str, Any] = {
        "plain": {},
        "causal": {"is_causal": True},
        "bool mask": {"mask": torch.rand(2, 1, 99, 99, generator=torch.Generator().manual_seed(2)) < 0.6},
        "scale": {"scale": -0.2},
    }[kind]
    for budget in (None, 120_000) if path == "tiled" else (None,):
        compare(inputs, PATHS[path].run(call(*inputs, **kwargs, budget_bytes=budget)), kwargs, dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("budget", [None, 90_000])
def test_gradients_over_a_window(dtype: torch.dtype, is_causal: bool, budget: int | None) -> None:
    inputs = leaves(dtype, sizes=(8, 5))
    kwargs = {**WINDOW, "is_causal": is_causal}
    compare(inputs, attention(*inputs, **kwargs, budget_bytes=budget), kwargs, dtype)


@pytest.mark.parametrize("tokens", [(40, 99), (99, 40), (1, 50), (50, 1)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_gradients_of_other_shapes(tokens: tuple[int, int], is_causal: bool) -> None:
    for dtype in (torch.float32, torch.float16):
        inputs = leaves(dtype, tokens, (8, 12))
        kwargs = {"is_causal": is_causal}
        compare(inputs, attention(*inputs, **kwargs, budget_bytes=80_000), kwargs, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3, 99, 99), (3, 1, 99), (1, 1, 1, 99), (2, 1, 99, 1), (99,), (1, 1, 1, 1)])
@pytest.mark.parametrize("windowed", [False, True])
def test_gradient_of_a_mask(dtype: torch.dtype, shape: tuple[int, ...], windowed: bool) -> None:
    mask = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype).requires_grad_()
    inputs = [*leaves(dtype), mask]
    kwargs = WINDOW if windowed else {}
    compare(inputs, attention(*inputs[:3], mask=mask, **kwargs, budget_bytes=400_000), kwargs, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("wanted", ["q", "k", "v", "qv", "mask"])
def test_only_the_gradients_asked_for(dtype: torch.dtype, wanted: str) -> None:
    inputs = leaves(dtype)
    mask = torch.randn(99, 99).to(dtype).requires_grad_(wanted == "mask")
    chosen = [mask] if wanted == "mask" else [inputs["qkv".index(name)] for name in wanted]
    for t in inputs:
        t.requires_grad_(any(t is c for c in chosen))
    attention(*inputs, mask=mask, budget_bytes=150_000).sum().backward()
    for t in (*inputs, mask):
        assert (t.grad is not None) == any(t is c for c in chosen)


def test_gradcheck() -> None:
    q, k, v = (torch.randn(1, 2, 6, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.randn(2, 6, 6, dtype=torch.float64, requires_grad=True)
    for kwargs in ({"is_causal": False}, {"window": ((2, 3), (0, 1)), "wrap": "xy"}):
        assert torch.autograd.gradcheck(
            lambda *t, kwargs=kwargs: PATHS["tiled"].run(call(*t[:3], mask=t[3], **kwargs)), (q, k, v, mask)
        )


def test_a_second_derivative_is_an_error() -> None:
    q, k, v = (torch.randn(1, 1, 6, 4, requires_grad=True) for _ in range(3))
    (grad,) = torch.autograd.grad(PATHS["tiled"].run(call(q, k, v)).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_no_gradient_where_none_is_asked_for() -> None:
    q = torch.randn(1, 1, 6, 4, requires_grad=True)
    with torch.no_grad():
        assert not attention(q, q, q[..., :2]).requires_grad
    assert attention(q, q, q[..., :2]).requires_grad
