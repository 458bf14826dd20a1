"""Buckets against diffusers' own list for XL-sized models, and against their own rule."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from asd.buckets import FAMILIES, buckets, nearest_bucket, nearest_size
from asd.errors import SizeError
from asd.sizes import Size
from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import (  # noqa: E402 - the guard must come first
    ASPECT_RATIO_1024_BIN,
)

SIZES = [(w, h) for w in (1, 7, 64, 500, 512, 1000, 1080, 1920, 4096) for h in (1, 63, 512, 768, 1080, 3000)]
THEIRS = {(int(w), int(h)) for h, w in ASPECT_RATIO_1024_BIN.values()}


def test_xl_buckets_are_those_of_diffusers_and_their_mirror_images() -> None:
    made = set(buckets("xl"))
    assert made >= THEIRS
    # what diffusers leaves out: sizes between others of its own, and mirror images of its own
    between = {(1920, 512), (1984, 512)}
    mirrored = {(512, 1856), (512, 1920), (512, 1984), (576, 1664), (576, 1792), (704, 1344)}
    assert made - THEIRS == between | mirrored
    assert len(made) == 41


@pytest.mark.parametrize("family", list(FAMILIES))
def test_buckets_follow_their_rule(family: str) -> None:
    made, side = buckets(family), FAMILIES[family].side
    assert (side, side) in made and len(set(made)) == len(made)
    assert {(h, w) for w, h in made} == set(made)
    for width, height in made:
        assert width % 64 == height % 64 == 0
        assert FAMILIES[family].least_area <= width * height / side**2 <= 1
        assert 1 / 4 <= width / height <= 4
    ratios = [math.log(w / h) for w, h in made]
    assert ratios == sorted(ratios) and ratios[0] == -ratios[-1] == -math.log(4)
    # no image within 4:1 is far from one: half the widest gap
    assert max(b - a for a, b in pairwise(ratios)) / 2 < 0.16


@pytest.mark.parametrize("family", list(FAMILIES))
def test_nearest_is_nearest_and_treats_portrait_like_landscape(family: str) -> None:
    for width, height in SIZES:
        made = nearest_bucket((width, height), family)
        assert nearest_bucket((height, width), family) == made[::-1]
        errors = [abs(math.log(w / h * height / width)) for w, h in buckets(family)]
        assert abs(math.log(made.width / made.height * height / width)) == pytest.approx(min(errors), abs=1e-8)
    for size in buckets(family):
        assert nearest_bucket(size, family).width / nearest_bucket(size, family).height == size.width / size.height


def test_nearest_agrees_with_diffusers_on_its_own_sizes() -> None:
    for size in THEIRS:
        assert nearest_bucket(size, "xl") == size
    assert nearest_bucket((10000, 1), "xl") == (2048, 512)
    # of buckets of one ratio, the largest
    assert nearest_bucket((1, 1), "sd1.5") == (512, 512)


@pytest.mark.parametrize("multiple", [1, 8, 32, 64])
def test_nearest_size_is_on_the_grid_and_nearest_by_factors(multiple: int) -> None:
    for size in SIZES:
        made = nearest_size(size, multiple)
        assert isinstance(made, Size)
        for side, asked in zip(made, size, strict=True):
            assert side % multiple == 0 and side > 0
            for other in (side - multiple, side + multiple):
                assert other <= 0 or abs(math.log(side / asked)) <= abs(math.log(other / asked)) + 1e-12
        assert nearest_size((size[1], size[0]), multiple) == made[::-1]


def test_sizes_and_families_that_are_not_are_errors() -> None:
    with pytest.raises(SizeError, match=r"out of sd1\.5, sd2\.1, xl, but got 'sd4'"):
        buckets("sd4")
    for size in ((0, 5), (5, -1)):
        with pytest.raises(SizeError, match="at least 1x1"):
            nearest_bucket(size, "xl")
        with pytest.raises(SizeError, match="at least 1x1"):
            nearest_size(size)
    with pytest.raises(SizeError, match="multiple of at least 1"):
        nearest_size((5, 5), 0)
