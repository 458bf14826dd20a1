from __future__ import annotations

import pytest

from asd.errors import SizeError
from asd.sizes import MAX_RATIO, torus_size

RULE = {"multiple": 32, "least_area": 256 * 256, "least_side": 96}
SIZES = [(1, 1), (1, 64), (64, 1), (333, 517), (256, 256), (1024, 768), (2048, 300), (4000, 37), (511, 513), (97, 5000)]


@pytest.mark.parametrize("size", SIZES)
def test_sides_fit_the_torus_and_are_large_enough(size: tuple[int, int]) -> None:
    made = torus_size(size, **RULE)
    assert all(side % 32 == 0 and side >= 96 for side in made)
    # rounding each side moves it by half a step at most
    assert (made.width + 16) * (made.height + 16) >= 256 * 256
    wanted = min(MAX_RATIO, max(1 / MAX_RATIO, size[0] / size[1]))
    low, high = (made.width - 17) / (made.height + 17), (made.width + 17) / (made.height - 17)
    assert low <= wanted <= high


@pytest.mark.parametrize("size", [(256, 256), (1024, 768), (512, 2048), (4096, 512)])
def test_a_size_that_fits_is_kept(size: tuple[int, int]) -> None:
    assert torus_size(size, **RULE) == size


def test_swapped_sides_give_the_swapped_canvas() -> None:
    for width, height in SIZES:
        assert torus_size((width, height), **RULE) == torus_size((height, width), **RULE)[::-1]


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_sides_below_one_are_errors(size: tuple[int, int]) -> None:
    with pytest.raises(SizeError, match="at least 1x1"):
        torus_size(size, **RULE)
