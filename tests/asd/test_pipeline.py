"""AnySizePipeline on folders of the true classes, saved, loaded, and compared with diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from asd import AnySizePipeline, upscale
from asd.errors import CheckpointError, SizeError, ZelligeError
from asd.pipeline import Box
from tests import tiny_sd


@pytest.fixture(autouse=True)
def numpy_2() -> Iterator[None]:
    with warnings.catch_warnings():
        # diffusers' Euler scheduler hands numpy 2 a tensor
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {layout: tiny_sd.checkpoint(layout, folder) for layout in tiny_sd.LAYOUTS}


def load(folder: Path) -> AnySizePipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pipe = AnySizePipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipes(folders: dict[str, Path]) -> dict[str, AnySizePipeline]:
    return {layout: load(folder) for layout, folder in folders.items()}


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("layout", tiny_sd.LAYOUTS)
def test_at_the_trained_size_it_is_diffusers_own_pipeline(layout: str, pipes: dict[str, AnySizePipeline]) -> None:
    pipe = pipes[layout]
    same: dict[str, Any] = {
        "num_inference_steps": 3, "negative_prompt": "b", "guidance_scale": 3.0, "num_images_per_prompt": 2,
        "height": 64, "width": 64,
    }  # fmt: skip
    ours = pipe("red, brick", generator=seeded(), output_type="latent", **same).images
    theirs = pipe.base("red, brick", generator=seeded(), output_type="latent", **same).images
    assert torch.equal(ours, theirs)
    ours = pipe("red, brick", generator=seeded(), output_type="np", **same).images
    theirs = pipe.base("red, brick", generator=seeded(), output_type="np", **same).images
    assert ours.shape == (2, 64, 64, 3) and np.abs(ours - theirs).max() < 1e-5  # the autoencoder runs in tiles


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (37, 64), (64, 41), (97, 203), (200, 50), (17, 300), (400, 16), (130, 130)]
)
@pytest.mark.parametrize("seamless", ["none", "y", "xy"])
def test_sizes_are_exact(width: int, height: int, seamless: Any, pipes: dict[str, AnySizePipeline]) -> None:
    made = pipes["sd2.1"]("a", width=width, height=height, num_inference_steps=2, seamless=seamless).images
    assert made[0].size == (width, height)


@pytest.mark.parametrize("layout", tiny_sd.LAYOUTS)
def test_seamless_rolls(layout: str, pipes: dict[str, AnySizePipeline]) -> None:
    noise = torch.randn(1, 4, 16, 16, generator=seeded())

    def made(latents: Tensor) -> Tensor:
        options: dict[str, Any] = {"num_inference_steps": 3, "seamless": "xy", "output_type": "pt"}
        return pipes[layout]("a", latents=latents, generator=seeded(), **options).images

    # by the U-Net's stride; 4 pixels a cell
    rolled = made(noise.roll((4, 8), (-2, -1))).roll((-16, -32), (-2, -1))
    assert (rolled - made(noise)).abs().max() < 1e-4


def test_the_second_stage_keeps_the_colours_of_the_first(pipes: dict[str, AnySizePipeline]) -> None:
    from asd.two_stage import coarse

    pipe, seen = pipes["sd2.1"], []

    def watch(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        del step, timestep
        seen.append(tensors["latents"])
        return {}

    options: dict[str, Any] = {"num_inference_steps": 4, "upscale_strength": 0.5, "output_type": "latent"}
    options |= {"width": 128, "height": 128, "callback_on_step_end": watch}
    made = {
        anchor: pipe("a", generator=seeded(), anchor=anchor, **options).images for anchor in (0.0, 1.0)
    }
    assert [tuple(each.shape[-2:]) for each in seen] == ([(16, 16)] * 4 + [(32, 32)] * 2) * 2
    first = seen[3]
    model = pipe.latent_model("a")
    from asd.resample import resample

    pixels = resample(model.decode(first, "none"), (128, 128), wrap_x=False, wrap_y=False)
    wanted = coarse(model.encode(pixels, "none"), "none")
    error = {anchor: float((coarse(each, "none") - wanted).abs().mean()) for anchor, each in made.items()}
    # resampling twice is not quite a projection
    assert error[1.0] < 0.2 * error[0.0]


def test_callbacks_change_tensors_and_stop_the_run(pipes: dict[str, AnySizePipeline]) -> None:
    pipe, steps = pipes["sd1.5"], []

    def zeros(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        del timestep
        steps.append((step, sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    options: dict[str, Any] = {"num_inference_steps": 3, "output_type": "latent"}
    made = pipe("a", callback_on_step_end=zeros, callback_on_step_end_tensor_inputs=names, **options).images
    assert not made.any() and steps == [(i, sorted(names)) for i in range(4)]  # PNDM's third step has two parts

    def stop(given: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        del timestep, tensors
        given._interrupt = step == 1
        return {}

    made = pipe("a", width=200, height=100, callback_on_step_end=stop, num_inference_steps=3).images
    assert made[0].size == (200, 100)
    with pytest.raises(ZelligeError, match="'nothing'"):
        pipe("a", callback_on_step_end_tensor_inputs=["nothing"], **options)


def test_lora_through_diffusers_own_loader(pipes: dict[str, AnySizePipeline], tmp_path: Path) -> None:
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = pipes["sd2.1"]
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt", "seamless": "x"}
    before = pipe("a", generator=seeded(), **options).images
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "conv1"], init_lora_weights=False))
    state: Any = get_peft_model_state_dict(pipe.unet)
    pipe.save_lora_weights(tmp_path, unet_lora_layers=state)
    pipe.unload_lora_weights()
    assert (pipe("a", generator=seeded(), **options).images - before).abs().max() < 1e-5
    pipe.load_lora_weights(tmp_path)
    loaded = pipe("a", generator=seeded(), **options).images
    assert (loaded - before).abs().max() > 1e-3
    half = pipe("a", generator=seeded(), cross_attention_kwargs={"scale": 0.5}, **options).images
    assert (half - loaded).abs().max() > 1e-4 and (half - before).abs().max() > 1e-4
    pipe.unload_lora_weights()
    assert (pipe("a", generator=seeded(), **options).images - before).abs().max() < 1e-5


@pytest.mark.parametrize("layout", tiny_sd.LAYOUTS)
def test_image_to_image_and_inpainting(layout: str, pipes: dict[str, AnySizePipeline]) -> None:
    pipe, given = pipes[layout], picture(90, 70)
    mask = np.zeros((70, 90), np.uint8)
    mask[:, 45:] = 255
    options: dict[str, Any] = {"num_inference_steps": 4, "image": given, "generator": seeded(), "output_type": "np"}
    made = pipe("a", strength=0.6, mask_image=Image.fromarray(mask), **options).images[0]
    pixels = np.asarray(given, np.float32) / 255
    assert made.shape == (70, 90, 3)
    assert np.abs(made[:, :45] - pixels[:, :45]).max() < 1e-6
    assert np.abs(made[:, 45:] - pixels[:, 45:]).mean() > 1e-2
    weak, strong = (pipe("a", strength=s, **options).images[0] for s in (0.25, 1.0))
    assert weak.shape == strong.shape == (70, 90, 3) and np.abs(weak - strong).mean() > 1e-3


def test_a_prompt_of_its_own_for_each_tile(pipes: dict[str, AnySizePipeline]) -> None:
    asked: list[Box] = []

    def of_tile(box: Box) -> str | None:
        asked.append(box)
        return "b, c" if box.left < 0.5 else None

    options: dict[str, Any] = {"width": 128, "height": 64, "num_inference_steps": 2, "output_type": "pt"}
    plain, made = (
        pipes["xl"]("a", generator=seeded(), tile_prompt=ask, **options).images for ask in (None, of_tile)
    )
    assert (plain - made).abs().max() > 1e-5
    assert all(0 <= box.left < box.right <= 1 and 0 <= box.top < box.bottom <= 1 for box in asked)


def test_upscale(pipes: dict[str, AnySizePipeline]) -> None:
    steps: list[tuple[int, int]] = []
    small = picture(40, 30)
    made = upscale(
        small, pipes["sd2.1"], factor=2.5, prompt="a", steps=8, seed=1,
        callback=lambda step, of: steps.append((step, of)),
    )  # fmt: skip
    assert made.size == (100, 75) and steps == [(i, 4) for i in range(1, 5)]
    again = upscale(small, pipes["sd2.1"], size=(100, 75), prompt="a", steps=8, seed=1, output_type="np")
    assert np.abs(np.asarray(made) / 255 - again).max() < 1 / 255
    with pytest.raises(SizeError, match="at least the image's 40x30"):
        upscale(small, pipes["sd2.1"], size=(20, 20))
    with pytest.raises(SizeError, match="both or neither"):
        upscale(small, pipes["sd2.1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": None}, "either prompt or prompt_embeds"),
        ({"width": 0}, "whole numbers above 0|at least 1"),
        ({"height": 2.5}, "whole numbers"),
        ({"output_type": "jpeg"}, "output_type"),
        ({"seamless": "z"}, "seamless"),
        ({"num_inference_steps": 0}, "steps of at least 1"),
        ({"latents": torch.zeros(1, 4, 3, 3)}, r"latents of shape \(1, 4, 16, 16\)"),
        ({"mask_image": Image.new("L", (8, 8))}, "image to go with mask_image"),
        ({"image": Image.new("RGB", (64, 64)), "strength": 0.0}, "strength above 0"),
        ({"image": "no/such.png"}, "no file no/such.png"),
        ({"width": 128, "anchor": 2.0}, "anchor from 0 to 1"),
        ({"prompt_2": "b"}, "XL"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str, pipes: dict[str, AnySizePipeline]) -> None:
    with pytest.raises(ZelligeError, match=message):
        pipes["sd1.5"](**({"prompt": "a", "num_inference_steps": 2} | options))


def test_checkpoints_that_do_not_load(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="hub id"):
        AnySizePipeline.from_pretrained(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="safetensors"):
        AnySizePipeline.from_pretrained(folders["xl"], use_safetensors=False)
    with pytest.raises(CheckpointError, match="remote code"):
        AnySizePipeline.from_pretrained(folders["xl"], trust_remote_code=True)
    pickled = Path(shutil.copytree(folders["sd1.5"], tmp_path / "pickled"))
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, pickled / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="does not load"):
        AnySizePipeline.from_pretrained(pickled)
    text = Path(shutil.copytree(folders["sd1.5"], tmp_path / "text"))
    (text / "text_encoder" / "model.safetensors").rename(text / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="does not load"):
        AnySizePipeline.from_pretrained(text)
    other = Path(shutil.copytree(folders["sd1.5"], tmp_path / "other"))
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    with pytest.raises(CheckpointError, match="FluxPipeline"):
        AnySizePipeline.from_pretrained(other)
    cut = Path(shutil.copytree(folders["sd1.5"], tmp_path / "cut"))
    weights = cut / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="does not load"):
        AnySizePipeline.from_pretrained(cut)
