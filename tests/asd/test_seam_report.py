"""The seam report against figures worked out by hand or by brute force, and on tilers that are known to show or not."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from asd.errors import SizeError
from asd.sampling import denoise
from asd.seam_report import (
    ReportError,
    border_excess,
    border_ratio,
    lab,
    phase_spectrum,
    phase_z,
    psnr_b,
    seam_report,
    steps,
    tiled_against_whole,
    tone_drift,
)
from asd.seamless import SeamlessAxes
from asd.tiles import Method, Place, TilePlan


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texture(height: int = 128, width: int = 160, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(channels, height, width, generator=seeded(seed))


def staircase(height: int, width: int, pitch: int, phase: int, step: float) -> Tensor:
    """Flat tiles of a chessboard's two levels: the only steps are at borders."""
    y = (torch.arange(height) - phase).div(pitch, rounding_mode="floor")[:, None]
    x = (torch.arange(width) - phase).div(pitch, rounding_mode="floor")[None]
    return ((y + x) % 2 * step).expand(1, -1, -1)


@pytest.mark.parametrize("seamless", ["none", "x", "y", "xy"])
def test_steps_against_loops(seamless: SeamlessAxes) -> None:
    image = texture(5, 7)
    across = [
        sum(abs(float(image[c, y, (x + 1) % 7] - image[c, y, x])) for c in range(3) for y in range(5)) / 15
        for x in range(7 if "x" in seamless else 6)
    ]
    down = [
        sum(abs(float(image[c, (y + 1) % 5, x] - image[c, y, x])) for c in range(3) for x in range(7)) / 21
        for y in range(5 if "y" in seamless else 4)
    ]
    made = steps(image, seamless)
    torch.testing.assert_close(made[0], torch.tensor(across, dtype=torch.float64), rtol=0, atol=1e-7)
    torch.testing.assert_close(made[1], torch.tensor(down, dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize("phase", [0, 5, 31])
def test_ratio_and_excess_of_a_known_seam(phase: int) -> None:
    reference = 0.5 * texture()
    seam = staircase(128, 160, 32, phase, 0.25)
    clean = border_ratio(reference, 32, phase=phase)
    assert 0.9 < clean.x < 1.1 and 0.9 < clean.y < 1.1
    made = border_ratio(reference + seam, 32, phase=phase)
    assert made.x > 1.3 and made.y > 1.3
    elsewhere = border_ratio(reference + seam, 32, phase=phase + 7)
    assert 0.9 < elsewhere.x < 1.1 and 0.9 < elsewhere.y < 1.1
    # against the reference, luck at the border drops out: by hand
    ours, theirs = steps(reference + seam), steps(reference)
    first = (phase - 1) % 32
    expected = (ours[0][first::32] - theirs[0][first::32]).mean() / theirs[0][(first + 16) % 32 :: 32].mean()
    assert border_excess(reference + seam, reference, 32, phase=phase).x == pytest.approx(float(expected))
    assert border_excess(reference, reference, 32, phase=phase) == (0, 0)


def test_ratio_where_there_is_nothing_to_see() -> None:
    assert border_ratio(torch.zeros(1, 64, 64), 16) == (1, 1)
    assert border_ratio(texture(16, 64), 16).y == 1
    assert border_excess(torch.zeros(1, 64, 64), torch.zeros(1, 64, 64), 16) == (0, 0)


def test_phase_spectrum_finds_a_seam_of_unknown_phase() -> None:
    image = 0.5 * texture(256, 512, seed=1)
    assert max(phase_z(image, 32)) < 4
    marked = image + staircase(256, 512, 32, 11, 0.2)
    spectrum = phase_spectrum(marked, 32)
    assert [int(part.argmax()) for part in spectrum] == [11, 11]
    assert min(phase_z(marked, 32)) > 4
    # place p is the mean of the steps onto pixels p, p + pitch, ...
    assert float(spectrum[0][11]) == pytest.approx(float(steps(marked)[0][10::32].mean()))
    assert phase_z(torch.zeros(1, 64, 64), 16) == (0, 0)
    short = phase_spectrum(texture(16, 64), 32)
    assert len(short[0]) == 32 and len(short[1]) == 0


def brute_psnr_b(image: Tensor, reference: Tensor, block: int) -> float:
    """Yim & Bovik 2011, pair by pair."""
    height, width = image.shape
    sums = {True: 0.0, False: 0.0}
    for y in range(height):
        for x in range(width - 1):
            sums[(x + 1) % block == 0] += float(image[y, x] - image[y, x + 1]) ** 2
    for y in range(height - 1):
        for x in range(width):
            sums[(y + 1) % block == 0] += float(image[y, x] - image[y + 1, x]) ** 2
    across, down = height * (width / block) - 1, width * (height / block) - 1
    border = sums[True] / (across + down)
    inner = sums[False] / (height * (width - 1) - across + width * (height - 1) - down)
    factor = math.log2(block) / math.log2(min(height, width)) if border > inner else 0.0
    error = sum(float(a - b) ** 2 for a, b in zip(image.flatten(), reference.flatten(), strict=True)) / image.numel()
    return 10 * math.log10(1 / (error + factor * (border - inner)))


@pytest.mark.parametrize(("size", "block"), [((32, 48), 8), ((31, 50), 8), ((24, 24), 5), ((33, 64), 16)])
def test_psnr_b_against_the_formula_by_brute_force(size: tuple[int, int], block: int) -> None:
    reference = 0.8 * texture(*size, channels=1, seed=2)
    for image in (
        reference + 0.01 * texture(*size, channels=1, seed=3),
        reference + staircase(*size, block, 0, 0.15),
        reference * 0.1 + staircase(*size, block, 0, 0.15),
    ):
        made = psnr_b(image, reference, block)
        assert made == pytest.approx(brute_psnr_b(image[0].double(), reference[0].double(), block), abs=1e-6)
        colour = psnr_b(image.expand(3, -1, -1), reference.expand(3, -1, -1), block)
        assert colour == pytest.approx(made, abs=1e-6)


def test_psnr_b_against_an_independent_implementation() -> None:
    # the value that torchmetrics 1.9.0 gives for this input
    reference = (torch.arange(64 * 64).reshape(1, 64, 64) * 37 % 101) / 1010
    image = reference + staircase(64, 64, 8, 0, 0.2)
    assert psnr_b(image, reference, 8) == pytest.approx(14.312597, abs=1e-4)


def test_psnr_b_is_psnr_where_no_block_shows() -> None:
    slope = torch.linspace(0, 1, 64).expand(1, 64, 64)
    psnr = 10 * math.log10(1 / float((0.01 * slope).double().square().mean()))
    assert psnr_b(0.99 * slope, slope, 8) == pytest.approx(psnr, abs=1e-3)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((0.5, 0.5, 0.5), (53.39, 0, 0)),
    ],
)
def test_lab_of_known_colours(colour: tuple[float, ...], expected: tuple[float, ...]) -> None:
    made = lab(torch.tensor(colour, dtype=torch.float32)[:, None, None])[:, 0, 0]
    torch.testing.assert_close(made, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0.02)


