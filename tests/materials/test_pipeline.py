"""The pipeline on a checkpoint of a few kilobytes with random weights, and briefly on the shipped one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from asd.errors import CheckpointError, ZelligeError
from asd.seamless import Seamless, SeamlessAxes
from materials.material import MAPS, Material
from materials.pipeline import DEFAULT_WEIGHTS, MaterialPipeline
from tests import tiny

needs_weights = pytest.mark.skipif(
    not (DEFAULT_WEIGHTS / "model_index.json").is_file(), reason="materials/weights is not there"
)
WEIGHT_FILES = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def pipe(folder: Path) -> MaterialPipeline:
    return MaterialPipeline.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def shipped() -> MaterialPipeline:
    return MaterialPipeline.from_pretrained(device="cpu")


def stack(material: Material) -> Tensor:
    return torch.cat([getattr(material, name) for name in MAPS])


@pytest.mark.parametrize("size", [(333, 217), (1, 64), (64, 1), (1, 1), (96, 300), (31, 257)])
def test_sizes_are_exact(pipe: MaterialPipeline, size: tuple[int, int]) -> None:
    made = pipe("red brick wall", size=size, steps=2)
    assert made.size == size
    assert all(getattr(made, name).shape[1:] == (size[1], size[0]) for name in MAPS)
    assert made.size_m[0] / made.size_m[1] == pytest.approx(size[0] / size[1])


def test_same_request_is_bit_identical_and_seeds_and_prompts_differ(pipe: MaterialPipeline) -> None:
    first = stack(pipe("red brick", size=(48, 40), steps=3, seed=7))
    pipe("sand", size=(64, 64), steps=1, seamless="none")
    assert torch.equal(stack(pipe("red brick", size=(48, 40), steps=3, seed=7)), first)
    assert not torch.equal(stack(pipe("red brick", size=(48, 40), steps=3, seed=8)), first)
    assert not torch.equal(stack(pipe("blue wood", size=(48, 40), steps=3, seed=7)), first)


def differences(pipe: MaterialPipeline) -> dict[str, float]:
    """Largest difference of each map between two samples made together and each made alone."""
    prompts, seeds = ["red brick", "old mossy wall, sand, wood"], [3, 4]
    batch = pipe(prompts, seed=seeds, size=(48, 40), steps=2)
    alone = [pipe(prompt, seed=seed, size=(48, 40), steps=2) for prompt, seed in zip(prompts, seeds, strict=True)]
    return {
        name: max(float((getattr(a, name) - getattr(b, name)).abs().max()) for a, b in zip(batch, alone, strict=True))
        for name in MAPS
    }


def test_a_batch_makes_what_each_makes_alone(pipe: MaterialPipeline) -> None:
    made = differences(pipe)
    # random weights make no relief: stretched to the full range, the height there is rounding
    assert max(made[name] for name in ("basecolor", "roughness", "metallic")) <= 1 / 255


@needs_weights
def test_a_batch_of_the_shipped_weights_makes_what_each_makes_alone(shipped: MaterialPipeline) -> None:
    assert max(differences(shipped).values()) <= 1 / 255


@pytest.mark.parametrize("axes", get_args(SeamlessAxes))
def test_a_roll_of_the_latents_rolls_the_maps_on_the_seamless_axes(pipe: MaterialPipeline, axes: SeamlessAxes) -> None:
    z = torch.randn(1, 4, 12, 16, generator=torch.Generator().manual_seed(0))
    with Seamless(pipe.vae, axes):
        made = pipe.decode(z)
        for axis, dim in (("x", -1), ("y", -2)):
            error = (pipe.decode(z.roll(3, dim)) - made.roll(24, dim)).abs().max()
            assert (error < 1e-4) == (axis in axes), (axis, axes, error)
    assert pipe("sand", size=(32, 32), steps=1, seamless=axes).seamless == axes


def test_locked_maps_are_kept(pipe: MaterialPipeline) -> None:
    kept = torch.rand(1, 24, 40, generator=torch.Generator().manual_seed(0))
    colour = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(1))
    lock: dict[str, float | Tensor] = {"roughness": 0.8, "metallic": kept, "basecolor": colour, "height": kept}
    made = pipe("sand", size=(40, 24), steps=1, lock=lock)
    assert torch.equal(made.roughness, torch.full((1, 24, 40), 0.8))
    assert torch.equal(made.metallic, kept) and torch.equal(made.basecolor, colour)
    torch.testing.assert_close(made.height, kept, rtol=0, atol=0)
    normal = torch.nn.functional.normalize(torch.cat([colour[:2] - 0.5, torch.ones(1, 24, 40)]), dim=0)
    made = pipe("sand", size=(40, 24), steps=1, lock={"normal": normal})
    # the height is integrated from it and the normal taken from that again, which rounds where normals do not integrate
    assert made.depth_m > 0


def test_callback_counts_the_steps(pipe: MaterialPipeline) -> None:
    seen: list[tuple[int, int]] = []
    pipe("sand", size=(32, 32), steps=3, callback=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_guidance_of_one_is_the_model_s_own_prediction(pipe: MaterialPipeline) -> None:
    plain = pipe("sand", size=(32, 32), steps=3, guidance=1.0)
    assert not torch.equal(stack(plain), stack(pipe("sand", size=(32, 32), steps=3, guidance=6.0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, "Expected a prompt"),
        ({"prompt": " \n"}, "Expected a prompt"),
        ({"prompt": [], "seed": []}, "one seed for each prompt"),
        ({"prompt": ["a", "b"]}, "but got 2 prompts and 1 seeds"),
        ({"seed": 2**64}, "at most 64 bits"),
        ({"steps": 0}, "steps of at least 1, but got 0"),
        ({"steps": -3}, "steps of at least 1, but got -3"),
        ({"size": (0, 8)}, "at least 1x1 pixels, but got 0x8"),
        ({"size": (8, -8)}, "at least 1x1 pixels, but got 8x-8"),
        ({"seamless": "both"}, "one of none, x, y, xy"),
        ({"guidance": float("nan")}, "guidance as a finite number"),
        ({"scale": 1.5}, "scale from 0 to 1, but got 1.5"),
        ({"lock": {"ao": 1.0}}, "but got 'ao'"),
        ({"lock": {"height": 1.5}}, r"locked height in \[0, 1\], but got 1.5"),
        ({"lock": {"metallic": float("nan")}}, r"locked metallic in \[0, 1\]"),
        ({"lock": {"normal": 0.5}}, "unit vectors"),
        ({"lock": {"roughness": torch.ones(1, 8, 9)}}, r"shape \(1, 8, 8\), but got \(1, 8, 9\)"),
    ],
)
def test_bad_arguments_are_one_sentence(pipe: MaterialPipeline, options: dict[str, Any], message: str) -> None:
    steps: list[int] = []
    call: Any = pipe
    given = {"prompt": "sand", "size": (8, 8), "callback": lambda *step: steps.append(1)} | options
    with pytest.raises(ZelligeError, match=message):
        call(given.pop("prompt"), **given)
    assert steps == []


def test_long_prompts_are_cut(pipe: MaterialPipeline) -> None:
    assert pipe("red brick " * 1000, size=(8, 8), steps=1).size == (8, 8)


def cut(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[:-64])


def without_a_weight(name: str) -> Callable[[Path], object]:
    def damage(model: Path) -> None:
        state = load_file(model / name)
        del state[next(key for key in state if key.endswith("weight"))]
        save_file(state, model / name, metadata={"format": "pt"})

    return damage


def another_class(model: Path) -> None:
    index = json.loads((model / "model_index.json").read_text())
    index["unet"] = ["diffusers", "AutoencoderTiny"]
    (model / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(model / "unet")
    shutil.copytree(model / "vae", model / "unet")


def pickled(model: Path) -> None:
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "index gone": lambda model: (model / "model_index.json").unlink(),
    "index is text": lambda model: (model / "model_index.json").write_text("no json"),
    "another class": another_class,
    "pickle": pickled,
    **{f"{name} gone": lambda model, name=name: shutil.rmtree(model / name)
       for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")},
    **{f"{name} cut": cut(f"{name}.safetensors") for name in WEIGHT_FILES},
    **{f"{name} lacks a weight": without_a_weight(f"{name}.safetensors") for name in WEIGHT_FILES},
}  # fmt: skip


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_checkpoints_are_one_sentence(folder: Path, damage: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    DAMAGES[damage](model)
    with pytest.raises(CheckpointError, match=r"^Expected .*, but ") as caught:
        MaterialPipeline.from_pretrained(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no-such-folder", "/no/such/folder", "nobody/no-such-model"])
def test_absent_checkpoints_are_one_sentence(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"^Expected .*, but "):
        MaterialPipeline.from_pretrained(name)


@needs_weights
def test_shipped_weights_make_a_material(shipped: MaterialPipeline) -> None:
    made = shipped("mossy cobblestone wall", size=(64, 64), steps=2, seed=1)
    assert made.size == (64, 64)
    assert made.basecolor.std() > 0.01


@needs_weights
@pytest.mark.parametrize("axes", ["x", "y", "xy"])
def test_shipped_networks_commute_with_a_roll(shipped: MaterialPipeline, axes: SeamlessAxes) -> None:
    generator = torch.Generator().manual_seed(0)
    x, condition = torch.randn(1, 16, 16, 24, generator=generator), torch.randn(1, 396, generator=generator)
    words = torch.randn(1, 5, 384, generator=generator)
    step = (4 * ("y" in axes), 8 * ("x" in axes))

    def unet(z: Tensor) -> Tensor:
        return shipped.unet(z, torch.tensor([500.0]), words, class_labels=condition, return_dict=False)[0]

    with torch.no_grad(), Seamless([shipped.unet, shipped.vae], axes):
        torch.testing.assert_close(unet(x.roll(step, (-2, -1))), unet(x).roll(step, (-2, -1)), rtol=0, atol=1e-4)
        moved = (8 * step[0], 8 * step[1])
        made = shipped.decode(x[..., :16])
        torch.testing.assert_close(
            shipped.decode(x[..., :16].roll(step, (-2, -1))), made.roll(moved, (-2, -1)), rtol=0, atol=1e-4
        )


def test_guidance_changes_what_it_guides_and_no_guidance_changes_nothing(pipe: MaterialPipeline) -> None:
    plain = pipe("sand", size=(48, 40), steps=2, seamless="none", guidance=1.0)
    off = pipe("sand", size=(48, 40), steps=2, seamless="none", guidance=1.0, guide="none")
    assert torch.equal(stack(off), stack(plain))
    guided = pipe("sand", size=(48, 40), steps=2, seamless="none", guidance=1.0, guide="x")
    assert (plain.seamless, guided.seamless) == ("none", "x")
    assert not torch.equal(guided.basecolor, plain.basecolor)
    again = pipe(["brick", "sand"], seed=[5, 0], size=(48, 40), steps=2, seamless="y", guidance=1.0, guide="x")
    assert again[1].seamless == "xy"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": "z"}, "'z'"),
        ({"guide": "xy", "seamless": "y"}, "guide on axes that seamless leaves out, but got xy beside y"),
        ({"guide": "x", "seamless": "none", "image": torch.zeros(3, 8, 8), "mask": torch.ones(1, 8, 8)}, "a mask"),
    ],
)
def test_guidance_that_does_not_fit_is_refused(pipe: MaterialPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ZelligeError, match=message):
        pipe("sand", size=(8, 8), **options)
