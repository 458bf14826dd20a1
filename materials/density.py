"""How many texels a refined material is made of at first; here because the refiner loads torch."""

from __future__ import annotations

FACTORS = (2, 4, 8)
"""How many times as many texels along a side a material can be given."""


def base_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """(width, height) at which a material is made that is refined to `size`.

    >>> base_size((2048, 1000), 8)
    (256, 125)
    """
    return max(1, round(size[0] / factor)), max(1, round(size[1] / factor))