def test_tone_drift_counts_tiles_that_part_not_a_common_shift() -> None:
    reference = 0.2 + 0.5 * texture(96, 96)
    assert tone_drift(reference, reference, 32) == 0
    grey = torch.full((1, 96, 96), 0.5)
    assert tone_drift(grey + 0.1, grey, 32) < 1e-9
    drifting = grey.clone()
    drifting[:, :32] += 0.1
    # a third of the tiles is off by d in L: the deviation is d sqrt(2) / 3
    off = float(lab(torch.full((1, 1, 1), 0.6))[0] - lab(torch.full((1, 1, 1), 0.5))[0])
    assert tone_drift(drifting, grey, 32) == pytest.approx(off * math.sqrt(2) / 3, rel=1e-5)
    # gradients see one line of it, this figure all of it
    assert tone_drift(drifting, grey, 32, phase=16) > 0.5 * tone_drift(drifting, grey, 32)


def test_tiled_against_whole_tells_borders_from_the_rest() -> None:
    whole = texture(64, 96)
    perfect = tiled_against_whole(whole, whole, 32)
    assert perfect == (math.inf, math.inf, 0, 0)
    near = whole.clone()
    near[:, :, 30:34] += 0.1
    made = tiled_against_whole(near, whole, 32)
    assert made.inner_psnr == math.inf and made.gap == math.inf and made.worst == pytest.approx(0.1, abs=1e-6)
    # bands: columns 24-39 and 56-71, rows 24-39; of their cells, four whole columns are off
    cells = 64 * 96 - (64 - 16) * (96 - 32)
    assert made.border_psnr == pytest.approx(10 * math.log10(cells / (64 * 4) / 0.01), abs=1e-4)
    inside = whole.clone()
    inside[:, 8:16, 8:16] += 0.1
    assert tiled_against_whole(inside, whole, 32).border_psnr == math.inf
    # the image's own border is one of tiles on a torus alone
    edge = whole.clone()
    edge[:, :, 0] += 0.1
    assert tiled_against_whole(edge, whole, 32).border_psnr > tiled_against_whole(edge, whole, 32).inner_psnr
    assert tiled_against_whole(edge, whole, 32, seamless="x").inner_psnr == math.inf
    even = tiled_against_whole(whole + 0.1, whole, 32)
    assert even.gap == pytest.approx(0, abs=1e-4) and even.border_psnr == pytest.approx(20, abs=1e-4)


