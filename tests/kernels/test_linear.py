"""Linear attention against the quadratic definition in float64, gradients included; memory linear in N."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import linear_attention
from tests.kernels.reference import Largest, peak_bytes

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Relative to the largest value: sums of up to 700 terms."""
KINDS: dict[str, dict[str, Any]] = {
    "both ways": {},
    "causal": {"causal": True},
    "decay": {"causal": True, "decay": 0.97},
    "decay of each head": {"causal": True, "decay": torch.tensor([0.3, 0.999, 1.0])},
}


def inputs(dtype: torch.dtype, tokens: int, keys: int | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    shapes = ((tokens, 8), (keys or tokens, 8), (keys or tokens, 5))
    return [(torch.rand(2, 3, *s, generator=generator) + 0.1).to(dtype).requires_grad_() for s in shapes]


def quadratic(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, decay: Any = None, normalize: bool) -> Tensor:
    q, k, v = q.double(), k.double(), v.double()
    weights = q @ k.transpose(-1, -2)
    if causal:
        token = torch.arange(q.shape[2])
        steps = token[:, None] - token
        rate = torch.as_tensor(1.0 if decay is None else decay, dtype=torch.float64).expand(q.shape[1])
        weights = weights * (rate[:, None, None] ** steps.clamp(min=0)).masked_fill(steps < 0, 0)
    made = weights @ v
    return made / weights.sum(-1, keepdim=True) if normalize else made


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 320, 700])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", list(KINDS))
def test_equals_the_definition(kind: str, normalize: bool, tokens: int, dtype: torch.dtype) -> None:
    leaves = inputs(dtype, tokens)
    made = linear_attention(*leaves, **KINDS[kind], normalize=normalize)
    right = quadratic(*leaves, **KINDS[kind], normalize=normalize)
    assert made.dtype == dtype
    grad = torch.randn(made.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = torch.autograd.grad(made, leaves, grad)
    theirs = torch.autograd.grad(right, [*leaves], grad.double())
    for mine, other in zip((made, *found), (right, *theirs), strict=True):
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(mine.double(), other.double(), rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("most", [1, 2**14, 2**22])
def test_how_many_blocks_go_together_changes_nothing(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.linear.MOST_PRODUCTS", most)
    for kwargs in KINDS.values():
        leaves = inputs(torch.float64, 9 * 64 + 7)
        made = linear_attention(*leaves, **kwargs)
        torch.testing.assert_close(made, quadratic(*leaves, **kwargs, normalize=True), rtol=0, atol=1e-11)
        grads = torch.autograd.grad(made.sum(), leaves)
        right = torch.autograd.grad(quadratic(*leaves, **kwargs, normalize=True).sum(), leaves)
        for mine, theirs in zip(grads, right, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_second_derivatives() -> None:
    q, k, v = (torch.rand(1, 1, 4, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    for kwargs in ({"causal": False}, {"causal": True, "decay": 0.8}):
        assert torch.autograd.gradcheck(lambda *t, kw=kwargs: linear_attention(*t, **kw), (q, k, v))
        assert torch.autograd.gradgradcheck(lambda *t, kw=kwargs: linear_attention(*t, **kw), (q, k, v))


def test_as_many_keys_as_one_likes() -> None:
    q, k, v = inputs(torch.float32, 50, 130)
    made = linear_attention(q, k, v)
    torch.testing.assert_close(made.double(), quadratic(q, k, v, normalize=True), rtol=0, atol=1e-5)


def test_layouts_and_autocast() -> None:
    q, k, v = (torch.rand(2, 100, 3, 8).transpose(1, 2) for _ in range(3))
    for kwargs in KINDS.values():
        right = quadratic(q, k, v, **kwargs, normalize=True)
        torch.testing.assert_close(linear_attention(q, k, v, **kwargs).double(), right, rtol=0, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(linear_attention(q, k, v, **kwargs).double(), right, rtol=0, atol=1e-5)


def test_long_decay_keeps_its_precision() -> None:
    # float32 sums of 20,000 positive terms, forgetting nothing: the state of blocks before is one float32 sum
    q, k, v = (torch.rand(1, 1, 20_000, 4) for _ in range(3))
    made = linear_attention(q, k, v, causal=True)
    whole = linear_attention(q.double(), k.double(), v.double(), causal=True)
    torch.testing.assert_close(made.double(), whole, rtol=2e-5, atol=0)


def test_rows_without_weight_are_zero() -> None:
    q, k, v = (torch.rand(1, 1, 10, 4) for _ in range(3))
    q[:, :, 3] = 0
    k[:, :, :2] = 0
    for causal in (False, True):
        q.requires_grad_()
        made = linear_attention(q, k, v, causal=causal)
        assert (made[:, :, 3] == 0).all() and made.isfinite().all()
        assert not causal or (made[:, :, :2] == 0).all()
        (grad,) = torch.autograd.grad(made.sum(), q)
        assert grad.isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
def test_memory_is_linear(causal: bool) -> None:
    def used(tokens: int) -> int:
        leaves = [torch.rand(1, 1, tokens, 16, requires_grad=True) for _ in range(3)]
        return peak_bytes(lambda: linear_attention(*leaves, causal=causal).sum().backward())

    few, many = used(8192), used(32768)
    assert many <= 4.2 * few
    assert many <= 16 * 3 * 32768 * 16 * 4  # a few times the inputs
    q = torch.rand(1, 1, 4096, 8)
    with Largest() as largest:
        linear_attention(q, q, q, causal=causal)
    assert largest.elements < 4096**2 / 40


@pytest.mark.parametrize("shape", [(0, 2, 5, 4), (1, 0, 5, 4), (1, 2, 0, 4), (1, 2, 5, 0)])
@pytest.mark.parametrize("causal", [False, True])
def test_empty_tensors(shape: tuple[int, ...], causal: bool) -> None:
    q = torch.rand(shape, requires_grad=True)
    made = linear_attention(q, q, q, causal=causal)
    assert made.shape == shape
    made.sum().backward()


X = torch.zeros(1, 2, 6, 4)


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        (TypeError, {"q": 1}, "q to be a tensor, but got int"),
        (ValueError, {"q": X[0]}, r"\(B, H, N, D\), but got q \(2, 6, 4\)"),
        (ValueError, {"k": X[..., :3]}, r"one head size .* k \(1, 2, 6, 3\)"),
        (ValueError, {"q": X[:, :, :5], "causal": True}, r"as many queries as keys .* q \(1, 2, 5, 4\)"),
        (TypeError, {"v": X.half()}, "v torch.float16"),
        (ValueError, {"v": X.to("meta")}, "one device.* v on meta"),
        (ValueError, {"decay": 0.5}, "only with causal=True"),
        (ValueError, {"decay": 1.5, "causal": True}, r"in \(0, 1\], but got 1.5"),
        (ValueError, {"decay": torch.tensor([0.5, 0.0]), "causal": True}, r"in \(0, 1\], but got \[0.5, 0.0\]"),
        (ValueError, {"decay": float("nan"), "causal": True}, r"in \(0, 1\], but got nan"),
        (ValueError, {"decay": torch.ones(3), "causal": True}, r"of shape \(2,\), one a head, but got \(3,\)"),
        (ValueError, {"decay": torch.ones(2, requires_grad=True), "causal": True}, "without gradient"),
    ],
)
def test_bad_input_is_named(kind: type[Exception], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(kind, match=message):
        arguments: dict[str, Any] = {"q": X, "k": X, "v": X, **kwargs}
        linear_attention(**arguments)
