"""Resampling against a plain numpy evaluation of the cubic kernel, texel by texel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from asd.resample import resample


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def keys(t: float) -> float:
    """Keys 1981, equation 4 with a = -1/2."""
    t = abs(t)
    if t < 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def reference(row: np.ndarray, target: int, wrap: bool) -> np.ndarray:
    """One line resampled by the definition, at O(source x target)."""
    source = len(row)
    ratio, out = source / target, np.zeros(target)
    stretch = max(1.0, ratio)
    for i in range(target):
        centre = (i + 0.5) * ratio - 0.5
        total = weight = 0.0
        for tap in range(math.floor(centre - 3 * stretch), math.ceil(centre + 3 * stretch) + 1):
            w = keys((tap - centre) / stretch)
            total += w * row[tap % source if wrap else min(max(tap, 0), source - 1)]
            weight += w
        out[i] = total / weight
    return out


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize(("source", "target"), [(32, 45), (45, 32), (96, 7), (8, 1), (3, 64), (1, 5), (32, 64)])
def test_equals_the_definition(source: int, target: int, wrap: bool) -> None:
    x = noise(4, source)
    made = resample(x, (4, target), wrap_x=wrap, wrap_y=False)
    expected = np.apply_along_axis(reference, -1, x.double().numpy(), target, wrap)
    np.testing.assert_allclose(made.numpy(), expected, atol=2e-6)
    turned = resample(x.mT, (target, 4), wrap_x=False, wrap_y=wrap)
    torch.testing.assert_close(turned.mT, made, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "out"), [((12, 20), (24, 60)), ((24, 60), (12, 20)), ((16, 8), (16, 24))])
def test_commutes_with_a_roll_at_integer_ratios(size: tuple[int, int], out: tuple[int, int]) -> None:
    x = noise(*size)
    step = [4 * max(1, s // o) for s, o in zip(size, out, strict=True)]
    moved = [s * o // z for s, o, z in zip(step, out, size, strict=True)]
    rolled = resample(x.roll(step, (-2, -1)), out, wrap_x=True, wrap_y=True)
    made = resample(x, out, wrap_x=True, wrap_y=True)
    torch.testing.assert_close(rolled, made.roll(moved, (-2, -1)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("out", [(17, 45), (3, 5), (64, 33)])
def test_equals_the_middle_of_a_resampled_tiling(out: tuple[int, int]) -> None:
    x = noise(16, 24)
    big = resample(x.repeat(1, 1, 3, 3), (3 * out[0], 3 * out[1]), wrap_x=False, wrap_y=False)
    middle = big[..., out[0] : 2 * out[0], out[1] : 2 * out[1]]
    torch.testing.assert_close(resample(x, out, wrap_x=True, wrap_y=True), middle, rtol=0, atol=2e-6)


@pytest.mark.parametrize("wrap", [True, False])
def test_constants_stay_constant(wrap: bool) -> None:
    made = resample(torch.full((1, 1, 13, 29), 0.7), (50, 7), wrap_x=wrap, wrap_y=wrap)
    torch.testing.assert_close(made, torch.full((1, 1, 50, 7), 0.7), rtol=0, atol=1e-6)


def test_a_size_kept_is_the_same_tensor() -> None:
    x = noise(8, 9)
    assert resample(x, (8, 9), wrap_x=True, wrap_y=True) is x


def test_axis_that_does_not_wrap_ignores_the_other_side() -> None:
    x = noise(32, 32)
    changed = x.clone()
    changed[..., -4:] = 0
    made, other = (resample(v, (48, 48), wrap_x=False, wrap_y=True) for v in (x, changed))
    assert torch.equal(made[..., :30], other[..., :30])
    made, other = (resample(v, (48, 48), wrap_x=True, wrap_y=True) for v in (x, changed))
    assert not torch.equal(made[..., :2], other[..., :2])
