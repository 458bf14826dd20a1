from __future__ import annotations

import numpy as np
import pytest
import torch

from textile_metric.network import TileNet
from textile_metric.profile import (
    CREASES,
    FIGURES,
    FLOOR,
    GRAIN_FLOOR,
    GRAINS,
    LEVEL_FLOOR,
    LEVELS,
    SCALES,
    opponent,
    profiles,
)  # fmt: skip


@pytest.fixture(scope="module")
def net() -> TileNet:
    torch.manual_seed(0)
    return TileNet().eval()


def brute_profile(image: np.ndarray) -> np.ndarray:
    """(FIGURES, W) of an opponent image (3, H, W) by loops over pixels, straight from the words of the docstring."""
    _, height, width = image.shape

    def mean(top: int, left: int, tall: int, wide: int) -> np.ndarray:
        rows = [(top + i) % height for i in range(tall)]
        columns = [(left + j) % width for j in range(wide)]
        return image[:, rows][:, :, columns].mean((1, 2))

    def level(left: int, wide: int) -> np.ndarray:
        return mean(0, left, height, wide)

    across, along, energies = ([np.zeros((3, width)) for _ in SCALES] for _ in range(3))
    for s, k in enumerate(SCALES):
        for c in range(width):
            boxes = range(height)
            across[s][:, c] = np.mean([np.abs(mean(r, c, k, k) - mean(r, c - k, k, k)) for r in boxes], 0)
            along[s][:, c] = np.mean([np.abs(mean(r, c, k, k) - mean(r - k, c, k, k)) for r in boxes], 0)
            # a box and the one of twice its side around it
            wide = [mean(r, c - k, 2 * k, 2 * k) for r in boxes]
            near = [mean(r + k // 2, c - k + k // 2, k, k) for r in boxes]
            energies[s][:, c] = np.mean(np.abs(np.array(near) - np.array(wide)), 0)
    levels = [np.stack([np.abs(level(c, k) - level(c - k, k)) for c in range(width)], 1) for k in LEVELS]
    creases = [
        np.stack([np.abs(level(c - k + k // 2, k) - level(c - k, 2 * k)) for c in range(width)], 1) for k in CREASES
    ]
    ordered = []
    for place, k in enumerate(LEVELS):
        ordered.append(levels[place])
        if k in CREASES:
            ordered.append(creases[CREASES.index(k)])
    grain = np.log(np.stack([e[0] for e in energies]) + FLOOR)

    def grains(k: int) -> np.ndarray:
        def side(start: int) -> np.ndarray:
            return np.mean([grain[:, (start + j) % width] for j in range(k)], 0)

        return np.stack([np.abs(side(c) - side(c - k)) for c in range(width)], 1)

    sized = np.log(np.concatenate([*across, *along, *energies]) + FLOOR)
    return np.concatenate(
        [
            sized,
            np.log(np.concatenate(ordered) + LEVEL_FLOOR),
            np.log(np.concatenate([grains(k) for k in GRAINS]) + GRAIN_FLOOR),
        ]
    )


def test_profile_by_brute_force() -> None:
    image = torch.rand(1, 3, 9, 14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    columns, rows = profiles(image)
    seen = opponent(image)[0].numpy()
    assert columns.shape == (1, FIGURES, 14) and rows.shape == (1, FIGURES, 9)
    np.testing.assert_allclose(columns[0].numpy(), brute_profile(seen), rtol=0, atol=1e-9)
    np.testing.assert_allclose(rows[0].numpy(), brute_profile(seen.transpose(0, 2, 1)), rtol=0, atol=1e-9)


def test_a_roll_of_the_image_is_a_roll_of_the_profile() -> None:
    image = torch.rand(1, 3, 40, 52, dtype=torch.float64)
    plain, rolled = profiles(image), profiles(image.roll((7, 13), (2, 3)))
    torch.testing.assert_close(rolled[0], plain[0].roll(13, 2), rtol=0, atol=1e-11)
    torch.testing.assert_close(rolled[1], plain[1].roll(7, 2), rtol=0, atol=1e-11)


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
    torch.testing.assert_close(plain.x, turned.y, rtol=0, atol=1e-4)
    torch.testing.assert_close(plain.rows, turned.columns, rtol=0, atol=1e-4)


def test_repeats_of_a_tile_have_the_seams_of_the_tile(net: TileNet) -> None:
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        double = image.repeat(1, 1, 2, 2)
        once, twice = net.seams(image), net.seams(double)
    for short, long in zip(once, twice, strict=True):
        torch.testing.assert_close(long, short.repeat(1, 2), rtol=0, atol=1e-3)


def test_the_network_is_small(net: TileNet) -> None:
    assert sum(p.numel() for p in net.parameters()) <= 6_000_000
