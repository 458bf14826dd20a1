"""Checkpoints and packs of a few kilobytes, made with random weights where a test needs a real one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from textile_metric.torchvision_guard import guard_torchvision
from training.manifest import Source
from training.pack import Settings, write_pack

guard_torchvision()

from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel  # noqa: E402 - as the guard
from transformers import BertConfig, BertModel, BertTokenizer  # noqa: E402 - as the guard

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "brick", "wall"]
WORDS += ["moss", "##y", "wood", "sand", ",", "old", "tiles"]


def text_folders(folder: Path, *, width: int, tokenizer: str, encoder: str) -> None:
    """A one-layer BertModel of `width` and its word-piece tokenizer in two subfolders (or "." for both)."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=128,
    )
    BertModel(config, add_pooling_layer=False).half().save_pretrained(folder / encoder)
    words = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    words.save_pretrained(folder / tokenizer)


def autoencoder(channels: int = 8, latents: int = 4, width: int = 8) -> AutoencoderTiny:
    return AutoencoderTiny(
        in_channels=channels,
        out_channels=channels,
        latent_channels=latents,
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def checkpoint(folder: Path, *, width: int = 16) -> Path:
    """A material checkpoint: f = 8, U-Net stride 4, 4 latent channels, text of `width`."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
        cross_attention_dim=width,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=width + 12,
    )
    unet.half().save_pretrained(folder / "unet")
    autoencoder().half().save_pretrained(folder / "vae")
    text_folders(folder, width=width, tokenizer="tokenizer", encoder="text_encoder")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "MaterialPipeline",
        "_diffusers_version": "0.38.0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "BertModel"],
        "tokenizer": ["transformers", "BertTokenizerFast"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny"],
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def pack(folder: Path, *, size: int = 256) -> Path:
    """Four textures: two to train on with maps (the second without tiling in y), one without, one to validate on."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size] * (2 * np.pi / size)
    height = 0.5 + 0.2 * np.sin(3 * x) + 0.2 * np.sin(2 * y)
    slope_x, slope_row = 0.6 * np.cos(3 * x), 0.4 * np.cos(2 * y)
    normal = np.stack([-slope_x, slope_row, np.ones_like(x)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    folder.mkdir(parents=True)
    Image.fromarray(np.rint(normal * 127.5 + 127.5).astype(np.uint8)).save(folder / "normal.png")
    Image.fromarray(np.rint(height * 255).astype(np.uint8)).save(folder / "height.png")
    sources = []
    for i, name in enumerate(("a", "b", "c", "v")):
        low = rng.integers(0, 256, (size // 16, size // 16, 3), dtype=np.uint8)
        Image.fromarray(low).resize((size, size)).save(folder / f"{name}.png")
        sources.append(
            Source(
                id=name,
                path=f"{name}.png",
                caption="old brick wall",
                split="val" if name == "v" else "train",
                dup_cluster=min(i, 1),
                tiles_x=True,
                tiles_y=name != "b",
                basecolor=folder / f"{name}.png",
                normal=folder / "normal.png" if name in "ab" else None,
                height=folder / "height.png" if name in "ab" else None,
            )
        )
    write_pack(sources, folder / "pack", Settings(size=size, map_size=size), workers=1)
    return folder / "pack"
