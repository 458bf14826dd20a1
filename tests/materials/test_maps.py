from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from materials.maps import (
    ambient_occlusion,
    curvature,
    fit_depth,
    height_from_normal,
    height_to_range,
    normal_from_height,
    reconcile,
)

AXES = ["none", "x", "y", "xy"]
SIZE_M = (1.0, 0.7)


def smooth(rows: int, columns: int, seed: int = 0, n: int = 2) -> Tensor:
    """Periodic random fields (N, 1, H, W) in [0, 1] without the frequencies that central differences cannot see."""
    noise = torch.randn(n, 1, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    f = torch.fft.fftfreq(rows)[:, None] ** 2 + torch.fft.fftfreq(columns)[None] ** 2
    spectrum = torch.fft.fft2(noise) * torch.exp(-200 * f) * (f < 0.2)
    return height_to_range(torch.fft.ifft2(spectrum).real).float()


def angle_deg(a: Tensor, b: Tensor) -> float:
    return float(torch.rad2deg(torch.acos((a * b).sum(1).clamp(-1, 1))).mean())


def test_normals_of_a_plane_and_a_wave_by_hand() -> None:
    ramp = torch.linspace(0, 1, 11).repeat(5, 1)[None, None]  # rises to the right, 0.1 a texel of 0.1 m
    n = normal_from_height(ramp, depth_m=2.0, size_m=(1.1, 0.5), seamless="none")
    expected = torch.tensor([-2.0, 0.0, 1.0]) / math.sqrt(5)
    torch.testing.assert_close(n, expected[None, :, None, None].expand_as(n), atol=1e-5, rtol=0)
    down = normal_from_height(ramp.mT.contiguous(), depth_m=2.0, size_m=(0.5, 1.1), seamless="none")
    expected = torch.tensor([0.0, 2.0, 1.0]) / math.sqrt(5)  # rises down the image: tips up the image, OpenGL +Y
    torch.testing.assert_close(down, expected[None, :, None, None].expand_as(down), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seamless", AXES)
@pytest.mark.parametrize("size", [(48, 64), (33, 47), (1, 33), (33, 1), (3, 5)])
def test_integration_inverts_differentiation(seamless: str, size: tuple[int, int]) -> None:
    height = smooth(*size) if min(size) > 5 else height_to_range(torch.rand(2, 1, *size))
    depth = torch.tensor([0.02, 0.05])
    normal = normal_from_height(height, depth_m=depth, size_m=SIZE_M, seamless=seamless)
    back, found = height_from_normal(normal, size_m=SIZE_M, seamless=seamless)
    torch.testing.assert_close(back, height, atol=2e-5, rtol=0)
    torch.testing.assert_close(found, depth, atol=0, rtol=2e-5)
    torch.testing.assert_close(fit_depth(normal, height, size_m=SIZE_M, seamless=seamless), depth, atol=0, rtol=1e-4)


def test_integration_equals_a_dense_least_squares_solver() -> None:
    rows, columns = 5, 7
    normal = torch.randn(1, 3, rows, columns, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    normal[:, 2] = normal[:, 2].abs() + 1
    normal = normal / normal.norm(dim=1, keepdim=True)
    n = normal[0].numpy()
    eye = np.eye(rows * columns).reshape(-1, rows, columns)
    d_x = (np.roll(eye, -1, 2) - np.roll(eye, 1, 2)) / (2 * SIZE_M[0] / columns)
    d_row = (np.roll(eye, -1, 1) - np.roll(eye, 1, 1)) / (2 * SIZE_M[1] / rows)
    system = np.concatenate([d_x.reshape(len(eye), -1).T, d_row.reshape(len(eye), -1).T])
    slopes = np.concatenate([(-n[0] / n[2]).ravel(), (n[1] / n[2]).ravel()])
    z = np.linalg.lstsq(system, slopes, rcond=None)[0].reshape(rows, columns)
    height, depth = height_from_normal(normal, size_m=SIZE_M)
    np.testing.assert_allclose(height[0, 0].numpy() * float(depth), z - z.min(), atol=1e-10)


def test_eight_bit_normals_still_give_the_height() -> None:
    height = smooth(128, 128, n=1)
    normal = normal_from_height(height, depth_m=0.1, size_m=(1.0, 1.0))
    coarse = torch.round((normal * 0.5 + 0.5) * 255) / 255 * 2 - 1
    back, depth = height_from_normal(coarse, size_m=(1.0, 1.0))
    assert float((back - height).square().mean().sqrt()) < 5e-3
    assert float(depth) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("seamless", AXES)
def test_consistent_maps_stay_as_they_are(seamless: str) -> None:
    height = torch.rand(2, 1, 32, 40, generator=torch.Generator().manual_seed(4))
    depth = torch.tensor([0.01, 0.03])
    normal = normal_from_height(height, depth_m=depth, size_m=SIZE_M, seamless=seamless)
    out = reconcile(normal, height, depth_m=depth, size_m=SIZE_M, seamless=seamless)
    torch.testing.assert_close(out.height, height, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.normal, normal, atol=1e-4, rtol=0)
    torch.testing.assert_close(out.depth_m, depth, atol=0, rtol=1e-5)
    assert float(out.normal_error_deg.max()) < 0.01 and float(out.height_error_m.max()) < 1e-6


def test_reconciled_takes_low_frequencies_from_height_and_high_from_normal() -> None:
    rows = columns = 128
    x = torch.arange(columns) / columns
    slow, fast = torch.cos(2 * math.pi * x), torch.cos(2 * math.pi * 32 * x)
    given = (0.5 + 0.4 * slow).expand(1, 1, rows, columns)
    detail = 0.02 * fast.expand(1, 1, rows, columns)
    # the normals know the detail, and are wrong by a factor of 3 about the slow shape
    normal = normal_from_height(0.5 + 1.2 * slow + detail, depth_m=0.1, size_m=(1.0, 1.0))
    out = reconcile(normal, given, depth_m=0.1, size_m=(1.0, 1.0), crossover_m=1 / 6)
    spectrum = torch.fft.rfft(out.height[0, 0, 0]).abs() / (columns / 2) * (out.depth_m / 0.1)
    assert float(spectrum[1]) == pytest.approx(0.4, rel=0.1)
    assert float(spectrum[32]) == pytest.approx(0.02, rel=0.1)


def test_reconciled_keeps_a_depth_that_is_known() -> None:
    height = smooth(64, 64, n=1)
    normal = normal_from_height(height, depth_m=0.1, size_m=(1.0, 1.0))
    given = {"depth_m": 0.05, "size_m": (1.0, 1.0), "crossover_m": 10.0}
    free, kept = (reconcile(normal, height, **given, keep_depth=keep) for keep in (False, True))
    # steeper than the height says, so that the merged field is deeper
    assert float(free.depth_m) > 0.06 and float(kept.depth_m) == pytest.approx(0.05)
    assert float(kept.height.min()) == 0 and float(kept.height.max()) == 1
    again = normal_from_height(kept.height, depth_m=0.05, size_m=(1.0, 1.0))
    torch.testing.assert_close(kept.normal, again)


def test_reconciled_pair_agrees_and_states_its_error() -> None:
    height, other = smooth(48, 48, seed=5), smooth(48, 48, seed=6)
    normal = normal_from_height(other, depth_m=0.05, size_m=(1.0, 1.0))
    out = reconcile(normal, height, depth_m=0.05, size_m=(1.0, 1.0))
    again = normal_from_height(out.height, depth_m=out.depth_m, size_m=(1.0, 1.0))
    torch.testing.assert_close(again, out.normal, atol=1e-5, rtol=0)
    assert float(out.height.min()) >= 0 and float(out.height.max()) <= 1
    for i in range(2):
        between = angle_deg(normal[i : i + 1], out.normal[i : i + 1])
        assert float(out.normal_error_deg[i]) == pytest.approx(between, abs=0.05)


@pytest.mark.parametrize(("shift", "seamless"), [((5, 11), "xy"), ((0, 11), "x"), ((5, 0), "y")])
def test_rolling_the_input_rolls_the_output(shift: tuple[int, int], seamless: str) -> None:
    height = smooth(40, 56)
    kwargs = {"depth_m": 0.05, "size_m": SIZE_M, "seamless": seamless}
    rolled = torch.roll(height, shift, (2, 3))
    normal = normal_from_height(height, **kwargs)
    moved = normal_from_height(rolled, **kwargs)
    torch.testing.assert_close(moved, torch.roll(normal, shift, (2, 3)), atol=1e-6, rtol=0)
    shade, shade_rolled = ambient_occlusion(height, **kwargs), ambient_occlusion(rolled, **kwargs)
    torch.testing.assert_close(shade_rolled, torch.roll(shade, shift, (2, 3)), atol=0, rtol=0)
    noisy = torch.nn.functional.normalize(normal + 0.1 * torch.randn(normal.shape), dim=1)
    here = reconcile(noisy, height, **kwargs)
    there = reconcile(torch.roll(noisy, shift, (2, 3)), rolled, **kwargs)
    torch.testing.assert_close(there.height, torch.roll(here.height, shift, (2, 3)), atol=1e-5, rtol=0)


def test_flat_ground_is_open_and_a_pit_is_dark() -> None:
    flat = torch.full((1, 1, 32, 32), 0.3)
    assert torch.equal(ambient_occlusion(flat, depth_m=0.1, size_m=(1.0, 1.0)), torch.ones(1, 1, 32, 32))
    pit = torch.ones(1, 1, 32, 32)
    pit[..., 16, 16] = 0
    shade = ambient_occlusion(pit, depth_m=0.1, size_m=(1.0, 1.0))
    assert float(shade[..., 16, 16]) < 0.15 and float(shade[..., 0, 0]) == 1


def test_occlusion_beside_a_long_wall_has_its_closed_form() -> None:
    rows = columns = 64
    wall = torch.zeros(1, 1, rows, columns)
    wall[..., 40:] = 1
    texel, depth = 1 / columns, 0.1
    shade = ambient_occlusion(wall, depth_m=depth, size_m=(1.0, 1.0), seamless="y", directions=64)
    distance = 3  # texels from column 37 to the wall
    azimuth = (torch.arange(4096) + 0.5) / 4096 * 2 * math.pi
    tangent = (torch.cos(azimuth) * depth / (distance * texel)).clamp_min(0)
    expected = float((1 / (1 + tangent**2)).mean())
    assert float(shade[0, 0, 32, 37]) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (64, 1), (3, 200)])
def test_occlusion_of_thin_images(size: tuple[int, int]) -> None:
    shade = ambient_occlusion(torch.rand(1, 1, *size), depth_m=0.05, size_m=(1.0, 1.0))
    assert shade.shape[-2:] == size and float(shade.min()) > 0 and float(shade.max()) <= 1


def test_bad_input_is_explained() -> None:
    height, normal = torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        height_from_normal(height, size_m=SIZE_M)
    with pytest.raises(ValueError, match="like the normals"):
        reconcile(normal, torch.zeros(1, 1, 4, 5), depth_m=1.0, size_m=SIZE_M)
    with pytest.raises(ValueError, match="crossover_m above 0"):
        reconcile(normal, height, depth_m=1.0, size_m=SIZE_M, crossover_m=0.0)
    with pytest.raises(ValueError, match="4 directions"):
        ambient_occlusion(height, depth_m=1.0, size_m=SIZE_M, directions=2)
    for call in (normal_from_height, ambient_occlusion):
        with pytest.raises(ValueError, match="none, x, y or xy"):
            call(height, depth_m=1.0, size_m=SIZE_M, seamless="z")
        with pytest.raises(ValueError, match=r"\(N, 1, H, W\)"):
            call(normal, depth_m=1.0, size_m=SIZE_M)


def test_curvature_of_a_ball_a_bar_and_a_saddle() -> None:
    rows, columns, size = 96, 120, (1.2, 0.96)  # 1 cm a texel
    y, x = ((torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * 0.01 for n in (rows, columns))
    y, x = torch.meshgrid(y, x, indexing="ij")
    middle = (slice(None), slice(None), slice(38, 58), slice(50, 70))
    for shape, radius, expected in (
        (torch.sqrt(4 - x.square() - y.square()), 2.0, 1.0),
        (torch.sqrt(4 - x.square()) + 0 * y, 2.0, 0.5),
        (torch.sqrt(4 - y.square()) + 0 * x, 2.0, 0.5),
        (-torch.sqrt(4 - x.square() - y.square()), 2.0, -1.0),
        (0.2 * (x.square() - y.square()), 1.0, 0.0),
        (0.7 * x - 0.4 * y, 1.0, 0.0),
    ):
        found = curvature(shape[None, None], depth_m=1.0, size_m=size, seamless="none")
        wanted = torch.full_like(found, expected / radius)
        # second order in 1 cm over 2 m; off its centre a saddle is bent by the square of its slope, 0.04
        torch.testing.assert_close(found[middle], wanted[middle], atol=1e-3, rtol=1e-4)
    tilted = curvature((0.7 * x - 0.4 * y)[None, None], depth_m=1.0, size_m=size, seamless="none")
    assert float(tilted.abs().max()) < 1e-5  # the border too


def test_curvature_wraps_and_knows_metres() -> None:
    height = smooth(48, 64)
    kwargs = {"depth_m": 0.05, "size_m": SIZE_M}
    whole = curvature(height, **kwargs)
    for shift, seamless in (((5, 11), "xy"), ((0, 11), "x"), ((5, 0), "y")):
        moved = curvature(torch.roll(height, shift, (2, 3)), seamless=seamless, **kwargs)
        plain = curvature(height, seamless=seamless, **kwargs)
        torch.testing.assert_close(moved, torch.roll(plain, shift, (2, 3)), atol=1e-3, rtol=0)
    # what flows out of one texel flows into the next: over a torus nothing is left
    assert float(whole.double().mean().abs()) < 1e-4 * float(whole.abs().max())
    twice = curvature(height, depth_m=0.1, size_m=(2 * SIZE_M[0], 2 * SIZE_M[1]))
    torch.testing.assert_close(twice, whole / 2, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(curvature(1 - height, **kwargs), -whole, atol=1e-2, rtol=0)
    bumps = curvature(height, depth_m=0.001, size_m=(1.0, 48 / 64))
    assert float((bumps * (height - 0.5)).mean()) > 0
    for size in ((1, 9), (9, 1), (1, 1), (2, 2)):
        assert bool(torch.isfinite(curvature(torch.rand(1, 1, *size), seamless="none", **kwargs)).all())
    with pytest.raises(ValueError, match="shape"):
        curvature(height[0], **kwargs)
    with pytest.raises(ValueError, match="none, x, y or xy"):
        curvature(height, seamless="z", **kwargs)


@pytest.mark.parametrize("relief", [8, 20])
@pytest.mark.parametrize("size", [(128, 128), (96, 171), (65, 256)])
def test_eight_bit_normals_give_the_height_to_a_hundredth_of_a_texel(size: tuple[int, int], relief: int) -> None:
    from benchmarks.round_trip import round_trip

    rmse, depth_error = round_trip(size, relief=relief, wavelength=24, seed=3)
    assert rmse <= 0.01 and depth_error <= 0.01
