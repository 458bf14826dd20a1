"""What the Triton entry points refuse, and with which words; none of it needs a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton has wheels for Linux alone")

from kernels.gpu import linear, split_d  # after the skip
from kernels.gpu.config import Config


def tensor(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


GOOD = tensor(1, 2, 8, 64)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: split_d.forward(GOOD[0], GOOD, GOOD, scale=1.0), ValueError, r"Expected q of shape \(B, H, N, D\)"),
        (lambda: split_d.forward(GOOD, GOOD, tensor(1, 2, 9, 64), scale=1.0), ValueError, r"but got .*\(1, 2, 9, 64\)"),
        (lambda: split_d.forward(*3 * [tensor(1, 2, 8, 72)], scale=1.0), ValueError, "Expected a head size of 40, 64"),
        (lambda: split_d.forward(*3 * [tensor(1, 0, 8, 64)], scale=1.0), ValueError, "Expected no empty dimension"),
        (lambda: split_d.forward(*3 * [GOOD.float()], scale=1.0), TypeError, "Expected float16 or bfloat16"),
        (lambda: split_d.forward(GOOD, GOOD, GOOD, scale=float("nan")), ValueError, "Expected a finite scale"),
        (lambda: split_d.forward(GOOD, GOOD, GOOD, scale=1.0, config=Config(64, 64, 128, 64, 4, 1)), ValueError,
         "Expected chunk and slice to divide 64"),
        (lambda: split_d.backward(GOOD, GOOD, GOOD, GOOD, GOOD, tensor(1, 2, 9), scale=1.0), ValueError,
         r"lse of shape \(1, 2, 8\)"),
        (lambda: linear.linear_attention(GOOD, GOOD, tensor(1, 2, 9, 64)), ValueError, r"Expected q, k \(B, H, N, D\)"),
        (lambda: linear.linear_attention(*3 * [tensor(1, 2, 8, 256)]), ValueError, "Expected head sizes up to 128"),
        (lambda: linear.linear_attention(GOOD, GOOD, GOOD, decay=torch.ones(3)), ValueError,
            r"Expected decay of shape \(2,\)"),
        (lambda: linear.linear_attention(GOOD, GOOD, GOOD, decay=torch.tensor([0.5, 1.5])), ValueError,
         "Expected decay above 0 and at most 1, but got 0.5 to 1.5"),
    ],
)  # fmt: skip
def test_refused(call: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_descriptors_need_aligned_rows() -> None:
    assert split_d.describable(GOOD, GOOD.transpose(1, 2))
    assert not split_d.describable(tensor(1, 2, 8, 65)[..., 1:])
    assert not split_d.describable(tensor(1, 2, 8, 40))
