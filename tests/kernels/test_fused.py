"""The GPU kernels as paths: refused with a reason where they can't run, right where they do."""

from __future__ import annotations

import pytest
import torch

from kernels import attention, explain, linear_attention
from tests.kernels.reference import exact

OURS = ("hopper", "triton", "turing")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def test_each_says_why_it_does_not_run_on_a_cpu() -> None:
    q = torch.randn(1, 1, 64, 512).half()
    refused = dict(explain(q, q, q).refused)
    assert {name: refused[name] for name in OURS} == dict.fromkeys(OURS, "it runs on NVIDIA GPUs")


@cuda
@pytest.mark.parametrize(("tokens", "causal"), [(4096, False), (4097, False), (4096, True)])
def test_heads_of_512_take_our_kernel_and_are_right(tokens: int, causal: bool) -> None:
    q, k, v = torch.randn(3, 1, 1, tokens, 512, device="cuda", dtype=torch.float16)
    assert explain(q, k, v, is_causal=causal).path in OURS
    made = attention(q, k, v, is_causal=causal)
    right = exact(q.cpu(), k.cpu(), v.cpu(), is_causal=causal)
    assert float((made.cpu().double() - right).norm() / right.norm()) < 2e-3


@cuda
@pytest.mark.parametrize("change", ["gradient", "float32", "budget", "small"])
def test_what_ours_were_not_measured_for_goes_elsewhere(change: str) -> None:
    tokens = 512 if change == "small" else 4096
    q = torch.randn(1, 1, tokens, 512, device="cuda", dtype=torch.float32 if change == "float32" else torch.float16)
    q.requires_grad_(change == "gradient")
    assert explain(q, q, q, budget_bytes=300_000 if change == "budget" else None).path not in OURS[:2]


@cuda
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_linear_attention_is_the_same_sum_on_both_devices(causal: bool, normalize: bool) -> None:
    q, k, v = torch.rand(3, 1, 2, 700, 64)
    kwargs = {"causal": causal, "decay": 0.99 if causal else None, "normalize": normalize}
    here = linear_attention(q, k, v, **kwargs)  # pyright: ignore[reportArgumentType] - a dict of mixed values
    there = linear_attention(*(t.cuda().bfloat16() for t in (q, k, v)), **kwargs)  # pyright: ignore[reportArgumentType] - as above
    assert float((there.cpu().float() - here).norm() / here.norm()) < 1e-2


def odd(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values, laid out so that rows aren't runs of memory that start at multiples of 16 bytes."""
    if layout == "columns":
        return tensor.mT.contiguous().mT
    if layout == "every other":
        return tensor.repeat_interleave(2, -1)[..., ::2]
    around = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    return around[1:].view(tensor.shape).copy_(tensor)


@cuda
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("layout", ["columns", "every other", "two bytes on"])
def test_odd_layouts_change_nothing(layout: str, which: int) -> None:
    from kernels.gpu import split_d, turing

    q, k, v = torch.randn(3, 2, 3, 185, 40, device="cuda", dtype=torch.float16)
    given = [odd(t, layout) if i == which else t for i, t in enumerate((q, k, v))]
    kernels = [split_d.forward, *([turing.forward] if turing.usable(0, 40) else [])]
    for forward in kernels:
        assert torch.equal(forward(given[0], given[1], given[2], scale=0.1)[0], forward(q, k, v, scale=0.1)[0])
    a, b = torch.rand(2, 2, 3, 185, 128, device="cuda", dtype=torch.float16)
    c = torch.rand(2, 3, 185, 16, device="cuda", dtype=torch.float16)
    right = linear_attention(a, b, c, causal=True)
    a, b, c = (odd(t, layout) if i == which else t for i, t in enumerate((a, b, c)))
    assert torch.equal(linear_attention(a, b, c, causal=True), right)


@cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_that_see_no_key_are_zero(dtype: torch.dtype) -> None:
    q = torch.randn(2, 2, 148, 80, device="cuda", dtype=dtype)
    k, v = torch.randn(2, 2, 2, 77, 80, device="cuda", dtype=dtype)
    seen = torch.rand(2, 1, 148, 77, device="cuda") < 0.5
    seen[0, 0, 5] = False
    for mask in (seen, torch.zeros(seen.shape, device="cuda", dtype=dtype).masked_fill(~seen, -torch.inf)):
        made = attention(q, k, v, mask=mask)
        assert not made[0, :, 5].any()
        assert made.isfinite().all()
