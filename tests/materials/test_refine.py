"""Refinement: what must hold whatever the weights are, and on procedural materials what the shipped ones do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asd.errors import SizeError, ZelligeError
from asd.resample import resample
from materials.density import base_size
from materials.maps import normal_from_height
from materials.material import MAPS, Material
from materials.pipeline import DEFAULT_WEIGHTS, MaterialPipeline
from materials.procedural import sample
from materials.refine import LAYOUT, passes, refine
from tests import tiny, tiny_stable
from textile_metric.seam import seam_ratio

needs_weights = pytest.mark.skipif(
    not (DEFAULT_WEIGHTS / "model_index.json").is_file(), reason="materials/weights is not there"
)
SEAM = 1.25
"""Largest step across the wrap edge in median steps, in that of the base enlarged, which may have a joint there."""
PSNR = 20.0
"""Decibels between a base and its refinement brought back to the base's size, at least: the layout is the same."""


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> MaterialPipeline:
    return MaterialPipeline.from_pretrained(tiny.checkpoint(tmp_path_factory.mktemp("checkpoint")), device="cpu")


@pytest.fixture(scope="module")
def shipped() -> MaterialPipeline:
    return MaterialPipeline.from_pretrained(device="cpu")


def procedural(name: str, side: int, seed: int = 3) -> Material:
    made = sample(name, [seed], (side, side))
    depth, (width, height) = float(made.depth_m[0]), made.size_m[0].tolist()
    return Material.from_network(made.network()[0], depth_m=depth, size_m=(width, height))


def stack(material: Material) -> Tensor:
    return torch.cat([getattr(material, name) for name in MAPS])


def larger(value: Tensor, like: Material) -> Tensor:
    return resample(value[None], (like.size[1], like.size[0]), wrap_x=True, wrap_y=True)[0]


def seam(value: Tensor) -> float:
    """Worse axis of the seam ratio, 1 at least."""
    unit = value * 0.5 + 0.5 if float(value.amin()) < 0 else value
    return max(1.0, float(seam_ratio(unit.clamp(0, 1)).max()))


def smaller(material: Material, size: tuple[int, int]) -> Tensor:
    return resample(stack(material)[None], (size[1], size[0]), wrap_x=True, wrap_y=True)[0]


@pytest.mark.parametrize(
    ("size", "factor", "axes"), [((250, 190), 2, "xy"), ((130, 333), 4, "x"), ((96, 64), 8, "none"), ((3, 1), 4, "y")]
)
def test_sizes_are_exact_and_metres_stay(
    pipe: MaterialPipeline, size: tuple[int, int], factor: int, axes: Any
) -> None:
    options: Any = {"seamless": axes, "seed": 3, "steps": 2}
    made = pipe("red brick", size=size, refine=factor, **options)
    base = pipe("red brick", size=base_size(size, factor), grain=0.0, **options)
    assert made.size == size and made.seamless == axes
    assert made.depth_m == base.depth_m
    # a texel is the factor's part of the base's, also where the factor doesn't divide the sides
    texel = [metres / side for metres, side in zip(made.size_m, made.size, strict=True)]
    wanted = [metres / side / factor for metres, side in zip(base.size_m, base.size, strict=True)]
    assert texel == pytest.approx(wanted)


def test_the_same_seed_is_the_same_alone_and_in_company(pipe: MaterialPipeline) -> None:
    options: Any = {"size": (96, 80), "steps": 1, "refine": 2}
    both = pipe(["sand", "red brick"], seed=[8, 7], **options)
    assert torch.equal(stack(both[1]), stack(pipe("red brick", seed=7, **options)))
    base = pipe("red brick", size=(48, 40), steps=1, grain=0.0)
    made = [stack(refine(pipe, base, "sand", seed=seed)) for seed in (1, 2)]
    assert not torch.equal(*made)


def test_steps_of_base_and_passes_are_counted(pipe: MaterialPipeline) -> None:
    seen: list[tuple[int, int]] = []
    pipe(["sand", "moss"], seed=[1, 2], size=(64, 64), steps=3, refine=8, callback=lambda *step: seen.append(step))
    assert seen == [(k + 1, 22) for k in range(22)]  # twice three and two passes of four
    assert passes((64, 48), 2) == [(64, 48)] and passes((64, 48), 8) == [(16, 12), (64, 48)]


def test_a_torus_stays_one_across_tiles(pipe: MaterialPipeline) -> None:
    base = procedural("cobblestone", 160)
    made = refine(pipe, base, "wall", factor=4, grain=0.0)  # 80 cells: two tiles and a part along a side
    for name in MAPS:
        if float(getattr(base, name).std()) > 1e-3:
            assert seam(getattr(made, name)) <= SEAM * seam(larger(getattr(base, name), made)), name


