"""A call that looks like an earlier one goes the same way, and one that looks different is decided anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import attention, decisions, explain
from kernels.decisions import look
from tests.kernels.reference import exact
from tests.kernels.test_attention import random_call


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decisions are kept on GPUs alone; here they are kept on the CPU."""
    monkeypatch.setattr("kernels.decisions.DEVICES", {"cpu"})
    decisions.forget()
    yield
    decisions.forget()


def test_the_second_call_is_the_first() -> None:
    kept = 0
    for seed in range(60):
        q, k, v, kwargs = random_call(seed)
        first = attention(q, k, v, **kwargs)
        kept += len(decisions._kept)
        second = attention(q, k, v, **kwargs)
        assert torch.equal(first, second)
        decisions.forget()
    assert kept >= 15  # the others have a mask


def test_kept_decisions_take_other_values() -> None:
    for _ in range(3):
        q, k, v = torch.randn(3, 1, 2, 37, 24)
        assert float((attention(q, k, v, scale=0.3).double() - exact(q, k, v, scale=0.3)).abs().max()) < 5e-6
    assert len(decisions._kept) == 1


CHANGES: dict[str, Callable[[Tensor], tuple[Tensor, dict[str, Any]]]] = {
    "shape": lambda q: (q[:, :, :30], {}),
    "order": lambda q: (q.transpose(2, 3).contiguous().transpose(2, 3), {}),
    "dtype": lambda q: (q.double(), {}),
    "address": lambda q: (torch.zeros(q.numel() + 1)[1:].view(q.shape), {}),
    "gradient": lambda q: (q.clone().requires_grad_(), {}),
    "causal": lambda q: (q, {"is_causal": True}),
    "scale": lambda q: (q, {"scale": -0.5}),
    "budget": lambda q: (q, {"budget_bytes": 60_000}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_looks_different_is_decided_anew(change: str) -> None:
    q = torch.randn(1, 2, 40, 16, generator=torch.Generator().manual_seed(0))
    attention(q, q, q)
    other, kwargs = CHANGES[change](q)
    made = attention(other, other, other, **kwargs)
    assert len(decisions._kept) == 2
    path = list(decisions._kept.values())[1][0]
    assert path.name == explain(other, other, other, **kwargs).path
    plain, kwargs = other.detach(), {k: v for k, v in kwargs.items() if k != "budget_bytes"}
    right = exact(plain, plain, plain, **kwargs)
    # scores of 30 and more, whose rounding in float32 the exponential hands on
    assert float((made.detach().double() - right).abs().max()) < 5e-6


def test_a_switched_off_kernel_is_noticed() -> None:
    q = torch.randn(1, 2, 40, 16)
    attention(q, q, q)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        attention(q, q, q)
        assert explain(q, q, q).path == "tiled"
    assert [path.name for path, _ in decisions._kept.values()] == ["sdpa", "tiled"]


def test_what_is_not_plain_is_never_kept() -> None:
    q = torch.randn(1, 2, 40, 16)
    assert look(q, q, q, False, None, None) is not None
    assert look(q.to_sparse(), q, q, False, None, None) is None
    assert look(q, q, q, 1, None, None) is None  # pyright: ignore[reportArgumentType] - what a caller may get wrong
    assert look(q, q, q, False, True, None) is None
    assert look(q, q, q, False, None, 2.0) is None  # pyright: ignore[reportArgumentType] - as above
    with torch.autocast("cpu", torch.bfloat16):
        assert look(q, q, q, False, None, None) is None
    with pytest.raises(ValueError, match="finite"):
        attention(q, q, q, scale=float("inf"))
    assert not decisions._kept


def test_it_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.decisions.MOST", 4)
    for tokens in range(1, 11):
        q = torch.randn(1, 1, tokens, 8)
        attention(q, q, q)
    assert 0 < len(decisions._kept) <= 4
