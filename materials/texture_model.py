"""Textures from the material model: the network's basecolor as a picture, for `asd`'s two stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asd.errors import ZelligeError
from asd.exact_vae import ExactTiledVAE
from asd.sampling import Predictor
from asd.seamless import SeamlessAxes, parse_axes
from asd.sizes import Size, torus_size
from asd.tiles import Place
from materials.conditioning import SCALE_RANGE, condition_vector
from materials.pipeline import BASE_TEXELS, DOMAIN, FACTOR, GUIDANCE, GUIDED, MaterialPipeline, stacked
from materials.prompt import PromptEmbedding, encode_prompts

MISSING = -2.0
"""An input channel of the autoencoder with this value stands for a map that isn't known."""
TILE = 64
"""Latent cells: the largest squares that the network was trained on, twice the side of most."""


class TextureModel:
    """An `asd.latent_model.LatentModel`: colour of a surface, and no more of its maps.

    Args:
        pipeline: the material model.
        prompts: one for each picture; an empty one says nothing of what is in it.
        negative: what guidance leads away from.
        guidance: classifier-free guidance, 5 by default; 1 turns it off.
        scale: size of the pattern, see `MaterialPipeline.__call__`; by default what fits the canvas.
        vae_tile: latent cells, of `ExactTiledVAE`.
    """

    def __init__(
        self,
        pipeline: MaterialPipeline,
        prompts: Sequence[str],
        *,
        negative: str | None = None,
        guidance: float | None = None,
        scale: float | None = None,
        vae_tile: int = 64,
    ) -> None:
        if not prompts:
            raise ZelligeError("Expected at least one prompt, but got none.")
        if scale is not None and not SCALE_RANGE[0] <= scale <= SCALE_RANGE[1]:
            raise ZelligeError(f"Expected scale from {SCALE_RANGE[0]:g} to {SCALE_RANGE[1]:g}, but got {scale:g}.")
        self.pipeline = pipeline
        self.network = pipeline.unet
        self.scheduler: Any = pipeline.scheduler
        self.factor = FACTOR
        self.multiple = pipeline.stride
        self.channels = int(pipeline.unet.config["in_channels"])
        self.tile = TILE
        self.count = len(prompts)
        self.guidance = GUIDANCE if guidance is None else guidance
        self.scale = scale
        self._vae_tile = vae_tile
        encode = (pipeline.tokenizer, pipeline.text_encoder)
        given = [encode_prompts(*encode, [p]) for p in prompts]
        without = encode_prompts(*encode, [negative or ""])
        self._text = stacked([*given, *([without] * len(given))])

    @property
    def device(self) -> torch.device:
        return self.network.device

    def least_size(self, size: tuple[int, int]) -> Size:
        """The pixels to generate for a picture of `size`: at least as many as the network knows, to be resampled."""
        least = torus_size(size, multiple=self.factor * self.multiple, least_area=BASE_TEXELS**2, least_side=96)
        small = size[0] * size[1] < BASE_TEXELS**2 or min(size) < 96
        return least if small else Size(*size)

    def predictor(self, canvas: tuple[int, int], seamless: SeamlessAxes) -> Predictor:
        scale = math.log2(min(canvas) * self.factor / BASE_TEXELS) if self.scale is None else self.scale
        scale = min(SCALE_RANGE[1], max(SCALE_RANGE[0], scale))
        wraps = [float(w) for w in parse_axes(seamless)]
        tokens, mask, pooled = self._text
        fixed = [torch.full((len(pooled),), v, device=self.device) for v in (scale, *wraps, DOMAIN)]
        text = PromptEmbedding(tokens, mask, condition_vector(pooled.float(), *fixed).to(self.network.dtype))

        def predict(tiles: Tensor, timestep: Any, places: Sequence[Place], /) -> Tensor:
            rows = torch.tensor([place.sample for place in places], device=self.device)
            guided = self.guidance != 1 and GUIDED[0] <= float(timestep) / 1000 <= GUIDED[1]
            if guided:
                rows, tiles = torch.cat([rows, rows + self.count]), torch.cat([tiles, tiles])
            v = self.network(
                tiles.to(self.network.dtype),
                timestep.expand(len(tiles)),
                text.tokens[rows],
                class_labels=text.pooled[rows],
                encoder_attention_mask=text.mask[rows],
                return_dict=False,
            )[0].float()
            if not guided:
                return v
            given, without = v.chunk(2)
            return without + self.guidance * (given - without)

        return predict

    def encode(self, images: Tensor, seamless: SeamlessAxes) -> Tensor:
        vae: Any = self.pipeline.vae
        unknown = images.new_full((len(images), vae.config["in_channels"] - 3, *images.shape[-2:]), MISSING)
        tiled = ExactTiledVAE(vae, self._vae_tile, seamless)
        raw = tiled.encode(torch.cat([images, unknown], 1).to(self.device, vae.dtype), return_dict=False)[0].float()
        return (raw - vae.config["shift_factor"]) * vae.config["scaling_factor"]

    def decode(self, latents: Tensor, seamless: SeamlessAxes) -> Tensor:
        vae: Any = self.pipeline.vae
        raw = latents / vae.config["scaling_factor"] + vae.config["shift_factor"]
        tiled = ExactTiledVAE(vae, self._vae_tile, seamless)
        return tiled.decode(raw.to(vae.dtype), return_dict=False)[0][:, :3].float().cpu()
