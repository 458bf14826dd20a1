"""Banks of encoded views: the U-Net trains on latents that stay on the GPU, so that nothing waits for data."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from materials.material import MISSING
from materials.prompt import encode_prompts
from training.views import RealTextures, View, procedural_views
from training.wrap import set_wrap

TOKENS = 24
"""Tokens a caption is padded to in training (longer ones are cut; use may be longer, attention has no positions)."""


@dataclass
class Bank:
    """M samples of one latent size, on the training device, half precision but for the scalars.

    z (M, 16, h, w) normalised, tokens (M, TOKENS, 384), mask (M, TOKENS), pooled (M, 384); scale, wrap_x, wrap_y and
    domain (M,).
    """

    z: Tensor
    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    scale: Tensor
    wrap_x: Tensor
    wrap_y: Tensor
    domain: Tensor

    def __len__(self) -> int:
        return len(self.z)

    def pick(self, index: Tensor) -> Bank:
        return Bank(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def rolled(self) -> Bank:
        """The same samples, each rolled by a random number of latent cells along the axes that wrap."""
        n, _, h, w = self.z.shape
        device = self.z.device
        rows = torch.arange(h, device=device)[None] + (
            torch.randint(h, (n, 1), device=device) * self.wrap_y[:, None].long()
        )
        columns = torch.arange(w, device=device)[None] + (
            torch.randint(w, (n, 1), device=device) * self.wrap_x[:, None].long()
        )
        batch = torch.arange(n, device=device)[:, None, None]
        z = self.z.permute(0, 2, 3, 1)[batch, (rows % h)[:, :, None], (columns % w)[:, None, :]]
        return Bank(**{**{f.name: getattr(self, f.name) for f in fields(self)}, "z": z.permute(0, 3, 1, 2)})


def join(banks: list[Bank]) -> Bank:
    return Bank(**{f.name: torch.cat([getattr(b, f.name) for b in banks]) for f in fields(Bank)})


class Encoder:
    """Turns views into bank entries with the trained autoencoder and the sentence encoder."""

    def __init__(self, vae: nn.Module, tokenizer: Any, text_encoder: nn.Module, device: torch.device) -> None:
        self.vae, self.tokenizer, self.text_encoder, self.device = vae, tokenizer, text_encoder, device
        config: Any = vae.config
        self.shift, self.scaling = config.shift_factor, config.scaling_factor

    @torch.no_grad()
    def __call__(self, views: list[View], domain: float) -> Bank:
        maps = torch.stack([v.maps for v in views])
        known = torch.stack([v.known for v in views])
        given = torch.where(known[:, :, None, None] > 0, maps, MISSING)
        wrap_x, wrap_y, scale = (
            torch.tensor([getattr(v, f) for v in views], device=self.device) for f in ("wrap_x", "wrap_y", "scale")
        )
        set_wrap(wrap_x, wrap_y)
        half = torch.float16 if self.device.type == "cuda" else torch.float32
        with torch.autocast(self.device.type, torch.bfloat16):
            z = self.vae.encoder(given.to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue] - nn.Module attribute
            text = encode_prompts(self.tokenizer, self.text_encoder, [v.caption for v in views], length=TOKENS)
        z = (z.float() - self.shift) * self.scaling
        return Bank(
            z.contiguous().to(half),
            text.tokens.to(half),
            text.mask,
            text.pooled.to(half),
            scale,
            wrap_x,
            wrap_y,
            torch.full_like(scale, domain),
        )


def batched(draw: Callable[[], list[View]], total: int, size: int) -> Iterator[list[View]]:
    views: list[View] = []
    made = 0
    while made < total:
        views += draw()
        while len(views) >= size and made < total:
            yield views[:size]
            made += size
            views = views[size:]


def build(
    encoder: Encoder,
    real: RealTextures,
    rng: random.Random,
    height: int,
    width: int,
    *,
    real_count: int,
    procedural_count: int,
    chunk: int = 64,
) -> Bank:
    """A bank of `height` x `width` px views: so many of real textures, so many procedural."""
    square = height == width
    parts = []
    for views in batched(lambda: [real.draw(rng, height, width, whole=0.8 if square else 0.0)], real_count, chunk):
        parts.append(encoder(views, 1.0))
    draw = lambda: procedural_views(rng, chunk, height, width, encoder.device, crop=0.25 if height <= 256 else 0.0)  # noqa: E731 - one use
    for views in batched(draw, procedural_count, chunk):
        parts.append(encoder(views, -1.0))
    return join(parts)
