"""Checkpoints of the layouts of Stable Diffusion 1.5, 2.1 and XL: their classes and shapes, a few kilobytes each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import (  # noqa: E402 - the guard must come first
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (  # noqa: E402 - as above
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

LAYOUTS = ("sd1.5", "sd2.1", "xl")
SIDE = 64
"""Pixels that the tiny models are "trained" at: 16 latent cells of 4 pixels."""


def tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-level words for single letters."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz,"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def _text(tokens: CLIPTokenizer, width: int, *, projected: bool, seed: int) -> Any:
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=width, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def pipeline(layout: str, folder: Path) -> Any:
    """A pipeline of the layout with random weights; `folder` is for its tokenizer's files."""
    words = tokenizer(folder / f"{layout}-words")
    first = _text(words, 16, projected=False, seed=1)
    xl = layout == "xl"
    torch.manual_seed(0)
    extra: dict[str, Any] = {}
    if xl:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + 8,
            "transformer_layers_per_block": (1, 1, 2),
        }
    plain, crossed = "DownBlock2D", "CrossAttnDownBlock2D"
    levels = (plain, crossed, crossed) if xl else (crossed, crossed, plain)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        down_block_types=levels,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(levels)),
        attention_head_dim=4 if layout == "sd1.5" else (2, 4, 4),  # pyright: ignore[reportArgumentType] - as in the checkpoints
        use_linear_projection=layout != "sd1.5",
        norm_num_groups=4,
        cross_attention_dim=24 if xl else 16,
        **extra,
    ).eval()
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),  # pyright: ignore[reportArgumentType] - typed tuple[int], meant tuple[int, ...]
        down_block_types=("DownEncoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType] - likewise
        up_block_types=("UpDecoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType] - likewise
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.13025 if xl else 0.18215,
        sample_size=SIDE,
    ).eval()
    betas: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    betas["steps_offset"] = 1
    if xl:
        return StableDiffusionXLPipeline(
            vae=vae, text_encoder=first, text_encoder_2=_text(words, 8, projected=True, seed=2), tokenizer=words,
            tokenizer_2=words, unet=unet, scheduler=EulerDiscreteScheduler(**betas),  # pyright: ignore[reportArgumentType] - an enumeration of them
            add_watermarker=False,
        )  # fmt: skip
    scheduler: Any = PNDMScheduler(**betas, skip_prk_steps=True, set_alpha_to_one=False)
    if layout == "sd2.1":
        scheduler = DDIMScheduler(**betas, prediction_type="v_prediction", set_alpha_to_one=False, clip_sample=False)
    return StableDiffusionPipeline(
        vae=vae, text_encoder=first, tokenizer=words, unet=unet, scheduler=scheduler, safety_checker=None,  # pyright: ignore[reportArgumentType] - optional in fact
        feature_extractor=None, requires_safety_checker=False,  # pyright: ignore[reportArgumentType] - as above
    )  # fmt: skip


def checkpoint(layout: str, folder: Path) -> Path:
    """The pipeline saved; returns its folder."""
    made = pipeline(layout, folder)
    made.save_pretrained(folder / layout, safe_serialization=True)
    return folder / layout
