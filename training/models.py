"""The two networks' shapes: the autoencoder and the text-conditioned U-Net, both plain diffusers classes."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from textile_metric.torchvision_guard import guard_torchvision

guard_torchvision()

from diffusers import AutoencoderTiny, UNet2DConditionModel  # noqa: E402 - the guard must come first

from materials.conditioning import CONDITION_DIM, TEXT_DIM  # noqa: E402 - see above

LATENT_CHANNELS = 16
_M = TypeVar("_M", bound=nn.Module)


def new_autoencoder(width: int = 80) -> AutoencoderTiny:
    """8 channels to 16 latents at 1/8 of the size; no norms, no attention: every output has a finite, exact support."""
    return AutoencoderTiny(
        in_channels=8,
        out_channels=8,
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=(1, 3, 4, 4),
        num_decoder_blocks=(5, 4, 3, 1),
    )


def new_unet(channels: tuple[int, int, int] = (128, 256, 352)) -> UNet2DConditionModel:
    """Velocity predictor; stride 4 on latents (32 px), attention without positions at 1/2 and 1/4 of their size."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        # diffusers reads attention_head_dim as the number of heads; 32 channels a head.
        attention_head_dim=tuple(c // 32 for c in channels),  # pyright: ignore[reportArgumentType] - typed tuple[int], meant tuple[int, ...]
        cross_attention_dim=TEXT_DIM,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=CONDITION_DIM,
        resnet_time_scale_shift="scale_shift",
        use_linear_projection=True,
    )


def placed(module: _M, device: torch.device) -> _M:
    """Move `module` to `device`, with the weights of convolutions channels-last, in place."""
    # Not the subclass's own `to`: diffusers' and transformers' are decorated and have lost their types.
    return nn.Module.to(module, device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - the stubs lack this overload
