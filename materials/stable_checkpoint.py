"""Checkpoints in the layout of gvecchio/StableMaterials (Vecchio 2024, arXiv 2406.09293), without their code.

    model_index.json                  the classes below, beside the name of code that is never run
    unet/ vae/                        diffusers' UNet2DConditionModel, AutoencoderKL of 9 channels
    unet_lcm/                         the same U-Net, told the guidance, distilled to a few steps; not in the index
    text_encoder/ tokenizer/          CLIP with its projection
    vision_encoder/ processor/        the other half of CLIP, and how it wants its pictures
    scheduler/                        DDIM
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from materials.errors import CheckpointError
from materials.quiet import quiet_loading
from materials.stable_materials import Networks, PictureFormat, StableMaterials, scheduler_of
from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: E402 - the guard must come first
from transformers import (  # noqa: E402 - as above
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

CHANNELS = 9
"""Of the autoencoder: basecolor, normal X and Y, height, roughness, metallic, and one that nothing reads."""
INDEX = {
    "processor": ("transformers", "CLIPProcessor"),
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "vision_encoder": ("transformers", "CLIPVisionModelWithProjection"),
}
"""Every part that `model_index.json` names, with its library and class."""
UNETS = ("unet_lcm", "unet")
_FILES = {"tokenizer": ("*.json", "*.txt"), "processor": ("preprocessor_config.json",), "scheduler": ("*.json",)}
_WEIGHTED = ("*.json", "*.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NEEDS_CODE = ("auto_map", "custom_pipelines", "quantization_config")


class Source(NamedTuple):
    """Where a checkpoint is from."""

    name: str
    """A folder or a hub id, as it was asked for."""
    revision: str | None = None

    def fault(self, what: str) -> CheckpointError:
        return CheckpointError(f"Expected a StableMaterials checkpoint in {self.name!r}, but {what}.")

    def folder(self, *parts: str) -> Path:
        """The folder itself, or the copy of a hub id that has at least these parts; nothing else is downloaded."""
        if Path(self.name).is_dir():
            return Path(self.name)
        from huggingface_hub import snapshot_download

        wanted = [f"{part}/{file}" for part in parts for file in _FILES.get(part, _WEIGHTED)]
        wanted += ["model_index.json", *(f"{part}/config.json" for part in UNETS)]
        return Path(snapshot_download(self.name, revision=self.revision, allow_patterns=wanted))


def load_stable_materials(
    path_or_id: str | Path, device: str, dtype: torch.dtype, revision: str | None = None
) -> StableMaterials:
    """Load a folder or a hub id, one of its U-Nets; the other is loaded when a call first needs it.

    Raises:
        CheckpointError: a part is missing, damaged, of another class or shape, a pickle, or needs code of its own.
    """
    source = Source(str(path_or_id), revision)
    folder = source.folder(*(part for part in INDEX if part not in UNETS))
    _check_index(source, _config(source, folder / "model_index.json"))
    there = tuple(name for name in UNETS if (folder / name / "config.json").is_file())
    if not there:
        raise source.fault("it has no unet/config.json")
    config = _config(source, folder / "scheduler" / "scheduler_config.json")
    if config.get("_class_name") != "DDIMScheduler":
        raise source.fault(f"its scheduler is {config.get('_class_name')}, not DDIMScheduler")
    scheduler = scheduler_of(DDIMScheduler, config)
    vae = _load(source, folder, "vae", AutoencoderKL)
    text = _load(source, folder, "text_encoder", CLIPTextModelWithProjection)
    vision = _load(source, folder, "vision_encoder", CLIPVisionModelWithProjection)
    picture = _picture_format(source, _config(source, folder / "processor" / "preprocessor_config.json"))
    _config(source, folder / "tokenizer" / "tokenizer_config.json")
    with quiet_loading():
        tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
    for found, wanted, what in (
        ((vae.config["in_channels"], vae.config["out_channels"]), (CHANNELS, CHANNELS), "channels of its vae"),
        (2 ** (len(vae.config["block_out_channels"]) - 1), 8, "pixels along a latent cell of its vae"),
        (vision.config.projection_dim, text.config.projection_dim, "as projection_dim of its vision_encoder"),
        (vision.config.image_size, picture.side, "as image_size of its vision_encoder"),
        (len(tokenizer), text.config.vocab_size, "word pieces in its tokenizer"),
    ):
        if found != wanted:
            raise source.fault(f"it has {found}, not {wanted}, {what}")

    # of a hub id the very commit, also where the second U-Net is fetched days later
    same = source if Path(source.name).is_dir() else source._replace(revision=folder.name)

    def network(name: str) -> UNet2DConditionModel:
        unet = _load(source, same.folder(name), name, UNet2DConditionModel)
        token = text.config.projection_dim
        for key, wanted in (
            ("in_channels", vae.config["latent_channels"]),
            ("out_channels", vae.config["latent_channels"]),
            ("cross_attention_dim", token),
        ):
            if unet.config[key] != wanted:
                raise source.fault(f"{key} of its {name} is {unet.config[key]}, not {wanted}")
        if (unet.config["time_cond_proj_dim"] is None) == (name == "unet_lcm"):
            raise source.fault(f"time_cond_proj_dim of its {name} is {unet.config['time_cond_proj_dim']}")
        return _placed(unet, device, dtype)

    # Where its config says so, the autoencoder overflows in half precision.
    whole = torch.float32 if vae.config.get("force_upcast", True) else dtype
    made = StableMaterials(
        vae=_placed(vae, device, whole),
        networks=Networks(there, network),
        text_encoder=_placed(text, device, dtype),
        tokenizer=tokenizer,
        scheduler=scheduler,
        vision_encoder=_placed(vision, device, dtype),
        picture=picture,
    )
    made.set_progress_bar_config(disable=True)
    return made


def _placed(module: Any, device: str, dtype: torch.dtype) -> Any:
    # Not diffusers' own `to`, which warns of every cast.
    return torch.nn.Module.to(module, device=device, dtype=dtype).requires_grad_(False).eval()


def _config(source: Source, path: Path) -> dict[str, Any]:
    """A JSON object that asks for no code."""
    name = path.name if path.name == "model_index.json" else f"{path.parent.name}/{path.name}"
    if not path.is_file():
        raise source.fault(f"it has no {name}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise source.fault(f"its {name} is no JSON") from error
    if not isinstance(config, dict):
        raise source.fault(f"its {name} is no JSON object")
    for key in _NEEDS_CODE:
        if config.get(key) is not None:
            raise source.fault(f"its {name} asks for code with {key}, which is never run")
    return config


def _check_index(source: Source, index: Mapping[str, Any]) -> None:
    for part, wanted in INDEX.items():
        found = index.get(part)
        # the published index names CLIPTokenizerFast; newer versions of transformers have one class for both
        if not isinstance(found, list) or tuple(str(each).removesuffix("Fast") for each in found) != wanted:
            raise source.fault(f"its model_index.json gives {part} as {json.dumps(found)}, not {wanted[1]}")
    for part, found in index.items():
        if not part.startswith("_") and part not in INDEX:
            raise source.fault(f"its model_index.json has {part!r} ({json.dumps(found)}), which is no part of one")


def _picture_format(source: Source, config: Mapping[str, Any]) -> PictureFormat:
    size, crop = config.get("size"), config.get("crop_size")
    side = size.get("shortest_edge") if isinstance(size, dict) else size
    cropped = crop.get("height") if isinstance(crop, dict) else crop
    values = [config.get("image_mean"), config.get("image_std")]
    numbers = [v for each in values if isinstance(each, list) for v in each if isinstance(v, int | float)]
    if len(numbers) != 6 or min(numbers[3:]) <= 0 or side != cropped or not isinstance(side, int) or side < 1:
        raise source.fault("its processor/preprocessor_config.json gives no square of a picture in three colours")
    return PictureFormat(side, (*numbers[:3],), (*numbers[3:],))


def _load(source: Source, folder: Path, part: str, kind: Any) -> Any:
    """One part, every tensor of it from its file."""
    config = _config(source, folder / part / "config.json")
    named = config.get("_class_name", (config.get("architectures") or [None])[0])
    if named != kind.__name__:
        raise source.fault(f"its {part} is {named}, not {kind.__name__}")
    file = "model.safetensors" if "architectures" in config else "diffusion_pytorch_model.safetensors"
    if not (folder / part / file).is_file():
        pickles = sorted(each.name for each in (folder / part).iterdir() if each.suffix in _PICKLES)
        reason = f", but only {pickles[0]}, a pickle, which can run code" if pickles else ""
        raise source.fault(f"it has no {part}/{file}{reason}")
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    try:
        with quiet_loading():
            module, report = kind.from_pretrained(str(folder / part), **options)
    except Exception as error:  # diffusers, transformers and safetensors raise all kinds for a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise source.fault(f"its {part} does not load: {reason.rstrip('.')}") from error
    # older versions of transformers wrote a buffer that every version can count for itself
    extra = [key for key in report["unexpected_keys"] if not key.endswith("position_ids")]
    for keys, what in ((report["mismatched_keys"], "has another shape of"), (report["missing_keys"], "lacks"),
                       (extra, "has the unknown")):  # fmt: skip
        if keys:
            first = min(key if isinstance(key, str) else key[0] for key in keys)
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise source.fault(f"its {part} {what} {first}{more}")
    return module
