"""LoRA files: diffusers reads ours, ours is the identity where it should be, and other models' are refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from asd import AnySizePipeline
from asd.errors import CheckpointError, ZelligeError
from asd.lora import WEIGHTS, add_lora, lora_file, lora_loaded, save_lora
from materials.pipeline import MaterialPipeline
from materials.textures import paint_texture
from tests import tiny, tiny_sd

KINDS = ("sd1.5", "sd2.1", "xl", "material")


@pytest.fixture(autouse=True)
def numpy_2() -> Iterator[None]:
    with warnings.catch_warnings():
        # diffusers' Euler scheduler hands numpy 2 a tensor
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    made = {layout: tiny_sd.checkpoint(layout, folder) for layout in tiny_sd.LAYOUTS}
    return made | {"material": tiny.checkpoint(folder / "material")}


def load(folder: Path) -> Any:
    if folder.name == "material":
        return MaterialPipeline.from_pretrained(folder, device="cpu")
    pipe = AnySizePipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paint(pipe: Any) -> Tensor:
    if isinstance(pipe, MaterialPipeline):
        return paint_texture(pipe, "red brick", size=(256, 256), steps=2, seed=3, grain=0.0)
    options: dict[str, Any] = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "latent"}
    return pipe("red brick", generator=torch.Generator().manual_seed(3), **options).images


def apart(made: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest value: the latents of untrained networks are large."""
    return float((made - wanted).abs().max() / wanted.abs().max())


def trained(pipe: Any, *, convolutions: bool, alpha: float) -> None:
    """An adapter that changes something: both factors random."""
    made = add_lora(pipe.unet, 4, alpha, convolutions=convolutions)
    assert made and all(parameter.dtype == torch.float32 for parameter in made.values())
    generator = torch.Generator().manual_seed(0)
    for name, parameter in made.items():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_written_and_read_it_is_the_same_change(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    pipe = load(folders[kind])
    before = paint(pipe)
    names = set(pipe.unet.state_dict())
    trained(pipe, convolutions=True, alpha=10.0)
    changed = paint(pipe)
    assert (changed - before).abs().max() > 1e-2
    save_lora(pipe.unet, tmp_path, {"a": "b"})
    other = load(folders[kind])
    with lora_loaded(other, tmp_path):
        assert apart(paint(other), changed) < 1e-5
    assert apart(paint(other), before) < 1e-5 and set(other.unet.state_dict()) == names
    with lora_loaded(other, tmp_path / WEIGHTS, 0.0):
        assert apart(paint(other), before) < 1e-5
    with lora_loaded(other, tmp_path, 0.5):
        assert apart(paint(other), before) > 1e-3 < apart(paint(other), changed)


@pytest.mark.parametrize("layout", tiny_sd.LAYOUTS)
def test_diffusers_own_pipeline_reads_it(layout: str, folders: dict[str, Path], tmp_path: Path) -> None:
    pipe = load(folders[layout])
    before = paint(pipe)
    trained(pipe, convolutions=layout == "sd1.5", alpha=2.0)
    changed = paint(pipe)
    save_lora(pipe.unet, tmp_path, {})
    plain = load(folders[layout]).base  # StableDiffusionPipeline or StableDiffusionXLPipeline
    plain.load_lora_weights(tmp_path)
    assert apart(paint(plain), changed) < 1e-5 < 1e-3 < apart(paint(plain), before)
    ours = load(folders[layout])
    ours.load_lora_weights(tmp_path)
    assert apart(paint(ours), changed) < 1e-5


@pytest.mark.parametrize("kind", ["sd1.5", "material"])
def test_a_new_adapter_changes_nothing(kind: str, folders: dict[str, Path]) -> None:
    pipe = load(folders[kind])
    before = paint(pipe)
    made = add_lora(pipe.unet, 2, convolutions=True)
    assert apart(paint(pipe), before) < 1e-5
    wanted = {name for name, parameter in pipe.unet.named_parameters() if parameter.requires_grad}
    assert wanted == set(made) and all(".lora_" in name for name in made)


def test_files_that_are_none(folders: dict[str, Path], tmp_path: Path) -> None:
    pipe, material = load(folders["sd1.5"]), load(folders["material"])
    before, names = paint(pipe), set(pipe.unet.state_dict())
    trained(load_xl := load(folders["xl"]), convolutions=False, alpha=4.0)
    of_xl = save_lora(load_xl.unet, tmp_path, {})

    def refused(source: Path, message: str, *pipes: Any) -> None:
        for each in pipes or (pipe, material):
            with pytest.raises(CheckpointError, match=message) as caught, lora_loaded(each, source):
                pass
            assert str(caught.value).count("\n") == 0

    refused(of_xl, "Expected a LoRA of this model")
    weight = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"
    for name, state in (
        ("full.safetensors", {"conv_in.weight": torch.zeros(2, 2)}),
        ("shape.safetensors", {weight: torch.zeros(2, 5), weight.replace("_A", "_B"): torch.zeros(5, 2)}),
    ):
        save_file(state, tmp_path / name)
        refused(tmp_path / name, "Expected a LoRA")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 40)
    refused(tmp_path / "broken.safetensors", "does not load")
    refused(tmp_path / "gone", "there is no")
    (tmp_path / "old").mkdir()
    torch.save({"a": torch.zeros(1)}, tmp_path / "old" / "pytorch_lora_weights.bin")
    refused(tmp_path / "old", "pickles alone")
    refused(tmp_path / "old" / "pytorch_lora_weights.bin", "the pickle")
    (tmp_path / "two").mkdir()
    for name in "ab":
        save_file({"a": torch.zeros(1)}, tmp_path / "two" / f"{name}.safetensors")
    refused(tmp_path / "two", "got 2; name one")
    assert apart(paint(pipe), before) < 1e-5 and set(pipe.unet.state_dict()) == names
    assert lora_file(tmp_path) == of_xl


def test_text_encoders_factors_are_diffusers_to_load(folders: dict[str, Path], tmp_path: Path) -> None:
    pipe = load(folders["sd1.5"])
    trained(pipe, convolutions=False, alpha=4.0)
    state = load_file(save_lora(pipe.unet, tmp_path, {}))
    place = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer"
    state |= {f"{place}.down.weight": torch.ones(2, 16), f"{place}.up.weight": torch.ones(16, 2)}
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="text_encoder"), lora_loaded(load(folders["material"]), tmp_path):
        pass


@pytest.mark.parametrize(("rank", "alpha"), [(0, None), (5000, None), (2, 0.0), (2, float("nan"))])
def test_ranks_and_scales_out_of_range(rank: int, alpha: float | None, folders: dict[str, Path]) -> None:
    with pytest.raises(ZelligeError, match="Expected"):
        add_lora(load(folders["sd1.5"]).unet, rank, alpha)


def test_a_network_without_attention_is_refused() -> None:
    with pytest.raises(CheckpointError, match="with attention"):
        add_lora(tiny.autoencoder(), 2)
