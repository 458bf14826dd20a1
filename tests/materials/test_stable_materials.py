"""Checkpoints of StableMaterials' layout, against diffusers' own pipeline on the same parts."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from asd.errors import CheckpointError, ZelligeError
from asd.seamless import Seamless
from materials.estimate import estimate_maps
from materials.material import MAPS, Material
from materials.pipeline import MaterialPipeline
from materials.stable_materials import PictureFormat, StableMaterials
from materials.texture_model import TextureModel
from materials.variation import Variation
from tests import tiny, tiny_stable
from textile_metric.seam import seam_ratio
from textile_metric.torchvision_guard import guard_torchvision
from ui.cli import main

guard_torchvision()

from diffusers import (  # noqa: E402 - the guard must come first
    AutoencoderKL,
    DDIMScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # noqa: E402 - as above

BOTH = pytest.mark.parametrize("steps", [4, 9], ids=["lcm", "base"])
SMALL: Any = {"size": (64, 48), "steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_stable.checkpoint(tmp_path_factory.mktemp("stable") / "model")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> StableMaterials:
    made = MaterialPipeline.from_pretrained(folder, device="cpu")
    assert isinstance(made, StableMaterials)
    return made


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


def stack(material: Material) -> Tensor:
    return torch.cat([getattr(material, name) for name in MAPS])


def write(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


# the layout


def test_the_published_configs_are_the_published_networks() -> None:
    """Tensors that the published configs call for; Stable Diffusion 1.5's U-Net has 859,520,964 with 4 channels."""
    with torch.device("meta"):
        distilled = tiny_stable.UNET | {"time_cond_proj_dim": 256}
        nets: list[Any] = [UNet2DConditionModel.from_config(each) for each in (tiny_stable.UNET, distilled)]
        nets.append(AutoencoderKL.from_config(tiny_stable.VAE))
    counts = [sum(p.numel() for p in net.parameters()) for net in nets]
    wider = 14 * (320 * 9) + 14 * (320 * 9 + 1)
    assert counts[0] == 859_520_964 + wider
    assert counts[1] == counts[0] + 256 * 320
    # the published file has 335 MB of float32
    assert round(counts[2] * 4 / 1e6) == 335


def test_folders_and_a_hub_id_load_in_silence_without_their_code(folder: Path, tmp_path: Path) -> None:
    """In a process of its own, where a hub id is the copy that the hub's client has kept, and there is no network.

    The first is of the shipped model's layout.
    """
    ours = tiny.checkpoint(tmp_path / "ours")
    home, commit = tmp_path / "hub" / "models--gvecchio--StableMaterials", "4d452731535bd5c74261d6645623a573326f6f36"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    shutil.copytree(folder, home / "snapshots" / commit)
    program = f"""
from textile_metric.torchvision_guard import guard_torchvision
guard_torchvision()
import diffusers.utils.logging, transformers.utils.logging
from materials.pipeline import MaterialPipeline
for source in ({str(ours)!r}, {str(folder)!r}, "gvecchio/StableMaterials"):
    pipe = MaterialPipeline.from_pretrained(source, device="cpu")
    assert diffusers.utils.logging.is_progress_bar_enabled() and transformers.utils.logging.get_verbosity() == 30
    pipe("a", size=(16, 16)), pipe("a", size=(16, 16), steps=9)
"""
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "code-was-run").exists()


def test_a_plain_class_name_and_a_missing_distilled_network_will_do(model: Path) -> None:
    write(model / "model_index.json", _class_name="StableMaterialsPipeline")
    shutil.rmtree(model / "unet_lcm")
    made = MaterialPipeline.from_pretrained(model, device="cpu")
    assert isinstance(made, StableMaterials)
    assert made.networks.of(4) == "unet" and made.settled(None, None, None) == (50, 10.0, 0.0)


def test_the_distilled_network_alone_takes_few_steps(model: Path) -> None:
    shutil.rmtree(model / "unet")
    made = MaterialPipeline.from_pretrained(model, device="cpu")
    assert made("a", size=(16, 16)).size == (16, 16)
    with pytest.raises(ZelligeError, match="at most 8 steps, but got 9"):
        made("a", size=(16, 16), steps=9)


