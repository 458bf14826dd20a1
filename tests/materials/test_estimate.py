"""A photo to maps with an autoencoder of random weights, and briefly with the shipped one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from asd.errors import CheckpointError, SizeError, ZelligeError
from asd.seamless import SeamlessAxes
from materials.estimate import Prepared, estimate_maps, infer, prepare_photo
from materials.material import MAPS
from materials.pipeline import DEFAULT_WEIGHTS, MaterialPipeline
from materials.relief import relief, shaded_slopes
from tests import tiny

needs_weights = pytest.mark.skipif(
    not (DEFAULT_WEIGHTS / "model_index.json").is_file(), reason="materials/weights is not there"
)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> MaterialPipeline:
    return MaterialPipeline.from_pretrained(tiny.checkpoint(tmp_path_factory.mktemp("checkpoint")), device="cpu")


def noise(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(96, 64), (61, 83), (1, 1), (1, 70), (70, 1), (3, 200)])
@pytest.mark.parametrize("axes", ["none", "x", "xy"])
def test_any_size_gives_maps_of_that_size(pipe: MaterialPipeline, size: tuple[int, int], axes: SeamlessAxes) -> None:
    photo = noise(size[1], size[0])
    made = estimate_maps(Prepared(photo, axes, None), model=pipe)
    assert made.size == size and made.seamless == axes
    assert torch.equal(made.basecolor, photo)
    assert made.size_m[0] / made.size_m[1] == pytest.approx(size[0] / size[1])


@pytest.mark.parametrize("axes", ["none", "x", "y", "xy"])
def test_a_roll_of_the_photo_rolls_what_the_network_sees_on_the_axes_that_wrap(
    pipe: MaterialPipeline, axes: SeamlessAxes
) -> None:
    photo = noise(64, 96)[None]
    made = infer(photo, pipe.vae, axes)
    slopes = torch.cat(shaded_slopes(photo, axes))
    for axis, dim in (("x", -1), ("y", -2)):
        error = (infer(photo.roll(24, dim), pipe.vae, axes) - made.roll(24, dim)).abs().max()
        assert (error < 1e-4) == (axis in axes), (axis, axes, error)
        error = (torch.cat(shaded_slopes(photo.roll(5, dim), axes)) - slopes.roll(5, dim)).abs().max()
        assert (error < 1e-5) == (axis in axes), (axis, axes, error)


def test_a_roll_of_a_tile_rolls_its_material(pipe: MaterialPipeline) -> None:
    tile = noise(64, 96)
    made = estimate_maps(Prepared(tile, "xy", None), model=pipe)
    rolled = estimate_maps(Prepared(tile.roll((16, 40), (1, 2)), "xy", None), model=pipe)
    for name in MAPS:
        torch.testing.assert_close(getattr(rolled, name), getattr(made, name).roll((16, 40), (1, 2)), rtol=0, atol=1e-3)


def test_bright_is_high() -> None:
    ridge = torch.cos(torch.arange(64) * (torch.pi / 16)).expand(1, 3, 64, 64) * 0.3 + 0.5
    slope_x, slope_row = shaded_slopes(ridge, "xy")
    assert float(slope_row.abs().max()) < 1e-6
    rising = (ridge.roll(-1, 3) - ridge.roll(1, 3)).mean(1, keepdim=True)
    assert float((slope_x * rising).sum()) > 0 and float((slope_x.sign() == rising.sign()).float().mean()) > 0.9
    flat = torch.zeros(1, 3, 64, 64)
    flat[:, 2] = 1
    made = relief(ridge, flat, "xy")
    torch.testing.assert_close(made.norm(dim=1), torch.ones(1, 64, 64))
    assert float((made[:, :1] * rising).sum()) < 0
    # grey is flat, whatever its size and its axes
    torch.testing.assert_close(relief(torch.full((1, 3, 1, 5), 0.4), flat[..., :1, :5], "none"), flat[..., :1, :5])


def test_larger_photos_have_the_same_relief() -> None:
    wave = torch.sin(torch.arange(1024) * (2 * torch.pi / 256)).expand(1, 3, 1024, 1024) * 0.2 + 0.5
    large = shaded_slopes(wave, "xy")[0]
    small = shaded_slopes(wave[..., ::2, ::2].contiguous(), "xy")[0]
    assert float(small.abs().max()) / float(large.abs().max()) == pytest.approx(1, abs=0.1)


def test_a_photo_that_does_not_tile_is_made_to(pipe: MaterialPipeline, tmp_path: Path) -> None:
    wide = torch.nn.functional.interpolate(noise(20, 24)[None], scale_factor=8, mode="bicubic")[0].clamp(0, 1)
    crop = wide[:, 20:140, 30:170].contiguous()
    ready = prepare_photo(crop, "xy")
    assert ready.axes == "xy" and ready.remade is not None and ready.remade["untouched"] >= 0.5
    made = estimate_maps(crop, seamless="xy", model=pipe)
    assert made.seamless == "xy" and made.size == (ready.image.shape[2], ready.image.shape[1])
    assert prepare_photo(crop).axes == "none"
    assert prepare_photo(crop, "none").remade is None
    resized = estimate_maps(crop, seamless="xy", size=(50, 40), model=pipe)
    assert resized.size == (50, 40)


def test_passes_are_counted_and_faults_are_sentences(pipe: MaterialPipeline, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    estimate_maps(noise(16, 16), model=pipe, callback=lambda *step: seen.append(step))
    assert seen == [(1, 1)]
    with pytest.raises(SizeError, match="at least 1x1 pixels, but got 0x5"):
        estimate_maps(noise(16, 16), size=(0, 5), model=pipe)
    with pytest.raises(CheckpointError, match="Expected"):
        estimate_maps(noise(16, 16), model=tmp_path)
    with pytest.raises(ZelligeError, match="no file"):
        estimate_maps(tmp_path / "absent.png", model=pipe)


@needs_weights
def test_the_shipped_weights_make_rough_stone_of_a_grey_photo(tmp_path: Path) -> None:
    wide = torch.nn.functional.interpolate(noise(16, 16)[None], scale_factor=6, mode="bicubic")[0].clamp(0, 1)
    grey = (wide.mean(0, keepdim=True) * 255).to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).numpy()
    Image.fromarray(grey).save(tmp_path / "stone.png")
    made = estimate_maps(tmp_path / "stone.png", device="cpu")
    assert made.size == (96, 96)
    assert float(made.metallic.mean()) < 0.5 and float(made.roughness.mean()) > 0.3
    assert 0 < made.depth_m < 1
