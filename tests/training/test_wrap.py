from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from asd.seamless import Seamless, SeamlessAxes
from training.wrap import WrapConv2d, set_wrap, wrap_convolutions, wrap_pad

WRAPS: list[tuple[SeamlessAxes, int, int]] = [("none", 0, 0), ("x", 1, 0), ("y", 0, 1), ("xy", 1, 1)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks() -> tuple[Tensor, Tensor]:
    """One sample of each kind."""
    return tuple(torch.tensor([row[k] for row in WRAPS], dtype=torch.float64) for k in (1, 2))  # pyright: ignore


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("last", [False, True])
def test_each_sample_equals_seamless_of_its_axes(stride: int, last: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, 3, stride, 1).double()
    wrapped = nn.Sequential(nn.Conv2d(3, 5, 3, stride, 1).double())
    wrapped[0].load_state_dict(plain.state_dict())
    wrap_convolutions(wrapped)
    assert isinstance(wrapped[0], WrapConv2d) and wrapped.state_dict().keys() == {"0.weight", "0.bias"}
    x = noise(4, 3, 8, 10)
    set_wrap(*masks())
    made = wrapped(x.to(memory_format=torch.channels_last) if last else x)
    for i, (axes, _, _) in enumerate(WRAPS):
        with Seamless(plain, axes):
            torch.testing.assert_close(made[i : i + 1], plain(x[i : i + 1]), rtol=0, atol=1e-12)


def test_padding_has_the_right_gradient() -> None:
    x = noise(4, 2, 3, 4).requires_grad_()
    wrap_x, wrap_y = (m.view(-1, 1, 1, 1) for m in masks())
    assert torch.autograd.gradcheck(lambda v: wrap_pad(v, wrap_x, wrap_y), (x,))


def test_pointwise_convolutions_stay_and_other_kernels_are_refused() -> None:
    point = nn.Conv2d(2, 2, 1)
    assert type(wrap_convolutions(nn.Sequential(point))) is nn.Sequential and type(point) is nn.Conv2d
    with pytest.raises(ValueError, match="Expected 3x3 convolutions with padding 1"):
        wrap_convolutions(nn.Sequential(nn.Conv2d(2, 2, 5, padding=2)))