def test_wide_waves_are_those_of_the_base(pipe: MaterialPipeline) -> None:
    base = procedural("cobblestone", 96)
    made = refine(pipe, base, "wall", factor=2, grain=0.0)
    few = (96 // LAYOUT, 96 // LAYOUT)
    for name in ("basecolor", "roughness"):  # random weights go out of range, which is cut off
        a, b = (resample(getattr(m, name)[None], few, wrap_x=True, wrap_y=True) for m in (base, made))
        assert float((a - b).abs().mean()) < 0.03


def test_locked_maps_are_kept(pipe: MaterialPipeline) -> None:
    kept = torch.rand(1, 48, 80, generator=torch.Generator().manual_seed(0))
    tilted = torch.tensor([0.6, 0.0, 0.8])[:, None, None].expand(3, 48, 80)
    options: Any = {"size": (80, 48), "steps": 1, "refine": 2}
    made = pipe("sand", lock={"roughness": 0.8, "metallic": kept, "height": kept}, **options)
    assert torch.equal(made.roughness, torch.full((1, 48, 80), 0.8)) and torch.equal(made.metallic, kept)
    assert torch.equal(made.height, kept)
    assert pipe("sand", lock={"normal": tilted}, **options).size == (80, 48)


def test_a_photo_and_a_guide_go_into_the_base(pipe: MaterialPipeline) -> None:
    photo = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))
    varied = pipe("sand", size=(96, 64), steps=1, refine=2, image=photo, strength=0.3)
    plain = pipe("sand", size=(96, 64), steps=1, refine=2)
    assert varied.size == (96, 64) and not torch.equal(varied.basecolor, plain.basecolor)


@needs_weights
@pytest.mark.parametrize("name", ["cobblestone", "planks"])
def test_the_shipped_weights_add_detail_and_keep_the_layout(shipped: MaterialPipeline, name: str) -> None:
    base = soft(procedural(name, 96))
    made = refine(shipped, base, name, factor=2, seed=5)
    error = (smaller(made, base.size) - stack(base)).square()
    for part, channels in (("basecolor", slice(0, 3)), ("height", slice(6, 7)), ("roughness", slice(7, 8))):
        assert -10 * math.log10(float(error[channels].mean())) >= PSNR, part
    # more in the finest octave than an enlargement has
    plain = larger(base.basecolor, made)
    fine = [float((x - soft_map(x)).square().mean()) for x in (made.basecolor, plain)]
    assert fine[0] > 2 * fine[1]
    assert seam(made.basecolor) <= SEAM * seam(plain)


def soft_map(x: Tensor) -> Tensor:
    half = resample(x[None], (x.shape[1] // 2, x.shape[2] // 2), wrap_x=True, wrap_y=True)
    return resample(half, (x.shape[1], x.shape[2]), wrap_x=True, wrap_y=True)[0]


def soft(material: Material) -> Material:
    """As a decoded material is: without its finest octave."""
    maps = soft_map(material.to_network())
    return Material.from_network(maps, depth_m=material.depth_m, size_m=material.size_m)


@needs_weights
def test_maps_stay_aligned(shipped: MaterialPipeline) -> None:
    base = procedural("cobblestone", 96)
    made = refine(shipped, base, "cobblestone", factor=2, grain=0.0)
    relief: Any = {"depth_m": made.depth_m, "size_m": made.size_m, "seamless": made.seamless}
    torch.testing.assert_close(made.normal[None], normal_from_height(made.height[None], **relief))
    for name in ("basecolor", "height", "roughness"):
        before, after = getattr(base, name)[None], getattr(made, name)[None]
        before = resample(before, (192, 192), wrap_x=True, wrap_y=True)
        if float(before.std()) < 1e-3:
            continue
        # where the circular cross-correlation of both is largest
        spectra = [torch.fft.rfft2(x - x.mean((-2, -1), keepdim=True)) for x in (before, after)]
        found = int(torch.fft.irfft2(spectra[0].conj() * spectra[1], s=(192, 192)).sum(1).argmax())
        rows, columns = (min(k, 192 - k) for k in divmod(found, 192))
        assert max(rows, columns) <= 1, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refine": 3}, "refine to be 2 or 4 or 8, but got 3"),
        ({"refine": 0}, "but got 0"),
        ({"refine": 2, "image": torch.rand(3, 64, 64), "mask": torch.ones(1, 64, 64)}, "no refine beside a mask"),
        ({"refine": 2, "lock": {"roughness": torch.rand(1, 32, 32)}}, r"locked roughness of shape \(1, 64, 64\)"),
        ({"refine": 2, "scale": 2.0}, "scale from 0 to 1"),
    ],
)
def test_bad_arguments_are_one_sentence(pipe: MaterialPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ZelligeError, match=message):
        pipe("sand", size=(64, 64), steps=1, **options)


def test_a_material_is_refined_to_its_own_factor(pipe: MaterialPipeline) -> None:
    base = procedural("cobblestone", 32)
    with pytest.raises(SizeError, match="whose 4th part is the material's 32x32, but got 64x64"):
        refine(pipe, base, "wall", factor=4, size=(64, 64))
    with pytest.raises(ZelligeError, match="Expected a prompt"):
        refine(pipe, base, " ")


def test_stable_materials_says_that_it_cannot(tmp_path: Path) -> None:
    model = MaterialPipeline.from_pretrained(tiny_stable.checkpoint(tmp_path / "checkpoint"), device="cpu")
    with pytest.raises(ZelligeError, match="the package's own to refine with"):
        model("sand", size=(64, 64), refine=2)
