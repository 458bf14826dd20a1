from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from textile_metric import Tileability, TileabilityLoss, seam_map, tileability, weights


def clouds(width: int = 128, height: int = 96) -> torch.Tensor:
    """(3, H, W) noise with the spectrum of natural textures, periodic on both axes."""
    noise = torch.randn(3, height, width, generator=torch.Generator().manual_seed(2))
    noise = noise.mean(0, keepdim=True) + 0.3 * noise
    fy, fx = torch.fft.fftfreq(height)[:, None] * height, torch.fft.rfftfreq(width)[None] * width
    spectrum = torch.fft.rfft2(noise) / (1 + (fx.square() + fy.square()).sqrt() / 6) ** 1.5
    found = torch.fft.irfft2(spectrum, s=(height, width))
    return (0.5 + 0.16 * (found - found.mean()) / found.std()).clamp(0, 1)


def test_a_tile_a_crop_and_each_axis() -> None:
    tile = clouds()
    crop = tile[:, :, :100]
    assert float(tileability(tile)) > 0.7
    assert float(tileability(crop, "x")) < 0.1 and float(tileability(crop, "y")) > 0.8
    assert float(tileability(crop)) < 0.1
    turned = crop.transpose(1, 2)
    torch.testing.assert_close(tileability(turned, "y"), tileability(crop, "x"), rtol=0, atol=1e-5)


def test_both_is_the_product_of_the_axes() -> None:
    images = torch.rand(5, 3, 64, 64)
    with torch.no_grad():
        logits = weights.network(torch.device("cpu"))(images)
    expected = logits.x.sigmoid() * logits.y.sigmoid()
    torch.testing.assert_close(tileability(images), expected, rtol=1e-4, atol=1e-6)


def test_swapped_halves_change_nothing() -> None:
    crop = clouds()[:, :, :100]
    for shift in ((0, 50), (48, 0), (5, 17)):
        torch.testing.assert_close(tileability(crop.roll(shift, (1, 2))), tileability(crop), rtol=0, atol=1e-4)


