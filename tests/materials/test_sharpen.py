from __future__ import annotations

import numpy as np
import pytest
import torch

from materials.sharpen import AMOUNT, COARSE, FINE, sharpen


def picture() -> torch.Tensor:
    return torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4


@pytest.mark.parametrize("axes", [(True, True), (True, False), (False, True)])
def test_rolls_with_the_picture_along_what_wraps(axes: tuple[bool, bool]) -> None:
    x, shift = picture(), (5 if axes[1] else 0, 11 if axes[0] else 0)
    made = sharpen(x, wrap_x=axes[0], wrap_y=axes[1])
    rolled = sharpen(x.roll(shift, (-2, -1)), wrap_x=axes[0], wrap_y=axes[1])
    assert torch.allclose(made.roll(shift, (-2, -1)), rolled, atol=1e-6)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_gain_is_the_difference_of_gaussians(strength: float) -> None:
    y, x = np.mgrid[:64, :64]
    for u, v in ((0, 4), (8, 0), (7, 9), (16, 0)):
        wave = torch.from_numpy(0.5 + 0.05 * np.cos(2 * np.pi * (u * y + v * x) / 64)).float()[None]
        made = sharpen(wave, wrap_x=True, wrap_y=True, strength=strength)
        gain = float((made - 0.5).norm() / (wave - 0.5).norm())
        low, high = (np.exp(-2 * (np.pi * s) ** 2 * (u * u + v * v) / 64**2) for s in (COARSE, FINE))
        assert abs(gain - (1 + AMOUNT * strength * (high - low))) < 0.01  # the kernels end at three deviations


def test_flat_stays_flat_to_its_edges_and_zero_strength_is_the_same_picture() -> None:
    x = picture()
    assert sharpen(x, wrap_x=True, wrap_y=True, strength=0.0) is x
    flat = torch.full((3, 9, 5), 0.3)
    for wrap in (True, False):
        assert torch.allclose(sharpen(flat, wrap_x=wrap, wrap_y=wrap), flat, atol=1e-6)
    # Less than a reach wide still wraps right.
    thin = x[:, :3, :4]
    assert torch.allclose(
        sharpen(thin.repeat(1, 4, 4), wrap_x=True, wrap_y=True)[:, :3, :4],
        sharpen(thin, wrap_x=True, wrap_y=True),
        atol=1e-6,
    )
