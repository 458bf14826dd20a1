from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from textile_metric import seam_ratio


def report_figure(x: np.ndarray) -> float:
    """The worse axis, as shared/eval/generator_report.py computes it; x is (H, W, 3) on 0..255."""
    x = x.astype(np.float32)
    worst = 0.0
    for axis in (0, 1):
        inner = np.median(np.abs(np.diff(x, axis=axis)).mean((1 - axis, 2)))
        wrap = np.abs(np.take(x, 0, axis) - np.take(x, -1, axis)).mean()
        worst = max(worst, float(wrap / max(inner, 1e-3)))
    return worst


def test_by_hand() -> None:
    # 3 rows of 4: every step along x is 2 (wrap: 6), along y 8 (wrap: 16)
    image = torch.arange(0, 24, 2, dtype=torch.uint8).reshape(1, 3, 4)
    assert seam_ratio(image).tolist() == [[3.0, 2.0]]


def test_median_is_over_lines_not_pixels() -> None:
    # steps between columns: means 1, 1, 10 (median 1); wrap 12. Rows are equal: 0 over the floor
    image = np.array([[[0, 1, 2, 12], [0, 1, 2, 12]]], dtype=np.uint8)
    assert seam_ratio(image).tolist() == [[12.0, 0.0]]


def test_flat_interior_divides_by_the_floor() -> None:
    image = np.zeros((3, 4, 5), dtype=np.uint8)
    image[:, :, -1] = 3  # one step of 3 among four: median 0, wrap 3
    assert seam_ratio(image)[0] == pytest.approx([3 / 1e-3, 0.0])


@pytest.mark.parametrize("shape", [(40, 61), (64, 64), (5, 2), (2, 9)])
def test_equals_the_report(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ratio = seam_ratio(torch.from_numpy(image).permute(2, 0, 1))
    assert ratio.shape == (1, 2) and ratio.dtype == np.float32
    assert float(ratio.max()) == pytest.approx(report_figure(image), rel=1e-5)


def test_every_kind_of_input_agrees(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (3, 24, 31), dtype=np.uint8)
    picture = Image.fromarray(image.transpose(1, 2, 0))
    picture.save(tmp_path / "a.png")
    expected = seam_ratio(image)
    for other in (torch.from_numpy(image), torch.from_numpy(image) / 255, image / 255, image[None], picture):
        np.testing.assert_allclose(seam_ratio(other), expected, rtol=1e-4)
    np.testing.assert_array_equal(seam_ratio(tmp_path / "a.png"), expected)
    np.testing.assert_array_equal(seam_ratio(str(tmp_path / "a.png")), expected)
    half = (torch.from_numpy(image) / 255).to(torch.float16)
    np.testing.assert_allclose(seam_ratio(half), expected, rtol=1e-2)


def test_batch_is_image_by_image() -> None:
    batch = torch.rand(3, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    single = np.concatenate([seam_ratio(image) for image in batch])
    np.testing.assert_array_equal(seam_ratio(batch), single)


def test_axes_are_x_then_y() -> None:
    rows, columns = np.mgrid[0:32, 0:32]
    wave = (0.5 + 0.4 * np.sin(2 * np.pi * columns / 32)) * (0.2 + 0.7 * rows / 31)  # tiles along x only
    x, y = seam_ratio(wave[None])[0]
    assert x < 1.6 < 20 < y
    np.testing.assert_allclose(seam_ratio(wave.T[None])[0], [y, x], rtol=1e-5)


def test_seamless_noise_scores_one_wherever_it_is_cut() -> None:
    noise = np.random.default_rng(2).random((3, 64, 64))
    for shift in ((0, 0), (13, 40)):
        assert seam_ratio(np.roll(noise, shift, (1, 2))) == pytest.approx(np.ones((1, 2)), abs=0.15)


def test_one_pixel_axis_has_no_step() -> None:
    image = torch.rand(3, 1, 16, generator=torch.Generator().manual_seed(3))
    x, y = seam_ratio(image)[0]
    assert y == 0 and x > 0
    assert seam_ratio(torch.rand(3, 1, 1)).tolist() == [[0, 0]]


def test_sixteen_bit_file(tmp_path: Path) -> None:
    values = np.random.default_rng(4).integers(0, 65536, (20, 30), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "h.png")
    np.testing.assert_allclose(seam_ratio(tmp_path / "h.png"), seam_ratio(values[None] / 65535), rtol=1e-4)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.rand(16, 16), "Expected an image of shape .3, H, W. or .N, 3, H, W."),
        (torch.zeros(3, 0, 4), r"but got \(3, 0, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "but got torch.int64"),
        (torch.full((3, 4, 4), 2.0), "values in .0, 1., but got 2"),
        (torch.full((3, 4, 4), float("nan")), "Expected finite values"),
        ([1, 2, 3], "but got list"),
        ("no_such_file.png", "no_such_file.png"),
    ],
)
def test_bad_input_is_explained(bad: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        seam_ratio(bad)  # pyright: ignore[reportArgumentType]