def test_scores_do_not_depend_on_the_batch() -> None:
    images = torch.rand(5, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    together = tileability(images)
    assert together.shape == (5,) and together.dtype == torch.float32
    assert torch.equal(together, torch.cat([tileability(image) for image in images]))
    assert torch.equal(together.mean(), tileability(images, reduction="mean"))
    assert torch.equal(together.sum(), tileability(images, reduction="sum"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8])
def test_dtypes_agree(dtype: torch.dtype) -> None:
    # on values that every one of them holds
    image = (clouds() * 8).round() / 8
    given = (image * 255).round().byte() if dtype == torch.uint8 else image.to(dtype)
    expected = (image * 255).round() / 255 if dtype == torch.uint8 else image
    torch.testing.assert_close(tileability(given), tileability(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (7, 8)])
def test_tiny_images_have_a_score(size: tuple[int, int]) -> None:
    image = torch.rand(3, *size)
    for score, length in ((tileability(image, "x"), size[1]), (tileability(image, "y"), size[0])):
        assert 0 <= float(score) <= 1
        if length == 1:
            assert float(score) == 1.0
    assert seam_map(image).shape == (1, 1, *size)


def test_the_seam_map_shows_where() -> None:
    crop = clouds()[:, :, :100].roll(30, 2)  # the seam is between columns 29 and 30
    seams = seam_map(crop)
    assert seams.shape == (1, 1, 96, 100) and float(seams.min()) >= 0 and float(seams.max()) <= 1
    columns = seams[0, 0].mean(0)
    assert abs(int(columns.argmax()) - 30) <= 2
    assert float(columns[28:32].mean()) > 3 * float(torch.cat([columns[:20], columns[40:]]).mean())
    assert float(seam_map(crop, "y").max()) < 0.2 < float(seam_map(crop, "x").max())


def test_the_loss_leads_to_a_tile() -> None:
    image = clouds(96, 64)[:, :, :72].clone().requires_grad_(True)
    loss = TileabilityLoss()
    before = float(loss(image).detach())
    for _ in range(25):
        (gradient,) = torch.autograd.grad(loss(image), image)
        image = (image.detach() - 0.02 * gradient.sign()).clamp(0, 1).requires_grad_(True)
    assert float(loss(image).detach()) < 0.6 * before
    assert not list(loss.parameters())
    batch = torch.rand(3, 3, 32, 32, requires_grad=True)
    each = TileabilityLoss("x", "none")(batch)
    assert each.shape == (3,) and bool((each > 0).all())
    torch.testing.assert_close(TileabilityLoss("x", "sum")(batch), each.sum())
    each.sum().backward()
    assert batch.grad is not None and bool(torch.isfinite(batch.grad).all())


@pytest.mark.parametrize("image", [clouds()[:1].expand(3, -1, -1), torch.full((3, 16, 16), 0.5), torch.zeros(3, 9, 1)])
def test_gradients_are_finite_where_there_is_no_colour_or_no_step(image: torch.Tensor) -> None:
    image = image.clone().requires_grad_(True)
    TileabilityLoss()(image).backward()
    assert image.grad is not None and bool(torch.isfinite(image.grad).all())
    assert bool(torch.isfinite(seam_map(image.detach())).all())


def test_the_metric_accumulates_like_the_function() -> None:
    images = torch.rand(6, 3, 32, 40)
    expected = tileability(images)
    for reduction in ("mean", "sum", "none"):
        metric = Tileability(reduction=reduction)
        metric.update(images[:2])
        metric.update(images[2:])
        wanted = expected if reduction == "none" else getattr(expected, reduction)()
        torch.testing.assert_close(metric.compute(), wanted)
        again = pickle.loads(pickle.dumps(metric))
        torch.testing.assert_close(again.compute(), wanted)
        metric.reset()
        torch.testing.assert_close(metric(images[:1]).reshape(1), expected[:1])
    assert Tileability.higher_is_better and Tileability.weights_version == weights.VERSION


def test_choices_are_checked() -> None:
    image = torch.rand(3, 8, 8)
    wrong: Any = "z"
    for make in (
        lambda: tileability(image, wrong),
        lambda: seam_map(image, wrong),
        lambda: TileabilityLoss(wrong),
        lambda: Tileability(wrong),
    ):
        with pytest.raises(ValueError, match="Expected axes to be x, y or xy, but got 'z'"):
            make()
    for make in (
        lambda: tileability(image, reduction=wrong),
        lambda: TileabilityLoss(reduction=wrong),
        lambda: Tileability(reduction=wrong),
    ):
        with pytest.raises(ValueError, match="Expected reduction to be none, mean or sum, but got 'z'"):
            make()
    with pytest.raises(ValueError, match=r"in .0, 1., but got -1 to"):
        TileabilityLoss()(torch.full((3, 8, 8), -1.0))


def test_the_shipped_weights_are_the_ones_that_are_named() -> None:
    assert hashlib.sha256(weights.FILE.read_bytes()).hexdigest() == weights.SHA256
    assert weights.FILE.stat().st_size <= 12_000_000
    assert not any(p.requires_grad for p in weights.network(torch.device("cpu")).parameters())


def test_damaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.network.cache_clear()
    monkeypatch.setattr(weights, "FILE", tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="Expected the tileability weights in"):
        tileability(torch.rand(3, 8, 8))
    (tmp_path / "other.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match="Expected tileability weights with SHA-256"):
        tileability(torch.rand(3, 8, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to compare with the CPU")
def test_cpu_and_gpu_agree() -> None:
    images = torch.rand(4, 3, 200, 300)
    torch.testing.assert_close(tileability(images.cuda()).cpu(), tileability(images), rtol=0, atol=1e-4)
