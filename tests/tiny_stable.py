"""A checkpoint in the layout of gvecchio/StableMaterials: its files and the keys of its configs, at tiny widths.

The published configs were read in a copy of the repository (github.com/Joey-Jang/StableMaterials, commit f764208), but
for the processor's, which is that of openai/clip-vit-large-patch14. `checkpoint` narrows the widths alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.tiny_sd import tokenizer
from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: E402 - the guard must come first
from transformers import (  # noqa: E402 - as above
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

INDEX: dict[str, Any] = {
    "_class_name": ["pipeline", "StableMaterialsPipeline"],
    "_diffusers_version": "0.27.2",
    "processor": ["transformers", "CLIPProcessor"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizerFast"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "vision_encoder": ["transformers", "CLIPVisionModelWithProjection"],
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler", "_diffusers_version": "0.27.2", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False, "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.995, "interpolation_type": "linear", "num_train_timesteps": 1000,
    "prediction_type": "epsilon", "rescale_betas_zero_snr": False, "sample_max_value": 1.0, "set_alpha_to_one": False,
    "skip_prk_steps": True, "steps_offset": 1, "thresholding": False, "timestep_spacing": "leading",
    "trained_betas": None,
}  # fmt: skip
UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.27.2", "act_fn": "silu",
    "addition_embed_type": None, "addition_embed_type_num_heads": 64, "addition_time_embed_dim": None,
    "attention_head_dim": 8,
    "attention_type": "default", "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False,
    "class_embed_type": None, "class_embeddings_concat": False, "conv_in_kernel": 3, "conv_out_kernel": 3,
    "cross_attention_dim": 768, "cross_attention_norm": None,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1, "dropout": 0.0, "dual_cross_attention": False, "encoder_hid_dim": None,
    "encoder_hid_dim_type": None, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 18, "layers_per_block": 2,
    "mid_block_only_cross_attention": None, "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05, "norm_num_groups": 32, "num_attention_heads": None, "num_class_embeds": None,
    "only_cross_attention": False, "out_channels": 18, "projection_class_embeddings_input_dim": None,
    "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": False, "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None, "sample_size": 64, "time_cond_proj_dim": None,
    "time_embedding_act_fn": None, "time_embedding_dim": None, "time_embedding_type": "positional",
    "timestep_post_act": None, "transformer_layers_per_block": 1,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "upcast_attention": False, "use_linear_projection": False,
}  # fmt: skip
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL", "_diffusers_version": "0.27.2", "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4, "force_upcast": True,
    "in_channels": 9, "latent_channels": 18, "latents_mean": None, "latents_std": None, "layers_per_block": 2,
    "norm_num_groups": 32, "out_channels": 9, "sample_size": 512, "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "_name_or_path": "openai/clip-vit-large-patch14", "architectures": ["CLIPTextModelWithProjection"],
    "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2, "hidden_act": "quick_gelu",
    "hidden_size": 768, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 768, "torch_dtype": "float32",
    "transformers_version": "4.40.2", "vocab_size": 49408,
}  # fmt: skip
VISION: dict[str, Any] = {
    "_name_or_path": "openai/clip-vit-large-patch14", "architectures": ["CLIPVisionModelWithProjection"],
    "attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "quick_gelu", "hidden_size": 1024, "image_size": 224,
    "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 4096, "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model", "num_attention_heads": 16, "num_channels": 3, "num_hidden_layers": 24,
    "patch_size": 14, "projection_dim": 768, "torch_dtype": "float32", "transformers_version": "4.40.2",
}  # fmt: skip
PROCESSOR: dict[str, Any] = {
    "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
    "do_rescale": True, "do_resize": True, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor", "image_std": [0.26862954, 0.26130258, 0.27577711],
    "processor_class": "CLIPProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}  # fmt: skip
WORDS: dict[str, Any] = {
    "add_prefix_space": False, "bos_token": "<|startoftext|>", "clean_up_tokenization_spaces": True,
    "do_lower_case": True, "eos_token": "<|endoftext|>", "errors": "replace", "model_max_length": 77,
    "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer", "unk_token": "<|endoftext|>",
}  # fmt: skip

WIDTH = 16
"""Of the token."""
SIDE = 28
"""Pixels along the side of what the tiny vision encoder reads."""
TRAINED = 128
"""Pixels along the side of what the tiny U-Net "was trained on"."""
CODE = 'open("code-was-run", "w").close()\nraise RuntimeError("code of the checkpoint was run")\n'
"""What stands in for the repository's pipeline.py."""


def checkpoint(folder: Path) -> Path:
    """Write one with random weights, about half a megabyte; returns the folder."""
    blocks: dict[str, Any] = {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "layers_per_block": 1}
    unet = UNET | blocks | {"attention_head_dim": 2, "cross_attention_dim": WIDTH, "sample_size": TRAINED // 8}
    torch.manual_seed(0)
    _diffusers(folder / "unet", UNet2DConditionModel, unet)
    _diffusers(folder / "unet_lcm", UNet2DConditionModel, unet | {"time_cond_proj_dim": 32})
    _diffusers(folder / "vae", AutoencoderKL, VAE | blocks | {"sample_size": TRAINED})
    words = len(tokenizer(folder / "tokenizer"))
    _write(folder / "tokenizer" / "tokenizer_config.json", WORDS)
    small: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    small["projection_dim"] = WIDTH
    text: dict[str, Any] = TEXT | small | {"hidden_size": 24, "vocab_size": words}
    _transformers(folder / "text_encoder", CLIPTextModelWithProjection(CLIPTextConfig(**text)), text)
    vision: dict[str, Any] = VISION | small | {"hidden_size": 32, "image_size": SIDE}
    _transformers(folder / "vision_encoder", CLIPVisionModelWithProjection(CLIPVisionConfig(**vision)), vision)
    size = {"crop_size": {"height": SIDE, "width": SIDE}, "size": {"shortest_edge": SIDE}}
    _write(folder / "processor" / "preprocessor_config.json", PROCESSOR | size)
    _write(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    _write(folder / "model_index.json", INDEX)
    (folder / "pipeline.py").write_text(CODE, encoding="utf-8")
    return folder


def _diffusers(folder: Path, kind: Any, config: dict[str, Any]) -> None:
    _save(folder / "diffusion_pytorch_model.safetensors", kind.from_config(config))
    _write(folder / "config.json", config)


def _transformers(folder: Path, model: Any, config: dict[str, Any]) -> None:
    with torch.no_grad():
        for parameter in model.parameters():  # CLIP's start is so narrow that all prompts are alike
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    _save(folder / "model.safetensors", model)
    _write(folder / "config.json", config)


def _save(file: Path, model: Any) -> None:
    file.parent.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file, {"format": "pt"})


def _write(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2), encoding="utf-8")
