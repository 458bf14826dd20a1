"""Captions of real textures: colour names, cleaned words and the drawn variants."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest

import training
from training.captions import (
    caption_variants,
    class_word,
    clean_caption,
    colour_words,
    prompt_caption,
    split_word,
    srgb_to_lab,
    tone_words,
)
from training.words import CLASS_WORDS, COLOUR_NAMES

LIST = Path(training.__file__).parent / "textures.csv"


def flat(rgb: tuple[int, int, int], side: int = 16) -> np.ndarray:
    return np.full((side, side, 3), rgb, dtype=np.uint8)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((8, 8, 8), "black"),
        ((250, 250, 250), "white"),
        ((119, 119, 119), "grey"),
        ((70, 70, 72), "dark grey"),
        ((190, 190, 188), "light grey"),
        ((124, 82, 45), "brown"),
        ((60, 36, 18), "dark brown"),
        ((200, 30, 30), "red"),
        ((245, 130, 20), "orange"),
        ((240, 220, 40), "yellow"),
        ((225, 205, 165), "beige"),
        ((180, 150, 105), "tan"),
        ((50, 150, 50), "green"),
        ((95, 100, 40), "olive"),
        ((10, 130, 130), "teal"),
        ((40, 70, 190), "blue"),
        ((150, 195, 240), "light blue"),
        ((125, 40, 150), "purple"),
        ((245, 150, 180), "pink"),
    ],
)
def test_a_flat_image_has_its_colour_and_no_other(rgb: tuple[int, int, int], name: str) -> None:
    assert colour_words(flat(rgb)) == [name]


def test_every_colour_gets_one_or_two_names_and_noise_does_not_change_grey() -> None:
    rng = np.random.default_rng(0)
    for colour in rng.integers(0, 256, (200, 3)):
        assert 1 <= len(colour_words(flat(tuple(colour)))) <= 2
    noisy = np.clip(rng.normal(120, 30, (128, 128, 1)).repeat(3, 2), 0, 255).astype(np.uint8)
    assert colour_words(noisy) == ["grey"]


def test_a_second_colour_needs_a_quarter_of_the_area_and_another_hue() -> None:
    image = flat((200, 30, 30), 48)
    image[:, :10] = (40, 70, 190)
    assert colour_words(image) == ["red"]
    image[:, :20] = (40, 70, 190)
    assert colour_words(image) == ["red", "blue"]
    greys = flat((119, 119, 119), 48)
    greys[:, :20] = (70, 70, 70)
    assert colour_words(greys) == ["grey"]


def test_lab_matches_published_values() -> None:
    # sRGB primaries under D65 (tables of CIE 15:2004 conversions), tolerance 0.05.
    got = srgb_to_lab(np.array([[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]))
    want = np.array([[100, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]])
    assert np.abs(got - want).max() < 0.05


def test_tone_and_bad_shape() -> None:
    assert tone_words(flat((20, 20, 30))) == ["dark"]
    assert tone_words(flat((120, 120, 120))) == []
    assert tone_words(flat((240, 240, 230))) == ["bright"]
    with pytest.raises(ValueError, match=r"Expected an image of shape \(H, W, 3\)"):
        colour_words(np.zeros((4, 4), dtype=np.uint8))


def test_codes_are_split_spelled_out_or_dropped() -> None:
    assert split_word("brick") == ("brick",)
    assert split_word("mtlwll") == ("metal", "wall")
    assert split_word("largeblockfloor") == ("large", "block", "floor")
    assert split_word("savdm") == ()


@pytest.mark.parametrize(
    ("caption", "name", "cleaned"),
    [
        ("savdm ish wizwood", "wood", "wood"),
        ("alpine arctic cliff", "rock/stone", "alpine arctic cliff rock"),
        ("brown tiles", "tile", "brown tiles"),
        ("wall drkcem", "concrete/plaster", "wall dark cement concrete"),
        ("zot", "other", "texture"),
    ],
)
def test_clean_caption(caption: str, name: str, cleaned: str) -> None:
    assert clean_caption({"caption": caption, "class": name}) == cleaned


def test_prompt_caption_writes_the_class_once() -> None:
    assert prompt_caption({"caption": "alpine arctic cliff", "class": "rock/stone"}) == "alpine arctic cliff, rock"
    assert prompt_caption({"caption": "grey bricks", "class": "brick"}) == "grey bricks"


def test_the_whole_list_is_captioned() -> None:
    with LIST.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 2638
    assert sum(row["split"] == "train" for row in rows) == 2346
    assert {row["class"] for row in rows} == set(CLASS_WORDS)
    assert all(clean_caption(row) and prompt_caption(row) for row in rows)
    assert not {row["package"] for row in rows} & {"supertuxkart-data", "extremetuxracer-data"}


def test_variants_have_the_stated_shares_and_are_reproducible() -> None:
    row = {"caption": "zzq cliff red", "class": "rock/stone", "tone": ["dark"]}
    draws = [caption_variants(row, ["grey"], random.Random(seed)) for seed in range(4000)]
    assert draws == [caption_variants(row, ["grey"], random.Random(seed)) for seed in range(4000)]
    raw = sum("zzq" in text for text in draws) / len(draws)
    alone = sum(text in CLASS_WORDS["rock/stone"] for text in draws) / len(draws)
    cleaned = sum("grey" in text and "cliff" in text for text in draws) / len(draws)
    coloured = sum("grey" in text and "cliff" not in text for text in draws) / len(draws)
    assert (raw, cleaned, coloured, alone) == pytest.approx((0.35, 0.35, 0.2, 0.1), abs=0.03)
    # A colour in the file name gives way to the measured one.
    assert not any("grey" in text and "red" in text for text in draws)
    assert any(text.startswith("dark grey") for text in draws)


def test_variants_of_unknown_classes_and_empty_captions() -> None:
    assert caption_variants({"caption": "my photo", "class": "mine"}, ["red"], random.Random(0)) == "my photo"
    assert all(caption_variants({"caption": "", "class": "wood"}, [], random.Random(s)) for s in range(50))
    with pytest.raises(ValueError, match="material classes"):
        class_word("mine")
    assert "grey" in COLOUR_NAMES