def test_half_precision_leaves_the_autoencoder_whole(folder: Path) -> None:
    made = MaterialPipeline.from_pretrained(folder, device="cpu", dtype=torch.float16)
    assert (made.unet.dtype, made.vae.dtype) == (torch.float16, torch.float32)
    assert made("a", size=(16, 16), steps=1).size == (16, 16)


def rename(name: str, change: Callable[[dict[str, Tensor], str], None]) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        state = load_file(model / name)
        change(state, next(key for key in sorted(state) if key.endswith("weight")))
        save_file(state, model / name, {"format": "pt"})

    return damage


def renamed(state: dict[str, Tensor], key: str) -> None:
    state[f"old.{key}"] = state.pop(key)


def removed(state: dict[str, Tensor], key: str) -> None:
    del state[key]


def reshaped(state: dict[str, Tensor], key: str) -> None:
    state[key] = state[key][:1].clone()


def added(state: dict[str, Tensor], key: str) -> None:
    state[f"{key}.more"] = state[key].clone()


def pickled(model: Path) -> None:
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()


def config(part: str, **values: Any) -> Callable[[Path], None]:
    return lambda model: write(model / part, **values)


def gone(name: str) -> Callable[[Path], object]:
    return lambda model: shutil.rmtree(model / name)


VAE, UNET, LCM = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("vae", "unet", "unet_lcm"))
TEXT, SEEN = (f"{part}/model.safetensors" for part in ("text_encoder", "vision_encoder"))
EVIL = {"AutoModel": "evil.Model"}
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    **{f"{name} {change.__name__}": (rename(name, change), says)
       for name in (VAE, LCM, TEXT, SEEN)
       for change, says in ((renamed, "lacks"), (removed, "lacks"), (added, "unknown .*more"),
                            (reshaped, "shape|load"))},
    "pickle": (pickled, r"no vae/diffusion_pytorch_model.safetensors, but only diffusion_pytorch_model.bin, a pickle"),
    "cut": (lambda model: (model / VAE).write_bytes((model / VAE).read_bytes()[:-64]), "its vae does not load"),
    "code for the text": (config("text_encoder/config.json", auto_map=EVIL), "text_encoder/config.json asks for code"),
    "code for the words": (config("tokenizer/tokenizer_config.json", auto_map=EVIL), "asks for code with auto_map"),
    "code for the U-Net": (config("unet_lcm/config.json", auto_map=EVIL), "unet_lcm/config.json asks for code"),
    "quantised": (config("vae/config.json", quantization_config={"quant_method": "x"}), "quantization_config"),
    "code in the index": (config("model_index.json", vae=["pipeline", "AutoencoderKL"]), "gives vae as"),
    "a part too many": (config("model_index.json", safety=["evil", "Checker"]), "'safety'"),
    "another class": (config("vae/config.json", _class_name="AutoencoderTiny"), "not AutoencoderKL"),
    "another scheduler": (config("scheduler/scheduler_config.json", _class_name="PNDMScheduler"), "not DDIMScheduler"),
    "no guidance": (config("unet_lcm/config.json", time_cond_proj_dim=None), "unet_lcm"),
    "pictures": (config("processor/preprocessor_config.json", image_mean=None), "three colours"),
    "larger pictures": (config("processor/preprocessor_config.json", size=56, crop_size=56), "28, not 56"),
    "index is text": (lambda model: (model / "model_index.json").write_text("no json"), "Expected"),
    "index is a list": (lambda model: (model / "model_index.json").write_text("[]"), "Expected"),
    "config is text": (lambda model: (model / "vae" / "config.json").write_text("{"), "vae/config.json is no JSON"),
    **{f"{part} gone": (gone(part), part)
       for part in ("vae", "text_encoder", "vision_encoder", "processor", "scheduler", "tokenizer")},
}  # fmt: skip


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_and_hostile_checkpoints_are_one_sentence(
    model: Path, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (model / "evil.py").write_text(tiny_stable.CODE)
    (tmp_path / "evil.py").write_text(tiny_stable.CODE)
    harm, says = DAMAGES[damage]
    harm(model)
    with pytest.raises(CheckpointError, match=r"^Expected .*, but ") as caught:
        MaterialPipeline.from_pretrained(model, device="cpu")
    assert "\n" not in str(caught.value)
    caught.match(says)
    assert not (tmp_path / "code-was-run").exists()


def test_a_damaged_base_network_is_told_when_it_is_needed(model: Path) -> None:
    (model / UNET).unlink()
    made = MaterialPipeline.from_pretrained(model, device="cpu")
    assert made("a", size=(16, 16)).size == (16, 16)
    with pytest.raises(CheckpointError, match=r"no unet/diffusion_pytorch_model.safetensors"):
        made("a", size=(16, 16), steps=9)


# what it draws


def reference(pipe: Any, steps: int, prompt: str, guidance: float, *, circular: bool) -> tuple[Tensor, Tensor]:
    """Latents and maps by diffusers' own pipeline, embeddings given, and torch's own circular padding."""
    name = "unet_lcm" if steps <= 8 else "unet"
    unet, vae, config = copy.deepcopy(pipe.networks[name]), copy.deepcopy(pipe.vae), dict(pipe.scheduler.config)
    for module in (*unet.modules(), *vae.modules()):
        if circular and isinstance(module, nn.Conv2d) and max(module.padding):
            module.padding_mode = "circular"
    scheduler: Any = (LCMScheduler if steps <= 8 else DDIMScheduler).from_config(config)
    base: Any = StableDiffusionPipeline(
        vae=vae, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler, safety_checker=None,  # pyright: ignore[reportArgumentType] - optional in fact
        feature_extractor=None, requires_safety_checker=False,  # pyright: ignore[reportArgumentType] - as above
    )  # fmt: skip
    base.set_progress_bar_config(disable=True)
    words: Any = pipe.tokenizer(prompt, padding=True, return_tensors="pt")
    side = {"shortest_edge": tiny_stable.SIDE}
    processor = CLIPImageProcessorPil(size=side, crop_size={"height": tiny_stable.SIDE, "width": tiny_stable.SIDE})
    black = processor(images=Image.new("RGB", (512, 512)), return_tensors="pt")["pixel_values"]
    generator = torch.Generator().manual_seed(5)
    encoder: Any = pipe.text_encoder
    with torch.no_grad():
        latents = base(
            prompt_embeds=encoder(**words).text_embeds.unsqueeze(1),
            negative_prompt_embeds=pipe.vision_encoder(black).image_embeds.unsqueeze(1),
            latents=torch.randn(1, 18, 16, 24, generator=generator),
            generator=generator,
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="latent",
        ).images
        return latents, vae.decode(latents / 0.18215).sample


@BOTH
@pytest.mark.parametrize("axes", ["none", "xy"])
def test_latents_and_maps_are_those_of_diffusers_own_pipeline(pipe: StableMaterials, steps: int, axes: Any) -> None:
    wanted, drawn = reference(pipe, steps, "red brick", 7.0, circular=axes == "xy")
    with Seamless(pipe.vae, axes):
        latents = pipe.denoise(["red brick"], [5], (192, 128), axes, steps, 7.0, 0.0)
        maps = pipe.decode(latents, axes)
    scale = float(wanted.abs().max())
    torch.testing.assert_close(latents, wanted, rtol=0, atol=1e-4 * scale)
    torch.testing.assert_close(maps, drawn[:, :8], rtol=0, atol=1e-3)
    other, _ = reference(pipe, steps, "red brick", 3.0, circular=axes == "xy")
    assert (other - wanted).abs().max() > 5e-3 * scale  # the guidance has a say in either


def test_defaults_are_the_published_ones(pipe: StableMaterials) -> None:
    seen: list[tuple[int, int]] = []
    made = pipe("sand", size=(16, 16), callback=lambda *step: seen.append(step))
    assert seen == [(i, 4) for i in (1, 2, 3, 4)]
    assert torch.equal(stack(pipe("sand", size=(16, 16), steps=4, guidance=7.5, grain=0.0)), stack(made))
    assert pipe.settled(None, None, None) == (4, 7.5, 0.0)
    assert pipe.settled(9, None, 0.5) == (9, 10.0, 0.5)
    assert pipe.settled(50, 1.0, None) == (50, 1.0, 0.0)


@BOTH
def test_a_request_gives_its_pixels_and_no_others(pipe: StableMaterials, steps: int) -> None:
    first = stack(pipe("red brick", size=(48, 40), steps=steps, seed=7))
    pipe("sand", size=(64, 64), steps=1, seamless="none")
    assert torch.equal(stack(pipe("red brick", size=(48, 40), steps=steps, seed=7)), first)
    for other in ({"seed": 8}, {"prompt": "blue wood"}, {"guidance": 3.0}, {"neighbour": 3, "amount": 0.5}):
        asked: Any = {"prompt": "red brick", "seed": 7} | other
        assert not torch.equal(stack(pipe(size=(48, 40), steps=steps, **asked)), first), other


@BOTH
def test_a_batch_makes_what_each_makes_alone(pipe: StableMaterials, steps: int) -> None:
    prompts, seeds = ["red brick", "old wall, sand, wood"], [3, 4]
    batch = pipe(prompts, seed=seeds, size=(48, 40), steps=steps)
    for prompt, seed, made in zip(prompts, seeds, batch, strict=True):
        assert torch.equal(stack(pipe(prompt, seed=seed, size=(48, 40), steps=steps)), stack(made))


@pytest.mark.parametrize("axes", ["none", "x", "y", "xy"])
def test_a_roll_of_the_latents_rolls_the_maps_on_the_seamless_axes(pipe: StableMaterials, axes: Any) -> None:
    z = torch.randn(1, 18, 16, 24, generator=torch.Generator().manual_seed(0))
    token = torch.randn(1, 1, tiny_stable.WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), Seamless([pipe.networks["unet"], pipe.vae], axes):

        def whole(x: Tensor) -> Tensor:
            return pipe.decode(pipe.networks["unet"](x, 500, token, return_dict=False)[0], axes)

        made = whole(z)
        for axis, dim in (("x", -1), ("y", -2)):
            error = (whole(z.roll(8, dim)) - made.roll(64, dim)).abs().max() / made.abs().max()
            assert (error < 1e-4) == (axis in axes), (axis, axes, error)


@BOTH
def test_a_material_tiles(pipe: StableMaterials, steps: int) -> None:
    """On both axes and in every map; random weights draw a border of their own where nothing wraps."""

    def worst(axes: Any) -> float:
        made = pipe("red brick", size=(128, 128), steps=steps, seed=1, seamless=axes)
        assert made.seamless == axes
        x = stack(made)
        # three channels to a picture
        pictures = torch.stack([x[:3], x[3:6] * 0.5 + 0.5, x[6:]])
        return float(seam_ratio(pictures).max())

    assert worst("xy") <= 1.1 and worst("none") >= 1.3


@pytest.mark.parametrize("size", [(333, 217), (1, 64), (96, 300), (31, 257)])
def test_sizes_are_exact(pipe: StableMaterials, size: tuple[int, int]) -> None:
    made = pipe("red brick wall", size=size, steps=1)
    assert made.size == size
    assert made.size_m[0] / made.size_m[1] == pytest.approx(size[0] / size[1])


def test_channels_are_in_the_published_order(model: Path) -> None:
    """A decoder that says one value per channel; the ninth is nobody's."""
    state = load_file(model / VAE)
    state["decoder.conv_out.weight"].zero_()
    state["decoder.conv_out.bias"].copy_(torch.tensor([-0.8, -0.4, 0.2, 0.3, 0.2, 0.0, -0.6, 0.8, 7.0]))
    save_file(state, model / VAE, {"format": "pt"})
    loaded = MaterialPipeline.from_pretrained(model, device="cpu")
    made = loaded("a", size=(24, 16), steps=1)
    torch.testing.assert_close(made.basecolor.mean((1, 2)), torch.tensor([0.1, 0.3, 0.6]))
    assert made.roughness.mean() == pytest.approx(0.2) and made.metallic.mean() == pytest.approx(0.9)
    drawn = Material.from_network(loaded.decode(torch.zeros(1, 18, 4, 4))[0], depth_m=0.0, size_m=(1.0, 1.0))
    # OpenGL as in MatSynth, which it learnt from: +Y is up the image
    torch.testing.assert_close(drawn.normal[:2, 5, 5], torch.tensor([0.3, 0.2]))
    assert drawn.height.mean() == pytest.approx(0.5)


def test_locked_maps_are_kept(pipe: StableMaterials) -> None:
    kept = pipe("sand", size=(40, 24), steps=1, lock={"roughness": 0.8})
    assert torch.equal(kept.roughness, torch.full((1, 24, 40), 0.8))


# pictures as prompts


@pytest.mark.parametrize("size", [(100, 60), (28, 28), (20, 90), (31, 17)])
def test_pictures_are_prepared_as_clip_s_own_processor_does(size: tuple[int, int]) -> None:
    small = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    image = nn.functional.interpolate(small[None], (size[1], size[0]), mode="bilinear")[0]
    picture = (image * 255).round().to(torch.uint8)
    mean, spread = tiny_stable.PROCESSOR["image_mean"], tiny_stable.PROCESSOR["image_std"]
    made = PictureFormat(28, (*mean,), (*spread,)).read(picture.float() / 255)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    pixels = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    wanted = processor(images=pixels, return_tensors="pt")["pixel_values"]
    # Pillow rounds to bytes between the two directions
    torch.testing.assert_close(made, wanted, rtol=0, atol=2 / 255 / min(spread))


def test_a_picture_joins_the_prompt(pipe: StableMaterials) -> None:
    picture = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(0))

    def token(prompt: str, strength: float) -> Tensor:
        return pipe.token(prompt, Variation(image=picture, strength=strength))

    assert torch.equal(token("sand", 0.0), token("wood", 0.0))
    assert torch.equal(token("sand", 1.0), pipe.token("sand"))
    half = token("sand", 0.5)
    ends = [token("sand", 0.0), token("sand", 1.0)]
    assert all(0 < float(torch.cosine_similarity(half, end, dim=-1)) < 1 for end in ends)
    made = {s: stack(pipe("sand", image=picture, strength=s, **SMALL)) for s in (0.0, 0.5, 1.0)}
    assert torch.equal(made[0.0], stack(pipe("wood", image=picture, strength=0.0, **SMALL)))
    assert torch.equal(made[1.0], stack(pipe("sand", **SMALL)))
    assert not torch.equal(made[0.5], made[0.0]) and not torch.equal(made[0.5], made[1.0])


