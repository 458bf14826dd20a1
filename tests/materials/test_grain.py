from __future__ import annotations

import numpy as np
import torch

from materials.grain import FREQUENCIES, POWER, add_grain


def picture() -> torch.Tensor:
    return torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3


def test_same_seed_same_grain_and_zero_strength_none() -> None:
    x = picture()
    assert torch.equal(add_grain(x, 3, wrap_x=True, wrap_y=True), add_grain(x, 3, wrap_x=True, wrap_y=True))
    assert not torch.equal(add_grain(x, 3, wrap_x=True, wrap_y=True), add_grain(x, 4, wrap_x=True, wrap_y=True))
    assert torch.equal(add_grain(x, 3, wrap_x=True, wrap_y=True, strength=0.0), x)


def test_grain_is_grey_and_follows_the_picture_around_a_torus() -> None:
    x = torch.full((3, 64, 64), 0.5)
    x[:, :, 32:] += 0.2 * (torch.rand(1, 64, 32, generator=torch.Generator().manual_seed(1)) - 0.5)
    grain = add_grain(x, 5, wrap_x=True, wrap_y=True) - x
    assert torch.allclose(grain[0], grain[2], atol=1e-6)
    rough, calm = grain[0, :, 44:52].std(), grain[0, :, 12:20].std()
    assert rough > 1.5 * calm
    # Rolling the picture rolls the amplitude: the ratio of two grains of one seed doesn't depend on the noise.
    rolled = add_grain(x.roll(16, -1), 5, wrap_x=True, wrap_y=True) - x.roll(16, -1)
    flat = add_grain(torch.full_like(x, 0.5), 5, wrap_x=True, wrap_y=True) - 0.5
    solid = flat[0].abs() > 1e-4
    both = solid & solid.roll(16, -1)
    ratio, ratio_rolled = grain[0] / flat[0], rolled[0] / flat[0]
    assert torch.allclose(ratio.roll(16, -1)[both], ratio_rolled[both], rtol=2e-2)


def test_spectrum_is_the_fitted_one() -> None:
    x = torch.full((3, 256, 256), 0.5)
    mean = np.mean(
        [np.abs(np.fft.fft2((add_grain(x, s, wrap_x=True, wrap_y=True) - x)[0].numpy())) ** 2 for s in range(8)], axis=0
    )
    f = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    bands = [(f > a - 0.01) & (f < a + 0.01) for a in (0.125, 0.325)]
    measured = mean[bands[0]].mean() / mean[bands[1]].mean()
    expected = np.interp(0.125, FREQUENCIES, POWER) / np.interp(0.325, FREQUENCIES, POWER)
    assert abs(measured / expected - 1) < 0.1  # 8 x 2,500 samples: 1 % of noise, and the band's width
