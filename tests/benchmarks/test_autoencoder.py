"""The maths of the autoencoder's figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.autoencoder import ciede2000, normal_error, psnr

# Sharma, Wu & Dalal 2005, table 1: pairs 1, 7, 9, 11, 13, 17, 20, 25 and 34.
PUBLISHED = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0009), 7.1792),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0011), 7.2195),
    ((50.0, -0.001, 2.49), (50.0, 0.0009, -2.49), 4.8045),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5, 0.0), (58.0, 24.0, 15.0), 19.4535),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("first", "second", "expected"), PUBLISHED)
def test_ciede2000_of_published_pairs(first: tuple, second: tuple, expected: float) -> None:
    assert float(ciede2000(np.array(first), np.array(second))) == pytest.approx(expected, abs=6e-5)
    assert float(ciede2000(np.array(second), np.array(first))) == pytest.approx(expected, abs=6e-5)


def test_ciede2000_broadcasts_and_is_zero_for_equal_colours() -> None:
    colours = np.array([[50.0, 10.0, -20.0], [0.0, 0.0, 0.0], [100.0, 0.0, 0.0]])
    assert np.array_equal(ciede2000(colours, colours), np.zeros(3))
    assert ciede2000(colours[:, None], colours[None]).shape == (3, 3)


def test_psnr() -> None:
    real = torch.full((3, 4, 4), 0.5)
    assert psnr(real + 0.1, real) == pytest.approx(20.0, abs=1e-4)
    assert psnr(real, real) == pytest.approx(120.0)


def test_normal_error_in_degrees() -> None:
    angles = torch.tensor([0.0, 1e-3, 10.0, 90.0])
    real = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(4, 3, 1, 1)
    fake = torch.stack([torch.tensor([math.sin(a), 0.0, math.cos(a)]) for a in torch.deg2rad(angles).tolist()])
    assert torch.allclose(normal_error(fake[:, :, None, None], real).flatten(), angles, rtol=1e-4, atol=1e-4)
