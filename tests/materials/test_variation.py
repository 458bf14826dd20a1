"""Variations on a checkpoint of random weights: what must hold whatever the weights are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from asd.errors import SizeError, ZelligeError
from materials.material import MAPS, Material
from materials.pipeline import MaterialPipeline
from materials.variation import Variation, begin, feather, pasted, start_noise
from tests import tiny

SIZE = (96, 96)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> MaterialPipeline:
    return MaterialPipeline.from_pretrained(tiny.checkpoint(tmp_path_factory.mktemp("checkpoint")), device="cpu")


@pytest.fixture(scope="module")
def base(pipe: MaterialPipeline) -> Material:
    return pipe("old brick", size=SIZE, steps=2, seed=1)


def stack(material: Material) -> Tensor:
    return torch.cat([getattr(material, name) for name in MAPS])


def square(size: tuple[int, int] = SIZE) -> Tensor:
    mask = torch.zeros(1, size[1], size[0])
    mask[:, 30:60, 70:] = 1
    mask[:, 30:60, :10] = 1  # across the border
    return mask


def test_a_mask_keeps_all_else_to_the_bit(pipe: MaterialPipeline, base: Material) -> None:
    mask = square()
    made = pipe("sand", size=SIZE, steps=2, seed=5, image=base, mask=mask)
    outside = (mask == 0)[0]
    for name in MAPS:
        assert torch.equal(getattr(made, name)[:, outside], getattr(base, name)[:, outside])
    assert not torch.equal(made.basecolor, base.basecolor)
    assert (made.depth_m, made.size_m, made.seamless) == (base.depth_m, base.size_m, base.seamless)


def test_a_mask_on_a_photo_keeps_the_photo(pipe: MaterialPipeline) -> None:
    photo = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    made = pipe("sand", size=SIZE, steps=2, image=photo, mask=square())
    outside = (square() == 0)[0]
    assert torch.equal(made.basecolor[:, outside], photo[:, outside])


def test_strength_goes_from_the_image_to_nothing_of_it(pipe: MaterialPipeline, base: Material) -> None:
    options: Any = {"size": SIZE, "steps": 3, "seed": 9, "grain": 0.0}
    kept = [pipe("sand", image=base, strength=s, **options).roughness for s in (0.0, 0.3, 0.7, 1.0)]
    again = pipe("moss", image=base, strength=0.0, **(options | {"seed": 10})).roughness
    assert torch.equal(kept[0], again)  # nothing of the prompt or the seed
    distance = [float((each - kept[0]).abs().mean()) for each in kept]
    assert distance == sorted(distance) and distance[1] > 0
    # an image says where its pixels are: no roll; of a prompt alone the border is where it is calm
    plain = pipe("sand", size=SIZE, steps=3, seed=9, grain=0.0).roughness
    assert sorted(plain.flatten().tolist()) == pytest.approx(sorted(kept[-1].flatten().tolist()), abs=0.05)


def test_steps_lie_below_the_strength(pipe: MaterialPipeline) -> None:
    scheduler: Any = pipe.scheduler
    for strength in (0.2, 0.5, 0.9):
        first = begin(scheduler, 4, strength, torch.device("cpu"))
        assert len(scheduler.timesteps) - first == 4
        assert strength * 0.7 <= float(scheduler.sigmas[first]) <= strength + 1e-5
    assert begin(scheduler, 4, 1.0, torch.device("cpu")) == 0
    assert begin(scheduler, 4, 0.0, torch.device("cpu")) == len(scheduler.timesteps)


def test_neighbours_lie_on_the_sphere(pipe: MaterialPipeline) -> None:
    shape = (4, 32, 32)
    ends = [start_noise(shape, seed, Variation()) for seed in (3, 4)]
    assert torch.equal(start_noise(shape, 3, Variation(neighbour=4, amount=0.0)), ends[0])
    torch.testing.assert_close(start_noise(shape, 3, Variation(neighbour=4, amount=1.0)), ends[1])
    torch.testing.assert_close(start_noise(shape, 3, Variation(neighbour=3, amount=0.5)), ends[0])
    middle = start_noise(shape, 3, Variation(neighbour=4, amount=0.5))
    assert float(middle.std()) == pytest.approx(1, abs=0.03)
    assert float((middle - ends[0]).norm()) == pytest.approx(float((middle - ends[1]).norm()), rel=0.02)
    made = [stack(pipe("sand", size=(48, 48), steps=2, seed=3, neighbour=4, amount=a)) for a in (0.0, 0.5)]
    assert torch.equal(made[0], stack(pipe("sand", size=(48, 48), steps=2, seed=3)))
    assert not torch.equal(made[0], made[1])


def test_the_feather_lies_inside_the_mask_and_wraps() -> None:
    mask = square() > 0.5
    weight = feather(mask, "xy")
    assert bool((weight[~mask] == 0).all()) and float(weight.max()) == 1
    torch.testing.assert_close(feather(mask.roll((7, 30), (1, 2)), "xy"), weight.roll((7, 30), (1, 2)))
    line = torch.zeros(1, 20, 20, dtype=torch.bool)
    line[:, 10] = True
    assert float(feather(line, "none").max()) > 0  # thinner than the feather, and yet not nothing


def test_a_new_region_stands_on_the_old_ground() -> None:
    flat = torch.zeros(3, 40, 40)
    flat[2] = 1
    grey = torch.full((1, 40, 40), 0.5)
    rest: Any = {"normal": flat, "roughness": grey, "metallic": grey, "size_m": (1.0, 1.0)}
    old = Material(basecolor=flat, height=torch.full((1, 40, 40), 0.25), depth_m=0.1, **rest)
    new = Material(basecolor=flat, height=torch.full((1, 40, 40), 0.9), depth_m=0.3, **rest)
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[:, 5:35, 5:35] = True
    torch.testing.assert_close(pasted(new, old, mask).height, old.height)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0.5}, "beside an image"),
        ({"mask": square()}, "beside an image"),
        ({"amount": 0.5}, "beside the seed of a neighbour"),
        ({"neighbour": 3, "amount": 1.5}, "amount from 0 to 1, but got 1.5"),
        ({"image": torch.rand(3, 96, 96), "strength": -1}, "strength from 0 to 1"),
        ({"image": torch.rand(1, 96, 96)}, r"shape \(3, H, W\)"),
        ({"image": torch.full((3, 96, 96), 2.0)}, r"in \[0, 1\]"),
        ({"image": torch.rand(3, 96, 96), "mask": torch.zeros(1, 96, 96)}, "with white"),
        ({"image": torch.rand(3, 96, 96), "mask": torch.ones(1, 8, 8)}, "a mask of shape"),
        ({"image": torch.rand(3, 8, 9), "mask": square()}, "result's 96x96 pixels beside a mask, but got 9x8"),
    ],
)
def test_bad_arguments_are_one_sentence(pipe: MaterialPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ZelligeError, SizeError), match=message):
        pipe("sand", size=SIZE, steps=1, **options)


def test_an_image_of_another_size_is_resampled(pipe: MaterialPipeline, base: Material) -> None:
    assert pipe("sand", size=(40, 56), steps=1, image=base, strength=0.3).size == (40, 56)
    assert pipe("sand", size=(40, 56), steps=1, image=torch.rand(3, 20, 30), strength=0.3).size == (40, 56)