class Vignette:
    """A network that knows picture and noise, but for a fault that depends on the place in the tile."""

    def __init__(self, velocity: Tensor) -> None:
        self.velocity = velocity

    def __call__(self, tiles: Tensor, timestep: Any, places: Sequence[Place]) -> Tensor:
        height, width = tiles.shape[-2:]
        fault = torch.linspace(-1, 1, width)[None] + torch.linspace(-1, 1, height)[:, None]
        shown = [place.crop(self.velocity[None]) for place in places]
        return torch.stack(shown) + 0.15 * fault


class FlowEuler:
    """Rectified flow, x(t) = (1 - t) picture + t noise, on the plain grid of times."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.timesteps = [1 - i / count for i in range(count)]

    def step(self, model_output: Tensor, timestep: float, sample: Tensor) -> tuple[Tensor]:
        return (sample - model_output / self.count,)


def tiled(method: Method, seamless: SeamlessAxes, tile: int) -> Tensor:
    """16 steps towards a texture of 128 pixels a side."""
    picture = 0.3 + 0.4 * texture(128, 128)
    noise = torch.randn(3, 128, 128, generator=seeded(6))
    plan = TilePlan((128, 128), tile, method, seamless, generator=seeded(5))
    return denoise(Vignette(noise - picture), noise[None], FlowEuler(16), plan, batch=64)[0]


@pytest.mark.parametrize("seamless", ["none", "xy"])
def test_moving_grid_leaves_no_phase_and_a_fixed_one_does(seamless: SeamlessAxes) -> None:
    fixed, moving = (seam_report(tiled(m, seamless, 16), 16, seamless=seamless) for m in ("none", "fstd"))
    # of 16 places, one alone apart from the rest is at most sqrt(15) deviations off
    assert min(fixed.phase_z) > 3.5 and min(fixed.border_ratio) > 1.5
    assert max(moving.phase_z) < 2.5 and max(moving.border_ratio) < 1.1
    published = seam_report(tiled("published", "none", 16), 16)
    # its offsets stay in one half of the period, and one step in four lies on the same borders
    assert max(published.phase_z) > max(moving.phase_z)


def test_report_gathers_every_figure() -> None:
    image, whole = tiled("none", "none", 64), tiled("none", "none", 128)
    report = seam_report(image, 64, reference=whole)
    assert report.border_ratio == border_ratio(image, 64) and report.phase_z == phase_z(image, 64)
    assert report.border_excess == border_excess(image, whole, 64)
    assert report.psnr_b == psnr_b(image, whole, 64)
    assert report.tone_drift == tone_drift(image, whole, 64)
    assert report.difference == tiled_against_whole(image, whole, 64)
    data = json.loads(json.dumps(report.as_dict()))
    assert set(data["border_ratio"]) == {"x", "y"} and data["difference"]["worst"] > 0
    same = seam_report(whole, 64, reference=whole)
    assert json.loads(json.dumps(same.as_dict(), allow_nan=False))["difference"]["border_psnr"] is None
    alone = seam_report(image, 64)
    assert alone.psnr_b is None and alone.as_dict()["difference"] is None


def test_images_that_cannot_be_measured_are_errors() -> None:
    image = texture(32, 48)
    cases: list[tuple[type[ValueError], str, Any]] = [
        (SizeError, "2 to 48 pixels", lambda: border_ratio(image, 1)),
        (SizeError, "but got 49", lambda: phase_z(image, 49)),
        (ReportError, r"shape \(C, H, W\)", lambda: steps(image[0])),
        (ReportError, "of torch.uint8", lambda: steps((255 * image).byte())),
        (ReportError, "NaN or infinity", lambda: steps(image / 0)),
        (ReportError, "image's shape", lambda: psnr_b(image, image[:, :16], 8)),
        (ReportError, "1 or 3 channels", lambda: lab(image[:2])),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()


@pytest.mark.parametrize("seamless", ["none", "xy"])
@pytest.mark.parametrize("size", [(36, 64), (64, 36), (20, 52)])
def test_a_side_that_is_shorter_than_a_tile_has_no_border(size: tuple[int, int], seamless: SeamlessAxes) -> None:
    report = seam_report(torch.rand(3, *size), 51, seamless=seamless)
    ratios = report.border_ratio._asdict()
    assert all(math.isfinite(ratio) for ratio in ratios.values())
    if seamless == "none":
        assert ratios["x" if size[1] < 51 else "y"] == 1.0
