"""Budgets hold, and no tensor grows with the square of the number of tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kernels import attention, explain
from kernels.paths import paths
from tests.kernels.reference import Largest, call, peak_bytes

TOKENS = 1600


def inputs(dtype: torch.dtype, grad: bool, heads: int = 2, tokens: int = TOKENS) -> list[torch.Tensor]:
    return [torch.randn(1, heads, tokens, 16).to(dtype).requires_grad_(grad) for _ in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", ["plain", "causal", "mask", "bool mask", "key mask", "window"])
@pytest.mark.parametrize("budget", [None, 150_000])
def test_workspace_is_what_explain_says_and_within_the_budget(
    dtype: torch.dtype, kind: str, budget: int | None
) -> None:
    q, k, v = inputs(dtype, grad=False, tokens=400)
    kwargs: dict[str, Any] = {
        "plain": {},
        "causal": {"is_causal": True},
        "mask": {"mask": torch.randn(400, 400)},
        "bool mask": {"mask": torch.rand(400, 400) < 0.5},
        "key mask": {"mask": torch.rand(400) < 0.5},
        "window": {"window": ((20, 20), (2, 3)), "wrap": "x"},
    }[kind]
    said = explain(q, k, v, **kwargs, budget_bytes=budget).workspace_bytes
    assert budget is None or said <= budget
    used = peak_bytes(lambda: attention(q, k, v, **kwargs, budget_bytes=budget))
    assert used - q.numel() * q.itemsize <= said


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["plain", "causal", "learned mask", "window"])
@pytest.mark.parametrize("budget", [None, 300_000])
def test_workspace_with_gradients(dtype: torch.dtype, kind: str, budget: int | None) -> None:
    q, k, v = inputs(dtype, grad=True, tokens=400)
    learned = torch.zeros(1, 400, dtype=dtype, requires_grad=True)
    kwargs: dict[str, Any] = {
        "plain": {},
        "causal": {"is_causal": True},
        "learned mask": {"mask": learned},
        "window": {"window": ((20, 20), (2, 3)), "wrap": "x"},
    }[kind]
    said = explain(q, k, v, **kwargs, budget_bytes=budget).workspace_bytes
    grad = torch.randn(q.shape).to(dtype)
    wanted = [q, k, v, *([learned] if kind == "learned mask" else [])]
    used = peak_bytes(lambda: torch.autograd.grad(attention(q, k, v, **kwargs, budget_bytes=budget), wanted, grad))
    outputs = (4 * q.numel() + 400) * q.itemsize  # the output and the gradients
    assert used - outputs <= said


@pytest.mark.parametrize("path", [path.name for path in paths() if path.name in ("window", "sdpa", "tiled")])
@pytest.mark.parametrize("grad", [False, True])
def test_no_tensor_holds_all_scores(path: str, grad: bool) -> None:
    q, k, v = inputs(torch.float32, grad, heads=1)
    window = ((40, 40), (2, 2)) if path == "window" else None
    asked = call(q, k, v, window=window, budget_bytes=1_500_000)
    found = next(p for p in paths() if p.name == path)
    with Largest() as largest:
        made = found.run(asked)
        if grad:
            made.sum().backward()
    assert largest.elements < TOKENS**2 / 8


def test_none_budget_does_not_follow_the_square_either() -> None:
    few, many = (inputs(torch.float32, grad=False, heads=1, tokens=n)[0] for n in (4_000, 64_000))
    for is_causal in (False, True):
        small, large = (explain(q, q, q[..., :8], is_causal=is_causal) for q in (few, many))
        assert small.path == large.path == "tiled" and large.workspace_bytes <= small.workspace_bytes
        small, large = (explain(q, q, q, is_causal=is_causal) for q in (few, many))
        assert small.path == large.path == "sdpa" and large.workspace_bytes <= 16 * small.workspace_bytes


def test_smallest_budget_is_named_and_works() -> None:
    q, k, v = inputs(torch.float16, grad=False, tokens=300)
    with pytest.raises(ValueError, match=r"tiled: its smallest tile, \d+ queries by \d+ keys of one head") as e:
        attention(q, k, v, budget_bytes=1)
    least = int(str(e.value).split("needs ")[-1].split()[0])
    assert attention(q, k, v, budget_bytes=least).shape == q.shape
    with pytest.raises(ValueError, match=f"but got {least - 1} "):
        attention(q, k, v, budget_bytes=least - 1)
