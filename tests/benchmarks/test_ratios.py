"""The parts of the ratio benchmark that need no trained network."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.ratios import CROPS, TRAINED, crops, generate, odd_sizes, real_crops, repeat, size_of, texel_scale
from tests import tiny


def test_sizes_keep_area_and_ratio() -> None:
    assert size_of("1:1", 256) == (256, 256) and size_of("4:1", 256) == (512, 128) == size_of("1:4", 256)[::-1]
    assert texel_scale((512, 512), None) == 1.0 and texel_scale((512, 128), None) == 0.0
    assert texel_scale((512, 128), 0.5) == 0.5


def test_odd_sizes_have_odd_sides_at_all_ratios() -> None:
    sizes = odd_sizes(60, 512)
    assert all(width % 2 and height % 2 and min(width, height) >= 128 for width, height in sizes)
    ratios = [width / height for width, height in sizes]
    assert min(ratios) < 0.2 and max(ratios) > 5 and len(set(sizes)) == 60


def test_only_what_repeats_at_the_trained_side_is_a_repeat() -> None:
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (64, 1024, 3), dtype=np.uint8)
    period = np.tile(wide[:, :TRAINED], (1, 4, 1))
    other = np.tile(wide[:, :128], (1, 8, 1))  # comes back at 128 and 192 + 64 alike, and is found all the same
    found = [repeat(image) for image in (wide, period, period.transpose(1, 0, 2), other)]
    assert found[0] is not None and abs(found[0]) < 0.05
    assert found[1] == found[2] and found[1] is not None and found[1] > 0.9
    assert repeat(wide[:, :500]) is None


def test_crops_are_native(tmp_path: Path) -> None:
    image = np.arange(40 * 90 * 3, dtype=np.uint32).reshape(40, 90, 3)
    for made in crops(image, 24, seed=1):  # pyright: ignore[reportArgumentType] - any integers
        top, left = divmod(int(made[0, 0, 0]) // 3, 90)
        assert np.array_equal(made, image[top : top + 24, left : left + 24])
    pack = tiny.pack(tmp_path / "pack", size=256)
    assert [part.shape for part in real_crops(pack, 0.0, 96)] == [(96, 96, 3)] * CROPS
    assert real_crops(pack, 1.0, 96) == []  # enlarging it would leave it without detail


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pictures_are_made_once(tmp_path: Path) -> None:
    args = argparse.Namespace(
        out=tmp_path / "out", ratios=["1:1", "2:1"], model=str(tiny.checkpoint(tmp_path / "model")), device="cpu",
        lora=None, side=128, steps=1, scale=None, odd=1, prompts=tmp_path / "prompts.csv",
    )  # fmt: skip
    args.prompts.write_text("id,prompt,class\na,moss,plants\n")
    assert generate(args, [{"prompt": "red brick"}]) == 3 and generate(args, [{"prompt": "red brick"}]) == 0
    with Image.open(tmp_path / "out" / "odd" / "0000.png") as image:
        assert image.size == odd_sizes(1, 128)[0]
    with Image.open(tmp_path / "out" / "2x1" / "0000.png") as image:
        assert image.size == size_of("2:1", 128) == (192, 96)
