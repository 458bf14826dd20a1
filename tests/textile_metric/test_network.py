from __future__ import annotations

import numpy as np
import pytest
import torch

from textile_metric.network import TileNet
from textile_metric.profile import FIGURES, FLOOR, SCALES, opponent, profiles


@pytest.fixture(scope="module")
def net() -> TileNet:
    torch.manual_seed(0)
    return TileNet().eval()


def brute_profile(image: np.ndarray, octave: int) -> np.ndarray:
    """(FIGURES, W) of an opponent image (3, H, W) by loops over pixels, straight from the words of the docstring."""
    unit = 2**octave
    _, height, width = image.shape

    def mean(top: int, left: int, tall: int, wide: int) -> np.ndarray:
        rows = [(top + i) % height for i in range(tall)]
        columns = [(left + j) % width for j in range(wide)]
        return image[:, rows][:, :, columns].mean((1, 2))

    out = []
    for c in range(width):
        figures: list[np.ndarray] = []
        for k in SCALES:
            size = k * unit
            # a box of k cells that are `unit` apart, each a mean over `unit` pixels, is a box of k * unit pixels
            steps = np.stack([mean(r, c, size, size) - mean(r, c - size, size, size) for r in range(height)])
            figures += [np.abs(steps).mean(0), np.abs(steps.mean(0))]
        cells = [mean(r, c, unit, unit) for r in range(height)]
        figures.append(np.mean([np.abs(cells[r] - cells[r - unit]) for r in range(height)], 0))
        figures.append(np.mean([np.abs(cells[r] - cells[(r - 4 * unit) % height]) for r in range(height)], 0))
        sides = [(mean(r, c - unit, unit, unit) + mean(r, c + unit, unit, unit)) / 2 for r in range(height)]
        figures.append(np.mean([np.abs(cells[r] - sides[r]) for r in range(height)], 0))
        out.append(np.concatenate(figures))
    return np.log(np.stack(out, 1) + FLOOR)


@pytest.mark.parametrize("octave", [0, 1, 2])
def test_profile_by_brute_force(octave: int) -> None:
    image = torch.rand(1, 3, 13, 18, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = brute_profile(opponent(image)[0].numpy(), octave)
    assert expected.shape == (FIGURES, 18)
    np.testing.assert_allclose(profiles(image, octave)[0].numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("octave", [0, 1, 3])
def test_a_roll_of_the_image_is_a_roll_of_the_profile(octave: int) -> None:
    image = torch.rand(1, 3, 40, 52, dtype=torch.float64)
    rolled = profiles(image.roll((7, 13), (2, 3)), octave)
    torch.testing.assert_close(rolled, profiles(image, octave).roll(13, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(64, 64), (130, 150), (300, 270), (5, 9), (1, 64), (3, 1)])
def test_the_network_is_exact_on_the_torus(net: TileNet, size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain, rolled = net(image), net(image.roll((11, 29), (2, 3)))
    torch.testing.assert_close(rolled.columns, plain.columns.roll(29, 1), rtol=0, atol=1e-3)
    torch.testing.assert_close(rolled.rows, plain.rows.roll(11, 1), rtol=0, atol=1e-3)
    torch.testing.assert_close(rolled.x, plain.x, rtol=0, atol=1e-3)
    torch.testing.assert_close(rolled.y, plain.y, rtol=0, atol=1e-3)


def test_axes_change_places_with_the_image(net: TileNet) -> None:
    image = torch.rand(1, 3, 70, 50)
    with torch.no_grad():
        plain, turned = net(image), net(image.transpose(2, 3))
    assert torch.equal(plain.x, turned.y) and torch.equal(plain.rows, turned.columns)


def test_repeats_of_a_tile_have_the_seams_of_the_tile(net: TileNet) -> None:
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        double = image.repeat(1, 1, 2, 2)
        once, twice = net.read(profiles(image), 0, image), net.read(profiles(double), 0, double)
    torch.testing.assert_close(twice, once.repeat(1, 2), rtol=0, atol=1e-3)


def test_the_network_is_small(net: TileNet) -> None:
    assert sum(p.numel() for p in net.parameters()) <= 6_000_000
