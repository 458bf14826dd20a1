"""The benchmark's own maths, and items made from a texture whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import tileability as benchmark
from benchmarks import tileability_attack as attack
from benchmarks.tileability_items import KINDS, Item, items, read_positives
from benchmarks.tileability_rivals import RIVALS


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Smooth periodic waves with some grain: every crop of it has a plain seam."""
    rng = np.random.default_rng(0)
    t = np.arange(128) / 128 * 2 * np.pi
    waves = [
        np.sin(fx * t[None, :] + fy * t[:, None] + p) for fx, fy, p in ((1, 2, 0), (3, -1, 1), (5, 7, 2), (11, 9, 3))
    ]
    grey = 128 + 22 * sum(waves)
    image = np.stack([grey, grey * 0.9, grey * 0.8 + 10], -1) + rng.normal(0, 2, (128, 128, 1))
    path = tmp_path_factory.mktemp("source") / "waves.png"
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path)
    return "waves", path


@pytest.fixture(scope="module")
def made(source: tuple[str, Path]) -> list[Item]:
    return [item for seed in range(3) for item in items([source], seed, sizes=(96, 128))]


def test_every_kind_is_made(made: list[Item]) -> None:
    assert {item.kind for item in made} == set(KINDS)
    for item in made:
        assert item.image.dtype == np.uint8 and item.image.shape in ((96, 96, 3), (128, 128, 3))
        assert all(item.tiles) == (item.kind in ("tile", "mirrored"))


def test_the_same_seed_makes_the_same_items(source: tuple[str, Path]) -> None:
    first, second = (list(items([source], 5, sizes=(96,))) for _ in range(2))
    assert all(np.array_equal(a.image, b.image) and a.tiles == b.tiles for a, b in zip(first, second, strict=True))


def test_seams_are_where_the_truth_says(made: list[Item]) -> None:
    for item in made:
        ratio = [-value for value in RIVALS["mean seam ratio"](item.image)]
        for axis, tiles in enumerate(item.tiles):
            if tiles:
                assert ratio[axis] < 1.8, item.kind
            elif item.kind in ("random_crop", "one_axis", "rotation", "shear"):
                assert ratio[axis] > 1.8, item.kind


def test_hue_alone_changes(made: list[Item]) -> None:
    for item in made:
        if item.kind == "hue_seam":
            luma = item.image @ np.array([0.299, 0.587, 0.114])
            for axis, tiles in enumerate(item.tiles):
                if not tiles:
                    wrap = np.abs(np.take(luma, 0, 1 - axis) - np.take(luma, -1, 1 - axis)).mean()
                    inner = np.abs(np.diff(luma, axis=1 - axis)).mean()
                    assert wrap < 1.8 * inner


def test_rivals_see_a_plain_seam_on_its_axis(source: tuple[str, Path]) -> None:
    tile = np.asarray(Image.open(source[1]))
    crop = tile[:, :90]
    for name, rival in RIVALS.items():
        x, y = rival(crop)
        whole_x, whole_y = rival(tile)
        assert x < whole_x - 1e-3, name
        assert abs(y - whole_y) < abs(x - whole_x), name


def test_rates_by_counting() -> None:
    score, truth = np.array([0.9, 0.8, 0.3, 0.7, 0.1, 0.2]), np.array([True, True, True, False, False, False])
    accuracy, f1 = benchmark.rates(score, truth, 0.5)
    assert accuracy == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert f1 == pytest.approx(2 * (2 / 3) / (2 * (2 / 3) + 1 / 3 + 1 / 3))
    assert benchmark.best_rates(score, truth)[0] == pytest.approx((2 / 3 + 1) / 2, abs=0.17)
    pairs = [float(g > b) for b in score[~truth] for g in score[truth]]
    assert benchmark.auc(score[~truth], score[truth]) == pytest.approx(np.mean(pairs))


def test_calibration_error_of_the_right_and_the_wrong_probabilities() -> None:
    rng = np.random.default_rng(1)
    score = rng.random(40_000)
    truth = rng.random(40_000) < score
    assert benchmark.calibration_error(score, truth) < 0.02
    assert benchmark.calibration_error(np.where(score > 0.5, 0.99, 0.01), truth) > 0.15


def test_missing_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"Expected the unpacked packages in .*, but 93 files are missing, the first: "
    ):
        read_positives(tmp_path)


def test_an_attack_stays_within_reach_and_lowers_its_loss(made: list[Item]) -> None:
    image = next(item.image for item in made if item.kind == "random_crop")[:48, :40]

    def brightness(x: torch.Tensor) -> torch.Tensor:
        return -x.mean()

    moved = attack.ascend(image, brightness, 4)
    change = moved.astype(int) - image.astype(int)
    assert change.min() >= 0 and change.max() <= attack.REACH  # only 255 is in the way
    assert np.array_equal(moved, np.minimum(image.astype(int) + attack.REACH, 255))


def test_targets_have_a_seam_that_is_counted(source: tuple[str, Path]) -> None:
    found = attack.targets([source] * 8, 5)
    assert len(found) == 5 and {item.kind for item in found} <= set(attack.KINDS)
    assert all(attack.seam_stays(item.image, item.tiles) for item in found)
    flat = [np.full_like(item.image, 100) for item in found]
    scores = iter([(0.1, 0.1)] * 5 + [(0.9, 0.9)] * 5 + [(0.9, 0.9)] * 4 + [(0.9, 0.4)])
    said = attack.figures(found, {"a": flat, "b": [item.image for item in found]}, lambda image: next(scores))
    assert [figure.value for figure in said] == [5, 0, 0, 1, 0.8, 0.8]
    assert said[2].passed and said[4].passed is False


def test_another_version_is_attacked_in_its_own_process(tmp_path: Path, made: list[Item]) -> None:
    with pytest.raises(ValueError, match="Expected a checkout with textile_metric in"):
        attack.attack_other([], 1, tmp_path)
    image = made[0].image[:32, :32]
    (moved,) = attack.attack_other([image], 1, Path(attack.__file__).parents[1])
    assert np.abs(moved.astype(int) - image.astype(int)).max() <= attack.REACH


def test_a_limit_is_spread_over_the_list() -> None:
    sources = [(str(i), Path()) for i in range(10)]
    assert [name for name, _ in benchmark.evenly(sources, 4)] == ["0", "2", "5", "7"]
    assert benchmark.evenly(sources, None) == benchmark.evenly(sources, 99) == sources