# what it refuses


def test_bad_arguments_are_one_sentence(pipe: StableMaterials) -> None:
    made = pipe("sand", **SMALL)
    call: Any = pipe
    for options, says in (
        ({"scale": 0.5}, "no scale with StableMaterials"),
        ({"image": made}, "a picture .*, but got a material"),
        ({"image": made.basecolor, "mask": torch.ones(1, 48, 64)}, "but got a mask"),
        ({"strength": 0.5}, "beside an image"),
        ({"image": torch.ones(4, 8, 8)}, r"image of shape \(3, H, W\)"),
        ({"image": torch.ones(8)}, r"image of shape \(3, H, W\)"),
        ({"image": torch.ones(3, 8, 8) * 2}, r"image in \[0, 1\]"),
        ({"steps": 1000}, "at most 999 steps, but got 1000"),
        ({"steps": 0}, "at least 1, but got 0"),
        ({"guidance": float("nan")}, "finite"),
        ({"prompt": " "}, "Expected a prompt"),
    ):
        with pytest.raises(ZelligeError, match=says):
            call(**({"prompt": "sand"} | SMALL | options))


def test_long_prompts_are_cut(pipe: StableMaterials) -> None:
    assert pipe("red brick " * 1000, size=(8, 8), steps=1).size == (8, 8)


def test_photos_and_pictures_want_another_model(pipe: StableMaterials) -> None:
    with pytest.raises(CheckpointError, match=r"^Expected a material model .*, but got one that makes materials alone"):
        estimate_maps(torch.rand(3, 64, 64), model=pipe)
    with pytest.raises(CheckpointError, match="no pictures"):
        TextureModel(pipe, ["sand"])


def test_the_command_makes_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "picture.png"
    Image.effect_noise((40, 30), 60).convert("RGB").save(picture)
    common = ["--model", str(folder), "--size", "64x48", "--device", "cpu", "-q"]
    out = tmp_path / "out"
    assert main(["material", "red brick", "--out", str(out), "--image", str(picture), *common]) == 0
    told = json.loads((out / "material.json").read_text(encoding="utf-8"))
    assert told["request"]["model"] == str(folder) and {"basecolor", "normal", "height"} <= set(told["maps"])
    assert main(["material", "red brick", "--out", str(tmp_path / "b"), "--scale", "1", *common]) == 2
    assert main(["maps", str(picture), "--out", str(tmp_path / "c"), "--model", str(folder), "-q"]) == 2
    assert main(["image", "brick", "--out", str(tmp_path / "d"), *common]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("zellige: expected ") for line in errors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "picture.png"]
